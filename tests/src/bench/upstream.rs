//! The upstream of the benchmarks: answers prepared beforehand, so that it costs less than what is measured.
//!
//! HTTP/1.1 is read with bare sockets: `GET /bytes/N` gives N bytes, anything else 1 KiB. HTTP/2 (prior knowledge) is a
//! gRPC service that answers every unary call with the same message. TCP sends bytes until the client leaves.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::http1;

/// Where the upstream listens.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Upstream {
    /// HTTP/1.1.
    #[arg(long, default_value = "0.0.0.0:9080")]
    pub http: SocketAddr,
    /// gRPC, HTTP/2 by prior knowledge.
    #[arg(long, default_value = "0.0.0.0:9081")]
    pub grpc: SocketAddr,
    /// Bytes without end.
    #[arg(long, default_value = "0.0.0.0:9082")]
    pub tcp: SocketAddr,
}

/// Body of an ordinary answer, in bytes.
const BODY: usize = 1024;
/// Written at once where an answer is long.
const CHUNK: usize = 64 * 1024;
/// Windows of HTTP/2, wide enough never to be waited for by small messages.
const WINDOW: u32 = 4 * 1024 * 1024;

impl Upstream {
    /// Serves until the process is ended.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn serve(self) -> anyhow::Result<()> {
        let Self { http, grpc, tcp } = self;
        let bind = async |address: SocketAddr| TcpListener::bind(address).await.with_context(|| address.to_string());
        let (http, grpc, tcp) = (bind(http).await?, bind(grpc).await?, bind(tcp).await?);
        let answer: Arc<[u8]> = http1_answer(BODY, &[b'x'; BODY]).into();
        tokio::try_join!(
            accept(http, |stream| serve_http1(stream, Arc::clone(&answer))),
            accept(grpc, serve_grpc),
            accept(tcp, serve_bytes)
        )?;
        Ok(())
    }
}

async fn accept<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = serve(stream);
        // Ends with its client; what went wrong is counted there.
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

fn http1_answer(length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\ncontent-type: application/json\r\n\
         cache-control: no-store\r\nx-powered-by: bench\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

async fn serve_http1(mut stream: TcpStream, answer: Arc<[u8]>) -> anyhow::Result<()> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let head = loop {
            if let Some(head) = http1::Head::parse(&buffer) {
                break head;
            }
            ensure!(stream.read_buf(&mut buffer).await? > 0, "the client is gone");
        };
        let mut body = head.content_length.saturating_sub((buffer.len() - head.length) as u64);
        let path = buffer.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let length = path.strip_prefix(b"/bytes/").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        if head.content_length == 0 {
            buffer.drain(..head.length);
        } else {
            buffer.clear();
            let mut sink = vec![0; CHUNK];
            while body > 0 {
                let read = stream.read(&mut sink).await?;
                ensure!(read > 0, "the client is gone");
                body = body.saturating_sub(read as u64);
            }
        }
        match length {
            None => stream.write_all(&answer).await?,
            Some(length) => {
                stream.write_all(&http1_answer(length, &[])).await?;
                send(&mut stream, length).await?;
            }
        }
    }
}

async fn send(stream: &mut TcpStream, mut left: usize) -> anyhow::Result<()> {
    let chunk = vec![b'x'; CHUNK];
    while left > 0 {
        let part = chunk.get(..left.min(CHUNK)).unwrap_or(&chunk);
        stream.write_all(part).await?;
        left -= part.len();
    }
    Ok(())
}

async fn serve_bytes(mut stream: TcpStream) -> anyhow::Result<()> {
    // The client says with its first byte that it is ready.
    ensure!(stream.read_u8().await? > 0, "no such wish");
    send(&mut stream, usize::MAX).await
}

async fn serve_grpc(stream: TcpStream) -> anyhow::Result<()> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(1000)
        .handshake::<_, Bytes>(stream)
        .await?;
    let message = Bytes::from([&[0, 0, 0, 0, 64][..], &[7; 64]].concat());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let (message, trailers) = (message.clone(), trailers.clone());
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(chunk) = body.data().await {
                let length = chunk?.len();
                body.flow_control().release_capacity(length)?;
            }
            let response = Response::builder().header("content-type", "application/grpc").body(())?;
            let mut answer = respond.send_response(response, false)?;
            answer.send_data(message, false)?;
            answer.send_trailers(trailers)?;
            Ok::<(), anyhow::Error>(())
        });
    }
    Ok(())
}
