//! Asking a process's pages over HTTP.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const BODY_LIMIT_BYTES: usize = 64 << 20;

/// Header of a control plane: replicas whose proxies are not in the answer.
const MISSING: &str = "x-palisade-missing";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Of HTTP.
    pub(crate) status: StatusCode,
    /// All of it.
    pub(crate) body: Bytes,
    /// Replicas whose proxies are not in it.
    pub(crate) missing: Vec<String>,
}

/// `GET BASE/PATH`, where `base` is a URL such as `http://127.0.0.1:15014`.
///
/// # Errors
/// When there is no whole answer within ten seconds.
pub(crate) async fn get(base: &str, path: &str) -> anyhow::Result<Answer> {
    ask(base, path, None).await
}

/// `POST BASE/PATH` with a JSON text.
///
/// # Errors
/// As [`get`].
pub(crate) async fn post(base: &str, path: &str, json: String) -> anyhow::Result<Answer> {
    ask(base, path, Some(json)).await
}

async fn ask(base: &str, path: &str, json: Option<String>) -> anyhow::Result<Answer> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    timeout(LIMIT, exchange(&url, json)).await.with_context(|| format!("`{url}` gave no answer within {LIMIT:?}"))?
}

async fn exchange(url: &str, json: Option<String>) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse().with_context(|| format!("`{url}` is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        bail!("`{url}` is not an http URL");
    }
    let authority = uri.authority().with_context(|| format!("`{url}` names no host"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("cannot connect to `{authority}`"))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; what goes wrong is seen by the request.
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder().uri(path).header(header::HOST, authority.as_str());
    let request = match json {
        None => request.body(Full::default())?,
        Some(json) => request
            .method(Method::POST)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(json)))?,
    };
    let answer = sender.send_request(request).await.with_context(|| format!("`{url}` failed"))?;
    let status = answer.status();
    let told = answer.headers().get(MISSING).and_then(|value| value.to_str().ok());
    let missing = told.into_iter().flat_map(|text| text.split("; ")).map(str::to_owned).collect();
    let body = match Limited::new(answer.into_body(), BODY_LIMIT_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => bail!("the answer of `{url}` broke off: {error}"),
    };
    driver.abort();
    Ok(Answer { status, body, missing })
}
