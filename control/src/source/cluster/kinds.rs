//! The kinds that are watched in a cluster, and how much of their objects.

use kube::core::{ApiResource, GroupVersionKind};
use palisade_crds::object::{KNOWN_KINDS, KnownKind, Support, known_kind};

/// A kind that is watched wherever it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// API group; empty is the core group.
    pub(super) group: &'static str,
    /// The kind.
    pub(super) kind: &'static str,
}

/// How much of its objects is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Name, labels and annotations.
    Metadata,
    /// Pods: what is used of them.
    Pods,
    /// All but what servers add.
    Whole,
}

/// Kinds of Kubernetes itself: there always, at one version.
const BUILT_IN: [Kind; 5] = [
    Kind { group: "", kind: "Namespace" },
    Kind { group: "", kind: "Node" },
    Kind { group: "", kind: "Pod" },
    Kind { group: "", kind: "Service" },
    Kind { group: "discovery.k8s.io", kind: "EndpointSlice" },
];

/// Pods that are through play no part, and clusters keep many of them.
const RUNNING_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed";

impl Kind {
    /// Kinds of Kubernetes itself.
    pub(super) fn built_in() -> impl Iterator<Item = Self> {
        BUILT_IN.into_iter()
    }

    /// Kinds that are there where their CRD is: the Gateway API's, Istio's and ours.
    pub(super) fn of_crds() -> impl Iterator<Item = Self> {
        let is_own_document = |known: &&KnownKind| {
            let is_crd = known.group.contains('.') && !known.group.ends_with(".k8s.io") || is_gateway_api(known.group);
            // Tests of policies are files; kinds that are known by name alone have no CRD.
            is_crd && known.support != Support::Named && known.kind != "PolicyTest"
        };
        KNOWN_KINDS.iter().filter(is_own_document).map(|known| Self { group: known.group, kind: known.kind })
    }

    /// Versions in the order of preference. They share one schema, so that any of them will do.
    pub(super) fn versions(self) -> &'static [&'static str] {
        known_kind(self.group, self.kind).map_or(&[], |known| known.versions)
    }

    /// Where the API serves it.
    pub(super) fn resource(self, version: &str) -> ApiResource {
        ApiResource::from_gvk(&GroupVersionKind::gvk(self.group, version, self.kind))
    }

    /// Name of its CRD.
    pub(super) fn crd(self) -> String {
        format!("{}.{}", self.resource("v1").plural, self.group)
    }

    /// How much of its objects is read.
    pub(super) fn reading(self) -> Reading {
        match (self.group, self.kind) {
            ("", "Namespace" | "Node") => Reading::Metadata,
            ("", "Pod") => Reading::Pods,
            _ => Reading::Whole,
        }
    }

    /// Objects that are not even asked for, as a field selector.
    pub(super) fn fields(self) -> Option<&'static str> {
        (self.reading() == Reading::Pods).then_some(RUNNING_PODS)
    }
}

fn is_gateway_api(group: &str) -> bool {
    group == palisade_crds::gateway_api::GROUP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_secrets_and_files_of_tests_are_not_watched() {
        let kinds: Vec<&str> = Kind::built_in().chain(Kind::of_crds()).map(|kind| kind.kind).collect();
        for absent in
            ["Deployment", "StatefulSet", "Secret", "ConfigMap", "ServiceAccount", "PolicyTest", "EgressPolicy"]
        {
            assert!(!kinds.contains(&absent), "{absent}");
        }
        for present in
            ["Pod", "HTTPRoute", "Gateway", "ServiceEntry", "AuthorizationPolicy", "CedarPolicy", "Telemetry"]
        {
            assert!(kinds.contains(&present), "{present}");
        }
        assert_eq!(kinds.iter().filter(|kind| **kind == "Gateway").count(), 2, "the Gateway API's and Istio's");
    }

    #[test]
    fn names_of_crds_are_those_of_their_makers() {
        let crds: Vec<String> = Kind::of_crds().map(Kind::crd).collect();
        for name in [
            "gatewayclasses.gateway.networking.k8s.io",
            "backendtlspolicies.gateway.networking.k8s.io",
            "httproutes.gateway.networking.k8s.io",
            "virtualservices.networking.istio.io",
            "serviceentries.networking.istio.io",
            "workloadentries.networking.istio.io",
            "proxyconfigs.networking.istio.io",
            "authorizationpolicies.security.istio.io",
            "telemetries.telemetry.istio.io",
            "cedarpolicies.palisade.dev",
        ] {
            assert!(crds.iter().any(|crd| crd == name), "{name} in {crds:?}");
        }
        assert_eq!(Kind { group: "", kind: "Pod" }.resource("v1").plural, "pods");
        let slices = Kind { group: "discovery.k8s.io", kind: "EndpointSlice" };
        assert_eq!(slices.resource("v1").plural, "endpointslices");
    }
}
