//! Decision records for whoever listens on loopback, over gRPC.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use palisade_wire::{
    decisions::MAX_MESSAGE_BYTES,
    proto::v1::{
        DecisionBatch, DecisionSubscription,
        decisions_server::{Decisions, DecisionsServer},
    },
};
use tonic::{Request, Response, Status};

use crate::serve::Shared;

/// The service, to be mounted below its path.
pub(super) fn service(shared: &Arc<Shared>) -> DecisionsServer<Subscriptions> {
    DecisionsServer::new(Subscriptions(Arc::clone(shared))).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

pub(super) struct Subscriptions(Arc<Shared>);

#[tonic::async_trait]
impl Decisions for Subscriptions {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<DecisionBatch, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<DecisionSubscription>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let DecisionSubscription { namespace } = request.into_inner();
        let stop = self.0.stop.clone();
        let batches = self.0.decisions().subscribe(namespace);
        let batches = batches.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Response::new(Box::pin(batches.map(Ok).take_until(stop.cancelled_owned()))))
    }
}
