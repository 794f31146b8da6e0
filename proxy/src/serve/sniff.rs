//! Recognising a connection by its first bytes without consuming any.

use std::{io, os::fd::AsRawFd, time::Duration};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{io::Interest, net::TcpStream, time::Instant};

use crate::tls::{ClientHello, HelloParse, InvalidHello, MAX_HELLO_BYTES, parse_client_hello};

use super::decide::{DeclaredProtocol, MtlsMode};

/// The longest request line that is waited for.
const MAX_REQUEST_LINE: usize = 8 * 1024;
/// The first look; most ClientHellos and request lines fit.
const FIRST_PEEK: usize = 4 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Methods that are taken for HTTP before their line is complete: by the deadline or the length limit.
const KNOWN_METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    /// A request line of HTTP/1.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// A TLS ClientHello.
    Tls(ClientHello),
    /// TLS that cannot be served.
    InvalidTls(InvalidHello),
    /// Other bytes.
    Other,
    /// Nothing in time: perhaps a server that speaks first. Also where nothing was waited for.
    Silent,
    /// The client closed without a byte.
    Closed,
}

/// What is worth waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SniffPlan {
    /// Look for TLS.
    pub tls: bool,
    /// Look for HTTP.
    pub http: HttpDetection,
    /// How long the client may take to say enough. `None`: as long as it likes (Istio's `protocolDetectionTimeout: 0s`).
    pub deadline: Option<Duration>,
}

/// How far HTTP is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpDetection {
    /// Not at all.
    Off,
    /// The port is declared HTTP: only HTTP/2's preface is to be told from the rest.
    PrefaceOnly,
    /// A whole request line, or the preface.
    Full,
}

impl SniffPlan {
    /// What an inbound port needs to know.
    pub fn inbound(mode: MtlsMode, declared: DeclaredProtocol, deadline: Option<Duration>) -> Self {
        let http = match (mode, declared) {
            (MtlsMode::Strict, _) | (_, DeclaredProtocol::Tcp) => HttpDetection::Off,
            (_, DeclaredProtocol::Http) => HttpDetection::PrefaceOnly,
            (_, DeclaredProtocol::Auto) => HttpDetection::Full,
        };
        // Istio inspects no TLS where none is terminated; a look at detected ports tells `tls-passthrough` in the log.
        let tls = mode != MtlsMode::Disable || declared == DeclaredProtocol::Auto;
        Self { tls, http, deadline }
    }

    /// Whether there is anything to look for: otherwise no time is lost, which server-first protocols need.
    pub fn needs_bytes(&self) -> bool {
        self.tls || self.http != HttpDetection::Off
    }
}

/// Looks at the first bytes until they say what they are, or until the deadline. Consumes nothing.
///
/// # Errors
/// Those of the socket, a reset by the client among them.
pub async fn sniff(stream: &TcpStream, plan: SniffPlan) -> io::Result<Sniffed> {
    if !plan.needs_bytes() {
        return Ok(Sniffed::Silent);
    }
    let deadline = plan.deadline.map(|wait| Instant::now() + wait);
    let mut peek = Peek::new();
    loop {
        let grown = match deadline {
            None => peek.more(stream).await?,
            Some(deadline) => match tokio::time::timeout_at(deadline, peek.more(stream)).await {
                Ok(grown) => grown?,
                Err(_elapsed) => return Ok(classify_final(peek.bytes(), plan)),
            },
        };
        match classify(peek.bytes(), plan) {
            Some(sniffed) => return Ok(sniffed),
            None if !grown && peek.bytes().is_empty() => return Ok(Sniffed::Closed),
            None if !grown => return Ok(classify_final(peek.bytes(), plan)),
            None => {}
        }
    }
}

/// The first bytes of a connection, still in the kernel's buffer.
pub(super) struct Peek {
    buffer: Vec<u8>,
    seen: usize,
}

impl Peek {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::new(), seen: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.seen).unwrap_or_default()
    }

    /// Waits until there are more bytes than seen so far. `false`: there will be none (closed, or the limit is reached).
    ///
    /// Cancel safe. A plain `peek` would return the same bytes at once and spin, so readiness is cleared until the
    /// kernel reports news; a half-closed peer keeps being reported ready, which ends the wait.
    pub(super) async fn more(&mut self, stream: &TcpStream) -> io::Result<bool> {
        let limit = MAX_HELLO_BYTES;
        if self.seen >= limit {
            return Ok(false);
        }
        if self.seen >= self.buffer.len() {
            self.buffer.resize((self.buffer.len() * 2).clamp(FIRST_PEEK, limit), 0);
        }
        loop {
            let ready = stream.ready(Interest::READABLE).await?;
            let outcome = stream.try_io(Interest::READABLE, || {
                let length = recv(stream.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_PEEK)?;
                if length > self.seen {
                    self.seen = length;
                    Ok(true)
                } else if ready.is_read_closed() || length == 0 {
                    Ok(false)
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            });
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// What the bytes are, as soon as that is certain.
pub fn classify(bytes: &[u8], plan: SniffPlan) -> Option<Sniffed> {
    if bytes.is_empty() {
        return None;
    }
    if plan.tls {
        match parse_client_hello(bytes) {
            HelloParse::Complete(hello) => return Some(Sniffed::Tls(hello)),
            HelloParse::Invalid(reason) => return Some(Sniffed::InvalidTls(reason)),
            HelloParse::Incomplete => return None,
            HelloParse::NotTls => {}
        }
    }
    match plan.http {
        HttpDetection::Off => Some(Sniffed::Other),
        HttpDetection::PrefaceOnly | HttpDetection::Full if bytes.starts_with(PREFACE) => Some(Sniffed::Http2),
        HttpDetection::PrefaceOnly | HttpDetection::Full if PREFACE.starts_with(bytes) => None,
        HttpDetection::PrefaceOnly => Some(Sniffed::Other),
        HttpDetection::Full => classify_request_line(bytes),
    }
}

/// What bytes are to which nothing will be added.
pub fn classify_final(bytes: &[u8], plan: SniffPlan) -> Sniffed {
    if bytes.is_empty() {
        return Sniffed::Silent;
    }
    match classify(bytes, plan) {
        Some(sniffed) => sniffed,
        None if plan.tls && parse_client_hello(bytes) == HelloParse::Incomplete => {
            Sniffed::InvalidTls(InvalidHello::Malformed)
        }
        None if plan.http == HttpDetection::Full && begins_with_known_method(bytes) => Sniffed::Http1,
        None => Sniffed::Other,
    }
}

/// `METHOD SP TARGET SP HTTP/1.x`, as Envoy's HTTP inspector asks for.
fn classify_request_line(bytes: &[u8]) -> Option<Sniffed> {
    let is_method_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().take_while(|byte| is_method_byte(byte)).count();
    match bytes.get(method) {
        _ if method > 64 => return Some(Sniffed::Other),
        None => return None,
        Some(b' ') if method > 0 => {}
        Some(_) => return Some(Sniffed::Other),
    }
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        if bytes.len() < MAX_REQUEST_LINE {
            return None;
        }
        return Some(if begins_with_known_method(bytes) { Sniffed::Http1 } else { Sniffed::Other });
    };
    let line = bytes.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    Some(if is_http { Sniffed::Http1 } else { Sniffed::Other })
}

fn begins_with_known_method(bytes: &[u8]) -> bool {
    KNOWN_METHODS.iter().any(|method| bytes.strip_prefix(*method).is_some_and(|rest| rest.first() == Some(&b' ')))
}

#[cfg(test)]
mod tests;
