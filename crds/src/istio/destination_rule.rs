//! DestinationRule: how a service's endpoints are grouped and talked to. <https://istio.io/latest/docs/reference/config/networking/destination-rule/>

use std::collections::BTreeMap;

use super::{TrafficPolicy, WorkloadSelector};

record! {
    /// The spec of a DestinationRule.
    pub struct DestinationRule {
        /// Host it applies to, perhaps with a wildcard; a short one is resolved in the namespace of the rule.
        host: String = "host";
        /// Settings for all endpoints.
        traffic_policy: Option<TrafficPolicy> = "trafficPolicy";
        /// Named groups of endpoints.
        subsets: Vec<Subset> = "subsets";
        /// Namespaces that see it: `*`, `.`, or names. Empty: the mesh's default.
        export_to: Vec<String> = "exportTo";
        /// Only for these workloads as clients, in the own namespace.
        workload_selector: Option<WorkloadSelector> = "workloadSelector";
    }
}

record! {
    /// A named group of endpoints.
    pub struct Subset {
        /// What routes call it.
        name: String = "name";
        /// Labels that its endpoints carry; empty is all.
        labels: BTreeMap<String, String> = "labels";
        /// Settings that override the rule's, block by block.
        traffic_policy: Option<TrafficPolicy> = "trafficPolicy";
    }
}
