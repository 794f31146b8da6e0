//! The leader's side: replicas tell, and are asked.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::Stream;
use palisade_wire::proto::v1::{
    PageAnswer, PageQuestion, ReplicaAnswer, ReplicaHello, ReplicaReport, ReplicaRequest, replica_report::Kind,
    replicas_server::Replicas as Service,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Joined, PROTOCOL, Place, Question, proof::is_replica, whole, wire};
use crate::{
    admin::Page,
    metrics::Refusal,
    serve::{PeerProof, Shared},
};

/// The first message must come within this time.
const HELLO: Duration = Duration::from_secs(10);

/// A replica that says nothing for this long, not even that it lives, is gone.
const SILENCE: Duration = Duration::from_secs(8);

/// How often it is looked whether this replica still leads.
const LOOK: Duration = Duration::from_secs(1);

/// Questions that a replica owes an answer to.
const OWED: usize = 64;

pub(crate) struct Sharing(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Service for Sharing {
    type ShareStream = Pin<Box<dyn Stream<Item = Result<ReplicaRequest, Status>> + Send>>;

    async fn share(&self, request: Request<Streaming<ReplicaReport>>) -> Result<Response<Self::ShareStream>, Status> {
        let place = self.leader(&request)?.clone();
        let (requests, outbound) = mpsc::channel(OWED);
        let shared = Arc::clone(&self.0);
        let mut inbound = request.into_inner();
        self.0.tasks.spawn(async move {
            let status = match tokio::time::timeout(HELLO, inbound.message()).await {
                Ok(Ok(Some(ReplicaReport { kind: Some(Kind::Hello(hello)) }))) => match greet(&shared, &place, hello) {
                    Ok((name, joined)) => {
                        let status = follow(&shared, &place, &name, joined, inbound, &requests).await;
                        tracing::info!(replica = %name, %status, "replica left");
                        status
                    }
                    Err(status) => status,
                },
                Ok(Err(status)) => status,
                Ok(Ok(_)) => Status::invalid_argument("the first message says who tells"),
                Err(_) => Status::deadline_exceeded("nobody says who tells"),
            };
            // The replica may be gone already.
            drop(requests.send_timeout(Err(status), Duration::from_secs(1)).await);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }

    async fn ask(&self, request: Request<PageQuestion>) -> Result<Response<PageAnswer>, Status> {
        self.leader(&request)?;
        let page = Page::of(request.into_inner()).ok_or_else(|| Status::invalid_argument("no page is named"))?;
        Ok(Response::new(whole(&self.0, page).await.into_message()))
    }
}

impl Sharing {
    /// This replica's place, if it leads and the caller is another one.
    fn leader<T>(&self, request: &Request<T>) -> Result<&Place, Status> {
        let place = self.0.replicas.place().ok_or_else(|| Status::unimplemented("there are no replicas here"))?;
        let proof = request.extensions().get::<PeerProof>().cloned().unwrap_or_default();
        // The handshake has proven that the caller has the key, and nothing else.
        let judged = self.0.authority.current().judge(&proof.certificates, SystemTime::now());
        if let Err(error) = judged {
            self.0.metrics.refuse(Refusal::Unauthenticated);
            return Err(Status::unauthenticated(format!("the caller's certificate does not count: {error}")));
        }
        if !is_replica(&proof.certificates, &place.namespace) {
            self.0.metrics.refuse(Refusal::Forbidden);
            return Err(Status::permission_denied("the caller's certificate is not a replica's"));
        }
        if !place.leadership.holds() {
            return Err(Status::unavailable("this replica does not lead"));
        }
        Ok(place)
    }
}

fn greet(shared: &Shared, place: &Place, hello: ReplicaHello) -> Result<(Arc<str>, Joined), Status> {
    let ReplicaHello { protocol, replica, revision } = hello;
    if protocol != PROTOCOL {
        return Err(Status::failed_precondition(format!("protocol {protocol} is not spoken here, only {PROTOCOL}")));
    }
    let own = place.revisions.name();
    if *revision != **own {
        return Err(Status::failed_precondition(format!("this is revision `{own}`, not `{revision}`")));
    }
    if replica.is_empty() || *replica == *place.name {
        return Err(Status::invalid_argument("a replica has a name of its own"));
    }
    let name: Arc<str> = replica.into();
    let joined = shared.replicas.join(&name).ok_or_else(|| Status::resource_exhausted("too many replicas"))?;
    shared.fleet.replica_joined(&name);
    tracing::info!(replica = %name, "replica joined");
    Ok((name, joined))
}

/// Until the stream ends; says why it did.
async fn follow(
    shared: &Shared,
    place: &Place,
    name: &Arc<str>,
    joined: Joined,
    mut inbound: Streaming<ReplicaReport>,
    requests: &mpsc::Sender<Result<ReplicaRequest, Status>>,
) -> Status {
    let Joined { number, mut questions, end } = joined;
    let mut owed: BTreeMap<u64, oneshot::Sender<PageAnswer>> = BTreeMap::new();
    let mut asked = 0;
    let mut heard = tokio::time::Instant::now();
    let mut look = tokio::time::interval(LOOK);
    let status = loop {
        // Every branch is cancel-safe: nothing is taken that is not handled.
        tokio::select! {
            biased;
            () = end.cancelled() => break Status::aborted("the replica has come anew"),
            () = shared.stop.cancelled() => break Status::unavailable("the control plane is draining"),
            () = tokio::time::sleep_until(heard + SILENCE) => break Status::deadline_exceeded("the replica is silent"),
            _ = look.tick() => if !place.leadership.holds() {
                break Status::unavailable("this replica does not lead any more");
            },
            message = inbound.message() => {
                heard = tokio::time::Instant::now();
                match message {
                    Ok(Some(ReplicaReport { kind: Some(Kind::Fleet(report)) })) => match wire::told(report) {
                        Ok(told) => if !shared.fleet.replica_told(name, told) {
                            break Status::invalid_argument("a part of a proxy that was never named");
                        },
                        Err(missing) => break Status::invalid_argument(missing.to_string()),
                    },
                    Ok(Some(ReplicaReport { kind: Some(Kind::Answer(ReplicaAnswer { request, answer })) })) => {
                        if let (Some(waiting), Some(answer)) = (owed.remove(&request), answer) {
                            // Whoever asked may have given up.
                            drop(waiting.send(answer));
                        }
                    }
                    Ok(Some(_)) => break Status::invalid_argument("reports and answers are expected"),
                    Ok(None) => break Status::ok("the replica closed the stream"),
                    Err(status) => break status,
                }
            }
            Some(Question { question, answer }) = questions.recv() => {
                asked += 1;
                owed.insert(asked, answer);
                if owed.len() > OWED {
                    owed.pop_first();
                }
                let request = ReplicaRequest { request: asked, question: Some(question) };
                if requests.try_send(Ok(request)).is_err() {
                    owed.remove(&asked);
                }
            }
        }
    };
    shared.replicas.leave(name, number, || shared.fleet.replica_left(name));
    status
}
