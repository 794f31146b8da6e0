//! Bytes in bulk: one connection, one long body.

use anyhow::{Context, ensure};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::{ClientStream, Kind, Load, Seen, grpc, tls::Tls};
use crate::bench::http1::Head;

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

pub(super) async fn run(load: &Load) -> anyhow::Result<Seen> {
    let tls = Tls::of(load)?;
    let mut stream = load.connect(&tls).await?;
    super::start_signal().await?;
    let begin = Instant::now();
    let bytes = match load.kind {
        Kind::BulkHttp2 => http2(load, stream).await?,
        Kind::BulkTcp => {
            stream.write_all(b"!").await?;
            read(&mut stream, load.bytes).await?
        }
        _ => http1(load, &mut stream).await?,
    };
    Ok(Seen { answers: 1, bytes, seconds: begin.elapsed().as_secs_f64(), latencies_us: Vec::new() })
}

async fn http1(load: &Load, stream: &mut ClientStream) -> anyhow::Result<u64> {
    let request = format!("GET /bytes/{} HTTP/1.1\r\nhost: {}\r\n\r\n", load.bytes, load.authority);
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = Vec::with_capacity(CHUNK);
    let head = loop {
        ensure!(stream.read_buf(&mut buffer).await? > 0, "the server closed");
        if let Some(head) = Head::parse(&buffer) {
            break head;
        }
    };
    ensure!(head.status == 200 && head.content_length == load.bytes, "{head:?}");
    let begun = (buffer.len() - head.length) as u64;
    Ok(begun + read(stream, load.bytes - begun).await?)
}

async fn read(stream: &mut ClientStream, bytes: u64) -> anyhow::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut read = 0;
    while read < bytes {
        let some = stream.read(&mut buffer).await?;
        ensure!(some > 0, "the server closed after {read} bytes");
        read += some as u64;
    }
    Ok(read)
}

async fn http2(load: &Load, stream: ClientStream) -> anyhow::Result<u64> {
    let sender = grpc::connect(stream).await?;
    let request = Request::get(format!("https://{}/bytes/{}", load.authority, load.bytes)).body(())?;
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    let response = response.await.context("no answer")?;
    ensure!(response.status() == 200, "{response:?}");
    let read = grpc::drain(&mut response.into_body()).await?;
    ensure!(read == load.bytes, "{read} bytes");
    Ok(read)
}
