//! Copies of requests (mirrors): off the original's path, bounded in number and in bytes, counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use super::{context::RequestCtx, head, limits};
use crate::{
    index::RuntimeIndex,
    names::Names,
    request::{
        balance::Picked,
        dynamic::{self, Wanted},
        facts::Chance,
        upstream::{protocol_towards, tls_towards},
        verdict::{Action, ForwardPlan},
    },
    runtime::Runtime,
    telemetry::Copied,
    transport::{
        CopiedBody, CopiedParts, MeshConnector, PeerOptions, TransportRef, UpstreamProtocol, detached_request,
        send_copy,
    },
};

/// Copies in flight in one process. Beyond that a copy is left out: an upstream that hangs must not fill the memory.
const MAX_IN_FLIGHT: usize = 1024;
/// Bytes of one copy's body that may wait. A copy that takes them slower than the original is given up.
const MAX_WAITING_BYTES: usize = 256 * 1024;
/// Parts of one copy's body that may wait: as many as bytes of the least size that HTTP stacks send.
const MAX_WAITING_PARTS: usize = 256;
/// How long a copy may take where the route has no limit.
const LIMIT: Duration = Duration::from_secs(60);

/// The copies that a process has in flight.
#[derive(Debug)]
pub struct Copies {
    places: Arc<Semaphore>,
    /// Owns the tasks: they end with the process's runtime at the latest.
    tasks: Mutex<JoinSet<()>>,
}

/// The copies of one request whose bodies are still being teed.
#[derive(Debug, Default)]
pub struct Tee {
    copies: Vec<Copy>,
    /// Bytes of the body that the copies have got.
    passed: u64,
    /// Bytes of the body that the try in progress has seen: a retry replays them.
    seen: u64,
}

#[derive(Debug)]
struct Copy {
    parts: mpsc::Sender<CopiedBody>,
    waiting: Arc<AtomicUsize>,
}

/// One copy, ready to be sent.
struct Order {
    connector: MeshConnector,
    names: Names,
    index: Arc<RuntimeIndex>,
    picked: Picked,
    transport: TransportRef,
    protocol: UpstreamProtocol,
    options: PeerOptions,
    request: RequestHeader,
    limit: Duration,
    place: OwnedSemaphorePermit,
}

impl Default for Copies {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), tasks: Mutex::default() }
    }
}

/// Begins the copies that the verdict asks for. Never waits, never fails: what cannot be sent is counted.
pub(super) fn begin(runtime: &Runtime, session: &mut Session, ctx: &mut RequestCtx) {
    let Some(Action::Forward(plan)) = ctx.verdict.as_ref().map(|verdict| &verdict.action) else { return };
    for _ in 0..plan.unsent_mirrors {
        runtime.metrics.count_copy(Copied::Failed);
    }
    // An upgraded connection is a conversation: it cannot be had twice.
    if plan.mirrors.is_empty() || ctx.is_upgrade {
        return;
    }
    let is_empty = session.as_mut().is_body_empty();
    let mut tee = Tee::default();
    for cluster in &plan.mirrors {
        let Ok(place) = Arc::clone(&runtime.copies.places).try_acquire_owned() else {
            runtime.metrics.count_copy(Copied::LeftOut);
            continue;
        };
        let Some(order) = order(runtime, session, ctx, plan, cluster, place) else {
            runtime.metrics.count_copy(Copied::Failed);
            continue;
        };
        let (parts, queue) = mpsc::channel(MAX_WAITING_PARTS);
        let waiting = Arc::new(AtomicUsize::new(0));
        let body = (!is_empty).then(|| CopiedParts { parts: queue, waiting: Arc::clone(&waiting) });
        if !is_empty {
            tee.copies.push(Copy { parts, waiting });
        }
        let metrics = Arc::clone(&runtime.metrics);
        let mut tasks = runtime.copies.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let is_sent = run(order, body).await;
            metrics.count_copy(if is_sent { Copied::Sent } else { Copied::Failed });
        });
    }
    ctx.tee = tee;
}

