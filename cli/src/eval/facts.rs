//! A case as the facts that the pipeline is told.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};
use palisade_model::settings::{ProxyKind, ProxySettings};
use palisade_policy::CertificateNames;
use palisade_proxy::request::facts::{
    AgreedTls, Chance, ClientCertificate, ClientTls, Connection, Direction, HttpVersion, Trust,
};

use super::{
    case::{Case, ClientCase, DirectionCase, HttpCase, SourceCase, TlsCase, Version},
    world::World,
};

/// A caller that no case describes (RFC 5737, TEST-NET-1).
const SOMEBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// An address that no document names (RFC 5737, TEST-NET-2).
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// A caller's port that no case describes.
const SOME_PORT: u16 = 40_000;

/// The ALPN offers of Istio's sidecars (istio-semantics 12).
const OFFER_HTTP1: [&str; 3] = ["istio-http/1.1", "istio", "http/1.1"];
const OFFER_HTTP2: [&str; 3] = ["istio-h2", "istio", "h2"];
const OFFER_TCP: [&str; 2] = ["istio-peer-exchange", "istio"];

/// A case's request, owned.
#[derive(Debug)]
pub(super) struct OwnedRequest {
    pub(super) method: String,
    pub(super) scheme: &'static str,
    pub(super) authority: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) version: HttpVersion,
    pub(super) headers: HeaderMap,
}

/// The connection of a case.
///
/// # Errors
/// What of the case cannot be.
pub(super) fn connection(case: &Case, settings: &ProxySettings, world: &World) -> Result<Connection, String> {
    let direction = match (settings.kind, case.direction) {
        (ProxyKind::Gateway, _) | (ProxyKind::Sidecar, DirectionCase::Inbound) => Direction::Inbound,
        (ProxyKind::Sidecar, DirectionCase::Outbound) => Direction::Outbound,
    };
    let own = settings.addresses.first().copied();
    let SourceCase { ip, port, identity, proxy_protocol: _ } = &case.source;
    let default_source = if direction == Direction::Outbound { own.unwrap_or(SOMEBODY) } else { SOMEBODY };
    let peer = SocketAddr::new(ip.unwrap_or(default_source), port.unwrap_or(SOME_PORT));
    let proxied = case.source.proxied()?.filter(|_| settings.client_address.proxy_protocol);
    let destination = match (case.destination.ip, direction) {
        (Some(ip), _) => ip,
        (None, Direction::Inbound) => own.unwrap_or(NOWHERE),
        (None, Direction::Outbound) => dialled(case, settings, world).unwrap_or(NOWHERE),
    };
    let is_mesh_peer = identity.is_some();
    let tls = match &case.tls {
        None if is_mesh_peer => Some(tls(None, identity.as_deref(), case.http.as_ref())?),
        None => None,
        Some(written) => Some(tls(Some(written), identity.as_deref(), case.http.as_ref())?),
    };
    Ok(Connection {
        direction,
        source: proxied.unwrap_or(peer),
        destination: SocketAddr::new(destination, case.destination.port),
        tls,
    })
}

/// Where the application dialled: the address of the service that the authority or the server name means.
fn dialled(case: &Case, settings: &ProxySettings, world: &World) -> Option<IpAddr> {
    let authority = case.http.as_ref().and_then(|http| http.authority.as_ref());
    let authority = authority.and_then(|text| std::str::from_utf8(&text.0).ok());
    let name = authority.or_else(|| case.tls.as_ref()?.sni.as_deref())?;
    if let Ok(address) = name.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    if let Ok(address) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(address);
    }
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    world.address_of(host, &settings.workload.namespace)
}

