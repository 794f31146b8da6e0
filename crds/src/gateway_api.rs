//! The Gateway API's kinds, version 1.6, both channels. `v1` and `v1beta1` share one schema.

mod backend_tls_policy;
mod filter;
mod gateway;
mod gateway_class;
mod grpc_route;
mod http_route;
mod l4_route;
mod listener_set;
mod object_reference;
mod reference_grant;

pub use backend_tls_policy::*;
pub use filter::*;
pub use gateway::*;
pub use gateway_class::*;
pub use grpc_route::*;
pub use http_route::*;
pub use l4_route::*;
pub use listener_set::*;
pub use object_reference::*;
pub use reference_grant::*;

/// The API group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";
