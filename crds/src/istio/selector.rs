//! What a policy applies to: workloads by label, or named objects.

use std::collections::BTreeMap;

use crate::schema::Check::{Each, EachKey, Entries, Length, Pattern, Rule};
use crate::schema::formats::{is_group, is_kind, up_to};

const GROUP_PATTERN: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND_PATTERN: &str = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";

record! {
    /// Workloads that carry all of these labels. Empty selects every workload in scope.
    pub struct WorkloadSelector {
        /// Label keys and values, compared for equality. No wildcards.
        match_labels: BTreeMap<String, String> = "matchLabels" [
            Entries(0, 4096),
            EachKey("a label key without `*`", |key| !key.is_empty() && !key.contains('*'), "key.size() != 0 && !key.contains('*')"),
            Each(&[up_to(63), Rule("a label value without `*`", |value| !value.contains('*'), "!self.contains('*')")]),
        ];
    }
}

record! {
    /// The older form of [`WorkloadSelector`] that ServiceEntry and Sidecar use.
    pub struct LabelSelector {
        /// Label keys and values, compared for equality. No wildcards.
        labels: BTreeMap<String, String> = "labels" [
            Entries(0, 256),
            EachKey("a label key without `*`", |key| !key.is_empty() && !key.contains('*'), "key.size() != 0 && !key.contains('*')"),
            Each(&[up_to(63), Rule("a label value without `*`", |value| !value.contains('*'), "!self.contains('*')")]),
        ];
    }
}

record! {
    /// An object that a policy attaches to, in the policy's own namespace.
    pub struct PolicyTargetReference {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Pattern("an API group", is_group, GROUP_PATTERN)] or String::new();
        /// `Gateway`, `GatewayClass`, `Service` or `ServiceEntry`.
        kind: String = "kind" [Length(1, 63), Pattern("a kind", is_kind, KIND_PATTERN)];
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// Must be empty: other namespaces cannot be referenced.
        namespace: String = "namespace" [Rule("empty: a policy attaches in its own namespace only", str::is_empty, "self.size() == 0")] or String::new();
    }
}
