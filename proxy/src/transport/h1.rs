//! Downstream HTTP/1: the keep-alive loop. Between requests a connection holds its stream and nothing else.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::ProxyHttp;
use tokio::time::{Instant, sleep_until, timeout};

use super::embed::Proxy;
use super::limits::{ConnectionEnd, H1Limits, NEVER};
use super::stream::{HeadLimits, InvalidHead, MeshStream, Refusal, Shared};

/// Pingora's upper bound on a header section.
const MAX_HEADER: usize = 1_048_575;
/// Pingora's upper bound on field lines.
const MAX_FIELDS: usize = 256;

const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nserver: palisade\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nserver: palisade\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const HEADER_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nserver: palisade\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// Serves one downstream HTTP/1 connection until it closes, idles, reaches a limit, or is drained.
///
/// `shutdown` turning true closes the connection at its next pause; the request in progress completes, and the caller
/// bounds how long by dropping the future. The sender of `shutdown` must outlive the connection: its drop counts as true.
pub async fn serve_h1<SV>(
    proxy: &Arc<Proxy<SV>>,
    stream: MeshStream,
    limits: &H1Limits,
    shutdown: ShutdownWatch,
) -> ConnectionEnd
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let shared = stream.shared();
    shared.own(limits.stream_idle_timeout);
    let end = serve(proxy, Box::new(stream), &shared, limits, shutdown).await;
    let answer = match end {
        ConnectionEnd::HeaderTimeout => Some(REQUEST_TIMEOUT),
        ConnectionEnd::HeaderTooLarge => Some(HEADER_TOO_LARGE),
        ConnectionEnd::Malformed(_) => Some(BAD_REQUEST),
        _ => None,
    };
    if let Some(answer) = answer {
        let _ = timeout(limits.linger, shared.write_now(answer)).await;
    }
    shared.close(limits.linger).await;
    if answer.is_some() || end == ConnectionEnd::Response {
        // Unread bytes at close would make the kernel reset the connection and destroy the answer on its way.
        shared.discard_input(limits.linger.min(Duration::from_secs(1))).await;
    }
    end
}

/// A session for one request.
fn session(stream: Box<MeshStream>, settings: Option<HttpPersistentSettings>, is_last: bool) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    if let Some(settings) = settings {
        settings.apply_to_session(&mut session);
    }
    // Our own deadlines bound the header and the pauses; this one would count from each read.
    session.set_keepalive(Some(0));
    if is_last {
        session.set_keepalive_reuses_remaining(Some(0)); // the response says `Connection: close`
    }
    session
}

async fn serve<SV>(
    proxy: &Arc<Proxy<SV>>,
    mut stream: Box<MeshStream>,
    shared: &Arc<Shared>,
    limits: &H1Limits,
    mut shutdown: ShutdownWatch,
) -> ConnectionEnd
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let oldest = Instant::now() + limits.max_age.unwrap_or(NEVER);
    let mut age = pin!(sleep_until(oldest));
    let mut settings: Option<HttpPersistentSettings> = None;
    let mut requests = 0_u64;
    loop {
        shared.detach();
        tokio::select! {
            // A request that has arrived is served, whatever else happens at the same time.
            biased;
            parked = shared.park() => if parked.is_err() { return ConnectionEnd::Client },
            _ = shutdown.wait_for(|stop| *stop) => return ConnectionEnd::Drained,
            () = &mut age => return ConnectionEnd::MaxAge,
            () = tokio::time::sleep(limits.idle_timeout) => return ConnectionEnd::Idle,
        }
        requests += 1;
        let bounds =
            HeadLimits { bytes: limits.max_header_bytes.min(MAX_HEADER), fields: limits.max_headers.min(MAX_FIELDS) };
        shared.begin_request(bounds, limits.header_timeout);
        let ends_age = Instant::now() >= oldest;
        let ends_count = limits.max_requests.is_some_and(|max| requests >= max);
        let written = shared.written();
        // Handed over as it is made: a session that stood here would take its room from every idle connection.
        let answered = proxy.process_new_http(session(stream, settings.take(), ends_age || ends_count), &shutdown);
        let Some(reused) = answered.await else {
            return match shared.refusal() {
                Some((Refusal::HeaderTooLarge, _)) => ConnectionEnd::HeaderTooLarge,
                // The request has an answer and a line of its own.
                Some((Refusal::Malformed(InvalidHead::Chunks), _)) => ConnectionEnd::Response,
                Some((Refusal::Malformed(invalid), _)) => ConnectionEnd::Malformed(invalid),
                Some((Refusal::HeaderTimeout, true)) => ConnectionEnd::HeaderTimeout,
                Some((Refusal::HeaderTimeout, false)) => ConnectionEnd::Idle,
                None if shared.written() == written => ConnectionEnd::Client,
                None if *shutdown.borrow() => ConnectionEnd::Drained,
                None if ends_count => ConnectionEnd::MaxRequests,
                None if ends_age => ConnectionEnd::MaxAge,
                None => ConnectionEnd::Response,
            };
        };
        let (reused, persistent) = reused.consume();
        settings = persistent;
        // What a linked response left in the queue goes out before the next request is waited for.
        if timeout(limits.idle_timeout, shared.settle()).await.is_err() {
            return ConnectionEnd::Idle;
        }
        stream = match reused.into_any().downcast::<MeshStream>() {
            Ok(stream) => stream,
            Err(_) => return ConnectionEnd::Response,
        };
    }
}
