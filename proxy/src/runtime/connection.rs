//! What the proxy keeps of one downstream connection, and its standing under the configuration in force.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use palisade_model::settings::ProxyKind;
use palisade_policy::CertificateNames;
use rustls::ProtocolVersion;
use rustls_pki_types::UnixTime;

use super::Runtime;
use crate::{
    index::RuntimeIndex,
    request::{
        connection::{self, Admitted, Refused, Seen, declared, mtls_mode},
        facts::{AgreedTls, ClientCertificate, ClientTls, Connection, Direction, Trust},
    },
    serve::{
        Downstream, DownstreamTls, ListenerKey, Payload, RefusalCause, Registration, VerifiedBy,
        handshake::HandshakeFacts, readmit_gateway, readmit_mesh,
    },
    tls::{ClientHello, PeerCertificate, Termination},
};

/// A connection as its requests see it; the owner's part of [`crate::transport::ConnMeta`].
#[derive(Debug)]
pub struct ConnectionContext {
    facts: Connection,
    proof: Proof,
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
    /// What vouches for the client; `None`: nobody has to.
    verified: Option<VerifiedBy>,
}

/// What a connection was admitted on, kept to admit it again.
#[derive(Debug)]
struct Proof {
    tls: DownstreamTls,
    listener: ListenerKey,
    server: Option<Arc<str>>,
}

impl ConnectionContext {
    /// Judges a new connection.
    ///
    /// # Errors
    /// When it is refused.
    pub fn new(
        runtime: &Runtime,
        index: &Arc<RuntimeIndex>,
        downstream: &Downstream,
        direction: Direction,
    ) -> Result<Self, Refused> {
        let facts = facts_of(downstream, direction);
        let proof = Proof {
            tls: downstream.tls.clone(),
            listener: downstream.listener.clone(),
            server: downstream.server.clone(),
        };
        let seen = match downstream.payload {
            Payload::Http1 | Payload::Http2 => Seen::Http,
            Payload::Opaque => Seen::Other,
        };
        let is_http1 = downstream.payload == Payload::Http1;
        let verified = proof.tls.facts().map(|facts| &facts.verified_by);
        let standing = ArcSwap::from(judged(runtime, index, &facts, &proof, seen, verified)?);
        Ok(Self { facts, proof, seen, is_http1, standing, registration: OnceLock::new() })
    }

    /// Its standing under `index` and the identity in force: a kept-alive connection is admitted again before each request
    /// that sees another one of either.
    ///
    /// # Errors
    /// When it would not be taken any more.
    pub fn standing(&self, runtime: &Runtime, index: &Arc<RuntimeIndex>) -> Result<Arc<Standing>, Refused> {
        let held = self.standing.load_full();
        if Arc::ptr_eq(&held.index, index) && held.is_identity_current(runtime) {
            return Ok(held);
        }
        let standing = judged(runtime, index, &self.facts, &self.proof, self.seen, held.verified.as_ref())?;
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

impl Standing {
    /// The standing of datagrams: nobody vouches for their sender.
    pub(super) fn of_datagrams(index: Arc<RuntimeIndex>, admitted: Admitted) -> Arc<Self> {
        Arc::new(Self { index, admitted, verified: None })
    }

    /// Whether configuration and identity are still those that were asked. What registers itself in the registry looks at
    /// this afterwards: what was put in force before that may have judged all that was registered already.
    pub fn is_in_force(&self, runtime: &Runtime) -> bool {
        runtime.is_index(&self.index) && self.is_identity_current(runtime)
    }

    fn is_identity_current(&self, runtime: &Runtime) -> bool {
        match self.verified {
            Some(VerifiedBy::Identity(generation)) => generation == runtime.identities.generation(),
            Some(VerifiedBy::Termination(_)) | None => true,
        }
    }
}

impl Proof {
    /// Whether the handshake would still be taken. Tells what vouches for the client now.
    fn readmit(
        &self,
        runtime: &Runtime,
        index: &RuntimeIndex,
        facts: &Connection,
        verified: Option<&VerifiedBy>,
    ) -> Result<Option<VerifiedBy>, RefusalCause> {
        let Self { tls, listener, server } = self;
        let (identities, now) = (&*runtime.identities, UnixTime::now());
        match (index.settings().kind, facts.direction) {
            (ProxyKind::Sidecar, Direction::Outbound) => Ok(None),
            (ProxyKind::Sidecar, Direction::Inbound) => {
                // What has no port is not admitted, whoever vouches for it.
                let Some(port) = index.inbound(facts.destination.port()) else { return Ok(None) };
                readmit_mesh(tls, verified, mtls_mode(port.mtls), declared(port.protocol), identities, now)
            }
            (ProxyKind::Gateway, _) => {
                // Put in force before the index: never older than it.
                let edge = runtime.edge();
                let port = edge.get(listener.as_str()).ok_or(RefusalCause::NoServer(None))?;
                readmit_gateway(tls, verified, server.as_deref(), &port.port, identities, now)
            }
        }
    }
}

fn judged(
    runtime: &Runtime,
    index: &Arc<RuntimeIndex>,
    facts: &Connection,
    proof: &Proof,
    seen: Seen,
    verified: Option<&VerifiedBy>,
) -> Result<Arc<Standing>, Refused> {
    let verified = proof.readmit(runtime, index, facts, verified).map_err(|cause| {
        tracing::debug!(source = %facts.source, %cause, "not admitted any more");
        Refused { reason: cause.reason() }
    })?;
    let mut facts = facts.clone();
    if let (Some(VerifiedBy::Termination(by)), Some(tls)) = (&verified, &mut facts.tls) {
        // A certificate means what those who verified it last say that it means.
        tls.certificate = tls.certificate.take().filter(|_| by.asks_clients());
        if let Some(certificate) = &mut tls.certificate {
            certificate.trust = trust_of(by);
        }
    }
    let admitted = connection::admit(index, facts, seen)?;
    Ok(Arc::new(Standing { index: Arc::clone(index), admitted, verified }))
}

fn trust_of(termination: &Termination) -> Trust {
    termination.client_ca().map_or(Trust::Nobody, |ca| Trust::Secret(Arc::clone(ca)))
}

fn facts_of(downstream: &Downstream, direction: Direction) -> Connection {
    let tls = match &downstream.tls {
        DownstreamTls::Plaintext => None,
        DownstreamTls::Passthrough(hello) => Some(client_tls(hello, None, None)),
        DownstreamTls::Mesh(facts) => {
            let certificate = facts.handshake.peer.as_ref().map(|peer| certificate(peer, Trust::Mesh));
            Some(client_tls(&facts.hello, certificate, Some(&facts.handshake)))
        }
        DownstreamTls::Terminated(facts) => {
            let trust = match &facts.verified_by {
                VerifiedBy::Termination(by) => trust_of(by),
                VerifiedBy::Identity(_) => Trust::Mesh,
            };
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
