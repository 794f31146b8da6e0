//! Which listener, inbound port or outbound destination takes a connection, how it is secured, and what it carries.

use std::sync::Arc;

use palisade_model::{
    identity::TrustDomain,
    listener::{Chain, ChainHandler, ClientValidation, InboundPort, Listener, MtlsMode, Protocol, ServerTlsMode},
    reason::Reason,
    service::{Query, Service, ServicePort},
    settings::{ProxyKind, ProxySettings},
};
use palisade_policy::{ConnectionDecision, ConnectionFacts, Peer, PolicyEngine, TlsFacts};

use super::{
    external::AdmittedCheck,
    facts::{ClientCertificate, ClientTls, Connection, Direction, Trust},
    shown::Shown,
    tokens::TokenVerifier,
};
use crate::{
    index::{Known, RuntimeIndex},
    serve::{
        decide::{self, DeclaredProtocol, Payload, Treatment, decide},
        sniff::Sniffed,
    },
    tls::{ClientHello, MeshProtocol, mesh_treatment},
};

/// How an accepted connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Plaintext,
    /// Mesh mutual TLS, terminated here.
    Mtls,
    /// A user's certificate, terminated here.
    TlsTerminated,
    /// TLS that is relayed unread.
    TlsPassthrough,
}

/// What an accepted connection is treated as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// HTTP; bytes that are not are answered 400.
    Http,
    /// Opaque bytes.
    Bytes,
}

/// What the bytes themselves look like, inside of whatever TLS is terminated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// An HTTP request.
    Http,
    /// Anything else, or nothing yet.
    Other,
}

/// Where a connection came in.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A pod's port.
    Inbound(Arc<InboundPort>),
    /// A gateway's listener and the index of its chain.
    Gateway(Arc<Listener>, usize),
    /// The application dialled out.
    Outbound(Outbound),
}

impl Entry {
    /// Whether a mesh peer's own TLS goes on as it is.
    pub fn is_auto_passthrough(&self) -> bool {
        let Self::Gateway(listener, chain) = self else { return false };
        listener.chains.get(*chain).is_some_and(|chain| matches!(chain.handler, ChainHandler::AutoPassthrough))
    }
}

/// What the application dialled.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// The service and port, where address and port name one.
    pub service: Option<(Arc<Service>, ServicePort)>,
    /// What is not known about the address yet; `None` = everything is.
    pub unknown: Option<Query>,
}

/// A connection that was taken.
#[derive(Debug)]
pub struct Admitted {
    /// Its facts.
    pub facts: Connection,
    /// Where it came in.
    pub entry: Entry,
    /// How it is secured.
    pub mode: Mode,
    /// What it is treated as.
    pub carries: Carries,
    /// Who judges it.
    pub engine: Arc<PolicyEngine>,
    /// What holds for the whole connection.
    pub standing: ConnectionDecision,
    /// What its requests say of it.
    pub(super) shown: Shown,
    /// The tokens that its requests may carry; `None` = tokens are nobody's business.
    pub tokens: Option<Arc<TokenVerifier>>,
    /// The external authorizers that its requests may be put before.
    pub checks: Vec<AdmittedCheck>,
}

/// A connection that was not taken: it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// `peer-refused` or `no-filter-chain`.
    pub reason: Reason,
}

/// Where a sidecar takes the connections that the pod's application opens.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where a sidecar takes the connections that others open to the pod.
pub const INBOUND_PORT: u16 = 15006;

/// Takes or refuses a connection. The client's certificate, if there is one, must be among the facts.
///
/// # Errors
/// The reason for which the connection is closed.
pub fn admit(index: &RuntimeIndex, mut facts: Connection, seen: Seen) -> Result<Admitted, Refused> {
    let (entry, mode, carries) = match (index.settings().kind, facts.direction) {
        (ProxyKind::Gateway, _) => gateway(index, &mut facts)?,
        // A sidecar's own doors lead nowhere: what goes to them would come back for ever.
        (ProxyKind::Sidecar, _) if [INBOUND_PORT, OUTBOUND_PORT].contains(&facts.destination.port()) => {
            return Err(Refused { reason: Reason::NoFilterChain });
        }
        (ProxyKind::Sidecar, Direction::Inbound) => inbound(index, &facts, seen)?,
        (ProxyKind::Sidecar, Direction::Outbound) => outbound(index, &facts, seen),
    };
    Ok(admitted(index, facts, entry, mode, carries))
}

