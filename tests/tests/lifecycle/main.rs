//! The life of processes: a gateway drains on SIGTERM, no change of its documents loses a request, and what the machine does to a control plane loses none.

mod control;
mod gateway;
mod machine;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use gateway::{Application, Gateway, SOON, edge, free_port, plain, service};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use palisade_tests::{certificates::Certificate, http::Client, load::Load, wait::until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn within<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(SOON, future).await.context("not in time")?
}

/// HTTP/1.1, HTTP/2 and a tunnel are open when the signal comes: requests complete, HTTP/2 hears GOAWAY, nobody new is let
/// in, the tunnel ends at the deadline, and the process ends well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_requests_complete_and_ends_tunnels_at_the_deadline() -> anyhow::Result<()> {
    let application = Application::start("one").await?;
    let port = free_port()?;
    let documents = edge(&plain("http", port)) + &service("app", application.address);
    let mut gateway = Gateway::start(&documents, port).await?;
    let address = format!("127.0.0.1:{port}");
    until("a route", SOON, async || {
        let status = Client::new(&address).get("/", &[("host", "a.test")]).await?.status();
        ensure!(status == 200, "{status}");
        Ok(())
    })
    .await?;

    let mut tunnel = TcpStream::connect(&address).await?;
    tunnel
        .write_all(b"GET /chat HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await?;
    let mut head = Vec::new();
    within(async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tunnel.read_u8().await?);
        }
        Ok(())
    })
    .await?;
    ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));

    let mut first = TcpStream::connect(&address).await?;
    first.write_all(b"GET /slow HTTP/1.1\r\nhost: a.test\r\n\r\n").await?;
    within(async {
        application.arrived.notified().await;
        Ok(())
    })
    .await?;
    let stream = TcpStream::connect(&address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().uri("http://a.test/slow").body(Full::<Bytes>::default())?;
    let second = tokio::spawn(sender.send_request(request));
    within(async {
        application.arrived.notified().await;
        Ok(())
    })
    .await?;

    gateway.terminate()?;
    until("no new connections", SOON, async || match TcpStream::connect(&address).await {
        Ok(_) => bail!("still accepting"),
        Err(_) => Ok(()),
    })
    .await?;
    // The tunnel goes on while it may.
    tunnel.write_all(b"still").await?;
    let mut echoed = [0; 5];
    within(async { Ok(tunnel.read_exact(&mut echoed).await?) }).await?;
    application.release.notify_one();
    application.release.notify_one();
    let mut answer = Vec::new();
    within(async { Ok(first.read_to_end(&mut answer).await?) }).await?;
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    ensure!(answer.starts_with("http/1.1 200") && answer.ends_with("one"), "{answer}");
    let response = within(async { Ok(second.await??) }).await?;
    ensure!(response.status() == 200, "{}", response.status());
    ensure!(within(async { Ok(response.into_body().collect().await?.to_bytes()) }).await? == "one");
    // GOAWAY: the connection ends by itself and well, although its client would ask for more.
    within(async { Ok(connection.await?) }).await?.context("the HTTP/2 connection did not end well")?;
    drop(sender);
    let end = within(async { Ok(tunnel.read(&mut echoed).await) }).await?;
    ensure!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    gateway.ended().await
}

/// Requests of clients that keep their connections, and of such that make one for each, while everything changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_documents_loses_a_request() -> anyhow::Result<()> {
    let (one, two) = (Application::start("one").await?, Application::start("two").await?);
    let (port, tls_port, other) = (free_port()?, free_port()?, free_port()?);
    let (old, new) = (Certificate::new("a.test")?, Certificate::new("a.test")?);
    let secure =
        format!("{{name: tls, port: {tls_port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}");
    let documents = |listeners: &[String], certificate: &Certificate, to: &Application| {
        format!("{}{}{}", edge(&listeners.join(", ")), service("app", to.address), certificate.secret("cert"))
    };
    let http = plain("http", port);
    let usual = [http.clone(), secure.clone()];
    let gateway = Gateway::start(&documents(&usual, &old, &one), port).await?;
    let address = format!("127.0.0.1:{port}");
    let shown = async |certificate: &Certificate| -> anyhow::Result<()> {
        certificate.connect(&format!("127.0.0.1:{tls_port}"), "a.test", "http/1.1").await.map(drop)
    };
    let served = async |name: &str| -> anyhow::Result<()> {
        let answer = Client::new(&address).get("/", &[("host", "a.test")]).await?;
        ensure!(answer.status() == 200 && answer.body() == name, "{answer:?}");
        Ok(())
    };
    until("the first configuration", SOON, async || served("one").await).await?;
    until("the first certificate", SOON, async || shown(&old).await).await?;

    let kept = Load::start(&address, "/", &[("host", "a.test")], 3);
    let stop = Arc::new(AtomicBool::new(false));
    let fresh = tokio::spawn({
        let (stop, address) = (Arc::clone(&stop), address.clone());
        async move {
            let mut count = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let answer = Client::new(&address).get("/", &[("host", "a.test")]).await?;
                ensure!(answer.status() == 200, "{answer:?}");
                count += 1;
            }
            anyhow::Ok(count)
        }
    });
    for _ in 0..3 {
        let with_another = [http.clone(), secure.clone(), plain("other", other)];
        gateway.edit(&documents(&with_another, &old, &one))?;
        until("one listener more", SOON, async || Ok(TcpStream::connect(("127.0.0.1", other)).await.map(drop)?))
            .await?;
        gateway.edit(&documents(&usual, &new, &one))?;
        until("the new certificate", SOON, async || shown(&new).await).await?;
        until("one listener less", SOON, async || match TcpStream::connect(("127.0.0.1", other)).await {
            Ok(_) => bail!("it still listens"),
            Err(_) => Ok(()),
        })
        .await?;
        gateway.edit(&documents(&usual, &new, &two))?;
        until("the other endpoint", SOON, async || served("two").await).await?;
        let renamed = [plain("renamed", port), secure.clone()];
        gateway.edit(&documents(&renamed, &old, &one))?;
        until("the first endpoint", SOON, async || served("one").await).await?;
        until("the old certificate", SOON, async || shown(&old).await).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let count = fresh.await??;
    ensure!(count > 20, "{count} connections");
    let count = kept.stop().await?;
    ensure!(count.total > 20 && count.not_ok() == 0, "{count:?}");
    Ok(())
}
