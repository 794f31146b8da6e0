//! Listeners of a Gateway: hosts, certificates, and conflicts among them.

use std::sync::Arc;

use palisade_crds::gateway_api::{
    FrontendTlsValidation, FrontendValidationMode, Gateway, Listener as Written, ListenerTlsConfig,
};
use palisade_model::{host::HostPattern, listener::ClientValidation};

use super::{
    BackendCertificate, GROUP, Grants, ListenerProtocol, Referrer, ResolvedGateway, ResolvedListener, authorities,
    client_roots::ClientRoots, status,
};
use crate::{
    inputs::Inputs,
    object::{Head, Object, ObjectKey},
    resolve::secrets::{is_certificate, secret_key},
};

/// Ports of the proxy itself: admin, metrics, readiness.
const OWN_PORTS: [u16; 3] = [15000, 15020, 15021];

/// The document that listeners stand in: a Gateway, or a ListenerSet that is attached to it.
#[derive(Clone, Copy)]
pub(super) struct Home<'a> {
    /// Metadata.
    pub(super) head: &'a Head,
    /// The set; `None` = the Gateway itself.
    pub(super) set: Option<&'a ObjectKey>,
    /// All of its listeners.
    pub(super) listeners: &'a [Written],
}

/// Resolves a Gateway's own parts; routes attach later.
pub(super) fn resolve(inputs: &Inputs, gateway: &Object<Gateway>, grants: &Grants) -> ResolvedGateway {
    let home = Home { head: &gateway.head, set: None, listeners: &gateway.spec.listeners };
    let (listeners, statuses) = resolve_all(inputs, gateway, home, grants);
    ResolvedGateway {
        head: gateway.head.clone(),
        listeners,
        sets: Vec::new(),
        backend_certificate: BackendCertificate::of(inputs, gateway, grants),
        status: status::GatewayStatus { listeners: statuses },
    }
}

/// Resolves the listeners of a document.
pub(super) fn resolve_all(
    inputs: &Inputs,
    gateway: &Object<Gateway>,
    home: Home<'_>,
    grants: &Grants,
) -> (Vec<ResolvedListener>, Vec<status::ListenerStatus>) {
    let mut listeners = Vec::new();
    let mut statuses = Vec::new();
    for written in home.listeners {
        let protocol = ListenerProtocol::of(written);
        let conflict = conflict(written, protocol, home.listeners);
        let hostname = match written.hostname.as_deref() {
            None | Some("") => Some(HostPattern::Any),
            Some(text) => text.parse().ok(),
        };
        let (certificates, resolved_refs) = certificates(inputs, home, written, protocol, grants);
        let frontend = frontend(gateway, written.port, protocol);
        let roots = frontend_of(gateway, written.port, protocol)
            .map(|(validation, _)| ClientRoots::of(inputs, gateway, grants, validation));
        let accepted = match (conflict, protocol, &hostname) {
            (Some(reason), ..) => status::refused("Accepted", reason, "another listener of the port stands in the way"),
            (None, ListenerProtocol::Unknown, _) => {
                status::refused("Accepted", "UnsupportedProtocol", "the protocol is not served")
            }
            (None, _, None) => status::refused("Accepted", "Invalid", "the host name is malformed"),
            (None, ..) if OWN_PORTS.contains(&written.port) => {
                status::refused("Accepted", "PortUnavailable", "the proxy has this port for its own pages")
            }
            (None, _, Some(_)) => status::accepted("Accepted", "Accepted"),
        };
        listeners.push(ResolvedListener {
            name: written.name.as_str().into(),
            port: written.port,
            hostname: hostname.unwrap_or(HostPattern::Any),
            protocol,
            is_mesh: written.tls.as_ref().and_then(terminate_mode) == Some("ISTIO_MUTUAL"),
            asks_clients: written.tls.as_ref().and_then(terminate_mode).and_then(|mode| match mode {
                "MUTUAL" => Some(true),
                "OPTIONAL_MUTUAL" => Some(false),
                _ => None,
            }),
            certificates,
            frontend,
            is_accepted: accepted.is_true,
            allowed_routes: written.allowed_routes.clone(),
            origin: home.head.origin(),
            set: home.set.cloned(),
            routes: Vec::new(),
        });
        let (accepted, resolved_refs) = match roots {
            Some(roots) => roots.shape(accepted, resolved_refs),
            None => (accepted, resolved_refs),
        };
        statuses.push(status::ListenerStatus {
            name: written.name.as_str().into(),
            attached_routes: 0,
            conflict,
            overlaps: overlaps(written, protocol, home.listeners),
            kinds: supported_kinds(written, protocol),
            accepted,
            resolved_refs,
        });
    }
    (listeners, statuses)
}

