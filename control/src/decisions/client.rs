//! Listening to decision records at a control plane's admin port.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use palisade_model::settings::WorkloadRef;
use palisade_wire::{
    decisions::MAX_MESSAGE_BYTES,
    proto::v1::{DecisionBatch, DecisionSubscription, decisions_client::DecisionsClient},
};
use tonic::transport::Endpoint;

/// Connecting and the first answer.
const OPEN: Duration = Duration::from_secs(10);

/// Records of one proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRecords {
    /// The proxy that decided.
    pub pod: WorkloadRef,
    /// One JSON object each.
    pub records: Vec<Bytes>,
    /// Records that were left out before these: by the proxy or on the way.
    pub dropped: u64,
}

/// Why there are no records.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not a URL, or nobody there.
    #[error("`{url}`: {source}")]
    Connect {
        /// The URL.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The control plane refuses or has ended.
    #[error("the control plane: {} ({})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// No answer.
    #[error("the control plane does not answer")]
    Timeout,
}

/// Records of proxies in a namespace (empty: all) from now on, over a URL such as `http://127.0.0.1:15014`.
///
/// # Errors
/// When the control plane cannot be asked.
pub async fn listen(
    url: &str,
    namespace: &str,
) -> Result<impl Stream<Item = Result<ReceivedRecords, ListenError>> + use<>, ListenError> {
    let failed = |source| ListenError::Connect { url: url.to_owned(), source };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(failed)?.connect_timeout(OPEN);
    let open = async {
        let channel = endpoint.connect().await.map_err(failed)?;
        let subscription = DecisionSubscription { namespace: namespace.to_owned() };
        let mut client = DecisionsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        client.subscribe(subscription).await.map_err(|status| ListenError::Refused(Box::new(status)))
    };
    let answer = tokio::time::timeout(OPEN, open).await.map_err(|_| ListenError::Timeout)??;
    Ok(answer.into_inner().map(|batch| match batch {
        Ok(DecisionBatch { namespace, name, records }) => {
            let records = records.unwrap_or_default();
            let pod = WorkloadRef { namespace: Arc::from(namespace), name: Arc::from(name) };
            Ok(ReceivedRecords { pod, records: records.records, dropped: records.dropped })
        }
        Err(status) => Err(ListenError::Refused(Box::new(status))),
    }))
}
