//! What an upstream error says about sending the request once more.

use std::io::ErrorKind;

use h2::Reason;
use pingora_core::{Error, ErrorType, RetryType};
use pingora_proxy::Session;

use crate::transport::link::is_reused;
/// Whether the client has the answer, or some of it. A 1xx announces one and is none; but 101 is one.
#[must_use]
pub fn is_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|header| {
        !header.status.is_informational() || header.status == http::StatusCode::SWITCHING_PROTOCOLS
    })
}

/// Whether the request may be sent again after this error, given that the transport decides and no policy does.
///
/// True where the server provably did not process it (GOAWAY, REFUSED_STREAM, a connection that was never used), for any
/// method; and for idempotent methods where a reused connection proved stale. Never once anything was answered, nor when
/// the request's body is no longer at hand. For `error_while_proxy`: `e.set_retry(retry_is_safe(..))`. The next try should
/// ask for a [fresh](super::PeerOptions::fresh) connection. `reused` is what Pingora says, which knows of HTTP/2 alone.
#[must_use]
pub fn retry_is_safe(session: &Session, error: &Error, reused: bool) -> bool {
    if is_answered(session) || session.as_ref().retry_buffer_truncated() {
        return false;
    }
    match error.retry {
        RetryType::Decided(decided) => decided,
        RetryType::ReusedOnly => (reused || is_reused(session)) && session.req_header().method.is_idempotent(),
    }
}

/// An error before the response's header, with its retry class.
pub(super) fn before_response(e: h2::Error, what: &'static str) -> Box<Error> {
    let refused = e.is_reset() && e.is_remote() && e.reason() == Some(Reason::REFUSED_STREAM);
    // RFC 9113 section 6.8: streams above the last id of a GOAWAY were not processed; h2 fails only those.
    let left_behind = e.is_go_away() && e.is_remote() && e.reason() == Some(Reason::NO_ERROR);
    let broken = e.get_io().is_some_and(|io| {
        io.raw_os_error().is_some()
            || matches!(
                io.kind(),
                ErrorKind::ConnectionReset | ErrorKind::TimedOut | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
            )
    });
    let kind = if broken { ErrorType::ReadError } else { ErrorType::H2Error };
    let mut error = Error::because(kind, what, e);
    error.retry = if refused || left_behind {
        RetryType::Decided(true)
    } else if broken {
        RetryType::ReusedOnly
    } else {
        RetryType::Decided(false)
    };
    error
}