fn order(
    runtime: &Runtime,
    session: &Session,
    ctx: &RequestCtx,
    plan: &ForwardPlan,
    cluster: &str,
    place: OwnedSemaphorePermit,
) -> Option<Order> {
    let standing = ctx.standing.as_ref()?;
    let received = ctx.head.as_ref()?;
    let cluster = standing.index.cluster(cluster)?;
    let dialled = standing.admitted.facts.destination;
    let mut chance = Chance::random(SystemTime::now(), fastrand::Rng::new());
    let host = plan.head.host();
    let wanted = Wanted { dialled, host: &host, hash: plan.hash };
    let picked = dynamic::pick(&plan.permit, cluster, &wanted, &[], &mut chance).ok()?;
    let tls = tls_towards(cluster, picked.endpoint.as_ref());
    let protocol = protocol_towards(cluster, picked.endpoint.as_ref(), &tls, received.version, false);
    let connection = limits::options(cluster, &standing.admitted.facts);
    let transport = runtime.transports.find(&standing.index, &tls, picked.source, &host, connection.as_ref()).ok()?;
    let mut request = detached_request(session.req_header());
    head::write(&mut request, &plan.head, protocol.carries, 1).ok()?;
    Some(Order {
        connector: runtime.transports.connector().clone(),
        names: runtime.names.clone(),
        index: Arc::clone(&standing.index),
        picked,
        transport,
        protocol: if protocol.is_http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 },
        options: PeerOptions {
            connect_timeout: cluster.cluster().connect_timeout,
            read_timeout: None,
            ..PeerOptions::default()
        },
        request,
        limit: plan.timeout.unwrap_or(LIMIT),
        place,
    })
}

async fn run(order: Order, body: Option<CopiedParts>) -> bool {
    let Order { connector, names, index, picked, transport, protocol, options, request, limit, place } = order;
    let sent = async {
        let address = names.destination(&picked, index.settings()).await.ok()?;
        let peer = connector.peer(address, &transport, protocol, &options);
        send_copy(&connector, &peer, request, body).await.ok()
    };
    let is_sent = matches!(tokio::time::timeout(limit, sent).await, Ok(Some(())));
    drop(place);
    is_sent
}

impl Tee {
    /// A try begins: it sees the body from its start.
    pub(super) fn rewind(&mut self) {
        self.seen = 0;
    }

    /// Gives the copies what they have not got yet. Never waits: a copy whose queue is full is given up.
    pub(super) fn pass(&mut self, body: Option<&Bytes>, is_end: bool) {
        if self.copies.is_empty() {
            return;
        }
        let bytes = body.cloned().unwrap_or_default();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let known = usize::try_from(self.passed.saturating_sub(self.seen)).unwrap_or(usize::MAX);
        self.seen = self.seen.saturating_add(length);
        let fresh = bytes.slice(known.min(bytes.len())..);
        self.passed = self.passed.max(self.seen);
        self.copies.retain(|copy| copy.pass(&fresh, is_end));
        if is_end {
            self.copies.clear();
        }
    }
}

impl Copy {
    fn pass(&self, bytes: &Bytes, is_end: bool) -> bool {
        if !bytes.is_empty() {
            let waiting = self.waiting.fetch_add(bytes.len(), Ordering::AcqRel);
            if waiting.saturating_add(bytes.len()) > MAX_WAITING_BYTES
                || self.parts.try_send(CopiedBody::Chunk(bytes.clone())).is_err()
            {
                return false;
            }
        }
        !is_end || self.parts.try_send(CopiedBody::End).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tee() -> (Tee, mpsc::Receiver<CopiedBody>) {
        let (parts, queue) = mpsc::channel(4);
        let copy = Copy { parts, waiting: Arc::default() };
        (Tee { copies: vec![copy], ..Tee::default() }, queue)
    }

    fn received(queue: &mut mpsc::Receiver<CopiedBody>) -> String {
        let mut text = String::new();
        while let Ok(part) = queue.try_recv() {
            match part {
                CopiedBody::Chunk(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                CopiedBody::End => text.push('.'),
            }
        }
        text
    }

    #[test]
    fn a_retry_repeats_nothing() {
        let (mut tee, mut queue) = tee();
        tee.pass(Some(&Bytes::from_static(b"abc")), false);
        tee.rewind();
        tee.pass(Some(&Bytes::from_static(b"abcd")), false);
        tee.pass(Some(&Bytes::from_static(b"e")), true);
        assert_eq!(received(&mut queue), "abcde.");
    }

    #[test]
    fn a_copy_that_is_too_slow_is_taken_back() {
        let (mut tee, mut queue) = tee();
        tee.pass(Some(&Bytes::from(vec![b'x'; MAX_WAITING_BYTES])), false);
        tee.pass(Some(&Bytes::from_static(b"y")), true);
        assert!(tee.copies.is_empty());
        assert!(matches!(queue.try_recv(), Ok(CopiedBody::Chunk(_))));
        // No end: the copy is never taken for a whole one.
        assert!(matches!(queue.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
