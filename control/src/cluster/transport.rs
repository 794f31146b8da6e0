//! Connections to an API server that notice when the other side is gone without a word: a watch is silent for minutes when all
//! is well, too.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use tower::{BoxError, Layer, Service};

/// A connection that does not come about.
const CONNECT: Duration = Duration::from_secs(10);

/// From a request to the head of its answer; also a watch answers its head at once.
const ANSWER: Duration = Duration::from_secs(60);

/// A silent connection is asked for a sign of life after this long, then as often as three times, ten seconds apart.
const SILENCE: Duration = Duration::from_secs(20);
const PROBES: u32 = 3;
const BETWEEN_PROBES: Duration = Duration::from_secs(10);

/// A client for a configuration.
pub(super) fn client(config: Config) -> Result<Client, kube::Error> {
    if let Some(proxy) = &config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy.clone()) });
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(SILENCE));
    tcp.set_keepalive_interval(Some(BETWEEN_PROBES));
    tcp.set_keepalive_retries(Some(PROBES));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(tls);
    let service = config.extra_headers_layer()?.layer(Timed(http));
    let service = config.base_uri_layer().layer(service);
    let namespace = config.default_namespace.clone();
    Ok(match config.auth_layer()? {
        Some(auth) => ClientBuilder::new(auth.layer(service), namespace).build(),
        None => ClientBuilder::new(service, namespace).build(),
    })
}

/// Requests that end with an error when no answer begins.
#[derive(Clone)]
struct Timed<S>(S);

impl<S> Service<Request<Body>> for Timed<S>
where
    S: Service<Request<Body>, Response = Response<Incoming>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = tokio::time::timeout(ANSWER, self.0.call(request));
        Box::pin(async move { answer.await?.map_err(Into::into) })
    }
}
