//! Whether the bytes of an HTTP/1 request header can be read in one way only. Looks at the bytes as they came, before any
//! parser has made something of them.

use std::ops::Range;

/// The longest request target that is forwarded: what `http::Uri` can hold, a little room left.
pub(crate) const MAX_TARGET: usize = 65_000;

/// Why a request header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidHead {
    /// Not `METHOD SP TARGET SP VERSION`, or bytes in it that none of them holds.
    #[error("malformed request line")]
    RequestLine,
    /// CONNECT: this proxy is nobody's tunnel.
    #[error("CONNECT is not served")]
    Connect,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("unknown protocol version")]
    Version,
    /// A line that ends without CR LF, or a CR elsewhere.
    #[error("a line does not end with CR LF")]
    LineEnd,
    /// RFC 9112 section 5.2.
    #[error("a folded field line")]
    Folded,
    /// Empty, with blanks, or with bytes that no name holds.
    #[error("malformed field name")]
    FieldName,
    /// A control byte.
    #[error("malformed field value")]
    FieldValue,
    /// RFC 9112 section 6.3: the body's end could be found in two ways.
    #[error("ambiguous body length")]
    Framing,
    /// A chunked body that is not chunked as RFC 9112 section 7.1 says.
    #[error("malformed chunked body")]
    Chunks,
    /// None where one is needed, several, or user information in it.
    #[error("no single host")]
    Host,
    /// Too many field lines, or too long a target: 431.
    #[error("too many fields or too long a target")]
    TooLarge,
}

/// What of a well-formed header the parser behind must not be shown as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Checked {
    /// Where the target stands, if it is not a plain origin-form one: our own pipeline reads it instead.
    pub(super) odd_target: Option<Range<usize>>,
    /// A chunked body follows.
    pub(super) is_chunked: bool,
}

const PLAIN: u8 = 1;
const TOKEN: u8 = 2;
const TARGET: u8 = 4;

/// The classes of each byte.
static CLASSES: [u8; 256] = classes();

#[expect(clippy::indexing_slicing, reason = "a table of all bytes, made at compile time")]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut b = 0_u8;
    loop {
        let mut classes = 0;
        let is_alphanumeric = b.is_ascii_alphanumeric();
        if is_alphanumeric || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~') {
            classes |= TOKEN;
        }
        if b > b' ' && b != 0x7f {
            classes |= TARGET;
        }
        // What every URI type takes in a path and in a query as it is.
        if is_alphanumeric
            || matches!(b, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@')
            || matches!(b, b'/' | b'?' | b'%' | b'[' | b']' | b'{' | b'}' | b'|' | b'^')
        {
            classes |= PLAIN;
        }
        table[b as usize] = classes;
        if b == u8::MAX {
            return table;
        }
        b += 1;
    }
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| CLASSES.get(usize::from(*byte)).is_some_and(|classes| classes & class != 0))
}

/// Whether no byte is a control. Without a way out of the loop, so that many bytes are looked at in one step.
fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |is_value, byte| is_value & ((*byte >= b' ' && *byte != 0x7f) || *byte == b'\t'))
}

/// Whether a request target can be carried by any URI type as it is.
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    all(bytes, PLAIN)
}

/// What was seen of the fields that say where a request goes and where it ends.
#[derive(Default)]
struct Named {
    hosts: usize,
    lengths: usize,
    codings: usize,
    fields: usize,
}

/// Checks a complete request header, its final empty line included.
///
/// # Errors
/// [`InvalidHead`].
pub(super) fn check(head: &[u8], max_fields: usize) -> Result<Checked, InvalidHead> {
    let mut rest = head;
    // RFC 9112 section 2.2: empty lines may precede a request.
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    let begin = head.len() - rest.len();
    let line = next_line(&mut rest)?;
    let (target, is_http10) = request_line(line)?;
    let mut named = Named::default();
    loop {
        let line = next_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        named.field(line, is_http10)?;
    }
    if named.fields > max_fields || target.len() > MAX_TARGET {
        return Err(InvalidHead::TooLarge);
    }
    if named.codings > 0 && named.lengths > 0 {
        return Err(InvalidHead::Framing);
    }
    // RFC 9112 section 3.2.
    if named.hosts == 0 && !is_http10 {
        return Err(InvalidHead::Host);
    }
    let path = line.get(target.clone()).unwrap_or_default();
    let is_ordinary = (path.first() == Some(&b'/') && is_plain(path)) || path == b"*";
    let odd_target = (!is_ordinary).then(|| target.start + begin..target.end + begin);
    Ok(Checked { odd_target, is_chunked: named.codings > 0 })
}

/// The next line without its CR LF.
fn next_line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], InvalidHead> {
    let end = memchr::memchr(b'\n', rest).ok_or(InvalidHead::LineEnd)?;
    let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(InvalidHead::LineEnd)?;
    *rest = rest.get(end + 1..).unwrap_or_default();
    Ok(line)
}

