//! A pure parser of the TLS ClientHello: server name and ALPN offer, from bytes in any fragmentation.

use std::sync::Arc;

/// The most bytes, record headers included, that a ClientHello may take on the wire.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

const RECORD_HEADER: usize = 5;
const MAX_RECORD_PAYLOAD: usize = 16 * 1024;
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;

/// What a client said before anything was negotiated. Unauthenticated: only for choosing who answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server name, lower-case. `None`: none was sent.
    pub server_name: Option<Arc<str>>,
    /// The ALPN names in the client's order; empty: none was sent.
    pub alpn: Vec<Box<[u8]>>,
}

/// What the bytes seen so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloParse {
    /// A whole ClientHello; bytes after it do not matter.
    Complete(ClientHello),
    /// The beginning of a ClientHello, or nothing yet: more bytes are needed.
    Incomplete,
    /// These bytes do not begin a TLS connection.
    NotTls,
    /// TLS without any doubt, but not a ClientHello that can be served.
    Invalid(InvalidHello),
}

/// Why a ClientHello is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHello {
    /// More than [`MAX_HELLO_BYTES`].
    #[error("the ClientHello exceeds {MAX_HELLO_BYTES} bytes")]
    TooLarge,
    /// A length that leads out of its field, an empty field that may not be, or bytes left over.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// An extension that occurs twice.
    #[error("the ClientHello holds an extension twice")]
    Duplicate,
    /// A server name that is no host name.
    #[error("the ClientHello's server name is malformed")]
    ServerName,
}

/// Reads a ClientHello from the first bytes of a connection, across any number of TLS records.
///
/// Pure and without panic for any input. Costs O(bytes); allocates only when the message spans records, and for the
/// result. Call it again with more bytes after [`HelloParse::Incomplete`].
pub fn parse_client_hello(bytes: &[u8]) -> HelloParse {
    match Message::gather(bytes) {
        Gathered::NotTls => HelloParse::NotTls,
        Gathered::Invalid(reason) => HelloParse::Invalid(reason),
        Gathered::Incomplete if bytes.len() >= MAX_HELLO_BYTES => HelloParse::Invalid(InvalidHello::TooLarge),
        Gathered::Incomplete => HelloParse::Incomplete,
        Gathered::Complete(message) => match parse_body(message.body()) {
            Ok(hello) => HelloParse::Complete(hello),
            Err(reason) => HelloParse::Invalid(reason),
        },
    }
}

/// The handshake message's body, borrowed when one record holds it whole.
enum Message<'a> {
    Borrowed(&'a [u8]),
    Joined(Vec<u8>),
}

enum Gathered<'a> {
    Complete(Message<'a>),
    Incomplete,
    NotTls,
    Invalid(InvalidHello),
}

/// A cursor whose every read is checked.
struct Reader<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn gather(bytes: &'a [u8]) -> Gathered<'a> {
        let mut rest = bytes;
        let mut joined: Vec<u8> = Vec::new();
        let mut first = true;
        loop {
            match header_verdict(rest) {
                HeaderVerdict::Good(length) => {
                    let payload = rest.get(RECORD_HEADER..).unwrap_or_default();
                    let (payload, whole) = match payload.get(..length) {
                        Some(payload) => (payload, true),
                        None => (payload, false),
                    };
                    if first && payload.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                        return Gathered::NotTls;
                    }
                    if first && let Some(body) = whole_body(payload) {
                        return match body {
                            Ok(body) => Gathered::Complete(Self::Borrowed(body)),
                            Err(reason) => Gathered::Invalid(reason),
                        };
                    }
                    joined.extend_from_slice(payload);
                    match whole_body(&joined) {
                        Some(Ok(body)) => return Gathered::Complete(Self::Joined(body.to_vec())),
                        Some(Err(reason)) => return Gathered::Invalid(reason),
                        None if !whole => return Gathered::Incomplete,
                        None => {}
                    }
                    first = false;
                    rest = rest.get(RECORD_HEADER + length..).unwrap_or_default();
                }
                HeaderVerdict::Short => return Gathered::Incomplete,
                HeaderVerdict::Bad if first => return Gathered::NotTls,
                HeaderVerdict::Bad => return Gathered::Invalid(InvalidHello::Malformed),
            }
        }
    }

    fn body(&self) -> &[u8] {
        match self {
            Self::Borrowed(body) => body,
            Self::Joined(body) => body,
        }
    }
}

enum HeaderVerdict {
    Good(usize),
    Short,
    Bad,
}

