//! The data plane's transport: streams, HTTP/1 and HTTP/2 serving, and the upstream connector, around Pingora's `HttpProxy`.
//!
//! Pingora runs request writing, response writing and request reading of one request in one task, and blocks in each
//! of them. Chained, two such proxies stop each other on full-duplex traffic (gRPC streams, WebSocket). Everything here
//! follows one rule instead: **a write never waits, and a read waits until the other side has taken what was written.**
//! Each request has a [`link`] that couples its downstream and its upstream stream for this.
//!
//! How the rest of the proxy uses it:
//! - once at start: [`MeshConnector::new`], then [`build_proxy`] with the `ProxyHttp` application;
//! - per accepted connection: fill a [`ConnMeta`], build a [`MeshStream`], call [`serve_h1`] or [`serve_h2`];
//! - in `upstream_peer`: [`MeshConnector::peer`] with a [`TransportRef`] from [`MeshConnector::intern`];
//! - in `connected_to_upstream`: [`couple`], always, as the first statement;
//! - in `error_while_proxy`: [`retry_is_safe`];
//! - in any phase: [`downstream_meta`], [`conn_meta`], [`upstream_bytes`];
//! - for every request, before anything routes on it: the checks of [`authority`]. An HTTP/2 stream has passed [`authority::of`] when
//!   its session begins; of an HTTP/1 request the application checks the parts itself.
//!
//! What an application must know:
//! - `session.is_http2()` is false for our HTTP/2 sessions: look at `req_header().version`.
//! - HTTP/1 and HTTP/2 to one endpoint need different [`UpstreamProtocol`]s; the peers never share connections.
//! - Request trailers, response trailers and 1xx pass HTTP/2 hops whole; HTTP/1 hops drop trailers.

mod ahead;
pub mod authority;
mod connector;
mod copy;
mod embed;
mod h1;
mod h2;
mod limits;
pub(crate) mod link;
mod meta;
mod stream;

pub use ahead::Ahead;
pub use connector::{
    ConnectionOptions, ConnectorSettings, MeshConnector, PeerOptions, TlsTransport, Transport, TransportRef,
    UpstreamProtocol, is_answered, retry_is_safe,
};
pub(crate) use copy::{CopiedBody, CopiedParts, detached_request, send_copy};
pub use embed::{EmbedError, Proxy, ProxySettings, build_proxy};
pub use h1::serve_h1;
pub use h2::serve_h2;
pub(crate) use limits::NEVER;
pub use limits::{ConnectionEnd, H1Limits, H2Limits, H2Windows, PingKeepalive};
pub use link::{Revoker, couple, is_stream_idle, revoker, set_stream_idle_timeout, upstream_bytes};
pub use meta::{
    ConnMeta, PeerCertificate, TlsFacts, conn_meta, count_request, downstream_meta, is_malformed, odd_target,
};
pub use stream::{AppProtocol, InvalidHead, MeshStream, Wire};
pub(crate) use stream::{MAX_TARGET, is_length};

/// Log directives for Pingora's own targets, in `tracing_subscriber::EnvFilter` syntax.
///
/// Pingora logs every client that leaves, every refused request and every failed proxying at `ERROR`, all of which the
/// access log reports with their reason. Only what has no other reporter is kept.
pub const LOG_DIRECTIVES: &str =
    "pingora_proxy=off,pingora_core=error,pingora_core::protocols::http=off,pingora_pool=off,h2=error,rustls=error";
