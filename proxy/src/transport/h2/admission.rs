//! Which HTTP/2 requests become requests at all: what Pingora checks for its own sessions, and does not for ours.

use http::{Method, StatusCode, header};
use pingora_http::RequestHeader;

use crate::transport::{authority, stream::MAX_TARGET};

/// Refuses what a proxy cannot forward with one meaning.
///
/// # Errors
/// The status to answer with.
pub(super) fn check(request: &RequestHeader, max_fields: usize) -> Result<(), StatusCode> {
    if request.method == Method::CONNECT {
        return Err(StatusCode::BAD_REQUEST);
    }
    if request.headers.len() > max_fields || request.raw_path().len() > MAX_TARGET {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let path = request.raw_path();
    let is_asterisk = request.method == Method::OPTIONS && path == b"*";
    if !(is_asterisk || path.first() == Some(&b'/')) || path.iter().any(|b| *b <= b' ' || *b == 0x7f) {
        return Err(StatusCode::BAD_REQUEST);
    }
    // The h2 crate checks the value and the body's length against it.
    if request.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(StatusCode::BAD_REQUEST);
    }
    // RFC 9113 section 8.2.1: such a value is malformed. HTTP/1 would trim it on the way to the application, which would
    // then see another value than the one that was judged.
    if request.headers.values().any(|value| is_padded(value.as_bytes())) {
        return Err(StatusCode::BAD_REQUEST);
    }
    match authority::of(request) {
        Ok(Some(_)) => Ok(()),
        Ok(None) | Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

fn is_padded(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.first()) || is_blank(value.last())
}

#[cfg(test)]
mod tests {
    use super::is_padded;

    #[test]
    fn values_with_blanks_around_them_are_padded() {
        for value in [" 1", "1 ", "\t1", "1\t", " "] {
            assert!(is_padded(value.as_bytes()), "{value:?}");
        }
        for value in ["", "1", "a b"] {
            assert!(!is_padded(value.as_bytes()), "{value:?}");
        }
    }
}
