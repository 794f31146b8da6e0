//! Admission: from an accepted socket to a [`Downstream`], or to a refusal with its reason.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use palisade_model::reason::Reason;
use rustls::ServerConfig;
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;

use crate::{
    tls::{CallerAuth, ClientHello, IdentityStore, InvalidHello, MeshProtocol, SniTable, Termination, mesh_treatment},
    transport::Wire,
};

use super::{
    decide::{DeclaredProtocol, MtlsMode, Payload, Refusal, Treatment, decide, payload},
    downstream::{Downstream, DownstreamStream, DownstreamTls, TlsFacts, VerifiedBy},
    handshake::{HandshakeError, terminate},
    listener::{Accepted, ConnectionSlot, ListenerKey},
    proxy_protocol::{ProxyHeader, ProxyHeaderError, read_proxy_header},
    registry::{LiveFacts, LiveKind, LiveRegistry},
    sniff::{HttpDetection, SniffPlan, Sniffed, sniff},
    socket,
};

/// What an admission may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionTimeouts {
    /// For the first bytes, where the protocol is to be detected. `None`: for ever (Istio's
    /// `protocolDetectionTimeout: 0s`), which leaves server-first protocols on undeclared ports waiting.
    pub detection: Option<Duration>,
    /// For the TLS handshake, for the ClientHello where only TLS is served, and for a PROXY header. Envoy: 15 s.
    pub handshake: Duration,
}

/// An inbound port of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundPort {
    /// PeerAuthentication's effective mode on it.
    pub mode: MtlsMode,
    /// What it is declared to carry.
    pub declared: DeclaredProtocol,
    /// Limits.
    pub timeouts: AdmissionTimeouts,
}

/// A destination that a sidecar's application dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapturedPort {
    /// What it is declared to carry.
    pub declared: DeclaredProtocol,
    /// Whether a ClientHello matters: routes by SNI, or a port that is detected.
    pub inspects_tls: bool,
    /// Limits.
    pub timeouts: AdmissionTimeouts,
}

/// A port of a gateway.
#[derive(Debug, Clone)]
pub struct GatewayPort {
    /// Every connection must begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// TLS servers by server name. `None`: the port is plaintext.
    pub tls: Option<Arc<SniTable<GatewayServer>>>,
    /// What a plaintext port carries.
    pub plaintext: DeclaredProtocol,
    /// Limits.
    pub timeouts: AdmissionTimeouts,
}

/// A TLS server of a gateway.
#[derive(Debug, Clone)]
pub struct GatewayServer {
    /// Its name, handed on in [`Downstream::server`].
    pub name: Arc<str>,
    /// What it does with TLS.
    pub tls: GatewayTls,
    /// What terminated TLS carries.
    pub payload: DeclaredProtocol,
}

/// What a gateway server does with TLS.
#[derive(Debug, Clone)]
pub enum GatewayTls {
    /// Terminates with a user's certificate (SIMPLE, MUTUAL, OPTIONAL_MUTUAL).
    Terminate(Arc<Termination>),
    /// Terminates with the workload's identity (ISTIO_MUTUAL).
    Mesh,
    /// Relays unread (PASSTHROUGH).
    Passthrough,
    /// Relays unread, for mesh clients only (AUTO_PASSTHROUGH; CVE-2021-31921 is why others are refused).
    AutoPassthrough,
    /// Its certificate is missing: handshakes fail.
    Unavailable,
}

/// The outcome of an admission.
pub type Admitted = Result<Downstream, Box<Refused>>;

/// A connection that was not admitted; it has been reset or closed.
#[derive(Debug, thiserror::Error)]
#[error("connection from {peer} to {destination} refused: {cause}")]
pub struct Refused {
    /// Where it came in.
    pub listener: ListenerKey,
    /// The client.
    pub peer: SocketAddr,
    /// Where it was going.
    pub destination: SocketAddr,
    /// The access log's reason.
    pub reason: Reason,
    /// What happened.
    #[source]
    pub cause: RefusalCause,
}

