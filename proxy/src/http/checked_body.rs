//! The part of a request's body that an external authorizer is shown, looked at before anything is forwarded.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use palisade_model::external_authorization::CheckBody;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

use crate::{request::external::ShownBody, transport::Ahead};

/// The body, or as much of it as is shown, must be there within this time.
const LIMIT: Duration = Duration::from_secs(30);

/// What was seen of a body so far.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    ahead: Ahead,
}

impl Gathered {
    /// The body as far as a check shows it; `None` = it is longer than the check may carry.
    ///
    /// # Errors
    /// When the client fails or takes too long.
    pub(super) async fn show(&mut self, session: &mut Session, limits: CheckBody) -> Result<Option<ShownBody>> {
        let CheckBody { max_bytes, allows_partial, is_bytes: _ } = limits;
        let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        if !allows_partial && super::declared_length(session.req_header()) > u64::from(max_bytes) {
            return Ok(None);
        }
        // One byte more says that there is more than may be shown. A stream of unknown length may have none to send yet.
        let has_length = session.req_header().headers.contains_key(header::CONTENT_LENGTH);
        let wanted = if allows_partial && !has_length { most } else { most.saturating_add(1) };
        match tokio::time::timeout(LIMIT, self.read(session, wanted)).await {
            Ok(read) => read?,
            Err(_) => {
                let mut error = Error::explain(ErrorType::ReadTimedout, "the body for a check");
                error.as_down();
                return Err(error);
            }
        }
        let seen = self.ahead.bytes();
        let is_partial = seen.len() > most || !self.ahead.is_complete();
        if is_partial && !allows_partial {
            return Ok(None);
        }
        Ok(Some(ShownBody { bytes: Bytes::copy_from_slice(seen.get(..most).unwrap_or(seen)), is_partial }))
    }

    /// Lets the body be forwarded from its beginning.
    pub(super) fn give_back(&mut self, session: &Session) {
        self.ahead.give_back(session);
    }

    async fn read(&mut self, session: &mut Session, wanted: usize) -> Result<()> {
        if wanted > self.ahead.bytes().len() && !self.ahead.is_complete() && expects_continue(session) {
            // RFC 9110 section 10.1.1: whoever wants the body says so, once. The next hop is not asked again.
            session.as_mut().write_continue_response().await.map_err(|error| error.into_down())?;
            session.req_header_mut().remove_header(&header::EXPECT);
        }
        self.ahead.read(session, wanted).await
    }
}

/// Whether the client holds its body back until it is asked for it. HTTP/1.0 knows nothing of that.
fn expects_continue(session: &Session) -> bool {
    let request = session.req_header();
    request.version >= http::Version::HTTP_11
        && request
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
