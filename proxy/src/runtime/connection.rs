//! What the proxy keeps of one downstream connection, and its standing under the configuration in force.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use palisade_policy::CertificateNames;
use rustls::ProtocolVersion;

use crate::{
    index::RuntimeIndex,
    request::{
        connection::{self, Admitted, Refused, Seen},
        facts::{AgreedTls, ClientCertificate, ClientTls, Connection, Direction, Trust},
    },
    serve::{Downstream, DownstreamTls, Payload, Registration, handshake::HandshakeFacts},
    tls::{ClientHello, PeerCertificate},
};

/// A connection as its requests see it; the owner's part of [`crate::transport::ConnMeta`].
#[derive(Debug)]
pub struct ConnectionContext {
    facts: Connection,
    seen: Seen,
    is_http1: bool,
    standing: ArcSwap<Standing>,
    registration: OnceLock<Registration>,
}

/// What one configuration says about a connection.
#[derive(Debug)]
pub struct Standing {
    /// The configuration.
    pub index: Arc<RuntimeIndex>,
    /// What it says.
    pub admitted: Admitted,
}

impl ConnectionContext {
    /// Judges a new connection.
    ///
    /// # Errors
    /// When it is refused.
    pub fn new(index: &Arc<RuntimeIndex>, downstream: &Downstream, direction: Direction) -> Result<Self, Refused> {
        let facts = facts_of(index, downstream, direction);
        let seen = match downstream.payload {
            Payload::Http1 | Payload::Http2 => Seen::Http,
            Payload::Opaque => Seen::Other,
        };
        let admitted = connection::admit(index, facts.clone(), seen)?;
        let standing = Arc::new(Standing { index: Arc::clone(index), admitted });
        let is_http1 = downstream.payload == Payload::Http1;
        Ok(Self { facts, seen, is_http1, standing: ArcSwap::new(standing), registration: OnceLock::new() })
    }

    /// Its standing under `index`: a kept-alive connection is admitted again before each request that sees a new
    /// configuration.
    ///
    /// # Errors
    /// When it would not be taken any more.
    pub fn standing(&self, index: &Arc<RuntimeIndex>) -> Result<Arc<Standing>, Refused> {
        let held = self.standing.load_full();
        if Arc::ptr_eq(&held.index, index) {
            return Ok(held);
        }
        let admitted = connection::admit(index, self.facts.clone(), self.seen)?;
        let standing = Arc::new(Standing { index: Arc::clone(index), admitted });
        self.standing.store(Arc::clone(&standing));
        Ok(standing)
    }

    /// The standing it was last given.
    pub fn last_standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Its facts.
    pub fn facts(&self) -> &Connection {
        &self.facts
    }

    /// Whether one request at a time is on it.
    pub fn is_http1(&self) -> bool {
        self.is_http1
    }

    /// Its place in the registry, once it is served.
    pub fn registration(&self) -> Option<&Registration> {
        self.registration.get()
    }

    /// Notes its place in the registry; only the first call counts.
    pub fn set_registration(&self, registration: Registration) {
        // A second registration would be dropped, and nobody makes one.
        let _ = self.registration.set(registration);
    }
}

fn facts_of(index: &RuntimeIndex, downstream: &Downstream, direction: Direction) -> Connection {
    let tls = match &downstream.tls {
        DownstreamTls::Plaintext => None,
        DownstreamTls::Passthrough(hello) => Some(client_tls(hello, None, None)),
        DownstreamTls::Mesh(facts) => {
            let certificate = facts.handshake.peer.as_ref().map(|peer| certificate(peer, Trust::Mesh));
            Some(client_tls(&facts.hello, certificate, Some(&facts.handshake)))
        }
        DownstreamTls::Terminated(facts) => {
            let trust = user_bundle(index, downstream).map_or(Trust::Nobody, Trust::Secret);
            let certificate = facts.handshake.peer.as_ref().map(|peer| certificate(peer, trust));
            Some(client_tls(&facts.hello, certificate, Some(&facts.handshake)))
        }
    };
    Connection { direction, source: downstream.peer, destination: downstream.destination(), tls }
}

fn client_tls(
    hello: &ClientHello,
    certificate: Option<ClientCertificate>,
    handshake: Option<&HandshakeFacts>,
) -> ClientTls {
    let agreed = |handshake: &HandshakeFacts| AgreedTls {
        version: match handshake.version {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(_) | None => "",
        },
        alpn: handshake.alpn.as_ref().map(|name| String::from_utf8_lossy(name).into()),
    };
    ClientTls {
        sni: hello.server_name.clone(),
        alpn: hello.alpn.iter().map(|name| String::from_utf8_lossy(name).into()).collect(),
        certificate,
        agreed: handshake.map(agreed),
    }
}

fn certificate(peer: &PeerCertificate, trust: Trust) -> ClientCertificate {
    let text = |names: &[Arc<str>]| names.iter().map(|name| name.to_string()).collect();
    let fingerprint = peer.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    ClientCertificate {
        names: CertificateNames { uris: text(peer.uris()), dns: text(peer.dns_names()), subject: peer.subject() },
        trust,
        fingerprint: Some(fingerprint.into()),
    }
}

/// The CA bundle that the handshake of this chain verified client certificates with.
fn user_bundle(index: &RuntimeIndex, downstream: &Downstream) -> Option<Arc<str>> {
    use palisade_model::listener::ServerTlsMode;
    let destination = downstream.destination();
    let listener = index.listener(destination.ip(), destination.port())?;
    let chain = listener.chains.iter().find(|chain| Some(&chain.name) == downstream.server.as_ref())?;
    match &chain.tls.as_ref()?.mode {
        ServerTlsMode::Secrets { certificates: _, client } => client.as_ref().map(|client| Arc::clone(&client.ca)),
        ServerTlsMode::Mesh => None,
    }
}
