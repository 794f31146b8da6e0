//! The configuration service: one state machine per stream, fed by the proxy and by the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::Stream;
use palisade_compile::Slice;
use palisade_model::{hash::ContentHash, service::Query, settings::WorkloadRef, snapshot::Snapshot};
use palisade_wire::{
    delta::{
        Server, Unbound, Violation,
        server::{Action, Greeting, Patience},
        withhold,
    },
    proto::v1::{ControlMessage, ProxyMessage, configuration_server::Configuration},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Shared,
    caller::{Caller, PeerProof, Purpose, pod_of},
};
use crate::{
    ca::CertificateAuthority,
    fleet::{ExplainRequest, SessionId},
    metrics::{Answer, AnswerLabels, Refusal},
    slices::{MeshWatch, Slices},
};

/// Messages that wait for a slow proxy: a few chunks, the rest waits in the session.
const OUTBOUND: usize = 8;

/// Explanations that are asked of one proxy at a time.
const QUESTIONS: usize = 16;

/// A proxy that takes no message for this long is gone.
const STALLED: Duration = Duration::from_secs(60);

pub(crate) struct Delta(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Configuration for Delta {
    type DeltaStream = Pin<Box<dyn Stream<Item = Result<ControlMessage, Status>> + Send>>;

    async fn delta(&self, request: Request<Streaming<ProxyMessage>>) -> Result<Response<Self::DeltaStream>, Status> {
        let proof = request.extensions().get::<PeerProof>().cloned().unwrap_or_default();
        let (caller, _) = self.0.authenticate(request.metadata(), &proof, Purpose::Configuration).await?;
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let mut session = Session {
            machine: Server::new(Instant::now(), Patience::default()),
            shared: Arc::clone(&self.0),
            caller,
            mesh: self.0.mesh.clone(),
            trust: self.0.authority.follow(),
            proof,
            place: None,
            subscriptions: BTreeSet::new(),
            slice: None,
            outbound: outbound.clone(),
            offered: None,
            questions: None,
            asked: BTreeMap::new(),
            next_question: 0,
        };
        let inbound = request.into_inner();
        self.0.tasks.spawn(async move {
            let status = session.run(inbound).await;
            if let Some((id, pod)) = session.place.take() {
                session.shared.fleet.left(id);
                session.shared.metrics.proxies.dec();
                tracing::info!(proxy = %format_args!("{}/{}", pod.namespace, pod.name), %status, "proxy left");
            } else {
                tracing::warn!(caller = %session.caller.identity, %status, "stream refused");
            }
            // The proxy may be gone already.
            drop(outbound.send_timeout(Err(status), Duration::from_secs(1)).await);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// Why a slice is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// There is another mesh: without a difference there is nothing to say.
    Mesh,
    /// The proxy waits for an answer.
    Asked,
}

struct Session {
    machine: Server,
    shared: Arc<Shared>,
    caller: Caller,
    mesh: MeshWatch,
    trust: watch::Receiver<Arc<CertificateAuthority>>,
    /// What its connection proved; judged again when what is trusted changes.
    proof: PeerProof,
    place: Option<(SessionId, WorkloadRef)>,
    subscriptions: BTreeSet<Query>,
    /// What the proxy should hold, as it was cut out of the mesh.
    slice: Option<Arc<Slice>>,
    outbound: mpsc::Sender<Result<ControlMessage, Status>>,
    offered: Option<Instant>,
    questions: Option<mpsc::Receiver<ExplainRequest>>,
    /// Explanations that the proxy owes. At most [`QUESTIONS`]: older ones have timed out.
    asked: BTreeMap<u64, oneshot::Sender<Option<Bytes>>>,
    next_question: u64,
}

impl Session {
    /// Until the stream ends; says why it did.
    async fn run(&mut self, mut inbound: Streaming<ProxyMessage>) -> Status {
        let shared = Arc::clone(&self.shared);
        let drained = shared.turn_to_leave();
        tokio::pin!(drained);
        let mut is_followed = true;
        loop {
            let deadline = self.machine.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Every branch is cancel-safe: nothing is taken that is not handled.
            let actions = tokio::select! {
                biased;
                () = &mut drained => return Status::unavailable("the control plane is draining"),
                () = due => self.machine.tick(Instant::now()),
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.machine.message(Instant::now(), message),
                    Ok(None) => return Status::ok("the proxy closed the stream"),
                    Err(status) => return status,
                },
                question = next_question(&mut self.questions) => self.ask(question),
                changed = self.trust.changed() => match changed.map(|()| self.entrust()) {
                    Ok(Ok(actions)) => actions,
                    Ok(Err(status)) => return status,
                    Err(_) => return Status::unavailable("the control plane is going away"),
                },
                changed = self.mesh.changed(), if is_followed => match changed {
                    Ok(()) => match self.retarget(Why::Mesh).await {
                        Ok(actions) => actions,
                        Err(status) => return status,
                    },
                    // Nothing is compiled any more; the proxy has what there is until its turn to leave comes.
                    Err(_) if shared.stop.is_cancelled() => {
                        is_followed = false;
                        Vec::new()
                    }
                    Err(_) => return Status::unavailable("the control plane is going away"),
                },
            };
            if let Err(status) = self.act(actions).await {
                return status;
            }
        }
    }

    fn ask(&mut self, question: ExplainRequest) -> Vec<Action> {
        let ExplainRequest { decision, answer } = question;
        self.next_question += 1;
        self.asked.insert(self.next_question, answer);
        if self.asked.len() > QUESTIONS {
            self.asked.pop_first();
        }
        self.machine.explain(self.next_question, &decision)
    }

    async fn act(&mut self, actions: Vec<Action>) -> Result<(), Status> {
        let mut pending = std::collections::VecDeque::from(actions);
        while let Some(action) = pending.pop_front() {
            match action {
                Action::Send(message) => {
                    self.offered.get_or_insert_with(Instant::now);
                    self.outbound
                        .send_timeout(Ok(message), STALLED)
                        .await
                        .map_err(|_| Status::deadline_exceeded("the proxy takes no messages"))?;
                }
                Action::Greeted(greeting) => {
                    self.greeted(greeting)?;
                    // Before any configuration: what is revoked must be known when that is in force.
                    pending.extend(self.entrust()?);
                    pending.extend(self.retarget(Why::Asked).await?);
                }
                Action::Subscribed(subscriptions) => {
                    self.record(|record| record.subscriptions.clone_from(&subscriptions));
                    self.subscriptions = subscriptions;
                    pending.extend(self.retarget(Why::Asked).await?);
                }
                Action::Acked { offer, unbound } => {
                    self.answered(Answer::Ack);
                    tracing::debug!(proxy = %self.name(), version = %offer.version(), "acknowledged");
                    for Unbound { listener, message } in &unbound {
                        tracing::warn!(proxy = %self.name(), %listener, %message, "in force without this listener");
                    }
                    self.record(|record| {
                        record.nacked = None;
                        record.acked = Some((offer, SystemTime::now()));
                        let listeners = unbound.into_iter().map(|Unbound { listener, message }| (listener, message));
                        record.unbound = listeners.collect();
                    });
                }
                Action::Surplus(queries) => {
                    self.shared.metrics.refuse(Refusal::Protocol);
                    let example = queries.first().map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(proxy = %self.name(), count = queries.len(), %example, "subscribed to too much");
                }
                Action::Nacked(rejection) => {
                    self.answered(Answer::Nack);
                    let key = rejection.key.as_ref().map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(proxy = %self.name(), %key, message = %rejection.message, "refused by proxy");
                    self.record(|record| record.nacked = Some((rejection, SystemTime::now())));
                }
                Action::Explained { request, json } => {
                    if let Some(answer) = self.asked.remove(&request) {
                        // Whoever asked may have given up.
                        drop(answer.send(json));
                    }
                }
                Action::Standing(standing) => {
                    if let Some(problem) = &standing.problem {
                        tracing::warn!(proxy = %self.name(), %problem, "does not trust what it should");
                    }
                    self.record(|record| record.standing = Some(standing));
                }
                Action::Unofferable(error) => {
                    tracing::warn!(proxy = %self.name(), %error, "nothing can be offered");
                    self.record(|record| record.unofferable = Some(error.to_string().into()));
                }
                Action::Close(violation) => {
                    self.shared.metrics.refuse(Refusal::Protocol);
                    return Err(match violation {
                        Violation::Protocol { .. } => Status::failed_precondition(violation.to_string()),
                        Violation::Limit { .. } => Status::resource_exhausted(violation.to_string()),
                        Violation::Timeout(_) => Status::deadline_exceeded(violation.to_string()),
                        _ => Status::invalid_argument(violation.to_string()),
                    });
                }
            }
        }
        Ok(())
    }

    fn greeted(&mut self, greeting: Greeting) -> Result<(), Status> {
        let believed = WorkloadRef { namespace: Arc::clone(&greeting.namespace), name: Arc::clone(&greeting.name) };
        let mesh = current(&self.mesh)?;
        let pod = pod_of(&self.caller, believed, &*mesh).map_err(|refused| {
            self.shared.metrics.refuse(Refusal::Forbidden);
            Status::from(refused)
        })?;
        let (explain, questions) = mpsc::channel(QUESTIONS);
        self.questions = Some(questions);
        let id = self.shared.fleet.joined(pod.clone(), &greeting, explain, SystemTime::now());
        self.shared.metrics.proxies.inc();
        let held = greeting.held.as_ref().map(ContentHash::to_string).unwrap_or_default();
        tracing::info!(proxy = %format_args!("{}/{}", pod.namespace, pod.name), build = %greeting.build, %held, "proxy joined");
        self.place = Some((id, pod));
        self.subscriptions = greeting.subscriptions;
        Ok(())
    }

    /// Tells the proxy whose certificates count now, and asks whether its own still does, if that is all that it came with.
    fn entrust(&mut self) -> Result<Vec<Action>, Status> {
        let authority = Arc::clone(&self.trust.borrow_and_update());
        if self.caller.pod.is_none() {
            self.shared.judged(&self.proof, false)?;
        }
        let mut trust = authority.trust().clone();
        if self.shared.signer.is_some() {
            // Certificates are of another root than the authority's own.
            trust.signing = None;
        }
        Ok(self.machine.trust(&trust))
    }

    /// Computes the proxy's slice of the newest mesh, off the async threads.
    async fn retarget(&mut self, why: Why) -> Result<Vec<Action>, Status> {
        let Some((_, pod)) = &self.place else { return Ok(Vec::new()) };
        let mesh = {
            let newest = self.mesh.borrow_and_update();
            newest.clone().ok_or_else(|| Status::unavailable("no configuration is compiled yet"))?
        };
        // A stream outlives meshes: its pod may have been made anew for another account, or become a gateway.
        if mesh.workload(pod).is_some() {
            pod_of(&self.caller, pod.clone(), &*mesh).map_err(|refused| {
                self.shared.metrics.refuse(Refusal::Forbidden);
                Status::from(refused)
            })?;
        }
        let epoch = mesh.epoch();
        // Most changes concern few proxies, and that one is none of them is known at once.
        if self.slice.as_ref().is_some_and(|slice| mesh.is_slice(slice, pod, &self.subscriptions)) {
            if let Some((id, _)) = &self.place {
                self.shared.fleet.told(*id, epoch);
            }
            let same = self.slice.as_ref().filter(|_| why == Why::Asked).map(|slice| Arc::clone(slice.snapshot()));
            return Ok(same.map(|snapshot| self.machine.target(Instant::now(), snapshot)).unwrap_or_default());
        }
        let (pod, subscriptions, previous) = (pod.clone(), self.subscriptions.clone(), self.slice.take());
        let sliced = tokio::task::spawn_blocking(move || mesh.slice_after(previous.as_ref(), &pod, &subscriptions))
            .await
            .map_err(|error| Status::internal(format!("slicing failed: {error}")))?;
        let snapshot: Arc<Snapshot> = match sliced {
            Ok(slice) => Arc::clone(self.slice.insert(slice).snapshot()),
            Err(error) => {
                tracing::error!(proxy = %self.name(), %error, "no slice for the proxy");
                return Err(Status::failed_precondition(error));
            }
        };
        let features = self.machine.features().clone();
        self.record(|record| {
            record.withheld =
                withhold(&snapshot, &features).map_or(Arc::from([]), |offer| Arc::clone(offer.withheld()));
            record.unofferable = None;
            record.epoch = epoch;
            record.target = Some(Arc::clone(&snapshot));
        });
        self.offered = None;
        Ok(self.machine.target(Instant::now(), snapshot))
    }

    fn answered(&mut self, answer: Answer) {
        let elapsed = self.offered.take().map(|since| since.elapsed());
        if let (Answer::Ack, Some(elapsed)) = (&answer, elapsed) {
            self.shared.metrics.ack_seconds.observe(elapsed.as_secs_f64());
        }
        self.shared.metrics.answers.get_or_create(&AnswerLabels { answer }).inc();
    }

    fn record(&self, change: impl FnOnce(&mut crate::fleet::ProxyRecord)) {
        if let Some((id, _)) = &self.place {
            self.shared.fleet.update(*id, change);
        }
    }

    fn name(&self) -> String {
        self.place
            .as_ref()
            .map_or_else(|| self.caller.identity.to_string(), |(_, p)| format!("{}/{}", p.namespace, p.name))
    }
}

/// Cancel-safe.
async fn next_question(questions: &mut Option<mpsc::Receiver<ExplainRequest>>) -> ExplainRequest {
    match questions {
        Some(questions) => match questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn current(mesh: &MeshWatch) -> Result<Arc<dyn Slices>, Status> {
    mesh.borrow().clone().ok_or_else(|| Status::unavailable("no configuration is compiled yet"))
}
