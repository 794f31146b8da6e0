//! What goes upstream: TLS, protocol, and the headers that a hop adds, keeps and strips.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};
use palisade_model::{
    cluster::{LoadBalancer, Originate, UpstreamProtocol, UpstreamTls},
    endpoint::PeerProxy,
    settings::{ForwardClientCert, ProxyKind},
};

use super::{
    address,
    changes::HeaderChange,
    connection::{Admitted, Mode},
    facts::{Chance, Direction, HttpVersion, Request},
};
use crate::index::{IndexedCluster, IndexedEndpoint, RuntimeIndex};

/// TLS towards one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedTls {
    /// Plaintext.
    Off,
    /// Mesh mutual TLS.
    Mesh {
        /// Server name to send.
        sni: Arc<str>,
        /// Names of which the server must present one; empty = only the chain is checked.
        sans: Arc<[Arc<str>]>,
    },
    /// A server outside the mesh.
    Originate(Arc<Originate>),
    /// The document asks for TLS that cannot be built.
    Refuse(Arc<str>),
}

/// What is spoken to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedProtocol {
    /// HTTP/2 instead of HTTP/1.1.
    pub is_http2: bool,
    /// An HTTP/1 request rides HTTP/2 between two Palisade sidecars; the receiver restores this version.
    pub carries: Option<HttpVersion>,
}

/// Header by which one Palisade sidecar tells another the version of a request that rides HTTP/2. Never leaves the mesh.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("x-palisade-version");
/// Header that names a denial to its caller.
pub const DECISION_HEADER: HeaderName = HeaderName::from_static("x-palisade-decision");
/// Header that tells a caller inside the mesh which policy denied it, where the policy's namespace permits that.
pub const POLICY_HEADER: HeaderName = HeaderName::from_static("x-palisade-policy");

const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
/// How often a request was tried.
pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// TLS towards one endpoint of a cluster; `None` = no endpoint is listed, so nothing is known about it.
pub fn tls_towards(cluster: &IndexedCluster, endpoint: Option<&IndexedEndpoint>) -> PlannedTls {
    let mesh = |tls: &palisade_model::cluster::MeshTls| PlannedTls::Mesh {
        sni: Arc::clone(&tls.sni),
        sans: match tls.subject_alt_names.is_empty() {
            true => Arc::clone(cluster.sans()),
            false => Arc::clone(&tls.subject_alt_names),
        },
    };
    match &cluster.cluster().tls {
        UpstreamTls::Off => PlannedTls::Off,
        UpstreamTls::Auto(tls) => match endpoint.map(|e| e.endpoint.peer) {
            Some(PeerProxy::Istio | PeerProxy::Palisade) => mesh(tls),
            Some(PeerProxy::None) => PlannedTls::Off,
            // An address that the registry does not list is trusted no further than all of those that it does (Istio).
            None if is_mesh_throughout(cluster) => mesh(tls),
            None => PlannedTls::Off,
        },
        UpstreamTls::Mesh(tls) => mesh(tls),
        UpstreamTls::Originate(originate) => PlannedTls::Originate(Arc::new(originate.clone())),
        UpstreamTls::Refuse { message } => PlannedTls::Refuse(Arc::clone(message)),
    }
}

/// Whether clients choose the endpoint, and every one that is known speaks mesh TLS.
fn is_mesh_throughout(cluster: &IndexedCluster) -> bool {
    cluster.cluster().load_balancer == LoadBalancer::Passthrough
        && cluster.endpoints().iter().all(IndexedEndpoint::is_mesh)
}

/// What is spoken to an endpoint for a request of `version`.
pub fn protocol_towards(
    cluster: &IndexedCluster,
    endpoint: Option<&IndexedEndpoint>,
    tls: &PlannedTls,
    version: HttpVersion,
    is_upgrade: bool,
) -> PlannedProtocol {
    let http1 = PlannedProtocol { is_http2: false, carries: None };
    if is_upgrade {
        return http1;
    }
    let is_palisade = endpoint.is_some_and(|e| e.endpoint.peer == PeerProxy::Palisade);
    let may_ride = is_palisade && matches!(tls, PlannedTls::Mesh { .. });
    let is_http2 = match cluster.cluster().protocol {
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Client => version == HttpVersion::Http2,
        UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => false,
    };
    if is_http2 {
        return PlannedProtocol { is_http2: true, carries: None };
    }
    match may_ride {
        // An HTTP/2 request to a cluster that speaks HTTP/1 comes out as HTTP/1.1 behind the other sidecar as well.
        true => PlannedProtocol {
            is_http2: true,
            carries: Some(if version == HttpVersion::Http10 { version } else { HttpVersion::Http11 }),
        },
        false => http1,
    }
}

/// What this hop strips and asserts, before anything else looks at the request: providers, tokens, policies and routes see nothing that
/// a caller only claims.
pub fn hop_changes(
    index: &RuntimeIndex,
    admitted: &Admitted,
    request: &Request<'_>,
    remote_ip: std::net::IpAddr,
    chance: &mut Chance,
) -> Vec<HeaderChange> {
    let mut changes = Vec::with_capacity(8);
    let is_gateway = index.settings().kind == ProxyKind::Gateway;
    for name in [&VERSION_HEADER, &DECISION_HEADER, &POLICY_HEADER] {
        if request.headers.contains_key(name) {
            changes.push(HeaderChange::Remove(name.clone()));
        }
    }
    if is_gateway {
        edge_changes(admitted, request, remote_ip, &mut changes);
    }
    let trusts_proto = address::trusts_forwarding(index.settings());
    if !(trusts_proto && request.headers.contains_key(&FORWARDED_PROTO)) {
        let scheme = if request.scheme == "https" { "https" } else { "http" };
        changes.push(HeaderChange::Set(FORWARDED_PROTO, HeaderValue::from_static(scheme)));
    }
    if is_gateway || !request.headers.contains_key(&REQUEST_ID) {
        changes.push(HeaderChange::Set(REQUEST_ID, chance.request_id()));
    }
    client_certificate(index, admitted, request, &mut changes);
    changes
}