/// Where the target of a request line stands, and whether the version is 1.0.
fn request_line(line: &[u8]) -> Result<(Range<usize>, bool), InvalidHead> {
    let malformed = InvalidHead::RequestLine;
    let method = memchr::memchr(b' ', line).ok_or(malformed)?;
    let end = memchr::memrchr(b' ', line).filter(|end| *end > method + 1).ok_or(malformed)?;
    let (name, target) = (line.get(..method).unwrap_or_default(), line.get(method + 1..end).unwrap_or_default());
    if name.is_empty() || !all(name, TOKEN) || !all(target, TARGET) {
        return Err(malformed);
    }
    if name == b"CONNECT" {
        return Err(InvalidHead::Connect);
    }
    match line.get(end + 1..) {
        Some(b"HTTP/1.1") => Ok((method + 1..end, false)),
        Some(b"HTTP/1.0") => Ok((method + 1..end, true)),
        _ => Err(InvalidHead::Version),
    }
}

impl Named {
    fn field(&mut self, line: &[u8], is_http10: bool) -> Result<(), InvalidHead> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(InvalidHead::Folded);
        }
        let colon = memchr::memchr(b':', line).ok_or(InvalidHead::FieldName)?;
        let (name, value) = (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
        if name.is_empty() || !all(name, TOKEN) {
            return Err(InvalidHead::FieldName);
        }
        if !is_value(value) {
            return Err(if value.contains(&b'\r') { InvalidHead::LineEnd } else { InvalidHead::FieldValue });
        }
        self.fields += 1;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 || value.contains(&b'@') {
                    return Err(InvalidHead::Host);
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.lengths += 1;
                if self.lengths > 1 || !is_length(value.trim_ascii()) {
                    return Err(InvalidHead::Framing);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.codings += 1;
                // Codings beside `chunked` would be lost on the way, and servers differ in what they take for `chunked`.
                if self.codings > 1 || is_http10 || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(InvalidHead::Framing);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A length that every counter holds: decimal digits, below 2^63.
pub(crate) fn is_length(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(head: &str) -> Result<Option<String>, InvalidHead> {
        let checked = check(head.as_bytes(), 100)?;
        Ok(checked.odd_target.map(|at| head[at].to_owned()))
    }

    #[test]
    fn what_servers_agree_on_passes() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nhost:a\r\n\r\n",
            "POST /a/%2e?b=c&d HTTP/1.1\r\nHost: a:80\r\nContent-Length: 10\r\nx: \t y\u{e9} \r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:  Chunked\r\nEmpty:\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(outcome(head), Ok(None), "{head:?}");
        }
    }

    #[test]
    fn unusual_targets_are_read_by_our_own_pipeline() {
        for target in ["admin", "http://a/x", "/a<b>", "/a#b", "/é", r"/a\b", "?x", "**", "/a\"{}^`|", "a:80"] {
            let head = format!("\r\nGET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(outcome(&head), Ok(Some(target.to_owned())), "{target}");
        }
    }

    #[test]
    fn each_ambiguity_is_refused_by_name() {
        use InvalidHead as I;
        for (head, expected) in [
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GET /\ta HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GET /\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GET HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", I::RequestLine),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", I::Connect),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", I::Version),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", I::Version),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", I::Version),
            ("GET / HTTP/1.1\nHost: a\n\n", I::LineEnd),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", I::LineEnd),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: a\rb: c\r\n\r\n", I::LineEnd),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: a\r\n b\r\n\r\n", I::Folded),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", I::Folded),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", I::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", I::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", I::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nx\u{e9}: a\r\n\r\n", I::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n", I::FieldValue),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: a\u{b}b\r\n\r\n", I::FieldValue),
            ("GET / HTTP/1.1\r\n\r\n", I::Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", I::Host),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", I::Host),
        ] {
            assert_eq!(outcome(head), Err(expected), "{head:?}");
        }
    }

    #[test]
    fn a_body_has_one_length_or_the_request_is_refused() {
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\ncontent-length: 2\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding: chunked;q=1\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(outcome(&head), Err(InvalidHead::Framing), "{fields:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(outcome(old), Err(InvalidHead::Framing));
    }

    #[test]
    fn numbers_of_fields_and_bytes_of_targets_are_bounded() {
        let fields = "a: b\r\n".repeat(100);
        assert_eq!(outcome(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")), Err(InvalidHead::TooLarge));
        let target = "a".repeat(MAX_TARGET);
        assert_eq!(outcome(&format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n")), Err(InvalidHead::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = check(&bytes, 100);
        }

        /// Changes of single bytes of a good header: what passes has exactly the lines that it seems to have.
        #[test]
        fn what_passes_has_no_hidden_lines(at in 0usize..60, byte in proptest::prelude::any::<u8>()) {
            let mut head = b"POST /abc?d HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\n".to_vec();
            let at = at % head.len();
            head[at] = byte;
            if check(&head, 100).is_ok() {
                let lines = head.iter().filter(|byte| **byte == b'\n').count();
                let pairs = head.windows(2).filter(|pair| *pair == b"\r\n").count();
                proptest::prop_assert_eq!(lines, pairs);
                proptest::prop_assert_eq!(pairs, head.iter().filter(|byte| **byte == b'\r').count());
            }
        }
    }
}
