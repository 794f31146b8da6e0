//! Circuit breakers and outlier detection around the tries of one request.

use std::{sync::Arc, time::Duration};

use palisade_model::{
    cluster::{ProxyProtocol, UpstreamProtocol},
    reason::Reason,
};

use super::context::RequestCtx;
use crate::{
    index::{Demand, EndpointLive, IndexedCluster, Outcome, Slot},
    request::facts::{Connection, HttpVersion},
    runtime::Runtime,
    serve::proxy_header,
    telemetry::metrics::Limit,
    transport::ConnectionOptions,
};

/// How long a request waits for a connection where nothing else limits it: far longer than any request that would free one.
const PENDING_LIMIT: Duration = Duration::from_secs(300);
/// Connections that belong to one client's connection idle no longer: no other request may use them.
const PRIVATE_IDLE: Duration = Duration::from_secs(5);

/// What the current try is held against.
#[derive(Debug, Clone)]
pub struct Current {
    cluster: Arc<IndexedCluster>,
    endpoint: Arc<EndpointLive>,
}

impl Current {
    pub(super) fn new(cluster: &Arc<IndexedCluster>, endpoint: &Arc<EndpointLive>) -> Self {
        Self { cluster: Arc::clone(cluster), endpoint: Arc::clone(endpoint) }
    }
}

/// Counts the request once, however often it is tried.
///
/// # Errors
/// `overflow` beyond the limit.
pub(super) fn run(runtime: &Runtime, ctx: &mut RequestCtx, cluster: &IndexedCluster) -> Result<(), Reason> {
    if ctx.tries.running.is_some() {
        return Ok(());
    }
    let traffic = &cluster.cluster().traffic;
    let breaker = &cluster.live().breaker;
    let Some(running) = breaker.try_run(traffic.limits.max_requests) else {
        runtime.metrics.upstream.count_overflow(Limit::Requests);
        return Err(Reason::Overflow);
    };
    if traffic.retry_budget.is_some() {
        breaker.note_request(cluster.live().now(), traffic.retry_budget.as_ref());
    }
    ctx.tries.running = Some(running);
    Ok(())
}

/// A connection, or a place in the queue for one. `endpoint` is where the request is to go.
///
/// # Errors
/// `overflow` when the queue is full or nothing came free in time.
pub(super) async fn connection(
    runtime: &Runtime,
    cluster: &IndexedCluster,
    endpoint: Option<&EndpointLive>,
    version: HttpVersion,
    left: Option<Duration>,
) -> Result<(Slot, bool), Reason> {
    let limits = &cluster.cluster().traffic.limits;
    let demand = Demand {
        // As configured: a request that rides a shared connection between two sidecars counts as what it is at its ends.
        is_shared: match cluster.cluster().protocol {
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Client => version == HttpVersion::Http2,
            UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => false,
        },
        streams: cluster.cluster().traffic.connection.max_streams,
        limit: limits.max_connections,
    };
    let is_first = endpoint.is_some_and(|endpoint| endpoint.in_flight() == 0);
    let breaker = &cluster.live().breaker;
    if let Some(slot) = breaker.try_connect(demand, is_first) {
        return Ok((slot, false));
    }
    let overflow = || {
        runtime.metrics.upstream.count_overflow(Limit::Pending);
        Reason::Overflow
    };
    let waiting = breaker.queue(demand, limits.max_pending_requests).ok_or_else(overflow)?;
    match waiting.slot(left.unwrap_or(PENDING_LIMIT)).await {
        Some(slot) => Ok((slot, true)),
        None if left.is_some() => Err(Reason::Timeout),
        None => Err(overflow()),
    }
}

/// Whether limit and budget leave a retry; if so, it is counted until the next one or the request's end.
pub(super) fn may_retry(ctx: &mut RequestCtx, cluster: &IndexedCluster) -> bool {
    let traffic = &cluster.cluster().traffic;
    let breaker = &cluster.live().breaker;
    ctx.tries.retrying = None;
    ctx.tries.retrying =
        breaker.try_retry(traffic.limits.max_retries, traffic.retry_budget.as_ref(), cluster.live().now());
    ctx.tries.retrying.is_some()
}

/// Notes how the current try goes.
pub(super) fn report(runtime: &Runtime, ctx: &RequestCtx, outcome: Outcome) {
    let Some(Current { cluster, endpoint }) = &ctx.tries.current else { return };
    if let Some(cause) = cluster.report(endpoint, outcome) {
        runtime.metrics.upstream.count_ejection(cause);
        tracing::warn!(
            cluster = %cluster.name(),
            upstream = ?ctx.record.upstream,
            cause = cause.as_str(),
            "endpoint ejected"
        );
    }
}

/// Options of the connections for one client: shared ones, or such as carry its address in front.
pub(crate) fn options(cluster: &IndexedCluster, client: &Connection) -> Option<Arc<ConnectionOptions>> {
    let Some(version) = cluster.cluster().traffic.connection.proxy_protocol else {
        return cluster.connection().cloned();
    };
    let shared = cluster.connection().map_or_else(ConnectionOptions::default, |options| (**options).clone());
    let preamble = header(version, client);
    Some(Arc::new(ConnectionOptions { preamble, idle: Some(PRIVATE_IDLE), ..shared }))
}

/// How long a connection with these options may idle in a pool.
pub(super) fn idle_of(options: Option<&Arc<ConnectionOptions>>, usual: Duration) -> Duration {
    match options {
        Some(options) if !options.preamble.is_empty() => usual.min(PRIVATE_IDLE),
        _ => usual,
    }
}

fn header(version: ProxyProtocol, client: &Connection) -> Arc<[u8]> {
    proxy_header::encode(version, client.source, client.destination).into()
}
