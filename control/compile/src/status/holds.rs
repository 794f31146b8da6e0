//! Whether a document that somebody applied is what is compiled.

use std::collections::BTreeMap;

use palisade_crds::{Object as Kind, Parsed};
use palisade_model::origin::Origin;
use serde_json::Value;

use crate::{
    inputs::{Inputs, Objects, SourceDocument},
    object::{Head, ObjectKey},
    reports::{ObjectName, Reports},
};

/// What is compiled of a document that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// There is no such object.
    Missing,
    /// The object says something else.
    Differs(Origin),
    /// The object says just that.
    Held(Origin),
}

/// What is compiled of a document. Kinds of the Gateway API, of Istio and our own are compared by what they say, whatever was
/// filled in; of other kinds, which an API server completes, it counts that they are there. Where there are texts they are compared.
pub fn holding(inputs: &Inputs, reports: &Reports, wanted: &SourceDocument) -> Holding {
    let Parsed { meta, object, issues: _ } = &*wanted.parsed;
    let name = ObjectName {
        group: meta.group.as_str().into(),
        kind: meta.kind.as_str().into(),
        namespace: meta.namespace.as_str().into(),
        name: meta.name.as_str().into(),
    };
    if let Some(text) = reports.document(&name) {
        let metadata = |pointer: &str| text.value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let origin = Origin {
            group: name.group,
            kind: name.kind,
            namespace: name.namespace,
            name: name.name,
            uid: text.value.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().into(),
            generation: metadata("/metadata/generation"),
        };
        let is_same = text.value == wanted.document.value;
        return if is_same { Holding::Held(origin) } else { Holding::Differs(origin) };
    }
    let key = ObjectKey::new(meta.namespace.as_str(), meta.name.as_str());
    let Some((head, says_so)) = held(inputs, &key, object) else {
        return heads(inputs)
            .find(|head| ObjectName::of(head) == name)
            .map_or(Holding::Missing, |head| Holding::Differs(head.origin()));
    };
    let has = |held: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| held.get(key) == Some(value))
    };
    let is_marked = has(&head.labels, &meta.labels) && has(&head.annotations, &meta.annotations);
    let is_compared = meta.group.ends_with(".istio.io")
        || meta.group == palisade_crds::gateway_api::GROUP
        || meta.group == palisade_crds::palisade::GROUP;
    if says_so && (is_marked || !is_compared) { Holding::Held(head.origin()) } else { Holding::Differs(head.origin()) }
}

/// The object of a name at its compiled generation; an empty group stands for any.
pub fn find(inputs: &Inputs, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Origin> {
    let is_meant = |head: &&Head| {
        head.kind.eq_ignore_ascii_case(kind)
            && *head.key.namespace == *namespace
            && *head.key.name == *name
            && (group.is_empty() || *head.group == *group)
    };
    heads(inputs).find(is_meant).map(Head::origin)
}

/// The object that a document is about, and whether it says the same.
fn held<'a>(inputs: &'a Inputs, key: &ObjectKey, wanted: &Kind) -> Option<(&'a Head, bool)> {
    fn there<'a, T>(objects: &'a Objects<T>, key: &ObjectKey) -> Option<(&'a Head, bool)> {
        objects.get(key).map(|object| (&object.head, true))
    }
    fn same<'a, T: PartialEq>(objects: &'a Objects<T>, key: &ObjectKey, wanted: &T) -> Option<(&'a Head, bool)> {
        objects.get(key).map(|object| (&object.head, object.spec == *wanted))
    }
    match wanted {
        Kind::Service(_) => there(&inputs.services, key),
        Kind::EndpointSlice(_) => there(&inputs.endpoint_slices, key),
        Kind::Pod(_) => there(&inputs.pods, key),
        Kind::Secret(_) => there(&inputs.secrets, key),
        Kind::ConfigMap(_) => there(&inputs.config_maps, key),
        Kind::GatewayClass(wanted) => same(&inputs.gateway_classes, key, wanted),
        Kind::Gateway(wanted) => same(&inputs.api_gateways, key, wanted),
        Kind::HttpRoute(wanted) => same(&inputs.http_routes, key, wanted),
        Kind::GrpcRoute(wanted) => same(&inputs.grpc_routes, key, wanted),
        Kind::TlsRoute(wanted) => same(&inputs.tls_routes, key, wanted),
        Kind::TcpRoute(wanted) => same(&inputs.tcp_routes, key, wanted),
        Kind::UdpRoute(wanted) => same(&inputs.udp_routes, key, wanted),
        Kind::BackendTlsPolicy(wanted) => same(&inputs.backend_tls_policies, key, wanted),
        Kind::ReferenceGrant(wanted) => same(&inputs.reference_grants, key, wanted),
        Kind::IstioGateway(wanted) => same(&inputs.gateways, key, wanted),
        Kind::VirtualService(wanted) => same(&inputs.virtual_services, key, wanted),
        Kind::DestinationRule(wanted) => same(&inputs.destination_rules, key, wanted),
        Kind::ServiceEntry(wanted) => same(&inputs.service_entries, key, wanted),
        Kind::WorkloadEntry(wanted) => same(&inputs.workload_entries, key, wanted),
        Kind::Sidecar(wanted) => same(&inputs.sidecars, key, wanted),
        Kind::AuthorizationPolicy(wanted) => same(&inputs.authorization_policies, key, wanted),
        Kind::PeerAuthentication(wanted) => same(&inputs.peer_authentications, key, wanted),
        Kind::RequestAuthentication(wanted) => same(&inputs.request_authentications, key, wanted),
        Kind::CedarPolicy(wanted) => same(&inputs.cedar_policies, key, wanted),
        Kind::Broken(wanted) => inputs
            .broken_policies
            .iter()
            .find(|(head, held)| head.key == *key && held.kind == wanted.kind)
            .map(|(head, held)| (head, *held == **wanted)),
        _ => None,
    }
}

