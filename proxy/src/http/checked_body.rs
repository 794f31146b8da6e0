//! The part of a request's body that an external authorizer is shown, read before anything is forwarded.
//!
//! What is read is kept by the session and sent upstream first; so no more is read than the session can keep.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use palisade_model::external_authorization::CheckBody;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use crate::request::external::ShownBody;

/// Bytes that a session keeps for sending (Pingora's retry buffer, and ours).
const KEPT: usize = 64 * 1024;
/// The body, or as much of it as is shown, must be there within this time.
const LIMIT: Duration = Duration::from_secs(30);

/// What was read of a body so far.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    bytes: BytesMut,
    is_complete: bool,
}

impl Gathered {
    /// The body as far as a check shows it; `None` = it is longer than the check may carry.
    ///
    /// # Errors
    /// When the client fails or takes too long.
    pub(super) async fn show(&mut self, session: &mut Session, limits: CheckBody) -> Result<Option<ShownBody>> {
        let CheckBody { max_bytes, allows_partial, is_bytes: _ } = limits;
        let wanted = usize::try_from(max_bytes).unwrap_or(usize::MAX).min(KEPT);
        match tokio::time::timeout(LIMIT, self.read_beyond(session, wanted)).await {
            Ok(read) => read?,
            Err(_) => {
                let mut error = Error::explain(ErrorType::ReadTimedout, "the body for a check");
                error.as_down();
                return Err(error);
            }
        }
        let is_partial = self.bytes.len() > wanted;
        // What the session could not keep cannot be sent on any more.
        if session.as_ref().retry_buffer_truncated() || (is_partial && !allows_partial) {
            return Ok(None);
        }
        let shown = self.bytes.get(..wanted).unwrap_or(&self.bytes);
        Ok(Some(ShownBody { bytes: Bytes::copy_from_slice(shown), is_partial }))
    }

    /// Reads until there is more than `wanted`, or no more.
    async fn read_beyond(&mut self, session: &mut Session, wanted: usize) -> Result<()> {
        session.as_mut().enable_retry_buffering();
        while !self.is_complete && self.bytes.len() <= wanted && !session.as_ref().retry_buffer_truncated() {
            match session.as_mut().read_request_body().await {
                Ok(Some(chunk)) => self.bytes.extend_from_slice(&chunk),
                Ok(None) => self.is_complete = true,
                Err(mut error) => {
                    error.as_down();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
