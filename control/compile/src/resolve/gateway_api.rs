//! Gateway API: which routes attach to which listeners and Services.

use crate::{inputs::Inputs, reports::Reports, resolve::services::Services};

/// Gateways and routes.
#[derive(Debug, Default)]
pub(crate) struct ApiGateways {}

impl ApiGateways {
    /// Binds routes to parents and backends.
    pub(crate) fn new(inputs: &Inputs, services: &Services, reports: &mut Reports) -> Self {
        let _ = (inputs, services, reports);
        Self {}
    }
}
