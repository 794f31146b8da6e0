//! The one [`Downstream`] that gateway and sidecar hand on.

use std::{any::Any, net::SocketAddr, sync::Arc};

use crate::{
    tls::{ClientHello, PeerCertificate, Termination},
    transport::{AppProtocol, ConnMeta, MeshStream, TlsFacts as StreamTlsFacts, Wire},
};

use super::{
    decide::Payload,
    handshake::HandshakeFacts,
    listener::{ConnectionSlot, ListenerKey},
    registry::Registration,
};

mod stream;

pub use stream::DownstreamStream;

/// An admitted connection: TLS is done where it is ours to do, and nothing of what it carries has been read.
#[derive(Debug)]
pub struct Downstream {
    /// The bytes.
    pub stream: DownstreamStream,
    /// Where it came in.
    pub listener: ListenerKey,
    /// The client: what a PROXY header says where one is read, else the socket's peer.
    pub peer: SocketAddr,
    /// Who really is at the other end of the socket.
    pub socket_peer: SocketAddr,
    /// Our end of the socket.
    pub local: SocketAddr,
    /// Where it was going before it was redirected to us. `None`: it was not.
    pub original_dst: Option<SocketAddr>,
    /// What it carries. For TLS that was terminated without ALPN, [`Payload::Http1`] means "HTTP, version not told".
    pub payload: Payload,
    /// TLS towards the client.
    pub tls: DownstreamTls,
    /// The gateway server that the server name chose, by its name in the listener's table. `None`: there is none.
    pub server: Option<Arc<str>>,
    /// Its place in the registry: keep it as long as the connection.
    pub registration: Registration,
    /// Its place under the listener's limit: keep it as long as the connection.
    pub slot: ConnectionSlot,
}

/// TLS towards the client.
#[derive(Debug, Clone)]
pub enum DownstreamTls {
    /// None.
    Plaintext,
    /// Mesh TLS, terminated with the workload's identity.
    Mesh(TlsFacts),
    /// Terminated with a user's certificate.
    Terminated(TlsFacts),
    /// The client's own, relayed unread. Nothing in it is proven.
    Passthrough(ClientHello),
}

/// What is known about terminated TLS.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    /// What the client said first.
    pub hello: ClientHello,
    /// What the handshake proved.
    pub handshake: HandshakeFacts,
    /// What of ours judged the client.
    pub verified_by: VerifiedBy,
}

/// What judged a client's certificate, or did not ask for one. As long as it is the same, the judgement stands.
#[derive(Debug, Clone)]
pub enum VerifiedBy {
    /// The workload's identity of this generation.
    Identity(u64),
    /// The settings of a gateway's server.
    Termination(Arc<Termination>),
}

/// A connection ready to be served as HTTP.
pub struct HttpDownstream {
    /// What Pingora reads and writes. `protocol()` says which session serves it.
    pub stream: MeshStream,
    /// HTTP/1 or HTTP/2.
    pub protocol: AppProtocol,
    /// Its place in the registry: keep it as long as the connection.
    pub registration: Registration,
    /// Its place under the listener's limit: keep it as long as the connection.
    pub slot: ConnectionSlot,
}

/// Why a connection cannot be served as HTTP.
#[derive(Debug, thiserror::Error)]
pub enum NotServable {
    /// The client's certificate passed its verification but cannot be read.
    #[error("the client's certificate cannot be read: {0}")]
    Certificate(String),
    /// Pingora refused the stream.
    #[error("the stream cannot be handed to Pingora: {0}")]
    Stream(#[from] pingora_core::BError),
}

impl Downstream {
    /// Where the connection is going: the original destination, else our end of it.
    pub fn destination(&self) -> SocketAddr {
        self.original_dst.unwrap_or(self.local)
    }

    /// The connection for an HTTP session. `owner` is found again as [`ConnMeta::owner`] in every phase.
    ///
    /// # Errors
    /// [`NotServable`]; the connection is closed then.
    pub fn into_http(self, owner: Option<Arc<dyn Any + Send + Sync>>) -> Result<HttpDownstream, NotServable> {
        let Self {
            stream,
            listener: _,
            peer,
            socket_peer: _,
            local,
            original_dst,
            payload,
            tls,
            server: _,
            registration,
            slot,
        } = self;
        let protocol = match payload {
            Payload::Http2 => AppProtocol::Http2,
            Payload::Http1 | Payload::Opaque => AppProtocol::Http1,
        };
        let meta = ConnMeta { original_dst, owner, ..ConnMeta::new(peer, local) };
        let stream = match stream {
            DownstreamStream::Plain(tcp) => MeshStream::plain(Wire::new(tcp), protocol, meta)?,
            DownstreamStream::Tls(session) => {
                let hello = tls.facts().map(|facts| &facts.hello);
                let offer = hello.into_iter().flat_map(|hello| hello.alpn.iter().map(|name| name.to_vec())).collect();
                let facts = StreamTlsFacts::of_server(session.get_ref().1, offer)
                    .map_err(|error| NotServable::Certificate(error.to_string()))?;
                MeshStream::tls(*session, protocol, ConnMeta { tls: Some(facts), ..meta })?
            }
        };
        Ok(HttpDownstream { stream, protocol, registration, slot })
    }

    /// The client's certificate that a handshake proved.
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.tls.facts().and_then(|facts| facts.handshake.peer.as_ref())
    }
}

impl DownstreamTls {
    /// What is known about TLS that was terminated here.
    pub fn facts(&self) -> Option<&TlsFacts> {
        match self {
            Self::Mesh(facts) | Self::Terminated(facts) => Some(facts),
            Self::Plaintext | Self::Passthrough(_) => None,
        }
    }

    /// The server name that the client sent, proven or not.
    pub fn server_name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Mesh(facts) | Self::Terminated(facts) => facts.hello.server_name.as_ref(),
            Self::Passthrough(hello) => hello.server_name.as_ref(),
            Self::Plaintext => None,
        }
    }

    /// The mesh identity that the client proved, as a URI. User certificates prove none: their URI names are not ours
    /// to vouch for.
    pub fn principal(&self) -> Option<&Arc<str>> {
        match self {
            Self::Mesh(facts) => facts.handshake.peer.as_ref().and_then(|peer| peer.spiffe_uri().ok()),
            Self::Terminated(_) | Self::Plaintext | Self::Passthrough(_) => None,
        }
    }
}