/// Objects that carry a generation and that proxies may be asked about.
pub fn generations(inputs: &Inputs) -> impl Iterator<Item = Origin> {
    fn of<T>(objects: &Objects<T>) -> impl Iterator<Item = &Head> {
        objects.values().map(|object| &object.head)
    }
    of(&inputs.gateway_classes)
        .chain(of(&inputs.api_gateways))
        .chain(of(&inputs.http_routes))
        .chain(of(&inputs.grpc_routes))
        .chain(of(&inputs.tls_routes))
        .chain(of(&inputs.tcp_routes))
        .chain(of(&inputs.backend_tls_policies))
        .chain(of_istio(inputs))
        .chain(of(&inputs.cedar_policies))
        .map(Head::origin)
}

/// All objects that something is compiled from.
pub(super) fn heads(inputs: &Inputs) -> impl Iterator<Item = &Head> {
    fn of<T>(objects: &Objects<T>) -> impl Iterator<Item = &Head> {
        objects.values().map(|object| &object.head)
    }
    of(&inputs.services)
        .chain(of(&inputs.pods))
        .chain(of(&inputs.secrets))
        .chain(of(&inputs.config_maps))
        .chain(of(&inputs.gateway_classes))
        .chain(of(&inputs.api_gateways))
        .chain(of(&inputs.http_routes))
        .chain(of(&inputs.grpc_routes))
        .chain(of(&inputs.tls_routes))
        .chain(of(&inputs.tcp_routes))
        .chain(of(&inputs.udp_routes))
        .chain(of(&inputs.backend_tls_policies))
        .chain(of(&inputs.reference_grants))
        .chain(of_istio(inputs))
        .chain(of(&inputs.cedar_policies))
}

/// Objects of Istio's kinds, rejected policies as well.
pub(super) fn of_istio(inputs: &Inputs) -> impl Iterator<Item = &Head> {
    fn of<T>(objects: &Objects<T>) -> impl Iterator<Item = &Head> {
        objects.values().map(|object| &object.head)
    }
    of(&inputs.gateways)
        .chain(of(&inputs.virtual_services))
        .chain(of(&inputs.destination_rules))
        .chain(of(&inputs.service_entries))
        .chain(of(&inputs.workload_entries))
        .chain(of(&inputs.sidecars))
        .chain(of(&inputs.authorization_policies))
        .chain(of(&inputs.peer_authentications))
        .chain(of(&inputs.request_authentications))
        .chain(inputs.broken_policies.iter().map(|(head, _)| head))
}
