//! Proxies that only receive: real connections, tokens and streams; what arrives is acknowledged, not applied.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use palisade_model::feature;
use palisade_wire::{
    delta::{MAX_MESSAGE_BYTES, PROTOCOL},
    proto::v1::{
        Ack, Hello, ProxyMessage, Query, configuration_client::ConfigurationClient, control_message, proxy_message,
        query,
    },
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, metadata::MetadataValue, transport::Endpoint};

use super::{
    documents::{PODS, SERVICES, namespace_of, pod_name, service_name},
    markers::Markers,
};
use crate::kubernetes::Connector;

/// Services of other namespaces that each proxy uses.
pub(super) const USED: usize = 10;

/// How long a proxy may wait for its first configuration.
const FIRST: Duration = Duration::from_secs(120);
/// Pause before a proxy tries again that could not connect.
const AGAIN: Duration = Duration::from_millis(25);

/// Where proxies connect, and how they know whom.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) connector: Connector,
    pub(super) address: std::net::SocketAddr,
    tls: TlsConnector,
    name: ServerName<'static>,
}

/// Connected proxies; they end with the value.
pub(super) struct Proxies {
    /// Their numbers: service and pod follow from each.
    pub(super) count: usize,
    pub(super) markers: Markers,
    pub(super) bytes: Arc<AtomicU64>,
    streams: JoinSet<anyhow::Result<()>>,
}

/// Service and pod of a proxy: the first pod of each service, then the second.
pub(super) fn place(proxy: usize) -> (usize, usize) {
    (proxy % SERVICES, proxy / SERVICES % PODS)
}

/// Whether a proxy uses a service, or is in its namespace.
pub(super) fn uses(proxy: usize, service: usize) -> bool {
    let (own, _) = place(proxy);
    let distance = (service + SERVICES - own) % SERVICES;
    namespace_of(own) == namespace_of(service) || (1..=USED).contains(&distance)
}

impl Target {
    /// A control plane whose certificate comes from these roots.
    pub(super) fn new(
        connector: Connector,
        address: std::net::SocketAddr,
        roots: &str,
        name: &str,
    ) -> anyhow::Result<Self> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root?)?;
        }
        let mut config = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(name.to_owned())?;
        Ok(Self { connector, address, tls: TlsConnector::from(Arc::new(config)), name })
    }
}

impl Proxies {
    /// No proxy yet.
    pub(super) fn new(markers: Markers) -> Self {
        Self { count: 0, markers, bytes: Arc::default(), streams: JoinSet::new() }
    }

    /// Connects proxies up to the number of tokens, `at_once` at a time, and waits until all have their first configuration; gives the
    /// bytes of it.
    pub(super) async fn connect(&mut self, target: &Target, tokens: &[String], at_once: usize) -> anyhow::Result<u64> {
        let permits = Arc::new(tokio::sync::Semaphore::new(at_once));
        let before = self.bytes.load(Ordering::Relaxed);
        let (ready, mut all) = mpsc::channel::<()>(tokens.len().max(1));
        let wanted = tokens.len().saturating_sub(self.count);
        for (proxy, token) in tokens.iter().enumerate().skip(self.count) {
            let proxy = Proxy {
                number: proxy,
                target: target.clone(),
                token: token.clone(),
                markers: self.markers.clone(),
                bytes: Arc::clone(&self.bytes),
            };
            let (permits, ready) = (Arc::clone(&permits), ready.clone());
            let (markers, number) = (self.markers.clone(), proxy.number);
            self.streams.spawn(async move {
                let permit = permits.acquire_owned().await?;
                let deadline = Instant::now() + FIRST;
                let (first, mut has_first) = watch::channel(false);
                let mut run = Box::pin(proxy.run(&first));
                // A control plane that has just been started is tried again and again.
                loop {
                    let ended = tokio::select! {
                        ended = &mut run => ended,
                        got = has_first.wait_for(|is_there| *is_there) => {
                            got?;
                            break;
                        }
                    };
                    ensure!(Instant::now() < deadline, "no first configuration: {ended:?}");
                    tokio::time::sleep(AGAIN).await;
                    run = Box::pin(proxy.run(&first));
                }
                drop(permit);
                ready.send(()).await?;
                let ended = run.await;
                markers.failed(&format!("proxy {number}: {ended:?}"));
                ended
            });
        }
        drop(ready);
        for _ in 0..wanted {
            tokio::select! {
                done = all.recv() => done.context("a proxy ended")?,
                Some(ended) = self.streams.join_next() => bail!("a proxy ended: {:?}", ended?),
            }
        }
        self.count = self.count.max(tokens.len());
        Ok(self.bytes.load(Ordering::Relaxed) - before)
    }

