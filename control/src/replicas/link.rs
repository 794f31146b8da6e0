//! The follower's side: it finds the leader by the Lease, tells it what its own proxies hold, and answers questions about them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use palisade_compile::status::generations;
use palisade_wire::proto::v1::{
    FleetReport, ReplicaAnswer, ReplicaHello, ReplicaReport, ReplicaRequest, replica_report::Kind,
    replicas_client::ReplicasClient,
};
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{MAX_MESSAGE_BYTES, PROTOCOL, Place, proof, wire};
use crate::{
    admin::{Answer, Page, here},
    fleet::ObjectId,
    leader::Leader,
    serve::Shared,
    slices::MeshWatch,
};

/// Connecting and the first answer.
const OPEN: Duration = Duration::from_secs(5);

/// What changes within this time is told together.
const GATHER: Duration = Duration::from_millis(20);

/// How often the leader gets a sign of life.
const ALIVE: Duration = Duration::from_secs(2);

/// A leader that takes no message for this long is gone.
const STALLED: Duration = Duration::from_secs(10);

/// Proxies that have not been told of a mesh for this long are reported to be behind.
const LATE: Duration = Duration::from_secs(1);

/// Questions that are worked on at a time.
const AT_ONCE: usize = 8;

/// Waits between attempts: doubled each time, with jitter.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Tells whoever leads, until `shared` stops.
pub(crate) async fn follow(shared: Arc<Shared>, mut leaders: watch::Receiver<Option<Leader>>) {
    let Some(place) = shared.replicas.place().cloned() else { return };
    let mut wait = FIRST_RETRY;
    loop {
        let leader = leaders.borrow_and_update().clone().filter(|leader| *leader.name != *place.name);
        let Some(leader) = leader else {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return,
                changed = leaders.changed() => if changed.is_err() { return },
            }
            wait = FIRST_RETRY;
            continue;
        };
        let since = Instant::now();
        let ended = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            // Another one leads: the stream to this one ends.
            changed = changed_leader(&mut leaders, &leader) => {
                if changed.is_err() {
                    return;
                }
                "another replica leads".to_owned()
            }
            ended = tell(&shared, &place, &leader) => ended,
        };
        shared.fleet.end_report();
        shared.replicas.links.lock().leader = None;
        if since.elapsed() > LAST_RETRY {
            wait = FIRST_RETRY;
        }
        tracing::info!(leader = %leader.name, address = %leader.address, %ended, "the leader is not told");
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
        }
        wait = (wait * 2).min(LAST_RETRY);
    }
}

async fn changed_leader(
    leaders: &mut watch::Receiver<Option<Leader>>,
    leader: &Leader,
) -> Result<(), watch::error::RecvError> {
    leaders.wait_for(|now| now.as_ref() != Some(leader)).await.map(drop)
}

/// Until the stream ends; says why it did.
async fn tell(shared: &Arc<Shared>, place: &Place, leader: &Leader) -> String {
    match open(shared, place, leader).await {
        Ok((reports, requests)) => {
            tracing::info!(leader = %leader.name, address = %leader.address, "telling the leader");
            tokio::select! {
                biased;
                ended = answer(shared, requests, reports.clone()) => ended,
                ended = report(shared, &reports) => ended,
            }
        }
        Err(error) => error,
    }
}

type Reports = mpsc::Sender<ReplicaReport>;

async fn open(
    shared: &Arc<Shared>,
    place: &Place,
    leader: &Leader,
) -> Result<(Reports, tonic::Streaming<ReplicaRequest>), String> {
    let opening = async {
        let channel = channel(shared, place, leader.address).await?;
        let (reports, outbound) = mpsc::channel(AT_ONCE);
        let hello = ReplicaHello {
            protocol: PROTOCOL,
            replica: place.name.to_string(),
            revision: place.revisions.name().to_string(),
        };
        let first = ReplicaReport { kind: Some(Kind::Hello(hello)) };
        reports.try_send(first).map_err(|error| error.to_string())?;
        let mut client = ReplicasClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let answered = client.share(ReceiverStream::new(outbound)).await;
        let requests = answered.map_err(|status| format!("{} ({})", status.message(), status.code()))?.into_inner();
        shared.replicas.links.lock().leader = Some((Arc::clone(&leader.name), client));
        Ok((reports, requests))
    };
    tokio::time::timeout(OPEN, opening).await.unwrap_or_else(|_| Err("the leader does not answer".to_owned()))
}

