//! Names and values of headers, as Istio takes them.

use crate::codes::Code;
use crate::istio::Headers;
use crate::schema::Cursor;
use crate::schema::formats::is_http_token;

/// The header name by which VirtualServices match claims of a token.
const CLAIMS: &str = "@request.auth.claims";

/// Whether a header match is one on a claim: `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
pub(super) fn is_claim(name: &str) -> bool {
    let Some((prefix, rest)) = name.split_at_checked(CLAIMS.len()) else { return false };
    prefix.eq_ignore_ascii_case(CLAIMS)
        && ((rest.starts_with('.') && rest.len() > 1)
            || (rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2))
}

/// Why a name cannot be matched on.
pub(super) fn match_name(name: &str) -> Result<(), String> {
    if is_claim(name) || matches!(name, ":method" | ":scheme" | ":authority" | ":path" | ":status") || is_name(name) {
        return Ok(());
    }
    Err(format!("`{name}` is not a header name"))
}

/// A token, or one with commas: Istio's own pattern lets them pass.
pub(super) fn is_name(name: &str) -> bool {
    name.split(',').all(|part| part.is_empty() || is_http_token(part)) && !name.is_empty()
}

pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn settable(name: &str, may_be_authority: bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("a header name must not be empty".to_owned());
    }
    if may_be_authority && is_authority(name) {
        return Ok(());
    }
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(format!("`{name}` cannot be changed"));
    }
    Ok(())
}

/// Header changes of a rule or of a destination.
pub(super) fn operations(headers: Option<&Headers>, code: Code, cursor: &mut Cursor<'_>) {
    let Some(Headers { request, response }) = headers else { return };
    cursor.within("headers", |cursor| {
        for (field, operations, is_request) in [("request", request, true), ("response", response, false)] {
            let Some(operations) = operations else { continue };
            cursor.within(field, |cursor| {
                for (kind, changes) in [("add", &operations.add), ("set", &operations.set)] {
                    cursor.within(kind, |cursor| {
                        for (name, text) in changes {
                            if let Err(message) = settable(name, is_request) {
                                cursor.report_at(name.as_str(), code, message);
                            }
                            if let Err(message) = value(text) {
                                cursor.report_at(name.as_str(), code, message);
                            }
                        }
                    });
                }
                cursor.within("remove", |cursor| {
                    for (index, name) in operations.remove.iter().enumerate() {
                        if let Err(message) = settable(name, false) {
                            cursor.report_at(index, code, message);
                        }
                    }
                });
            });
        }
    });
}

enum State {
    Literal,
    VariableName,
    ExpectArray,
    ExpectString,
    String,
    ExpectDelimiter,
    ExpectArgsEnd,
    ExpectVariableEnd,
}

/// Why a value cannot be sent: control characters, or an unfinished `%VARIABLE(…)%`. `%%` is a percent sign.
pub(super) fn value(text: &str) -> Result<(), String> {
    if text.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
        return Err("a header value must not contain control characters".to_owned());
    }
    let mut state = State::Literal;
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        state = match (state, byte) {
            (State::Literal, b'%') => match bytes.peek() {
                None => return Err(format!("`{text}` has a `%` that is not escaped")),
                Some(b'%') => {
                    bytes.next();
                    State::Literal
                }
                Some(_) => State::VariableName,
            },
            (State::Literal, _) => State::Literal,
            (State::VariableName, b'%') => State::Literal,
            (State::VariableName, b'(') => State::ExpectArray,
            (State::VariableName, _) => State::VariableName,
            (State::ExpectArray, b'[') => State::ExpectString,
            (State::ExpectArray, b' ') => State::ExpectArray,
            (State::ExpectArray, _) => State::String,
            (State::ExpectString, b'"') => State::String,
            (State::ExpectString, b' ') => State::ExpectString,
            (State::String, b'\\') => {
                if bytes.next().is_none() {
                    return Err(format!("`{text}` ends in a backslash"));
                }
                State::String
            }
            (State::String, b')') => State::ExpectVariableEnd,
            (State::String, b'"') => State::ExpectDelimiter,
            (State::String, _) => State::String,
            (State::ExpectDelimiter, b',') => State::ExpectString,
            (State::ExpectDelimiter, b']') => State::ExpectArgsEnd,
            (State::ExpectDelimiter, b' ') => State::ExpectDelimiter,
            (State::ExpectArgsEnd, b')') => State::ExpectVariableEnd,
            (State::ExpectArgsEnd, b' ') => State::ExpectArgsEnd,
            (State::ExpectVariableEnd, b'%') => State::Literal,
            (State::ExpectVariableEnd, b' ') => State::ExpectVariableEnd,
            (State::ExpectString | State::ExpectDelimiter | State::ExpectArgsEnd | State::ExpectVariableEnd, _) => {
                return Err(format!("`{text}` has a malformed variable"));
            }
        };
    }
    if matches!(state, State::Literal) { Ok(()) } else { Err(format!("`{text}` has a variable without end")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_variables() {
        for text in
            ["foo", "%HOSTNAME%", "100%%", "a %HOSTNAME% b", "%DOWNSTREAM_LOCAL_ADDRESS(x)%", "%F([\"a\", \"b\"])%", ""]
        {
            assert_eq!(value(text), Ok(()), "{text}");
        }
        for text in ["abc%123", "%START_TIME%%", "a\nb", "%F([a])%", "%F([\"a\"", "%F(\\"] {
            assert!(value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn claims_are_told_from_headers() {
        for name in ["@request.auth.claims.sub", "@request.auth.claims[a][b]", "@Request.Auth.Claims.x"] {
            assert!(is_claim(name), "{name}");
        }
        for name in ["@request.auth.claims", "@request.auth.claims.", "@request.auth.claims[]", "x"] {
            assert!(!is_claim(name), "{name}");
        }
    }
}