/// Takes or refuses datagrams of one sender to a gateway.
///
/// # Errors
/// No listener takes datagrams there.
pub fn admit_datagrams(index: &RuntimeIndex, facts: Connection) -> Result<Admitted, Refused> {
    let listener = index.datagram_listener(facts.destination.ip(), facts.destination.port());
    let listener = Arc::clone(listener.ok_or(Refused { reason: Reason::NoFilterChain })?);
    Ok(admitted(index, facts, Entry::Gateway(listener, 0), Mode::Plaintext, Carries::Bytes))
}

/// Finds who judges what is taken.
fn admitted(index: &RuntimeIndex, facts: Connection, entry: Entry, mode: Mode, carries: Carries) -> Admitted {
    let policies = index.policies();
    let engine = match &entry {
        Entry::Inbound(port) => policies.engine(&port.policies),
        Entry::Outbound(_) => match &index.settings().egress_policies {
            Some(set) => policies.engine(set),
            None => policies.egress(),
        },
        Entry::Gateway(_, _) if entry.is_auto_passthrough() => policies.auto_passthrough(),
        Entry::Gateway(listener, _) => policies.engine(&listener.policies),
    };
    let engine = Arc::clone(engine);
    let mut known = policy_facts(&facts, mode);
    if matches!(entry, Entry::Outbound(_)) {
        // The caller is the workload that this proxy stands beside.
        known.peer = Peer::Mesh(index.settings().identity.clone());
    }
    let standing = engine.connect(&known);
    let target = match &entry {
        Entry::Inbound(port) => Some(&port.policies),
        // As with every other policy, nothing stands before AUTO_PASSTHROUGH.
        Entry::Gateway(_, _) if entry.is_auto_passthrough() => None,
        Entry::Gateway(listener, _) => Some(&listener.policies),
        Entry::Outbound(_) => None,
    };
    let access = index.access();
    let tokens = target.and_then(|target| access.tokens(target)).map(Arc::clone);
    let checks = target.map(|target| access.checks(target)).unwrap_or_default();
    let checks = checks
        .iter()
        .map(|check| AdmittedCheck { check: Arc::clone(check), standing: check.engine.connect(&known) })
        .collect();
    let shown = Shown::new(facts.source.ip(), peer_uri(&facts, mode));
    Admitted { facts, entry, mode, carries, engine, standing, shown, tokens, checks }
}

/// What the engine is told. A certificate counts only where the handshake was ours.
fn policy_facts(facts: &Connection, mode: Mode) -> ConnectionFacts {
    let is_ours = matches!(mode, Mode::Mtls | Mode::TlsTerminated);
    let certificate = facts.tls.as_ref().filter(|_| is_ours).and_then(|tls| tls.certificate.as_ref());
    let peer = certificate.map_or(Peer::Anonymous, |certificate| Peer::from_certificate(certificate.names.clone()));
    ConnectionFacts {
        source_ip: facts.source.ip().to_canonical(),
        source_port: facts.source.port(),
        destination_ip: facts.destination.ip().to_canonical(),
        destination_port: facts.destination.port(),
        peer,
        tls: facts.tls.as_ref().map(|tls| {
            let agreed = tls.agreed.as_ref().filter(|_| is_ours);
            TlsFacts {
                sni: tls.sni.as_deref().map(str::to_owned),
                alpn: agreed.and_then(|agreed| agreed.alpn.as_deref()).map(str::to_owned),
                version: agreed.map(|agreed| agreed.version.to_owned()).unwrap_or_default(),
            }
        }),
    }
}

fn inbound(index: &RuntimeIndex, facts: &Connection, seen: Seen) -> Result<(Entry, Mode, Carries), Refused> {
    let refused = Refused { reason: Reason::PeerRefused };
    let port = index.inbound(facts.destination.port()).ok_or(refused)?;
    let (mode, carries) = match decide(mtls_mode(port.mtls), declared(port.protocol), &first_bytes(facts, seen)) {
        Treatment::Plaintext(payload) => (Mode::Plaintext, carried(payload)),
        Treatment::Passthrough => (Mode::TlsPassthrough, Carries::Bytes),
        Treatment::TerminateMesh(MeshProtocol::Http) => (Mode::Mtls, Carries::Http),
        Treatment::TerminateMesh(MeshProtocol::Tcp) => (Mode::Mtls, Carries::Bytes),
        Treatment::Refuse(_) => return Err(refused),
    };
    if mode == Mode::Mtls {
        let certificate = facts.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        check_mesh_peer(index.settings(), certificate)?;
    }
    Ok((Entry::Inbound(Arc::clone(port)), mode, carries))
}

