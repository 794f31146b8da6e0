//! A small HTTP/1.1 client that keeps its connections alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// More than any service here answers; a larger body is an error.
const BODY_LIMIT_BYTES: usize = 16 << 20;

/// Idle connections kept per authority; beyond that a returned one is closed.
const IDLE_PER_AUTHORITY: usize = 8;

type Sender = SendRequest<Full<Bytes>>;

/// Clones share the idle connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    idle: Arc<Mutex<BTreeMap<String, Vec<Sender>>>>,
}

impl Client {
    /// Sends one request and reads the whole answer within `timeout`. `url` is `http://AUTHORITY/PATH`; a `host` in
    /// `headers` wins over the authority.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> anyhow::Result<Response<Bytes>> {
        tokio::time::timeout(timeout, self.exchange(method, url, headers, body))
            .await
            .with_context(|| format!("`{url}` gave no answer within {timeout:?}"))?
    }

    pub(crate) async fn get(
        &self,
        url: &str,
        headers: HeaderMap,
        timeout: Duration,
    ) -> anyhow::Result<Response<Bytes>> {
        self.send(Method::GET, url, headers, Bytes::new(), timeout).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            bail!("`{url}` is not an http URL");
        }
        let authority = uri.authority().with_context(|| format!("`{url}` names no host"))?.clone();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse()?;
        *request.headers_mut() = headers;
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, authority.as_str().parse()?);
        }

        let mut sender =
            self.connection(authority.as_str(), authority.host(), authority.port_u16().unwrap_or(80)).await?;
        let response = sender.send_request(request).await.with_context(|| format!("`{url}` failed"))?;
        let (parts, body) = response.into_parts();
        let body = match Limited::new(body, BODY_LIMIT_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => bail!("the answer of `{url}` broke off: {error}"),
        };
        self.keep(authority.as_str(), sender);
        Ok(Response::from_parts(parts, body))
    }

    async fn connection(&self, authority: &str, host: &str, port: u16) -> anyhow::Result<Sender> {
        while let Some(mut sender) = self.take(authority) {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream =
            TcpStream::connect((host, port)).await.with_context(|| format!("cannot connect to `{authority}`"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped or the peer closes.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn take(&self, authority: &str) -> Option<Sender> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(authority)?.pop()
    }

    fn keep(&self, authority: &str, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.entry(authority.to_owned()).or_default();
        if senders.len() < IDLE_PER_AUTHORITY {
            senders.push(sender);
        }
    }
}
