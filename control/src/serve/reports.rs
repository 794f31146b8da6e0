//! The service that takes decision records from proxies, while somebody listens.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use palisade_model::settings::WorkloadRef;
use palisade_wire::proto::v1::{
    DecisionReport, DecisionReporter, DecisionWish, decision_report::Kind, decision_reports_server::DecisionReports,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Shared,
    caller::{PeerProof, Purpose, pod_of},
};
use crate::metrics::Refusal;

/// The first message must come within this time.
const HELLO: Duration = Duration::from_secs(10);

/// A proxy that takes no wish for this long is gone.
const STALLED: Duration = Duration::from_secs(60);

pub(crate) struct Reports(pub(crate) Arc<Shared>);

type Wishes = mpsc::Sender<Result<DecisionWish, Status>>;

#[tonic::async_trait]
impl DecisionReports for Reports {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<DecisionWish, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<DecisionReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let shared = Arc::clone(&self.0);
        let proof = request.extensions().get::<PeerProof>().cloned().unwrap_or_default();
        let (caller, mesh) = shared.authenticate(request.metadata(), &proof, Purpose::Configuration).await?;
        let (wishes, answers) = mpsc::channel(1);
        let mut inbound = request.into_inner();
        self.0.tasks.spawn(async move {
            let first = tokio::time::timeout(HELLO, inbound.message()).await;
            let status = match first {
                Ok(Ok(Some(DecisionReport { kind: Some(Kind::Reporter(reporter)) }))) => {
                    let DecisionReporter { namespace, name } = reporter;
                    let believed = WorkloadRef { namespace: namespace.into(), name: name.into() };
                    match pod_of(&caller, believed, &*mesh) {
                        Ok(pod) => follow(&shared, &pod, inbound, &wishes).await,
                        Err(refused) => {
                            shared.metrics.refuse(Refusal::Forbidden);
                            refused.into()
                        }
                    }
                }
                Ok(Err(status)) => status,
                Ok(Ok(_)) => Status::invalid_argument("the first message says who reports"),
                Err(_) => Status::deadline_exceeded("nobody says who reports"),
            };
            // The proxy may be gone already.
            drop(wishes.send_timeout(Err(status), Duration::from_secs(1)).await);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Until the stream ends; says why it did.
async fn follow(shared: &Shared, pod: &WorkloadRef, mut inbound: Streaming<DecisionReport>, wishes: &Wishes) -> Status {
    let mut listeners = shared.decisions.listeners();
    // The first wish is told whatever it is.
    listeners.mark_changed();
    let mut told = None;
    loop {
        // Every branch is cancel-safe: nothing is taken that is not handled.
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Status::unavailable("the control plane is draining"),
            changed = listeners.changed() => {
                if changed.is_err() {
                    return Status::unavailable("the control plane is going away");
                }
                if let Some(status) = tell(&mut listeners, &mut told, wishes).await {
                    return status;
                }
            }
            message = inbound.message() => match message {
                Ok(Some(DecisionReport { kind: Some(Kind::Records(records)) })) => shared.decisions.publish(pod, records),
                Ok(Some(_)) => {
                    shared.metrics.refuse(Refusal::Protocol);
                    return Status::invalid_argument("records are expected");
                }
                Ok(None) => return Status::ok("the proxy closed the stream"),
                Err(status) => return status,
            },
        }
    }
}

/// Tells the proxy whether its records are wanted, where that has changed; a status ends the stream.
async fn tell(listeners: &mut watch::Receiver<usize>, told: &mut Option<bool>, wishes: &Wishes) -> Option<Status> {
    let is_wanted = *listeners.borrow_and_update() > 0;
    if told.replace(is_wanted) == Some(is_wanted) {
        return None;
    }
    let sent = wishes.send_timeout(Ok(DecisionWish { is_wanted }), STALLED).await;
    sent.is_err().then(|| Status::deadline_exceeded("the proxy takes no messages"))
}