/// The first bytes of a connection as the accept loop would see them.
fn first_bytes(facts: &Connection, seen: Seen) -> Sniffed {
    match (&facts.tls, seen) {
        (Some(tls), _) => Sniffed::Tls(ClientHello {
            server_name: tls.sni.clone(),
            alpn: tls.alpn.iter().map(|name| name.as_bytes().into()).collect(),
        }),
        (None, Seen::Http) => Sniffed::Http1,
        (None, Seen::Other) => Sniffed::Other,
    }
}

const fn carried(payload: Payload) -> Carries {
    match payload {
        Payload::Http1 | Payload::Http2 => Carries::Http,
        Payload::Opaque => Carries::Bytes,
    }
}

/// The accept loop's word for a mode.
pub const fn mtls_mode(mode: MtlsMode) -> decide::MtlsMode {
    match mode {
        MtlsMode::Disable => decide::MtlsMode::Disable,
        MtlsMode::Permissive => decide::MtlsMode::Permissive,
        MtlsMode::Strict => decide::MtlsMode::Strict,
    }
}

/// The accept loop's word for a declared protocol.
pub const fn declared(protocol: Protocol) -> DeclaredProtocol {
    match protocol {
        Protocol::Http | Protocol::Http2 => DeclaredProtocol::Http,
        Protocol::Tcp | Protocol::Tls => DeclaredProtocol::Tcp,
        Protocol::Auto => DeclaredProtocol::Auto,
    }
}

/// A mesh peer has a certificate of the mesh's roots with exactly one SPIFFE URI of an accepted trust domain.
fn check_mesh_peer(settings: &ProxySettings, certificate: Option<&ClientCertificate>) -> Result<(), Refused> {
    let is_accepted = |domain: &TrustDomain, uri: &str| {
        let rest = uri.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(domain.as_str()));
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    match certificate {
        Some(ClientCertificate { names, trust: Trust::Mesh, fingerprint: _ }) => match names.uris.as_slice() {
            [uri]
                if is_accepted(&settings.trust_domain, uri)
                    || settings.trust_domain_aliases.iter().any(|alias| is_accepted(alias, uri)) =>
            {
                Ok(())
            }
            _ => Err(Refused { reason: Reason::PeerRefused }),
        },
        _ => Err(Refused { reason: Reason::PeerRefused }),
    }
}

fn gateway(index: &RuntimeIndex, facts: &mut Connection) -> Result<(Entry, Mode, Carries), Refused> {
    let refused = Refused { reason: Reason::NoFilterChain };
    let listener = index.listener(facts.destination.ip(), facts.destination.port()).ok_or(refused)?;
    let position = listener.chains.iter().position(|chain| chain_takes(chain, facts.tls.as_ref())).ok_or(refused)?;
    let chain = listener.chains.get(position).ok_or(refused)?;
    let carries = match &chain.handler {
        ChainHandler::Http { tables: _ } => Carries::Http,
        ChainHandler::Tcp { routes: _ } | ChainHandler::AutoPassthrough => Carries::Bytes,
        ChainHandler::Refuse { message: _ } => return Err(refused),
    };
    let certificate = facts.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
    let mode = match chain.tls.as_ref().map(|tls| &tls.mode) {
        None if facts.tls.is_some() && carries == Carries::Bytes => Mode::TlsPassthrough,
        None => Mode::Plaintext,
        Some(ServerTlsMode::Mesh) => {
            check_mesh_peer(index.settings(), certificate)?;
            Mode::Mtls
        }
        Some(ServerTlsMode::Secrets { certificates, client }) => {
            let is_usable = |key: &Arc<str>| {
                index.secret(key).is_some_and(|secret| secret.certificate.is_some() && secret.private_key.is_some())
            };
            if !certificates.iter().any(is_usable) {
                return Err(refused);
            }
            if let Some(validation) = client {
                match check_client(index, validation, certificate) {
                    Ok(()) => {}
                    // What nobody vouches for is as if it had not been shown.
                    Err(_) if validation.tolerates_invalid => {
                        if let Some(tls) = &mut facts.tls {
                            tls.certificate = None;
                        }
                    }
                    Err(refused) => return Err(refused),
                }
            }
            Mode::TlsTerminated
        }
    };
    Ok((Entry::Gateway(Arc::clone(listener), position), mode, carries))
}

