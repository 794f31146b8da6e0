//! CedarPolicy: authorization written in Cedar.

use crate::istio::{PolicyTargetReference, WorkloadSelector};
use crate::schema::Check::{Items, Length};

record! {
    /// The spec of a CedarPolicy. Without selector and targets it applies to its whole namespace, in the root namespace to the mesh.
    pub struct CedarPolicy {
        /// Workloads it applies to.
        selector: Option<WorkloadSelector> = "selector";
        /// Objects it applies to.
        target_refs: Vec<PolicyTargetReference> = "targetRefs" [Items(0, 16)];
        /// One or more policies in Cedar's syntax.
        policies: String = "policies" [Length(1, 1_048_576)];
    }
    at_most_one ["selector", "targetRefs"];
}
