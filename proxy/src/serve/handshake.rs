//! TLS handshakes with a deadline, and the facts that they prove.

use std::{io, sync::Arc, time::Duration};

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::UnixTime;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    tls::{InvalidPeer, PeerCertificate},
    transport::Wire,
};

/// What a completed handshake proved.
#[derive(Debug, Clone)]
pub struct HandshakeFacts {
    /// The negotiated ALPN name. `None`: none was negotiated.
    pub alpn: Option<Arc<[u8]>>,
    /// The client's certificate, verified by the configuration that was used. `None`: none was shown.
    pub peer: Option<PeerCertificate>,
    /// The protocol version.
    pub version: Option<ProtocolVersion>,
    /// The cipher suite's IANA name.
    pub cipher_suite: Option<&'static str>,
    /// Whether a former session was resumed. Its client certificate is then the former one, checked again for time.
    pub resumed: bool,
}

/// Why a handshake failed. The connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Not done in time.
    #[error("the TLS handshake took more than {0:?}")]
    Timeout(Duration),
    /// Refused by either side, or broken off.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// A resumed session whose certificate may no longer be used.
    #[error("the TLS session was resumed, but {0}")]
    Peer(#[from] InvalidPeer),
}

/// Terminates TLS on a connection of which nothing has been read.
///
/// # Errors
/// [`HandshakeError`]. A peer that is refused gets a TLS alert.
pub async fn terminate(
    stream: Wire,
    config: Arc<ServerConfig>,
    limit: Duration,
    now: UnixTime,
) -> Result<(Box<TlsStream<Wire>>, HandshakeFacts), HandshakeError> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = timeout(limit, handshake)
        .await
        .map_err(|_elapsed| HandshakeError::Timeout(limit))?
        .map_err(HandshakeError::Tls)?;
    let facts = facts(&stream, now)?;
    Ok((Box::new(stream), facts))
}

fn facts(stream: &TlsStream<Wire>, now: UnixTime) -> Result<HandshakeFacts, InvalidPeer> {
    let session = stream.get_ref().1;
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let peer = session.peer_certificates().map(PeerCertificate::from_chain).transpose()?;
    // rustls does not verify again what a ticket brings back; trust and domains are those of the ticket's own
    // configuration, so time is all that can have changed.
    if resumed && let Some(peer) = &peer {
        peer.check_period(now)?;
    }
    Ok(HandshakeFacts {
        alpn: session.alpn_protocol().map(Arc::from),
        peer,
        version: session.protocol_version(),
        cipher_suite: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
        resumed,
    })
}

#[cfg(test)]
mod tests;
