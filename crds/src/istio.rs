//! Istio's kinds. All API versions of a kind share one schema.

mod authorization_policy;
mod destination_rule;
mod envoy_filter;
mod extension;
mod gateway;
mod mesh_config;
mod peer_authentication;
mod proxy_config;
mod request_authentication;
mod selector;
mod service_entry;
mod sidecar;
mod string_match;
mod telemetry;
mod traffic_policy;
mod virtual_service;
mod workload_entry;
mod workload_group;

pub use authorization_policy::*;
pub use destination_rule::*;
pub use envoy_filter::*;
pub use extension::*;
pub use gateway::*;
pub use mesh_config::*;
pub use peer_authentication::*;
pub use proxy_config::*;
pub use request_authentication::*;
pub use selector::*;
pub use service_entry::*;
pub use sidecar::*;
pub use string_match::*;
pub use telemetry::*;
pub use traffic_policy::*;
pub use virtual_service::*;
pub use workload_entry::*;
pub use workload_group::*;
