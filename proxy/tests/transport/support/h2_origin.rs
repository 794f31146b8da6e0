//! An HTTP/2 server whose paths behave as the tests need it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

#[derive(Default)]
pub struct Counts {
    pub connections: AtomicUsize,
    pub requests: AtomicUsize,
    /// Streams that the client reset, by code.
    pub resets: parking_lot::Mutex<Vec<Reason>>,
    pub active: AtomicUsize,
}

pub struct Origin {
    pub address: SocketAddr,
    pub counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub async fn start() -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counts = Arc::<Counts>::default();
    let shared = Arc::clone(&counts);
    let accepting = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.set_nodelay(true);
            let counts = Arc::clone(&shared);
            counts.connections.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder
                    .initial_window_size(1 << 18)
                    .initial_connection_window_size(100 << 18)
                    .max_concurrent_streams(200);
                let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let counts = Arc::clone(&counts);
                    counts.requests.fetch_add(1, SeqCst);
                    counts.active.fetch_add(1, SeqCst);
                    tokio::spawn(async move {
                        answer(request, respond, &counts).await;
                        counts.active.fetch_sub(1, SeqCst);
                    });
                }
            });
        }
    });
    Origin { address, counts, accepting }
}

fn ok_header(request: &Request<RecvStream>) -> Response<()> {
    let mut response = Response::builder().status(StatusCode::OK).header("x-uri", request.uri().to_string());
    if let Some(id) = request.headers().get("x-client-id") {
        response = response.header("x-client-id", id);
    }
    response.body(()).unwrap()
}

/// The number after a path's prefix.
fn number(path: &str, prefix: &str) -> Option<usize> {
    path.strip_prefix(prefix)?.parse().ok()
}

async fn answer(mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>, counts: &Counts) {
    let path = request.uri().path().to_owned();
    let header = ok_header(&request);
    if let Some(code) = number(&path, "/refuse/") {
        respond.send_reset(u32::try_from(code).unwrap().into());
        return;
    }
    if path == "/hints" {
        let hints = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        respond.send_informational(hints).unwrap();
    }
    let Ok(mut send) = respond.send_response(header, false) else { return };
    if let Some(code) = number(&path, "/abort/") {
        let _ = request.body_mut().data().await;
        send.send_reset(u32::try_from(code).unwrap().into());
        return;
    }
    if path == "/early" {
        let _ = send.send_data(Bytes::from_static(b"rejected\n"), false);
        let _ = send.send_trailers(trailers(0, HeaderMap::new(), "8"));
        return;
    }
    if path == "/hold" {
        let gone = poll_fn(|cx| send.poll_reset(cx)).await;
        if let Ok(reason) = gone {
            counts.resets.lock().push(reason);
        }
        return;
    }
    if let Some(megabytes) = number(&path, "/full/") {
        // A concurrent server: answers while it reads.
        let body = request.body_mut();
        let (_, read) = tokio::join!(send_pattern(&mut send, megabytes << 20), drain(body));
        let _ = send.send_trailers(trailers(read, HeaderMap::new(), "0"));
        return;
    }
    // A sequential server: it does not read on before its answer is taken.
    let times = number(&path, "/amplify/").unwrap_or(1);
    let mut read = 0;
    while let Some(data) = request.body_mut().data().await {
        let Ok(data) = data else {
            if let Err(e) = data
                && let Some(reason) = e.reason()
            {
                counts.resets.lock().push(reason);
            }
            return;
        };
        let _ = request.body_mut().flow_control().release_capacity(data.len());
        read += data.len();
        for _ in 0..times {
            if !data.is_empty() && send_all(&mut send, data.clone()).await.is_none() {
                if let Ok(reason) = poll_fn(|cx| send.poll_reset(cx)).await {
                    counts.resets.lock().push(reason);
                }
                return;
            }
        }
    }
    let received = request.body_mut().trailers().await.ok().flatten().unwrap_or_default();
    let _ = send.send_trailers(trailers(read, received, "0"));
}

fn trailers(read: usize, mut received: HeaderMap, status: &'static str) -> HeaderMap {
    received.insert("grpc-status", status.parse().unwrap());
    received.insert("x-body-bytes", read.into());
    received
}

async fn drain(body: &mut RecvStream) -> usize {
    let mut read = 0;
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        read += data.len();
    }
    read
}

pub async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
        send.send_data(data.split_to(room.min(data.len())), false).ok()?;
    }
    Some(())
}

/// Sends so many bytes, as the peer takes them.
pub async fn send_pattern(send: &mut SendStream<Bytes>, bytes: usize) -> Option<()> {
    let chunk = Bytes::from(vec![7; 16 * 1024]);
    let mut left = bytes;
    while left > 0 {
        let next = left.min(chunk.len());
        send_all(send, chunk.slice(..next)).await?;
        left -= next;
    }
    Some(())
}
