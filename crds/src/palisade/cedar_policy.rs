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
        /// Templates among the policies, with their slots filled.
        links: Vec<TemplateLink> = "links" [Items(0, 512)];
        /// Whether the policies decide; absent is Enforce.
        mode: CedarMode = "mode" or CedarMode::Enforce;
    }
    at_most_one ["selector", "targetRefs"];
}

record! {
    /// A template with its slots filled: one more policy.
    pub struct TemplateLink {
        /// Name of the link, unique in the document.
        id: String = "id" [Length(1, 253)];
        /// The `@id` of the template.
        template: String = "template" [Length(1, 253)];
        /// Entity for `?principal`, such as `Mesh::Namespace::"shop"`.
        principal: Option<String> = "principal";
        /// Entity for `?resource`.
        resource: Option<String> = "resource";
    }
}

choice! {
    /// Whether the policies of a document decide.
    pub enum CedarMode {
        /// They decide.
        Enforce = "Enforce",
        /// They are evaluated beside those that decide, recorded and counted, and change no answer.
        Audit = "Audit",
    }
}
