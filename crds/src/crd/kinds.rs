//! The kinds that are defined, and what surrounds their schemas: names, versions, columns.

use serde_json::{Value, json};

use super::status;
use crate::schema::{Decode, Shape};
use crate::{istio as i, palisade};

/// A kind to define.
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) short_names: &'static [&'static str],
    pub(super) categories: &'static [&'static str],
    /// Served versions, which share one schema.
    pub(super) versions: &'static [&'static str],
    /// The one that is stored.
    pub(super) storage: &'static str,
    pub(super) needs_spec: bool,
    pub(super) columns: &'static [Column],
    pub(super) spec: fn() -> Shape,
    pub(super) status: fn() -> Value,
}

/// A column of `kubectl get`.
pub(super) struct Column(&'static str, &'static str, &'static str, &'static str);

impl Column {
    pub(super) fn to_value(&self) -> Value {
        let Self(name, json_path, column_type, description) = self;
        json!({"name": name, "type": column_type, "jsonPath": json_path, "description": description})
    }
}

const AGE: Column = Column("Age", ".metadata.creationTimestamp", "date", "Time since it was created.");

/// Palisade's kinds that exist in clusters.
pub(super) const PALISADE: &[Kind] = &[Kind {
    group: palisade::GROUP,
    kind: "CedarPolicy",
    plural: "cedarpolicies",
    short_names: &["cedar"],
    categories: &["palisade"],
    versions: &["v1alpha1"],
    storage: "v1alpha1",
    needs_spec: true,
    columns: &[
        Column("Mode", ".spec.mode", "string", "Enforce or Audit; empty is Enforce."),
        Column(
            "Accepted",
            ".status.conditions[?(@.type==\"Accepted\")].status",
            "string",
            "Whether it is valid and in use.",
        ),
        Column(
            "Enforced",
            ".status.conditions[?(@.type==\"Enforced\")].message",
            "string",
            "How many proxies enforce it.",
        ),
        AGE,
    ],
    spec: palisade::CedarPolicy::shape,
    status: status::policy,
}];

const TRAFFIC: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];

const fn networking(kind: &'static str, plural: &'static str, spec: fn() -> Shape) -> Kind {
    Kind {
        group: "networking.istio.io",
        kind,
        plural,
        short_names: &[],
        categories: &["istio-io", "networking-istio-io"],
        versions: TRAFFIC,
        storage: "v1",
        needs_spec: false,
        columns: &[],
        spec,
        status: status::istio,
    }
}

const fn security(kind: &'static str, plural: &'static str, spec: fn() -> Shape) -> Kind {
    Kind {
        group: "security.istio.io",
        categories: &["istio-io", "security-istio-io"],
        versions: SECURITY,
        ..networking(kind, plural, spec)
    }
}

const fn extension(kind: &'static str, plural: &'static str, spec: fn() -> Shape) -> Kind {
    Kind {
        group: "extensions.istio.io",
        categories: &["istio-io", "extensions-istio-io"],
        versions: &["v1alpha1"],
        storage: "v1alpha1",
        needs_spec: true,
        columns: &[AGE],
        ..networking(kind, plural, spec)
    }
}

/// Istio's kinds.
pub(super) const ISTIO: &[Kind] = &[
    Kind {
        short_names: &["ap"],
        columns: &[Column("Action", ".spec.action", "string", "What a match means."), AGE],
        ..security("AuthorizationPolicy", "authorizationpolicies", i::AuthorizationPolicy::shape)
    },
    Kind {
        short_names: &["dr"],
        columns: &[Column("Host", ".spec.host", "string", "The service."), AGE],
        ..networking("DestinationRule", "destinationrules", i::DestinationRule::shape)
    },
    Kind {
        versions: &["v1alpha3"],
        storage: "v1alpha3",
        ..networking("EnvoyFilter", "envoyfilters", i::EnvoyFilter::shape)
    },
    Kind { short_names: &["gw"], ..networking("Gateway", "gateways", i::Gateway::shape) },
    Kind {
        short_names: &["pa"],
        columns: &[Column("Mode", ".spec.mtls.mode", "string", "Which connections are taken."), AGE],
        ..security("PeerAuthentication", "peerauthentications", i::PeerAuthentication::shape)
    },
    Kind {
        versions: &["v1beta1"],
        storage: "v1beta1",
        ..networking("ProxyConfig", "proxyconfigs", i::WorkloadProxyConfig::shape)
    },
    Kind {
        short_names: &["ra"],
        ..security("RequestAuthentication", "requestauthentications", i::RequestAuthentication::shape)
    },
    Kind {
        short_names: &["se"],
        needs_spec: true,
        columns: &[
            Column("Hosts", ".spec.hosts", "string", "Names of the service."),
            Column("Location", ".spec.location", "string", "Whether it is part of the mesh."),
            Column("Resolution", ".spec.resolution", "string", "How its endpoints are found."),
            AGE,
        ],
        ..networking("ServiceEntry", "serviceentries", i::ServiceEntry::shape)
    },
    networking("Sidecar", "sidecars", i::Sidecar::shape),
    Kind {
        group: "telemetry.istio.io",
        short_names: &["telemetry"],
        categories: &["istio-io", "telemetry-istio-io"],
        versions: &["v1", "v1alpha1"],
        storage: "v1alpha1",
        columns: &[AGE],
        ..networking("Telemetry", "telemetries", i::Telemetry::shape)
    },
    extension("TrafficExtension", "trafficextensions", i::TrafficExtension::shape),
    Kind {
        short_names: &["vs"],
        columns: &[
            Column("Gateways", ".spec.gateways", "string", "Where it applies."),
            Column("Hosts", ".spec.hosts", "string", "What it applies to."),
            AGE,
        ],
        ..networking("VirtualService", "virtualservices", i::VirtualService::shape)
    },
    extension("WasmPlugin", "wasmplugins", i::WasmPlugin::shape),
    Kind {
        short_names: &["we"],
        needs_spec: true,
        columns: &[AGE, Column("Address", ".spec.address", "string", "Where it is reached.")],
        ..networking("WorkloadEntry", "workloadentries", i::WorkloadEntry::shape)
    },
    Kind {
        short_names: &["wg"],
        needs_spec: true,
        columns: &[AGE],
        ..networking("WorkloadGroup", "workloadgroups", i::WorkloadGroup::shape)
    },
];