/// Why a connection was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum RefusalCause {
    /// The port's mode does not take it.
    #[error(transparent)]
    Mode(#[from] Refusal),
    /// The TLS handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// No PROXY header.
    #[error(transparent)]
    ProxyHeader(#[from] ProxyHeaderError),
    /// No workload identity is there yet.
    #[error("no workload identity is installed")]
    NoIdentity,
    /// A TLS port got something else.
    #[error("the connection is not TLS")]
    NotTls,
    /// A TLS port got a ClientHello that cannot be served.
    #[error(transparent)]
    Hello(#[from] InvalidHello),
    /// No server of the port takes this server name.
    #[error("no server takes the server name `{}`", .0.as_deref().unwrap_or(""))]
    NoServer(Option<Arc<str>>),
    /// The server's certificate is missing.
    #[error("server `{0}` has no certificate")]
    NoCertificate(Arc<str>),
    /// AUTO_PASSTHROUGH without a mesh ALPN name.
    #[error("server `{0}` serves mesh clients only")]
    NotMesh(Arc<str>),
    /// An open connection whose client would not pass the handshake now.
    #[error("the client's certificate is no longer accepted: {0}")]
    Client(#[source] rustls::Error),
    /// An open connection that would be treated in another way now.
    #[error("the port or server now treats connections like this one differently")]
    Changed,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl RefusalCause {
    /// The reason for which an open connection is closed that would not be admitted now.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotTls | Self::Hello(_) | Self::NoServer(_) | Self::NoCertificate(_) | Self::NotMesh(_) => {
                Reason::NoFilterChain
            }
            Self::Mode(_)
            | Self::Handshake(_)
            | Self::ProxyHeader(_)
            | Self::NoIdentity
            | Self::Client(_)
            | Self::Changed
            | Self::Io(_) => Reason::PeerRefused,
        }
    }
}

/// Admits a connection that was redirected to a sidecar's inbound port. `original_dst` is what chose `port`.
///
/// # Errors
/// The connection is reset then (a failed handshake: closed after its alert).
pub async fn admit_mesh(
    accepted: Accepted,
    original_dst: Option<SocketAddr>,
    port: InboundPort,
    identities: &IdentityStore,
    registry: &LiveRegistry,
) -> Admitted {
    let InboundPort { mode, declared, timeouts } = port;
    let arrival = Arrival::new(accepted, original_dst);
    let deadline = match (mode, declared) {
        (MtlsMode::Strict, _) => Some(timeouts.handshake),
        (_, DeclaredProtocol::Http) => Some(timeouts.detection.unwrap_or(timeouts.handshake)),
        (_, DeclaredProtocol::Tcp | DeclaredProtocol::Auto) => timeouts.detection,
    };
    let sniffed = match sniff(&arrival.stream, SniffPlan::inbound(mode, declared, deadline)).await {
        Ok(sniffed) => sniffed,
        Err(error) => return arrival.refuse(Reason::DownstreamClosed, error.into()),
    };
    match decide(mode, declared, &sniffed) {
        Treatment::Plaintext(payload) => Ok(arrival.plain(payload, DownstreamTls::Plaintext, None, registry)),
        Treatment::Passthrough => {
            let tls = DownstreamTls::Passthrough(hello_of(sniffed));
            Ok(arrival.plain(Payload::Opaque, tls, None, registry))
        }
        Treatment::Refuse(refusal @ Refusal::Closed) => arrival.refuse(Reason::DownstreamClosed, refusal.into()),
        Treatment::Refuse(refusal) => arrival.refuse(Reason::PeerRefused, refusal.into()),
        Treatment::TerminateMesh(protocol) => {
            let carries = match protocol {
                MeshProtocol::Http => DeclaredProtocol::Http,
                MeshProtocol::Tcp => DeclaredProtocol::Tcp,
            };
            let hello = hello_of(sniffed);
            arrival.terminate_mesh(carries, hello, None, identities, timeouts.handshake, registry).await
        }
    }
}

/// Admits a connection that a sidecar's application made. Never terminates TLS.
///
/// # Errors
/// Only when the application closed it before anything was known.
pub async fn admit_captured(
    accepted: Accepted,
    original_dst: Option<SocketAddr>,
    port: CapturedPort,
    registry: &LiveRegistry,
) -> Admitted {
    let CapturedPort { declared, inspects_tls, timeouts } = port;
    let arrival = Arrival::new(accepted, original_dst);
    let http = match declared {
        DeclaredProtocol::Http => HttpDetection::PrefaceOnly,
        DeclaredProtocol::Tcp => HttpDetection::Off,
        DeclaredProtocol::Auto => HttpDetection::Full,
    };
    let plan = SniffPlan { tls: inspects_tls, http, deadline: timeouts.detection };
    match sniff(&arrival.stream, plan).await {
        Err(error) => arrival.refuse(Reason::DownstreamClosed, error.into()),
        Ok(Sniffed::Closed) => arrival.refuse(Reason::DownstreamClosed, Refusal::Closed.into()),
        Ok(Sniffed::Tls(hello)) => {
            Ok(arrival.plain(Payload::Opaque, DownstreamTls::Passthrough(hello), None, registry))
        }
        Ok(sniffed) => Ok(arrival.plain(payload(declared, &sniffed), DownstreamTls::Plaintext, None, registry)),
    }
}

/// Admits a connection to a gateway's port.
///
/// # Errors
/// The connection is reset then (a failed handshake: closed after its alert).
pub async fn admit_gateway(
    accepted: Accepted,
    port: &GatewayPort,
    identities: &IdentityStore,
    registry: &LiveRegistry,
) -> Admitted {
    let GatewayPort { proxy_protocol, tls, plaintext, timeouts } = port;
    let mut arrival = Arrival::new(accepted, None);
    if *proxy_protocol {
        match read_proxy_header(&mut arrival.stream, timeouts.handshake).await {
            Ok(ProxyHeader::Proxied { source, destination: _ }) => arrival.peer = source,
            Ok(ProxyHeader::Local) => {}
            Err(error) => return arrival.refuse(Reason::NoFilterChain, error.into()),
        }
    }
    let Some(servers) = tls else {
        let http = match plaintext {
            DeclaredProtocol::Http => HttpDetection::PrefaceOnly,
            DeclaredProtocol::Tcp => HttpDetection::Off,
            DeclaredProtocol::Auto => HttpDetection::Full,
        };
        let plan = SniffPlan { tls: false, http, deadline: Some(timeouts.detection.unwrap_or(timeouts.handshake)) };
        return match sniff(&arrival.stream, plan).await {
            Err(error) => arrival.refuse(Reason::DownstreamClosed, error.into()),
            Ok(Sniffed::Closed) => arrival.refuse(Reason::DownstreamClosed, Refusal::Closed.into()),
            Ok(sniffed) => Ok(arrival.plain(payload(*plaintext, &sniffed), DownstreamTls::Plaintext, None, registry)),
        };
    };
    let plan = SniffPlan { tls: true, http: HttpDetection::Off, deadline: Some(timeouts.handshake) };
    let hello = match sniff(&arrival.stream, plan).await {
        Ok(Sniffed::Tls(hello)) => hello,
        Ok(Sniffed::Closed) => return arrival.refuse(Reason::DownstreamClosed, Refusal::Closed.into()),
        Ok(Sniffed::InvalidTls(reason)) => return arrival.refuse(Reason::NoFilterChain, reason.into()),
        Ok(_) => return arrival.refuse(Reason::NoFilterChain, RefusalCause::NotTls),
        Err(error) => return arrival.refuse(Reason::DownstreamClosed, error.into()),
    };
    let Some(GatewayServer { name, tls, payload }) = servers.get(hello.server_name.as_deref()) else {
        return arrival.refuse(Reason::NoFilterChain, RefusalCause::NoServer(hello.server_name));
    };
    let server = Some(Arc::clone(name));
    match tls {
        GatewayTls::Unavailable => arrival.refuse(Reason::NoFilterChain, RefusalCause::NoCertificate(Arc::clone(name))),
        GatewayTls::AutoPassthrough if mesh_treatment(&hello.alpn).is_none() => {
            arrival.refuse(Reason::NoFilterChain, RefusalCause::NotMesh(Arc::clone(name)))
        }
        GatewayTls::Passthrough | GatewayTls::AutoPassthrough => {
            Ok(arrival.plain(Payload::Opaque, DownstreamTls::Passthrough(hello), server, registry))
        }
        GatewayTls::Mesh => {
            arrival.terminate_mesh(*payload, hello, server, identities, timeouts.handshake, registry).await
        }
        GatewayTls::Terminate(termination) => {
            let config = termination.config(&hello.alpn);
            let verified_by = VerifiedBy::Termination(Arc::clone(termination));
            arrival.terminate(config, verified_by, *payload, hello, server, timeouts.handshake, registry).await
        }
    }
}

/// An accepted connection on its way.
struct Arrival {
    stream: TcpStream,
    listener: ListenerKey,
    peer: SocketAddr,
    socket_peer: SocketAddr,
    local: SocketAddr,
    original_dst: Option<SocketAddr>,
    slot: ConnectionSlot,
}

impl Arrival {
    fn new(accepted: Accepted, original_dst: Option<SocketAddr>) -> Self {
        let Accepted { stream, peer, local, listener, slot } = accepted;
        Self { stream, listener, peer, socket_peer: peer, local, original_dst, slot }
    }

    fn refuse(self, reason: Reason, cause: RefusalCause) -> Admitted {
        socket::reset(self.stream);
        Err(Box::new(Refused {
            listener: self.listener,
            peer: self.peer,
            destination: self.original_dst.unwrap_or(self.local),
            reason,
            cause,
        }))
    }

    fn plain(
        self,
        payload: Payload,
        tls: DownstreamTls,
        server: Option<Arc<str>>,
        registry: &LiveRegistry,
    ) -> Downstream {
        let Self { stream, listener, peer, socket_peer, local, original_dst, slot } = self;
        let remains = Remains { listener, peer, socket_peer, local, original_dst, slot };
        remains.finish(DownstreamStream::Plain(stream), payload, tls, server, registry)
    }

    async fn terminate_mesh(
        self,
        carries: DeclaredProtocol,
        hello: ClientHello,
        server: Option<Arc<str>>,
        identities: &IdentityStore,
        limit: Duration,
        registry: &LiveRegistry,
    ) -> Admitted {
        let Some(identity) = identities.current() else {
            return self.refuse(Reason::PeerRefused, RefusalCause::NoIdentity);
        };
        let protocol = match carries {
            DeclaredProtocol::Http => MeshProtocol::Http,
            DeclaredProtocol::Tcp | DeclaredProtocol::Auto => MeshProtocol::Tcp,
        };
        let config = identity.server_config(protocol, CallerAuth::Required, &hello.alpn);
        let verified_by = VerifiedBy::Identity(identity.generation());
        self.terminate(config, verified_by, carries, hello, server, limit, registry).await
    }

    #[expect(clippy::too_many_arguments, reason = "one call per kind of TLS; a struct would only rename them")]
    async fn terminate(
        self,
        config: Arc<ServerConfig>,
        verified_by: VerifiedBy,
        carries: DeclaredProtocol,
        hello: ClientHello,
        server: Option<Arc<str>>,
        limit: Duration,
        registry: &LiveRegistry,
    ) -> Admitted {
        let Self { stream, listener, peer, socket_peer, local, original_dst, slot } = self;
        let remains = Remains { listener, peer, socket_peer, local, original_dst, slot };
        let (stream, mut handshake) = match terminate(Wire::new(stream), config, limit, UnixTime::now()).await {
            Ok(done) => done,
            Err(error) => return Err(Box::new(remains.refused(error.into()))),
        };
        if let VerifiedBy::Termination(termination) = &verified_by {
            handshake.peer = termination.proven(handshake.peer, UnixTime::now());
        }
        let payload = match (carries, handshake.alpn.as_deref()) {
            (DeclaredProtocol::Tcp | DeclaredProtocol::Auto, _) => Payload::Opaque,
            (DeclaredProtocol::Http, Some(b"h2")) => Payload::Http2,
            (DeclaredProtocol::Http, _) => Payload::Http1,
        };
        let kind = match &verified_by {
            VerifiedBy::Identity(_) => DownstreamTls::Mesh,
            VerifiedBy::Termination(_) => DownstreamTls::Terminated,
        };
        let tls = kind(TlsFacts { hello, handshake, verified_by });
        Ok(remains.finish(DownstreamStream::Tls(stream), payload, tls, server, registry))
    }
}

/// An arrival whose stream is elsewhere.
struct Remains {
    listener: ListenerKey,
    peer: SocketAddr,
    socket_peer: SocketAddr,
    local: SocketAddr,
    original_dst: Option<SocketAddr>,
    slot: ConnectionSlot,
}

impl Remains {
    fn refused(self, cause: RefusalCause) -> Refused {
        Refused {
            listener: self.listener,
            peer: self.peer,
            destination: self.original_dst.unwrap_or(self.local),
            reason: Reason::PeerRefused,
            cause,
        }
    }

    fn finish(
        self,
        stream: DownstreamStream,
        payload: Payload,
        tls: DownstreamTls,
        server: Option<Arc<str>>,
        registry: &LiveRegistry,
    ) -> Downstream {
        let Self { listener, peer, socket_peer, local, original_dst, slot } = self;
        let registration = registry.register(LiveFacts {
            kind: LiveKind::Connection,
            listener: listener.clone(),
            peer,
            destination: original_dst.unwrap_or(local),
            principal: tls.principal().map(Arc::clone),
            sni: tls.server_name().map(Arc::clone),
            subject: None,
        });
        Downstream {
            stream,
            listener,
            peer,
            socket_peer,
            local,
            original_dst,
            payload,
            tls,
            server,
            registration,
            slot,
        }
    }
}

/// The ClientHello that a decision was made from. Bytes that were not inspected as TLS have none.
fn hello_of(sniffed: Sniffed) -> ClientHello {
    match sniffed {
        Sniffed::Tls(hello) => hello,
        Sniffed::Http1
        | Sniffed::Http2
        | Sniffed::InvalidTls(_)
        | Sniffed::Other
        | Sniffed::Silent
        | Sniffed::Closed => ClientHello::default(),
    }
}

#[cfg(test)]
mod tests;
