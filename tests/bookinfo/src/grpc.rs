//! gRPC without a schema: a server that returns every message of every method, and a client that speaks with it in turns.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Bytes of a message's prefix: a flag and the length.
const PREFIX: usize = 5;

/// Messages that wait to be sent.
const QUEUE: usize = 4;

/// Serves HTTP/2 with prior knowledge: each body comes back as it arrives, then `grpc-status: 0`.
pub(crate) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(echo));
            if let Err(error) = connection.await {
                eprintln!("connection: {error}");
            }
        });
    }
}

async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = hyper::Error>>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(body.with_trailers(async move { Some(Ok(trailers)) }));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
    let facts = [
        ("x-pod", crate::productpage::pod_name()),
        ("x-path", parts.uri.path().to_owned()),
        ("x-authority", authority.to_owned()),
    ];
    for (name, value) in facts {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// Calls a method over HTTP/2 with prior knowledge. Each message is sent only when the one before it came back; one line
/// of JSON says what came: `status`, `headers`, `messages`, `trailers`.
#[derive(Debug, clap::Args)]
pub(crate) struct GrpcCall {
    /// `http://HOST[:PORT]/SERVICE/METHOD`
    url: String,
    /// A header `NAME: VALUE`; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Messages to send, in turns.
    #[arg(short = 'n', long, default_value_t = 1)]
    messages: u32,
    /// Milliseconds for the whole call.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
}

impl GrpcCall {
    /// Exit code 0 if the call was answered, whatever the status.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let limit = Duration::from_millis(self.timeout_ms);
        tokio::time::timeout(limit, self.call()).await.context("no answer in time")??;
        Ok(ExitCode::SUCCESS)
    }

    async fn call(self) -> anyhow::Result<()> {
        let uri: Uri = self.url.parse()?;
        let authority = uri.authority().context("the URL names no host")?.clone();
        let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // Ends when the sender is dropped or the peer closes.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let (messages, queue) = mpsc::channel(QUEUE);
        let mut request = Request::post(uri).body(Outgoing(queue))?;
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        for line in &self.headers {
            let (name, value) = line.split_once(':').with_context(|| format!("`{line}` is not `NAME: VALUE`"))?;
            let name: HeaderName = name.trim().parse()?;
            request.headers_mut().insert(name, HeaderValue::from_str(value.trim())?);
        }
        let mut unsent = 0..self.messages;
        if let Some(first) = unsent.next() {
            messages.send(message(first)).await?;
        }
        let mut messages = Some(messages);
        let (parts, mut body) = sender.send_request(request).await?.into_parts();
        let mut received = BytesMut::new();
        let mut count = 0_u32;
        let mut trailers = BTreeMap::new();
        if parts.headers.contains_key("grpc-status") {
            messages = None;
        }
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => received.extend_from_slice(&data),
                Err(frame) => trailers = frame.trailers_ref().map(lines).unwrap_or_default(),
            }
            while let Some(next) = take(&mut received) {
                if next != message(count) {
                    bail!("message {count} came back changed");
                }
                count += 1;
                match (unsent.next(), &messages) {
                    (Some(next), Some(messages)) => messages.send(message(next)).await?,
                    _ => messages = None,
                }
            }
        }
        let said = json!({
            "status": parts.status.as_u16(),
            "headers": lines(&parts.headers),
            "messages": count,
            "trailers": trailers,
        });
        println!("{said}");
        Ok(())
    }
}

fn message(number: u32) -> Bytes {
    let text = format!("message {number}");
    let mut bytes = BytesMut::with_capacity(PREFIX + text.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    bytes.put_slice(text.as_bytes());
    bytes.freeze()
}

/// Takes a whole message, prefix included, off the front.
fn take(received: &mut BytesMut) -> Option<Bytes> {
    let length = received.get(1..PREFIX)?.try_into().map(u32::from_be_bytes).ok()?;
    let whole = PREFIX + usize::try_from(length).ok()?;
    (received.len() >= whole).then(|| received.split_to(whole).freeze())
}

fn lines(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

/// A body that ends when its queue does.
struct Outgoing(mpsc::Receiver<Bytes>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
