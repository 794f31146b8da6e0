//! HTTPRoutes that attach to Services (GAMMA, producer side).

use palisade_model::{hash::HashError, origin::Origin, route::RouteEntry};

use crate::{
    lower::assembly::Assembly,
    resolve::services::{Registered, RegisteredPort},
};

/// The entries of the HTTPRoutes that attach to a service port; `None` when there is none.
pub(crate) fn producer_routes(
    assembly: &mut Assembly<'_>,
    service: &Registered,
    port: &RegisteredPort,
) -> Result<Option<(Vec<RouteEntry>, Vec<Origin>)>, HashError> {
    let _ = (assembly, service, port);
    Ok(None)
}
