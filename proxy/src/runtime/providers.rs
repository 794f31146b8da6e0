//! Asking external authorizers: a service of the registry, over the same transports as any upstream.

mod connect;
mod grpc;
mod http;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use futures::FutureExt;
use palisade_model::external_authorization::{CheckService, ExternalProvider};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::connect::{Client, Endpoint};
use super::{
    Runtime,
    connection::Standing,
    transports::{TlsKey, UnusableTransport},
};
use crate::{
    index::RuntimeIndex,
    request::{
        connection::Admitted,
        external::{
            CheckAnswer, Question,
            kept::{AnswerSource, Freshness, KeptAnswers, Told},
        },
        upstream::tls_towards,
    },
};

/// Endpoints of providers with connections kept; more than this many means that endpoints come and go.
const MAX_CLIENTS: usize = 256;
/// Dry-run questions in flight: further ones are dropped, since nothing depends on them.
const MAX_BESIDE: usize = 128;

/// Connections to providers.
pub struct Providers {
    clients: Mutex<AHashMap<ClientKey, Client>>,
    beside: Arc<Semaphore>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    address: SocketAddr,
    is_http2: bool,
    tls: TlsKey,
}

/// Why a provider has no word.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("cluster `{0}` is not known")]
    NoCluster(Arc<str>),
    #[error("cluster `{0}` has no usable endpoint")]
    NoEndpoint(Arc<str>),
    #[error("the endpoint's name does not resolve")]
    Unresolved,
    #[error(transparent)]
    Transport(#[from] UnusableTransport),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Call(String),
}

/// What a check says of the connection.
pub(super) struct Context<'a> {
    pub(super) admitted: &'a Admitted,
    /// The proxy's own identity.
    pub(super) identity: String,
}

impl Default for Providers {
    fn default() -> Self {
        Self { clients: Mutex::default(), beside: Arc::new(Semaphore::new(MAX_BESIDE)) }
    }
}

impl Providers {
    /// Puts one question, unless its answer is known. Never fails: whatever goes wrong is [`CheckAnswer::Unavailable`].
    pub async fn ask(runtime: &Arc<Runtime>, standing: &Arc<Standing>, question: &Question) -> CheckAnswer {
        let (answer, source) = match (&question.check.answers, &question.head) {
            (Some(kept), Some(head)) => {
                let call = || {
                    let (runtime, standing, question) = (Arc::clone(runtime), Arc::clone(standing), question.clone());
                    async move { runtime.providers.tell(&runtime, &standing, &question).await }.boxed()
                };
                kept.answer(kept.key(&standing.admitted, head), Instant::now(), call).await
            }
            (None, _) | (_, None) => {
                (runtime.providers.tell(runtime, standing, question).await.answer, AnswerSource::Provider)
            }
        };
        runtime.metrics.checks.count(source, &answer);
        answer
    }

    /// Puts a dry-run question beside the request, and drops it when too many are in flight.
    pub fn ask_beside(runtime: &Arc<Runtime>, standing: &Arc<Standing>, question: Question) {
        let Ok(permit) = Arc::clone(&runtime.providers.beside).try_acquire_owned() else { return };
        let (runtime, standing) = (Arc::clone(runtime), Arc::clone(standing));
        // Ends by itself within the provider's timeout; the semaphore bounds how many there are.
        tokio::spawn(async move {
            let Told { answer, freshness: _ } = runtime.providers.tell(&runtime, &standing, &question).await;
            runtime.metrics.checks.count(AnswerSource::DryRun, &answer);
            drop(permit);
        });
    }

    /// The provider's own word, now.
    async fn tell(&self, runtime: &Runtime, standing: &Standing, question: &Question) -> Told {
        let check = &question.check.check;
        let Some(service) = check.asks.service() else {
            return Told::plainly(CheckAnswer::Unavailable("there is no such provider".into()));
        };
        let limit = service.timeout;
        let call = self.call(runtime, standing, question, service);
        let answered = match tokio::time::timeout(limit, call).await {
            Ok(answered) => answered,
            Err(_) => Err(AskError::Timeout(limit)),
        };
        answered.unwrap_or_else(|error| {
            tracing::debug!(provider = %check.provider, %error, "external authorizer");
            Told::plainly(CheckAnswer::Unavailable(error.to_string().into()))
        })
    }

    async fn call(
        &self,
        runtime: &Runtime,
        standing: &Standing,
        question: &Question,
        service: &CheckService,
    ) -> Result<Told, AskError> {
        let (index, admitted) = (&standing.index, &standing.admitted);
        let asks = &question.check.check.asks;
        let is_http2 = matches!(asks, ExternalProvider::Grpc(_));
        let client = self.client(runtime, index, service, is_http2).await?;
        let context = Context { admitted, identity: index.settings().identity.to_string() };
        let (answer, headers) = match (asks, &question.head) {
            (ExternalProvider::Missing { message }, _) => {
                return Ok(Told::plainly(CheckAnswer::Unavailable(Arc::clone(message))));
            }
            (ExternalProvider::Http(_), None) => {
                let message = "an HTTP provider cannot judge opaque bytes";
                return Ok(Told::plainly(CheckAnswer::Unavailable(message.into())));
            }
            (ExternalProvider::Grpc(service), _) => grpc::check(client, service, &context, question).await?,
            (ExternalProvider::Http(check), Some(head)) => {
                http::check(client, check, head, question.body.as_ref()).await?
            }
        };
        let kept = question.check.answers.as_deref();
        let freshness = kept.map_or(Freshness::Never, |kept: &KeptAnswers| kept.freshness(&headers));
        Ok(Told { answer, freshness })
    }

    /// The client of one of the service's endpoints.
    async fn client(
        &self,
        runtime: &Runtime,
        index: &RuntimeIndex,
        service: &CheckService,
        is_http2: bool,
    ) -> Result<Client, AskError> {
        let name = || Arc::clone(&service.cluster);
        let cluster = index.cluster(&service.cluster).ok_or_else(|| AskError::NoCluster(name()))?;
        let serving = cluster.serving();
        let chosen = fastrand::usize(..serving.len().max(1));
        let endpoint = serving.get(chosen).map(|(endpoint, _)| (*endpoint).clone());
        let endpoint = endpoint.ok_or_else(|| AskError::NoEndpoint(name()))?;
        let tls = tls_towards(cluster, Some(&endpoint));
        let (tls, dial) = runtime.transports.for_call(index, &tls, &service.host, is_http2)?;
        let has_v6 = index.settings().addresses.iter().any(IpAddr::is_ipv6);
        let address = runtime.names.locate(&endpoint.endpoint.address, has_v6).await.ok_or(AskError::Unresolved)?;
        let key = ClientKey { address, is_http2, tls };
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let mark = runtime.settings().socket_mark;
        let target = Endpoint { address, mark, timeout: cluster.cluster().connect_timeout, tls: dial };
        let client = connect::client(target, is_http2);
        clients.insert(key, client.clone());
        Ok(client)
    }
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Providers").field("clients", &self.clients.lock().len()).finish_non_exhaustive()
    }
}
