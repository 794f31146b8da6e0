//! A look at a request's body before it is passed on. Whatever is seen is read once more by Pingora, from its beginning.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::link::link_of;
use super::meta::attached;
use super::stream::StreamAhead;

/// What was seen of one request's body. On HTTP/2 it must be [given back](Ahead::give_back).
#[derive(Debug, Default)]
pub struct Ahead {
    /// HTTP/1: the bytes stay where they are.
    stream: StreamAhead,
    /// HTTP/2: what was taken.
    taken: Vec<Bytes>,
}

impl Ahead {
    /// The body as far as it was seen.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.stream.bytes
    }

    /// Whether that is all of it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stream.is_complete
    }

    /// Reads until `wanted` bytes were seen, or all there are. May be called again for more, before anything else reads the body.
    ///
    /// # Errors
    /// When the client fails, leaves, or sends what is no body.
    pub async fn read(&mut self, session: &mut Session, wanted: usize) -> Result<()> {
        if self.is_complete() || self.bytes().len() >= wanted {
            return Ok(());
        }
        let stream = session.digest().and_then(attached).and_then(|attached| attached.stream.upgrade());
        if let Some(stream) = stream.filter(|stream| stream.is_http1()) {
            let length = session.req_header().headers.get(header::CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
            let looked = stream.look_ahead(&mut self.stream, length, wanted).await;
            return looked.map_err(|error| Error::because(ErrorType::ReadError, "request body", error).into_down());
        }
        let StreamAhead { bytes, is_complete, .. } = &mut self.stream;
        while !*is_complete && bytes.len() < wanted {
            match session.as_mut().read_request_body().await.map_err(|error| error.into_down())? {
                Some(chunk) => {
                    bytes.extend_from_slice(&chunk);
                    self.taken.push(chunk);
                }
                None => *is_complete = true,
            }
        }
        Ok(())
    }

    /// Lets the body be read from its beginning. What was seen is kept no longer.
    pub fn give_back(&mut self, session: &Session) {
        self.stream.bytes = BytesMut::new();
        if let Some(link) = link_of(session)
            && (!self.taken.is_empty() || self.is_complete())
        {
            link.give_back(std::mem::take(&mut self.taken), self.stream.is_complete);
        }
    }
}
