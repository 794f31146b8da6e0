//! Downstream HTTP/2 served over the `h2` crate: one task per stream, each an ordinary request of the `HttpProxy`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Connection, SendResponse};
use http::{Response, StatusCode};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::{Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::ProxyHttp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

mod admission;
pub(crate) mod ping;
mod session;

use super::embed::Proxy;
use super::limits::{ConnectionEnd, H2Limits, NEVER};
use super::link::Link;
use super::stream::MeshStream;
use session::H2Stream;

/// How long a connection that is closed for cause may take to send its GOAWAY.
const FAREWELL: Duration = Duration::from_secs(1);
/// A stream that the client resets sooner was perhaps opened for nothing else (Envoy: `premature_reset_min_stream_lifetime`).
const EARLY: Duration = Duration::from_secs(1);

/// Serves one downstream HTTP/2 connection until it closes, idles, grows too old, or is drained.
///
/// `shutdown` turning true sends GOAWAY; open streams complete, and the caller bounds how long by dropping the future,
/// which resets what is left. The sender of `shutdown` must outlive the connection: its drop counts as true. `refused` is told the
/// status of each request that is answered before it becomes one.
pub async fn serve_h2<SV>(
    proxy: &Arc<Proxy<SV>>,
    stream: MeshStream,
    limits: &H2Limits,
    mut shutdown: ShutdownWatch,
    refused: impl Fn(StatusCode) + Send + Sync,
) -> ConnectionEnd
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let digest = Arc::new(Digest {
        ssl_digest: None,
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let Ok(Ok(mut connection)) = timeout(limits.handshake_timeout, builder(limits).handshake::<_, Bytes>(stream)).await
    else {
        return ConnectionEnd::Handshake;
    };
    let keepalive = ping::keepalive(connection.ping_pong(), limits.ping);
    let mut requests: JoinSet<bool> = JoinSet::new();
    let terms = Terms { limits, digest, refused };
    let end = drive(proxy, &mut connection, &mut requests, &mut shutdown, &terms, keepalive).await;
    if end == ConnectionEnd::Protocol {
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let flushed = async { while connection.accept().await.is_some_and(|next| next.is_ok()) {} };
        let _ = timeout(FAREWELL, flushed).await;
    }
    // Ends every open stream; their requests then end by themselves, and are logged.
    drop(connection);
    while let Some(ended) = requests.join_next().await {
        report(ended);
    }
    end
}

/// What holds for every request of a connection.
struct Terms<'a, F> {
    limits: &'a H2Limits,
    digest: Arc<Digest>,
    refused: F,
}

async fn drive<SV, F>(
    proxy: &Arc<Proxy<SV>>,
    connection: &mut Connection<MeshStream, Bytes>,
    requests: &mut JoinSet<bool>,
    shutdown: &mut ShutdownWatch,
    terms: &Terms<'_, F>,
    keepalive: impl Future<Output = ()>,
) -> ConnectionEnd
where
    F: Fn(StatusCode) + Send + Sync,
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let Terms { limits, digest, refused } = terms;
    let start = Instant::now();
    let signal = shutdown.clone();
    let mut keepalive = pin!(keepalive);
    let mut age = pin!(sleep_until(start + limits.max_age.unwrap_or(NEVER)));
    let mut idle = pin!(sleep_until(start + limits.idle_timeout));
    let (mut served, mut malformed, mut early_resets) = (0_u64, 0_u32, 0_u64);
    // Why GOAWAY was sent, once it was: `accept` then drives the open streams to their end.
    let mut leaving = None;
    loop {
        let leave = tokio::select! {
            biased;
            // Ready at once if the signal was given before; an error means that its sender is gone.
            _ = shutdown.wait_for(|stop| *stop), if leaving.is_none() => Some(ConnectionEnd::Drained),
            Some(ended) = requests.join_next(), if !requests.is_empty() => {
                early_resets += u64::from(report(ended));
                if early_resets >= u64::from(limits.max_early_resets) && early_resets * 2 > served {
                    return ConnectionEnd::Protocol;
                }
                if requests.is_empty() {
                    idle.as_mut().reset(Instant::now() + limits.idle_timeout);
                }
                None
            }
            accepted = connection.accept() => match accepted {
                None => return leaving.unwrap_or(ConnectionEnd::Client),
                Some(Err(e)) => return if e.is_io() { ConnectionEnd::Client } else { ConnectionEnd::Protocol },
                Some(Ok((request, mut respond))) => {
                    served += 1;
                    match H2Stream::admit(request, digest, limits) {
                        Ok(admitted) => {
                            let link: Arc<Link> = admitted.link();
                            let session = ServerSession::new_custom(Box::new(admitted.answered_by(respond)));
                            let (proxy, shutdown) = (Arc::clone(proxy), signal.clone());
                            let begun = Instant::now();
                            requests.spawn(async move {
                                drop(proxy.process_new_http(session, &shutdown).await);
                                link.is_reset_by_client() && begun.elapsed() < EARLY
                            });
                        }
                        Err(status) => {
                            malformed += 1;
                            refuse(&mut respond, status);
                            refused(status);
                            if malformed >= limits.max_malformed {
                                return ConnectionEnd::Protocol;
                            }
                        }
                    }
                    limits.max_requests.filter(|max| served >= *max).map(|_| ConnectionEnd::MaxRequests)
                }
            },
            () = &mut keepalive => return ConnectionEnd::PingTimeout,
            () = &mut age, if leaving.is_none() => Some(ConnectionEnd::MaxAge),
            () = &mut idle, if leaving.is_none() && requests.is_empty() => Some(ConnectionEnd::Idle),
        };
        if let Some(reason) = leave.filter(|_| leaving.is_none()) {
            leaving = Some(reason);
            connection.graceful_shutdown();
        }
    }
}

/// Whether the client took the request back as soon as it had made it.
fn report(ended: Result<bool, tokio::task::JoinError>) -> bool {
    match ended {
        Ok(is_early_reset) => is_early_reset,
        Err(e) => {
            if e.is_panic() {
                tracing::error!(error = %e, "request task panicked");
            }
            false
        }
    }
}

fn builder(limits: &H2Limits) -> h2::server::Builder {
    let windows = limits.windows;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(windows.streams)
        .initial_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes())
        .max_send_buffer_size(usize::try_from(windows.stream_bytes).unwrap_or(usize::MAX))
        .max_header_list_size(limits.max_header_list_bytes)
        // Resets that the client provokes are bounded too (rapid reset, MadeYouReset); h2's own defaults.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(1024));
    builder
}

fn refuse(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // Fails only if the client has gone.
    let _ = respond.send_response(response, true);
}