/// Whether a chain serves a connection with this ClientHello (`None`: plaintext).
pub fn chain_takes(chain: &Chain, tls: Option<&ClientTls>) -> bool {
    let Some(tls) = tls else {
        return chain.sni.is_empty() && chain.tls.is_none() && !matches!(chain.handler, ChainHandler::AutoPassthrough);
    };
    // CVE-2021-31921: AUTO_PASSTHROUGH is for mesh peers only.
    if matches!(chain.handler, ChainHandler::AutoPassthrough) && !is_mesh_offer(tls) {
        return false;
    }
    chain.sni.is_empty() || tls.sni.as_ref().is_some_and(|name| chain.sni.iter().any(|pattern| pattern.matches(name)))
}

fn is_mesh_offer(tls: &ClientTls) -> bool {
    let names: Vec<&[u8]> = tls.alpn.iter().map(|name| name.as_bytes()).collect();
    mesh_treatment(&names).is_some()
}

fn check_client(
    index: &RuntimeIndex,
    validation: &ClientValidation,
    certificate: Option<&ClientCertificate>,
) -> Result<(), Refused> {
    let refused = Refused { reason: Reason::PeerRefused };
    let ClientValidation { ca, is_required, subject_alt_names, tolerates_invalid: _ } = validation;
    if index.secret(ca).is_none_or(|secret| secret.ca.is_none()) {
        return Err(refused);
    }
    let Some(ClientCertificate { names, trust, fingerprint: _ }) = certificate else {
        return if *is_required { Err(refused) } else { Ok(()) };
    };
    let is_trusted = match trust {
        Trust::Secret(key) => is_same_secret(ca, key),
        Trust::Mesh | Trust::Nobody => false,
    };
    let is_named = subject_alt_names.is_empty()
        || names.uris.iter().chain(&names.dns).any(|name| subject_alt_names.iter().any(|san| **san == **name));
    if is_trusted && is_named { Ok(()) } else { Err(refused) }
}

/// Whether a CA key of the model (`KIND/NS/NAME`) is the secret `key`, which may be written `NS/NAME`.
fn is_same_secret(ca: &str, key: &str) -> bool {
    ca == key || ca.split_once('/').is_some_and(|(_, name)| name == key)
}

fn outbound(index: &RuntimeIndex, facts: &Connection, seen: Seen) -> (Entry, Mode, Carries) {
    let (address, port) = (facts.destination.ip(), facts.destination.port());
    let mode = if facts.tls.is_some() { Mode::TlsPassthrough } else { Mode::Plaintext };
    let is_http = seen == Seen::Http && facts.tls.is_none();
    let service = index.services().port_at(address, port).map(|(service, port)| (Arc::clone(service), port.clone()));
    let carries = match service.as_ref().map(|(_, port)| port.protocol) {
        Some(Protocol::Http | Protocol::Http2) => Carries::Http,
        Some(Protocol::Tcp | Protocol::Tls) => Carries::Bytes,
        Some(Protocol::Auto) if is_http => Carries::Http,
        // No service: the ports on which some service speaks HTTP are read as HTTP, whatever the address.
        None if is_http && index.settings().outbound_http_ports.contains(&port) => Carries::Http,
        Some(Protocol::Auto) | None => Carries::Bytes,
    };
    let unknown = match index.services().by_address(address) {
        Known::Unknown => Some(Query::Address(address)),
        Known::Present(_) | Known::Absent => None,
    };
    (Entry::Outbound(Outbound { service, unknown }), mode, carries)
}

impl Mode {
    /// The name in `eval` and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Mtls => "mtls",
            Self::TlsTerminated => "tls-terminated",
            Self::TlsPassthrough => "tls-passthrough",
        }
    }
}

impl Carries {
    /// The name in `eval`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Bytes => "tcp",
        }
    }
}

impl Admitted {
    /// Who called, for logs: the name that the handshake proved, else the peer's address.
    pub fn caller(&self) -> Arc<str> {
        Arc::clone(self.shown.caller())
    }

    /// The peer's SPIFFE URI or first other name, where the handshake was ours.
    pub fn peer_uri(&self) -> Option<&str> {
        peer_uri(&self.facts, self.mode)
    }
}

fn peer_uri(facts: &Connection, mode: Mode) -> Option<&str> {
    let is_ours = matches!(mode, Mode::Mtls | Mode::TlsTerminated);
    let certificate = facts.tls.as_ref().filter(|_| is_ours)?.certificate.as_ref()?;
    certificate.names.uris.first().map(String::as_str)
}

#[cfg(test)]
mod tests;