/// What the edge strips and asserts: callers outside the mesh cannot speak for it (CVE-2024-45806, CVE-2023-27487).
fn edge_changes(
    admitted: &Admitted,
    request: &Request<'_>,
    remote_ip: std::net::IpAddr,
    changes: &mut Vec<HeaderChange>,
) {
    let stripped = request.headers.keys().filter(|name| name.as_str().starts_with("x-envoy-"));
    changes.extend(stripped.map(|name| HeaderChange::Remove(name.clone())));
    let Some(peer) = admitted.shown.peer() else { return };
    let mut chain: Vec<u8> = Vec::new();
    for line in request.headers.get_all(&FORWARDED_FOR) {
        chain.extend_from_slice(line.as_bytes());
        chain.push(b',');
    }
    let chain = if chain.is_empty() {
        Ok(peer.clone())
    } else {
        chain.extend_from_slice(peer.as_bytes());
        HeaderValue::try_from(chain)
    };
    changes.extend(chain.map(|chain| HeaderChange::Set(FORWARDED_FOR, chain)));
    if remote_ip == admitted.facts.source.ip().to_canonical() {
        changes.push(HeaderChange::Set(EXTERNAL_ADDRESS, peer.clone()));
    } else {
        push_set(changes, EXTERNAL_ADDRESS, &remote_ip.to_string());
    }
}

fn client_certificate(
    index: &RuntimeIndex,
    admitted: &Admitted,
    request: &Request<'_>,
    changes: &mut Vec<HeaderChange>,
) {
    let settings = index.settings();
    let mode = match (settings.kind, admitted.facts.direction) {
        // The application speaks for nobody's certificate.
        (ProxyKind::Sidecar, Direction::Outbound) => ForwardClientCert::Sanitize,
        _ => settings.forward_client_cert,
    };
    let is_ours = matches!(admitted.mode, Mode::Mtls | Mode::TlsTerminated);
    let certificate = admitted.facts.tls.as_ref().filter(|_| is_ours).and_then(|tls| tls.certificate.as_ref());
    let remove = |changes: &mut Vec<HeaderChange>| {
        if request.headers.contains_key(&FORWARDED_CLIENT_CERT) {
            changes.push(HeaderChange::Remove(FORWARDED_CLIENT_CERT));
        }
    };
    match (mode, certificate) {
        (ForwardClientCert::AlwaysForwardOnly, _) | (ForwardClientCert::ForwardOnly, Some(_)) => {}
        (ForwardClientCert::Sanitize, _) | (_, None) => remove(changes),
        (ForwardClientCert::SanitizeSet, Some(certificate)) => {
            // A name in a certificate may hold what no header may: then nothing is asserted, and nothing of the client's stays.
            changes.push(match admitted.shown.certificate(|| settings.identity.to_string(), certificate) {
                Some(value) => HeaderChange::Set(FORWARDED_CLIENT_CERT, value.clone()),
                None => HeaderChange::Remove(FORWARDED_CLIENT_CERT),
            });
        }
        (ForwardClientCert::AppendForward, Some(certificate)) => {
            let Some(own) = admitted.shown.certificate(|| settings.identity.to_string(), certificate) else {
                return remove(changes);
            };
            let mut value: Vec<u8> = Vec::new();
            for line in request.headers.get_all(&FORWARDED_CLIENT_CERT) {
                value.extend_from_slice(line.as_bytes());
                value.push(b',');
            }
            value.extend_from_slice(own.as_bytes());
            match HeaderValue::from_bytes(&value) {
                Ok(value) => changes.push(HeaderChange::Set(FORWARDED_CLIENT_CERT, value)),
                Err(_) => remove(changes),
            }
        }
    }
}

fn push_set(changes: &mut Vec<HeaderChange>, name: HeaderName, value: &str) {
    // A name in a certificate may hold what no header may: then nothing is asserted, and nothing of the client's stays.
    changes.push(match HeaderValue::try_from(value) {
        Ok(value) => HeaderChange::Set(name, value),
        Err(_) => HeaderChange::Remove(name),
    });
}

/// Whether a request asks to switch protocols (WebSocket and the like).
pub fn is_upgrade(request: &Request<'_>) -> bool {
    let asks = |name: HeaderName, word: &str| {
        request.headers.get_all(name).iter().any(|line| {
            line.to_str().is_ok_and(|line| line.split(',').any(|token| token.trim().eq_ignore_ascii_case(word)))
        })
    };
    request.version == HttpVersion::Http11
        && request.headers.contains_key(header::UPGRADE)
        && asks(header::CONNECTION, "upgrade")
}

/// Whether a request is gRPC: its answers are then gRPC's.
pub fn is_grpc(request: &Request<'_>) -> bool {
    let content_type = request.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b' ')))
}