/// A connection to the replica at an address, which has to prove that it is one.
async fn channel(shared: &Shared, place: &Place, address: SocketAddr) -> Result<Channel, String> {
    let config =
        proof::client_config(&shared.authority.current(), &place.namespace).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(proof::server_name(&place.namespace)).map_err(|error| error.to_string())?;
    let dial = tower::service_fn(move |_: Uri| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    Endpoint::from_static("http://control")
        .http2_keep_alive_interval(ALIVE)
        .keep_alive_timeout(STALLED)
        .connect_with_connector(dial)
        .await
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}")
        })
}

/// Tells what changes; says why it ended.
async fn report(shared: &Arc<Shared>, reports: &Reports) -> String {
    let mut changes = shared.fleet.changes();
    let mut mesh = shared.mesh.clone();
    let mut compiled: BTreeMap<ObjectId, i64> = BTreeMap::new();
    let mut told_epoch = 0;
    let mut since: (u64, Instant) = (0, Instant::now());
    shared.fleet.begin_report();
    let mut alive = tokio::time::interval(ALIVE);
    loop {
        let (epoch, now) = newest(&mut mesh);
        if since.0 != epoch {
            since = (epoch, Instant::now());
        }
        let told = shared.fleet.report(epoch, since.1.elapsed() >= LATE);
        let (mut fresh, mut removed) = (Vec::new(), Vec::new());
        if told.is_told && told_epoch != epoch {
            let now = now.map(|mesh| objects(&*mesh)).unwrap_or_default();
            fresh.extend(now.iter().filter(|(id, g)| compiled.get(id) != Some(g)).map(|(id, g)| (id.clone(), *g)));
            removed.extend(compiled.keys().filter(|id| !now.contains_key(id)).cloned());
            (compiled, told_epoch) = (now, epoch);
        }
        let is_waiting = !told.is_told;
        for message in wire::messages(told, fresh, removed) {
            if message == FleetReport::default() {
                continue;
            }
            let message = ReplicaReport { kind: Some(Kind::Fleet(message)) };
            if reports.send_timeout(message, STALLED).await.is_err() {
                return "the leader takes no messages".to_owned();
            }
        }
        tokio::select! {
            biased;
            _ = alive.tick() => {
                let message = ReplicaReport { kind: Some(Kind::Fleet(FleetReport::default())) };
                if reports.send_timeout(message, STALLED).await.is_err() {
                    return "the leader takes no messages".to_owned();
                }
            }
            changed = changes.changed() => if changed.is_err() { return "the fleet is gone".to_owned() },
            changed = mesh.changed() => if changed.is_err() { return "the mesh is gone".to_owned() },
            () = tokio::time::sleep(GATHER), if is_waiting => {}
        }
        tokio::time::sleep(GATHER).await;
        changes.mark_unchanged();
    }
}

fn newest(mesh: &mut MeshWatch) -> (u64, Option<Arc<dyn crate::slices::Slices>>) {
    let newest = mesh.borrow_and_update().clone();
    (newest.as_ref().map_or(0, |mesh| mesh.epoch()), newest)
}

/// Objects that a status may be about, with their compiled generation.
fn objects(mesh: &dyn crate::slices::Slices) -> BTreeMap<ObjectId, i64> {
    let Some(mesh) = mesh.mesh() else { return BTreeMap::new() };
    generations(mesh.inputs()).map(|origin| (ObjectId::of(&origin), origin.generation)).collect()
}

/// Answers questions; says why it ended.
async fn answer(shared: &Arc<Shared>, mut requests: tonic::Streaming<ReplicaRequest>, reports: Reports) -> String {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let ReplicaRequest { request, question } = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return "the leader closed the stream".to_owned(),
            Err(status) => return format!("{} ({})", status.message(), status.code()),
        };
        let page = question.and_then(Page::of);
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return "answering has ended".to_owned() };
        let (shared, reports) = (Arc::clone(shared), reports.clone());
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let _slot = slot;
            let answer = match page {
                Some(page) => here(&shared, &page).await,
                None => Answer::line(http::StatusCode::NOT_FOUND, "no such page"),
            };
            let answer = ReplicaAnswer { request, answer: Some(answer.into_message()) };
            // The leader may be gone already.
            drop(reports.send_timeout(ReplicaReport { kind: Some(Kind::Answer(answer)) }, STALLED).await);
        });
    }
}