fn tls(written: Option<&TlsCase>, identity: Option<&str>, http: Option<&HttpCase>) -> Result<ClientTls, String> {
    let is_mesh = identity.is_some() || written.is_some_and(|tls| tls.mesh);
    let offer = || -> &'static [&'static str] {
        match http.map(|http| http.version) {
            _ if !is_mesh => &[],
            None => &OFFER_TCP,
            Some(Some(Version::Http2)) => &OFFER_HTTP2,
            Some(_) => &OFFER_HTTP1,
        }
    };
    let alpn = match written.and_then(|tls| tls.alpn.as_ref()) {
        Some(names) => names.iter().map(|name| name.as_str().into()).collect(),
        None => offer().iter().map(|name| Arc::from(*name)).collect(),
    };
    let certificate = match (identity, written.and_then(|tls| tls.client.as_ref())) {
        (Some(_), Some(_)) => {
            return Err("source.identity and tls.client cannot both be the peer's certificate".to_owned());
        }
        (Some(identity), None) => Some(ClientCertificate {
            names: CertificateNames { uris: vec![identity.to_owned()], ..CertificateNames::default() },
            trust: Trust::Mesh,
            fingerprint: None,
        }),
        (None, Some(client)) => Some(certificate(client)?),
        (None, None) => None,
    };
    let sni = written.and_then(|tls| tls.sni.as_ref()).map(|name| name.to_ascii_lowercase().into());
    // What is agreed upon where TLS is terminated: the newest version, since cases say nothing else.
    let agreed = Some(AgreedTls { version: "TLSv1.3", alpn: None });
    Ok(ClientTls { sni, alpn, certificate, agreed })
}

fn certificate(client: &ClientCase) -> Result<ClientCertificate, String> {
    let ClientCase { uris, dns, subject, trusted_by } = client;
    let trust = match trusted_by.as_deref() {
        None | Some("none") => Trust::Nobody,
        Some("mesh") => Trust::Mesh,
        Some(secret) if secret.contains('/') => Trust::Secret(secret.into()),
        Some(other) => {
            return Err(format!("tls.client.trustedBy: `{other}` is not `mesh`, `none` or NAMESPACE/SECRET"));
        }
    };
    let names = CertificateNames { uris: uris.clone(), dns: dns.clone(), subject: subject.clone() };
    Ok(ClientCertificate { names, trust, fingerprint: None })
}

/// The request of a case; `None` where its bytes are not HTTP: a method or header that no message can carry.
pub(super) fn request(http: &HttpCase, has_tls: bool) -> Option<OwnedRequest> {
    let HttpCase { method, scheme, authority, path, version, headers: written, claims: _ } = http;
    let method = match method {
        None => "GET".to_owned(),
        Some(text) => String::from_utf8(text.0.clone()).ok().filter(|method| is_token(method))?,
    };
    let scheme = match scheme.as_ref().map(|text| text.0.as_slice()) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if has_tls => "https",
        _ => "http",
    };
    let mut headers = HeaderMap::with_capacity(written.len());
    let is_http2 = *version == Some(Version::Http2);
    for (name, value) in written {
        let trimmed = trim_blanks(&value.0);
        // RFC 9113 section 8.2.1: malformed in HTTP/2; RFC 9112 section 5.1: not part of the value in HTTP/1.
        if is_http2 && trimmed.len() != value.0.len() {
            return None;
        }
        headers.append(HeaderName::from_bytes(&name.0).ok()?, HeaderValue::from_bytes(trimmed).ok()?);
    }
    // `host` among the headers is the authority of HTTP/1; whatever else says `host` stays, to be judged.
    let mut hosts = headers.get_all(HOST).iter().cloned().collect::<Vec<_>>().into_iter();
    headers.remove(HOST);
    let authority = match authority {
        Some(text) => text.0.clone(),
        None => hosts.next().map_or_else(Vec::new, |host| host.as_bytes().to_vec()),
    };
    for host in hosts {
        headers.append(HOST, host);
    }
    if is_http2 && headers.get_all(HOST).iter().eq([authority.as_slice()]) {
        headers.remove(HOST);
    }
    Some(OwnedRequest {
        method,
        scheme,
        authority,
        target: path.as_ref().map_or_else(|| b"/".to_vec(), |path| path.0.clone()),
        version: match version {
            Some(Version::Http10) => HttpVersion::Http10,
            None | Some(Version::Http11) => HttpVersion::Http11,
            Some(Version::Http2) => HttpVersion::Http2,
        },
        headers,
    })
}

fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// When the case is judged, and its draws.
///
/// # Errors
/// When `random` is not in `0.0..1.0`.
pub(super) fn chance(case: &Case) -> Result<Chance, String> {
    let now = case.time.map_or_else(SystemTime::now, SystemTime::from);
    match case.random {
        None => Ok(Chance::random(now, fastrand::Rng::new())),
        Some(draw) if (0.0..1.0).contains(&draw) => Ok(Chance::fixed(now, draw)),
        Some(draw) => Err(format!("random: {draw} is not in 0.0..1.0")),
    }
}
