//! Sends a copy of a request to an upstream, apart from any client: what comes back is read and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderName, header};
use pingora_core::connectors::http::custom::{Connection, Connector as _};
use pingora_core::protocols::http::custom::client::Session as _;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use tokio::sync::mpsc;

use super::connector::{H2Upstream, MeshConnector};

/// Fields that concern one connection (RFC 9110 section 7.6.1), and what asks for an answer before the body.
const NOT_COPIED: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::TRANSFER_ENCODING,
    header::EXPECT,
];

/// A part of a copied body. A queue that ends without [`CopiedBody::End`] takes the copy back.
#[derive(Debug)]
pub(crate) enum CopiedBody {
    /// Bytes.
    Chunk(Bytes),
    /// All of it has been said.
    End,
}

/// The parts of a copied body in order, and how many of their bytes wait.
#[derive(Debug)]
pub(crate) struct CopiedParts {
    /// The parts.
    pub(crate) parts: mpsc::Receiver<CopiedBody>,
    /// Bytes that were queued and not yet taken.
    pub(crate) waiting: Arc<AtomicUsize>,
}

impl CopiedParts {
    async fn next(&mut self) -> Option<CopiedBody> {
        let part = self.parts.recv().await;
        if let Some(CopiedBody::Chunk(bytes)) = &part {
            self.waiting.fetch_sub(bytes.len(), Ordering::AcqRel);
        }
        part
    }
}

/// Makes a copy of a request's header that belongs to no connection.
pub(crate) fn detached_request(request: &RequestHeader) -> RequestHeader {
    let mut copy = request.clone();
    // The link to the client's stream must stay with the original: a copy may neither gate nor end it.
    copy.extensions_mut().clear();
    for name in &NOT_COPIED {
        copy.remove_header(name);
    }
    copy.set_version(http::Version::HTTP_11);
    copy
}

/// Sends a copy and reads the answer to its end. `body` is `None` for a request without one.
///
/// # Errors
/// Whatever a request may fail with; nobody waits for it.
pub(crate) async fn send_copy(
    connector: &MeshConnector,
    peer: &HttpPeer,
    mut request: RequestHeader,
    body: Option<CopiedParts>,
) -> Result<()> {
    let (connection, _) = connector.get_http_session(peer).await?;
    match connection {
        Connection::Session(session) => over_http2(session, request, body).await,
        Connection::Stream(stream) => {
            if body.is_some() && !request.headers.contains_key(header::CONTENT_LENGTH) {
                request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
            }
            // Nobody else uses the connection.
            request.insert_header(header::CONNECTION, "close")?;
            over_http1(Http1Session::new_with_options(stream, peer), request, body).await
        }
    }
}

async fn over_http2(mut session: H2Upstream, request: RequestHeader, body: Option<CopiedParts>) -> Result<()> {
    session.write_request_header(Box::new(request), body.is_none()).await?;
    if let (Some(mut body), Some(mut writer)) = (body, session.take_request_body_writer()) {
        loop {
            match body.next().await {
                Some(CopiedBody::Chunk(mut bytes)) => writer.write_all_buf(&mut bytes).await?,
                Some(CopiedBody::End) => break writer.finish().await?,
                // Dropping the writer resets the stream.
                None => return taken_back(),
            }
        }
    }
    session.read_response_header().await?;
    while session.read_response_body().await?.is_some() {}
    Ok(())
}

async fn over_http1(mut session: Http1Session, request: RequestHeader, body: Option<CopiedParts>) -> Result<()> {
    session.write_request_header(Box::new(request)).await?;
    if let Some(mut body) = body {
        loop {
            match body.next().await {
                Some(CopiedBody::Chunk(bytes)) => {
                    session.write_body(&bytes).await?;
                }
                Some(CopiedBody::End) => break,
                // Dropping the connection cuts the body short.
                None => return taken_back(),
            }
        }
        session.finish_body().await?;
    }
    session.read_response().await?;
    while session.read_body_bytes().await?.is_some() {}
    Ok(())
}

fn taken_back() -> Result<()> {
    Error::e_explain(ErrorType::WriteError, "the copied body broke off")
}
