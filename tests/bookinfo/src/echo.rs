//! Echo: answers with what arrived, for HTTP in the shape of httpbin, and for bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Path, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The longest answer to `/delay/SECONDS`.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// A connection on which nothing moves for so long is closed.
const IDLE: Duration = Duration::from_secs(600);

/// The largest body that is echoed.
const BODY_LIMIT_BYTES: usize = 16 << 20;

pub(crate) fn router() -> Router {
    Router::new()
        .route("/headers", get(async |headers: HeaderMap| Json(json!({"headers": multi(&headers)}))))
        .route(
            "/ip",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| Json(json!({"origin": peer.ip().to_string()}))),
        )
        .route("/health", get(async || "ok"))
        .route("/status/{code}", any(status))
        .route("/delay/{seconds}", any(delay))
        .fallback(echo)
}

async fn echo(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, BODY_LIMIT_BYTES).await {
        Ok(body) => body,
        Err(error) => return (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response(),
    };
    Json(describe(peer, &parts, &body)).into_response()
}

fn describe(peer: SocketAddr, parts: &http::request::Parts, body: &Bytes) -> Value {
    json!({
        "pod": crate::productpage::pod_name(),
        "method": parts.method.as_str(),
        "url": parts.uri.to_string(),
        "path": parts.uri.path(),
        "query": parts.uri.query(),
        "version": format!("{:?}", parts.version),
        "headers": multi(&parts.headers),
        "origin": peer.to_string(),
        "bytes": body.len(),
        "data": String::from_utf8_lossy(body),
    })
}

/// Every value of every header, in order of arrival.
fn multi(headers: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    let mut all = BTreeMap::<&str, Vec<String>>::new();
    for (name, value) in headers {
        all.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    all
}

async fn status(Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(code) if code.as_u16() >= 200 => code.into_response(),
        _ => (StatusCode::BAD_REQUEST, "not a final status").into_response(),
    }
}

async fn delay(Path(seconds): Path<f64>, peer: ConnectInfo<SocketAddr>, request: Request) -> Response {
    let delay = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_DELAY).min(LONGEST_DELAY);
    tokio::time::sleep(delay).await;
    echo(peer, request).await
}

/// Accepts connections and returns on each the bytes that it sends, until its end of stream.
pub(crate) async fn serve_bytes(listener: TcpListener) -> std::io::Result<()> {
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = echo_bytes(stream).await {
                eprintln!("connection: {error}");
            }
        });
    }
}

async fn echo_bytes(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::time::timeout(IDLE, stream.read(&mut buffer)).await??;
        match buffer.get(..read) {
            None | Some([]) => return stream.shutdown().await,
            Some(bytes) => tokio::time::timeout(IDLE, stream.write_all(bytes)).await??,
        }
    }
}
