//! Bounds of one downstream connection, and how a connection ended.

use std::time::Duration;

use super::stream::InvalidHead;

/// A deadline that is none, within what timers take.
pub(crate) const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Bounds of one downstream HTTP/1 connection.
#[derive(Debug, Clone)]
pub struct H1Limits {
    /// From the first wait for a request until its header is complete. Answered 408 when some of it had arrived.
    pub header_timeout: Duration,
    /// How long a connection may wait between requests; also before its first one.
    pub idle_timeout: Duration,
    /// Size of a request's header section, in bytes, request line included. Answered 431. At most 1 MiB - 1.
    pub max_header_bytes: usize,
    /// Field lines of a request's header section. Answered 431. At most 256.
    pub max_headers: usize,
    /// Requests before the connection is closed after a response. `None`: no limit.
    pub max_requests: Option<u64>,
    /// Age after which a connection is closed at its next pause between requests. `None`: no limit.
    pub max_age: Option<Duration>,
    /// How long a closing connection may take to hand over what was already written.
    pub linger: Duration,
    /// A request, or upgraded tunnel, on which no byte has moved in either direction for this long is ended. `None`:
    /// never. [`super::set_stream_idle_timeout`] changes it for one request.
    pub stream_idle_timeout: Option<Duration>,
}

/// Bounds of one downstream HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct H2Limits {
    /// From the first byte until the connection's settings are exchanged.
    pub handshake_timeout: Duration,
    /// A connection without an open stream for this long gets GOAWAY.
    pub idle_timeout: Duration,
    /// Streams before the connection gets GOAWAY. `None`: no limit.
    pub max_requests: Option<u64>,
    /// Age at which the connection gets GOAWAY; open streams complete. `None`: no limit.
    pub max_age: Option<Duration>,
    /// As [`H1Limits::stream_idle_timeout`], for one stream.
    pub stream_idle_timeout: Option<Duration>,
    /// Keepalive pings; `None`: none are sent.
    pub ping: Option<PingKeepalive>,
    /// Size of a request's header list, in bytes as HPACK counts them. Answered 431 by the protocol layer.
    pub max_header_list_bytes: u32,
    /// Field lines of a request. Answered 431.
    pub max_headers: usize,
    /// Requests refused as malformed before the connection is closed with ENHANCE_YOUR_CALM.
    pub max_malformed: u32,
    /// Streams reset by the client within a second of their begin, before the connection is closed with ENHANCE_YOUR_CALM,
    /// provided that they are more than half of all (rapid reset, CVE-2023-44487).
    pub max_early_resets: u32,
    /// Streams and windows.
    pub windows: H2Windows,
}

/// Concurrency and receive windows of one HTTP/2 connection.
///
/// A stream whose reader is slow keeps its unread bytes in the connection's window. Only a connection window that
/// covers all streams lets no slow reader stop its neighbours; it is therefore computed, `streams × stream_bytes`, and is
/// at the same time the bound on the bytes that one connection can make the proxy hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct H2Windows {
    /// Concurrent streams.
    pub streams: u32,
    /// Receive window of one stream, in bytes.
    pub stream_bytes: u32,
}

/// HTTP/2 keepalive pings: how a silently lost peer is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingKeepalive {
    /// Pause between two pings.
    pub interval: Duration,
    /// How long an answer may take before the connection is given up.
    pub timeout: Duration,
}

/// Why [`super::serve_h1`] or [`super::serve_h2`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionEnd {
    /// The client closed, or went away.
    Client,
    /// A response ended the connection (`Connection: close`, an error, an upgraded tunnel's end).
    Response,
    /// The idle timeout.
    Idle,
    /// The drain signal.
    Drained,
    /// The limit on requests.
    MaxRequests,
    /// The limit on age.
    MaxAge,
    /// A request header took too long; answered 408 (HTTP/1).
    HeaderTimeout,
    /// A request header was too large; answered 431 (HTTP/1).
    HeaderTooLarge,
    /// A request header can be read in more than one way, or in none; answered 400 (HTTP/1).
    Malformed(InvalidHead),
    /// The HTTP/2 handshake failed or took too long.
    Handshake,
    /// Too many malformed requests, or a protocol error.
    Protocol,
    /// A keepalive ping was not answered.
    PingTimeout,
}

impl H2Windows {
    /// Window of the connection: no set of slow streams can exhaust it. Capped at the protocol's 2^31 - 1.
    #[must_use]
    pub fn connection_bytes(&self) -> u32 {
        self.streams.saturating_mul(self.stream_bytes).min(i32::MAX.unsigned_abs())
    }
}

impl Default for H2Windows {
    /// 100 streams of 128 KiB.
    fn default() -> Self {
        Self { streams: 100, stream_bytes: 128 * 1024 }
    }
}

impl Default for H1Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(3600),
            max_header_bytes: 60 * 1024,
            max_headers: 100,
            max_requests: None,
            max_age: None,
            linger: Duration::from_secs(5),
            stream_idle_timeout: None,
        }
    }
}

impl Default for H2Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(3600),
            max_requests: None,
            max_age: None,
            stream_idle_timeout: None,
            ping: None,
            max_header_list_bytes: 60 * 1024,
            max_headers: 100,
            max_malformed: 32,
            max_early_resets: 500,
            windows: H2Windows::default(),
        }
    }
}
