//! A closed loop over HTTP/2: GET requests, or gRPC unary calls whose status is looked at.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::Request;
use tokio::{task::JoinSet, time::Instant};

use super::{ClientStream, Kind, Load, PATHS, Seen};

/// Windows wide enough never to be waited for by small answers.
const WINDOW: u32 = 4 * 1024 * 1024;

/// One connection.
pub(super) struct Client {
    sender: SendRequest<Bytes>,
    number: usize,
}

impl Client {
    pub(super) async fn new(stream: ClientStream, number: usize) -> anyhow::Result<Self> {
        Ok(Self { sender: connect(stream).await?, number })
    }

    pub(super) async fn run(&mut self, load: &Arc<Load>, end: Instant) -> anyhow::Result<Seen> {
        let mut streams = JoinSet::new();
        for stream in 0..load.streams {
            let (sender, load, number) = (self.sender.clone(), Arc::clone(load), self.number + stream);
            streams.spawn(async move { ask(&load, sender, number, end).await });
        }
        let mut sum = Seen::default();
        while let Some(seen) = streams.join_next().await {
            let Seen { answers, bytes, .. } = seen??;
            sum.answers += answers;
            sum.bytes += bytes;
        }
        Ok(sum)
    }
}

/// An HTTP/2 connection over a stream.
pub(super) async fn connect(stream: ClientStream) -> anyhow::Result<SendRequest<Bytes>> {
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(64 * 1024)
        .handshake::<_, Bytes>(stream)
        .await?;
    // Ends when the sender is dropped; what fails is seen by the requests.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn ask(load: &Load, sender: SendRequest<Bytes>, number: usize, end: Instant) -> anyhow::Result<Seen> {
    let is_grpc = load.kind == Kind::Grpc;
    let message = Bytes::from([&[0, 0, 0, 0, 32][..], &[5; 32]].concat());
    let scheme = if load.sni.is_some() { "https" } else { "http" };
    let requests = (0..PATHS).map(|path| request(load, scheme, path, is_grpc)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = Seen::default();
    for request in requests.iter().cycle().skip(number % PATHS) {
        if Instant::now() >= end {
            break;
        }
        let mut sender = sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(request.clone(), !is_grpc)?;
        if is_grpc {
            body.send_data(message.clone(), true)?;
        }
        let response = response.await?;
        ensure!(response.status() == 200, "{response:?}");
        let mut body = response.into_body();
        seen.bytes += drain(&mut body).await?;
        if is_grpc {
            let trailers = body.trailers().await?.context("no trailers")?;
            ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
        }
        seen.answers += 1;
    }
    Ok(seen)
}

/// Reads a body to its end and gives its length.
pub(super) async fn drain(body: &mut RecvStream) -> anyhow::Result<u64> {
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?.len();
        body.flow_control().release_capacity(chunk)?;
        length += chunk as u64;
    }
    Ok(length)
}

fn request(load: &Load, scheme: &str, path: usize, is_grpc: bool) -> anyhow::Result<Request<()>> {
    let authority = &load.authority;
    let builder = if is_grpc {
        Request::post(format!("{scheme}://{authority}/bench.Service{path}/Get"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    } else {
        Request::get(format!("{scheme}://{authority}/svc{path}/items/{path}?page=2"))
            .header("accept", "application/json")
            .header("accept-language", "en")
            .header("cookie", "session=0123456789abcdef0123456789abcdef")
    };
    Ok(builder
        .header("user-agent", "bench/1.0 (open source; en)")
        .header("x-tenant", "blue")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .body(())?)
}