    /// Bytes of all transactions so far.
    pub(super) fn received(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Proxies that a change of a service concerns.
    pub(super) fn using(&self, service: usize) -> Vec<usize> {
        (0..self.count).filter(|proxy| uses(*proxy, service)).collect()
    }

    /// Proxies of a service's own pods.
    pub(super) fn of(&self, service: usize) -> Vec<usize> {
        (0..self.count).filter(|proxy| place(*proxy).0 == service).collect()
    }
}

struct Proxy {
    number: usize,
    target: Target,
    token: String,
    markers: Markers,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    /// Receives until the stream ends, which is an error.
    async fn run(&self, first: &watch::Sender<bool>) -> anyhow::Result<()> {
        let Self { number, target, token, markers, bytes } = self;
        let (number, target) = (*number, target.clone());
        let channel = Endpoint::from_static("http://control")
            .http2_adaptive_window(false)
            .connect_with_connector(tower::service_fn(move |_| {
                let target = target.clone();
                async move {
                    let stream = target.connector.connect(target.address).await?;
                    let stream = target.tls.connect(target.name.clone(), stream).await?;
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            }))
            .await?;
        let (sender, outbound) = mpsc::channel(4);
        let mut sequence = 0;
        let mut message = |kind| {
            sequence += 1;
            ProxyMessage { sequence, kind: Some(kind) }
        };
        sender.send(message(proxy_message::Kind::Hello(hello(number)))).await?;
        let mut request = Request::new(ReceiverStream::new(outbound));
        let bearer = MetadataValue::try_from(format!("Bearer {token}"))?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client = ConfigurationClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut inbound = client.delta(request).await?.into_inner();
        let mut whole: Vec<u8> = Vec::new();
        loop {
            let received = inbound.message().await?.context("the stream ended")?;
            match received.kind.context("an empty message")? {
                control_message::Kind::Chunk(chunk) => {
                    ensure!(chunk.offset == whole.len() as u64, "a piece is missing");
                    whole.extend_from_slice(&chunk.data);
                    if whole.len() as u64 == chunk.total_bytes {
                        markers.look(number, &whole);
                        bytes.fetch_add(chunk.total_bytes, Ordering::Relaxed);
                        whole.clear();
                        let ack = Ack { offer: chunk.offer, unbound: Vec::new() };
                        sender.send(message(proxy_message::Kind::Ack(ack))).await?;
                        first.send_replace(true);
                    }
                }
                control_message::Kind::InSync(_) | control_message::Kind::Trust(_) => {}
                control_message::Kind::Surplus(_) | control_message::Kind::Explain(_) => {
                    bail!("nothing of that was asked")
                }
            }
        }
    }
}

fn hello(number: usize) -> Hello {
    let (service, pod) = place(number);
    let subscriptions = (1..=USED).map(|next| {
        let used = (service + next) % SERVICES;
        let host = format!("{}.{}.svc.cluster.local", service_name(used), namespace_of(used));
        Query { kind: Some(query::Kind::Host(host)) }
    });
    Hello {
        protocol: PROTOCOL,
        features: feature::ALL.iter().map(|name| (*name).to_owned()).collect(),
        held: None::<Bytes>,
        rejected: None,
        namespace: namespace_of(service),
        name: pod_name(service, pod),
        build: "bench".to_owned(),
        subscriptions: subscriptions.collect(),
        short_id: String::new(),
        hears_surplus: false,
    }
}