/// Judges a record header as early as its bytes allow.
fn header_verdict(bytes: &[u8]) -> HeaderVerdict {
    let mut header = bytes.iter().copied();
    match header.next() {
        None => return HeaderVerdict::Short,
        Some(HANDSHAKE_RECORD) => {}
        Some(_) => return HeaderVerdict::Bad,
    }
    match header.next() {
        None => return HeaderVerdict::Short,
        Some(3) => {}
        Some(_) => return HeaderVerdict::Bad,
    }
    match header.next() {
        None => return HeaderVerdict::Short,
        Some(0..=4) => {}
        Some(_) => return HeaderVerdict::Bad,
    }
    let (Some(high), Some(low)) = (header.next(), header.next()) else {
        return HeaderVerdict::Short;
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        // RFC 8446 5.1: no empty handshake records.
        0 => HeaderVerdict::Bad,
        length if length > MAX_RECORD_PAYLOAD => HeaderVerdict::Bad,
        length => HeaderVerdict::Good(length),
    }
}

/// The body of the handshake message that `payload` begins with; `None` while it is not all there.
fn whole_body(payload: &[u8]) -> Option<Result<&[u8], InvalidHello>> {
    let (&[kind, high, middle, low], rest) = payload.split_first_chunk::<4>()?;
    if kind != CLIENT_HELLO {
        return Some(Err(InvalidHello::Malformed));
    }
    let length = u32::from_be_bytes([0, high, middle, low]);
    match usize::try_from(length) {
        Ok(length) if length <= MAX_HELLO_BYTES => rest.get(..length).map(Ok),
        _ => Some(Err(InvalidHello::TooLarge)),
    }
}

fn parse_body(body: &[u8]) -> Result<ClientHello, InvalidHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // legacy version, random
    if reader.vector8()?.len() > 32 {
        return Err(InvalidHello::Malformed); // session id
    }
    let suites = reader.vector16()?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(InvalidHello::Malformed);
    }
    if reader.vector8()?.is_empty() {
        return Err(InvalidHello::Malformed); // compression methods
    }
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Ok(hello); // TLS 1.2 allows a hello without extensions
    }
    let mut extensions = Reader(reader.vector16()?);
    if !reader.0.is_empty() {
        return Err(InvalidHello::Malformed);
    }
    let (mut has_name, mut has_alpn) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        match kind {
            EXTENSION_SERVER_NAME if has_name => return Err(InvalidHello::Duplicate),
            EXTENSION_SERVER_NAME => {
                has_name = true;
                hello.server_name = parse_server_name(content)?;
            }
            EXTENSION_ALPN if has_alpn => return Err(InvalidHello::Duplicate),
            EXTENSION_ALPN => {
                has_alpn = true;
                hello.alpn = parse_alpn(content)?;
            }
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 section 3: a list of names, of which only `host_name` was ever defined; at most one.
fn parse_server_name(content: &[u8]) -> Result<Option<Arc<str>>, InvalidHello> {
    let mut outer = Reader(content);
    let mut names = Reader(outer.vector16()?);
    if !outer.0.is_empty() || names.0.is_empty() {
        return Err(InvalidHello::Malformed);
    }
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.vector16()?;
        if kind != 0 {
            continue;
        }
        if found.is_some() {
            return Err(InvalidHello::ServerName);
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if name.is_empty() || name.len() > 255 || !name.iter().all(plain) {
            return Err(InvalidHello::ServerName);
        }
        let text = std::str::from_utf8(name).map_err(|_| InvalidHello::ServerName)?;
        found = Some(Arc::from(text.to_ascii_lowercase()));
    }
    Ok(found)
}

fn parse_alpn(content: &[u8]) -> Result<Vec<Box<[u8]>>, InvalidHello> {
    let mut outer = Reader(content);
    let mut names = Reader(outer.vector16()?);
    if !outer.0.is_empty() || names.0.is_empty() {
        return Err(InvalidHello::Malformed);
    }
    let mut offer = Vec::new();
    while !names.0.is_empty() {
        let name = names.vector8()?;
        if name.is_empty() {
            return Err(InvalidHello::Malformed);
        }
        offer.push(name.into());
    }
    Ok(offer)
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], InvalidHello> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(InvalidHello::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, InvalidHello> {
        let (byte, rest) = self.0.split_first().ok_or(InvalidHello::Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn u16(&mut self) -> Result<u16, InvalidHello> {
        let (bytes, rest) = self.0.split_first_chunk::<2>().ok_or(InvalidHello::Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    fn vector8(&mut self) -> Result<&'a [u8], InvalidHello> {
        let length = usize::from(self.u8()?);
        self.take(length)
    }

    fn vector16(&mut self) -> Result<&'a [u8], InvalidHello> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }
}

#[cfg(test)]
mod tests;