/// What `spec.tls.frontend` asks of the clients of a port.
fn frontend(gateway: &Object<Gateway>, port: u16, protocol: ListenerProtocol) -> Option<ClientValidation> {
    let (validation, of_port) = frontend_of(gateway, port, protocol)?;
    let ca = authorities::frontend_key(&gateway.head.key, of_port);
    let tolerates_invalid = match validation.mode {
        FrontendValidationMode::AllowValidOnly => false,
        FrontendValidationMode::AllowInsecureFallback => true,
    };
    Some(ClientValidation { ca, is_required: !tolerates_invalid, subject_alt_names: [].into(), tolerates_invalid })
}

/// What `spec.tls.frontend` says about the clients of a port, and the port if it says so for that port alone.
fn frontend_of(
    gateway: &Object<Gateway>,
    port: u16,
    protocol: ListenerProtocol,
) -> Option<(&FrontendTlsValidation, Option<u16>)> {
    if !matches!(protocol, ListenerProtocol::Https | ListenerProtocol::TlsTerminate) {
        return None;
    }
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let of_port = frontend.per_port.iter().find(|own| own.port == port);
    let settings = of_port.map_or(&frontend.default, |own| &own.tls);
    Some((settings.validation.as_ref()?, of_port.map(|own| own.port)))
}

/// How TLS is terminated, in Istio's words.
fn terminate_mode(tls: &ListenerTlsConfig) -> Option<&str> {
    tls.options.get("gateway.istio.io/tls-terminate-mode").map(String::as_str)
}

/// Why a listener cannot stand beside the others of its port (Gateway API, `ListenerConditionConflicted`).
fn conflict(written: &Written, protocol: ListenerProtocol, all: &[Written]) -> Option<&'static str> {
    let same_port = || all.iter().filter(|other| other.port == written.port);
    // UDP sockets are apart from TCP sockets.
    let rivals = || {
        same_port().filter(|other| {
            (ListenerProtocol::of(other) == ListenerProtocol::Udp) == (protocol == ListenerProtocol::Udp)
        })
    };
    if rivals().any(|other| ListenerProtocol::of(other).transport() != protocol.transport()) {
        return Some("ProtocolConflict");
    }
    let host = |listener: &Written| listener.hostname.clone().unwrap_or_default().to_ascii_lowercase();
    let twins = rivals().filter(|other| host(other) == host(written)).count();
    (twins > 1).then_some("HostnameConflict")
}

