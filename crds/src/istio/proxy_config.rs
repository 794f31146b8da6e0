//! ProxyConfig: settings of single proxies. <https://istio.io/latest/docs/reference/config/networking/proxy-config/>

use std::collections::BTreeMap;

use super::{ProxyImage, WorkloadSelector};
use crate::schema::Check::{Each, Range};
use crate::schema::formats::up_to;

record! {
    /// The spec of a ProxyConfig document. (The mesh configuration has a [`super::ProxyConfig`] of its own.)
    pub struct WorkloadProxyConfig {
        /// Workloads it applies to.
        selector: Option<WorkloadSelector> = "selector";
        /// Worker threads; 0 is as many as there are cores.
        concurrency: Option<i32> = "concurrency" [Range(0, i64::MAX)];
        /// Environment variables of the proxy.
        environment_variables: BTreeMap<String, String> = "environmentVariables" [Each(&[up_to(2048)])];
        /// Image of the proxy.
        image: Option<ProxyImage> = "image";
    }
}
