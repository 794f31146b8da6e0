//! A small HTTP/1.1 client over plain TCP: one connection, kept alive.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// How long one exchange may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A client of one address.
#[derive(Debug)]
pub struct Client {
    address: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// One answer.
pub type Answer = Response<Bytes>;

impl Client {
    /// A client of `HOST:PORT`; connects with the first request.
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), connection: None }
    }

    /// GET with these extra headers; `host` among them replaces the address.
    ///
    /// # Errors
    /// When there is no complete answer within 30 s.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, headers, Bytes::new()).await
    }

    /// One request and its whole answer. A connection that the server closed meanwhile is opened again, once, as
    /// browsers do.
    ///
    /// # Errors
    /// When there is no complete answer within 30 s.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let what = format!("{method} http://{}{path}", self.address);
        timeout(LIMIT, self.exchange(method, path, headers, body))
            .await
            .context("no answer in time")
            .flatten()
            .context(what)
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut sender = match self.connection.take() {
            Some(mut idle) => match idle.ready().await {
                Ok(()) => idle,
                Err(_) => self.connect().await?,
            },
            None => self.connect().await?,
        };
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header(header::HOST, &self.address);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        self.connection = Some(sender);
        Ok(Response::from_parts(parts, body))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped or the peer closes; what failed is seen by the request.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// An answer's body as text.
pub fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}