/// Keys of the certificates that may be read, and the condition that says whether all of them may.
fn certificates(
    inputs: &Inputs,
    home: Home<'_>,
    written: &Written,
    protocol: ListenerProtocol,
    grants: &Grants,
) -> (Vec<Arc<str>>, status::Condition) {
    let mut keys = Vec::new();
    let mut condition = status::accepted("ResolvedRefs", "ResolvedRefs");
    if !matches!(protocol, ListenerProtocol::Https | ListenerProtocol::TlsTerminate) {
        return (keys, kinds_condition(written, protocol).unwrap_or(condition));
    }
    let references = written.tls.as_ref().map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
    // The first mistake is the one that is told.
    let mut refuse = |reason: &'static str, message: &str| {
        if condition.is_true {
            condition = status::refused("ResolvedRefs", reason, message);
        }
    };
    for reference in references {
        let own = &home.head.key.namespace;
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        let from = Referrer { group: GROUP, kind: &home.head.kind, namespace: own };
        if !reference.group.is_empty() || reference.kind != "Secret" {
            let message = format!("`{}/{}` is not a kind of certificate", reference.group, reference.kind);
            refuse("InvalidCertificateRef", &message);
        } else if !grants.permits(from, namespace, "", "Secret", &reference.name) {
            let message =
                format!("no ReferenceGrant lets this {} use secret `{namespace}/{}`", home.head.kind, reference.name);
            refuse("RefNotPermitted", &message);
        } else {
            let key = ObjectKey::new(namespace, reference.name.as_str());
            match inputs.secrets.get(&key) {
                None => refuse("InvalidCertificateRef", &format!("secret `{key}` does not exist")),
                Some(secret) if !is_certificate(&secret.spec) => {
                    let message = format!("secret `{key}` holds no PEM certificate with its key");
                    refuse("InvalidCertificateRef", &message);
                }
                Some(_) => {}
            }
            // Kept also when it is missing: the handshake fails until it is there.
            keys.push(secret_key(&key));
        }
    }
    (keys, kinds_condition(written, protocol).unwrap_or(condition))
}

/// The condition of a listener that allows kinds of routes which its protocol cannot serve.
fn kinds_condition(written: &Written, protocol: ListenerProtocol) -> Option<status::Condition> {
    let expected = kinds_of(protocol);
    if expected.is_empty() {
        return None;
    }
    let wrong = written
        .allowed_routes
        .kinds
        .iter()
        .find(|kind| kind.group != GROUP || !expected.contains(&kind.kind.as_str()))?;
    let message = format!("routes of kind `{}/{}` do not attach to this protocol", wrong.group, wrong.kind);
    Some(status::refused("ResolvedRefs", "InvalidRouteKinds", &message))
}

/// Kinds of routes that a protocol takes.
fn kinds_of(protocol: ListenerProtocol) -> &'static [&'static str] {
    match protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => &["HTTPRoute", "GRPCRoute"],
        ListenerProtocol::TlsTerminate => &["TLSRoute", "TCPRoute"],
        ListenerProtocol::TlsPassthrough => &["TLSRoute"],
        ListenerProtocol::Tcp => &["TCPRoute"],
        ListenerProtocol::Udp => &["UDPRoute"],
        ListenerProtocol::Unknown => &[],
    }
}

/// Kinds of routes that a listener takes: of those that it allows, the ones that its protocol can serve.
fn supported_kinds(written: &Written, protocol: ListenerProtocol) -> Vec<&'static str> {
    let allowed = &written.allowed_routes.kinds;
    let is_allowed =
        |kind: &&&str| allowed.is_empty() || allowed.iter().any(|own| own.group == GROUP && own.kind == ***kind);
    kinds_of(protocol).iter().filter(is_allowed).copied().collect()
}

/// Another listener of the port terminates TLS for some of the same hosts.
fn overlaps(written: &Written, protocol: ListenerProtocol, all: &[Written]) -> Option<Arc<str>> {
    let terminates = |protocol| matches!(protocol, ListenerProtocol::Https | ListenerProtocol::TlsTerminate);
    if !terminates(protocol) {
        return None;
    }
    let host = |listener: &Written| listener.hostname.clone().unwrap_or_default().to_ascii_lowercase();
    let own = host(written);
    let takes = |pattern: &str, host: &str| pattern.strip_prefix('*').is_some_and(|suffix| host.ends_with(suffix));
    let rival = all.iter().find(|other| {
        let theirs = host(other);
        other.name != written.name
            && other.port == written.port
            && terminates(ListenerProtocol::of(other))
            && theirs != own
            && (own.is_empty() || theirs.is_empty() || takes(&own, &theirs) || takes(&theirs, &own))
    })?;
    Some(rival.name.as_str().into())
}
