//! New TLS connections, each with one request that the proxy answers itself (no route leads anywhere).

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

use super::{Kind, Load, Seen, tls::Tls};

/// Sessions that one client remembers: more than tickets are ever given between two connections.
const SESSIONS: usize = 64;

pub(super) async fn run(load: Load) -> anyhow::Result<Seen> {
    let tls = Tls::of(&load)?;
    let load = Arc::new(load);
    let is_resumed = load.kind == Kind::HandshakeResumed;
    super::start_signal().await?;
    let mut clients = JoinSet::new();
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(load.seconds);
    for _ in 0..load.connections {
        let (load, tls) = (Arc::clone(&load), tls.with_sessions(is_resumed.then_some(SESSIONS)));
        clients.spawn(async move {
            let mut answers: u64 = 0;
            let mut is_first = true;
            while Instant::now() < end {
                let kind = connect(&load, &tls).await?;
                let is_expected = match kind {
                    Some(HandshakeKind::Resumed) => is_resumed,
                    _ => !is_resumed || is_first,
                };
                ensure!(is_expected, "a handshake of another kind: {kind:?}");
                is_first = false;
                answers += 1;
            }
            Ok::<u64, anyhow::Error>(answers)
        });
    }
    let mut sum = Seen::default();
    while let Some(answers) = clients.join_next().await {
        sum.answers += answers??;
    }
    sum.seconds = begin.elapsed().as_secs_f64();
    Ok(sum)
}

/// Reading to the end brings the session tickets as well.
async fn connect(load: &Load, tls: &Tls) -> anyhow::Result<Option<HandshakeKind>> {
    let stream = TcpStream::connect(load.target).await?;
    stream.set_nodelay(true)?;
    let mut stream = tls.handshake(stream).await?;
    let kind = stream.get_ref().1.handshake_kind();
    let request = format!("GET /nowhere HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", load.authority);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    // A server that closes without close_notify has answered all the same.
    let end = stream.read_to_end(&mut answer).await;
    ensure!(answer.starts_with(b"HTTP/1.1 404"), "{end:?}: {}", String::from_utf8_lossy(&answer));
    Ok(kind)
}
