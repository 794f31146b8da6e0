//! Listeners of a Gateway: hosts, certificates, and conflicts among them.

use std::sync::Arc;

use palisade_crds::gateway_api::{FrontendValidationMode, Gateway, Listener as Written, ListenerTlsConfig};
use palisade_model::{host::HostPattern, listener::ClientValidation};

use super::{GROUP, Grants, ListenerProtocol, Referrer, ResolvedGateway, ResolvedListener, authorities, status};
use crate::{
    inputs::Inputs,
    object::{Object, ObjectKey},
    resolve::secrets::secret_key,
};

/// Resolves a Gateway's own parts; routes attach later.
pub(super) fn resolve(inputs: &Inputs, gateway: &Object<Gateway>, grants: &Grants) -> ResolvedGateway {
    let mut listeners = Vec::new();
    let mut statuses = Vec::new();
    for written in &gateway.spec.listeners {
        let protocol = ListenerProtocol::of(written);
        let conflict = conflict(written, protocol, &gateway.spec.listeners);
        let hostname = match written.hostname.as_deref() {
            None | Some("") => Some(HostPattern::Any),
            Some(text) => text.parse().ok(),
        };
        let (certificates, resolved_refs) = certificates(inputs, gateway, written, protocol, grants);
        let (frontend, frontend_refused) = frontend(gateway, written.port, protocol);
        let accepted = match (conflict, protocol, &hostname) {
            (Some(reason), ..) => status::refused("Accepted", reason, "another listener of the port stands in the way"),
            (None, ListenerProtocol::Unknown, _) => {
                status::refused("Accepted", "UnsupportedProtocol", "the protocol is not served")
            }
            (None, _, None) => status::refused("Accepted", "Invalid", "the host name is malformed"),
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
            frontend_refused,
            is_accepted: accepted.is_true,
            routes: Vec::new(),
        });
        statuses.push(status::ListenerStatus {
            name: written.name.as_str().into(),
            attached_routes: 0,
            conflict,
            accepted,
            resolved_refs,
        });
    }
    ResolvedGateway { head: gateway.head.clone(), listeners, status: status::GatewayStatus { listeners: statuses } }
}

/// What `spec.tls.frontend` asks of the clients of a port, or why it cannot be had.
fn frontend(
    gateway: &Object<Gateway>,
    port: u16,
    protocol: ListenerProtocol,
) -> (Option<ClientValidation>, Option<&'static str>) {
    if !matches!(protocol, ListenerProtocol::Https | ListenerProtocol::TlsTerminate) {
        return (None, None);
    }
    let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return (None, None) };
    let of_port = frontend.per_port.iter().find(|own| own.port == port);
    let settings = of_port.map_or(&frontend.default, |own| &own.tls);
    let Some(validation) = &settings.validation else { return (None, None) };
    match validation.mode {
        FrontendValidationMode::AllowValidOnly => {
            let ca = authorities::frontend_key(&gateway.head.key, of_port.map(|own| own.port));
            (Some(ClientValidation { ca, is_required: true, subject_alt_names: [].into() }), None)
        }
        FrontendValidationMode::AllowInsecureFallback => {
            (None, Some("`spec.tls.frontend`: the mode AllowInsecureFallback is not served"))
        }
    }
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
    gateway: &Object<Gateway>,
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
    for reference in references {
        let own = &gateway.head.key.namespace;
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        let from = Referrer { group: GROUP, kind: "Gateway", namespace: own };
        if !reference.group.is_empty() || reference.kind != "Secret" {
            let message = format!("`{}/{}` is not a kind of certificate", reference.group, reference.kind);
            condition = status::refused("ResolvedRefs", "InvalidCertificateRef", &message);
        } else if !grants.permits(from, namespace, "", "Secret", &reference.name) {
            let message = format!("no ReferenceGrant lets this Gateway use secret `{namespace}/{}`", reference.name);
            condition = status::refused("ResolvedRefs", "RefNotPermitted", &message);
        } else {
            let key = ObjectKey::new(namespace, reference.name.as_str());
            if !inputs.secrets.contains_key(&key) {
                let message = format!("secret `{key}` does not exist");
                condition = status::refused("ResolvedRefs", "InvalidCertificateRef", &message);
            }
            // Kept also when it is missing: the handshake fails until it is there.
            keys.push(secret_key(&key));
        }
    }
    (keys, kinds_condition(written, protocol).unwrap_or(condition))
}

/// The condition of a listener that allows kinds of routes which its protocol cannot serve.
fn kinds_condition(written: &Written, protocol: ListenerProtocol) -> Option<status::Condition> {
    let expected = match protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => ["HTTPRoute", "GRPCRoute"].as_slice(),
        ListenerProtocol::TlsTerminate => ["TLSRoute", "TCPRoute"].as_slice(),
        ListenerProtocol::TlsPassthrough => ["TLSRoute"].as_slice(),
        ListenerProtocol::Tcp => ["TCPRoute"].as_slice(),
        ListenerProtocol::Udp => ["UDPRoute"].as_slice(),
        ListenerProtocol::Unknown => return None,
    };
    let wrong = written
        .allowed_routes
        .kinds
        .iter()
        .find(|kind| kind.group != GROUP || !expected.contains(&kind.kind.as_str()))?;
    let message = format!("routes of kind `{}/{}` do not attach to this protocol", wrong.group, wrong.kind);
    Some(status::refused("ResolvedRefs", "InvalidRouteKinds", &message))
}
