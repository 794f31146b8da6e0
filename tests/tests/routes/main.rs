//! Routes through a whole mesh of real processes: TLS at the gateway, HTTP/2 and gRPC from pod to pod, copies, CORS.

mod documents;

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use palisade_tests::{
    certificates::Certificate,
    checkout,
    http::Client,
    mesh::{Mesh, Options},
    wait::until,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// The mesh of these tests, or `None` where no namespaces can be made.
async fn mesh(documents: &str) -> anyhow::Result<Option<Mesh>> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, documents)?;
    let images = folder.path().join("images.yaml");
    std::fs::write(&images, "{}\n")?;
    Ok(Some(Mesh::start(Options { documents: vec![file], images, ..Options::default() }).await?))
}

/// Runs a command in the client's pod; its standard output as JSON.
async fn call(mesh: &Mesh, command: &[&str]) -> anyhow::Result<Value> {
    let output = mesh.exec(mesh.pod("default", "client")?, command).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = || format!("{command:?}: {said} {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.trim()).with_context(failed)
}

#[tokio::test]
async fn a_gateway_terminates_tls_by_server_name_and_relays_it_unread() -> anyhow::Result<()> {
    let (a, b) = (Certificate::new("a.example.com")?, Certificate::new("b.example.com")?);
    let own = Certificate::new("own.example.com")?;
    let Some(mesh) = mesh(&documents::tls(&a, &b, &own)).await? else { return Ok(()) };
    let terminated = mesh.gateway("default/edge", 443)?.to_owned();
    let relayed = mesh.gateway("istio-system/passthrough", 8443)?.to_owned();

    // Each name is answered with its own certificate, over HTTP/1.1 and HTTP/2.
    for certificate in [&a, &b] {
        let name = certificate.name;
        for alpn in ["http/1.1", "h2"] {
            let answer = https(&terminated, certificate, name, alpn).await.with_context(|| format!("{name} {alpn}"))?;
            ensure!(answer["headers"]["x-forwarded-proto"][0] == "https", "{answer}");
            ensure!(answer["headers"]["host"][0] == name, "{answer}");
        }
    }
    // Another name's certificate is never shown, and a name that no listener has gets no handshake.
    ensure!(https(&terminated, &a, "b.example.com", "http/1.1").await.is_err(), "b was shown the certificate of a");
    ensure!(https(&terminated, &a, "c.example.com", "http/1.1").await.is_err(), "a name that nobody has");

    // Relayed: the certificate is the application's own.
    let answer = https(&relayed, &own, own.name, "http/1.1").await?;
    ensure!(answer["pod"].as_str().is_some_and(|pod| pod.starts_with("own")), "{answer}");
    ensure!(https(&relayed, &own, "a.example.com", "http/1.1").await.is_err(), "a name without a route was relayed");
    mesh.stop().await
}

/// One GET inside TLS; only `certificate` is trusted.
async fn https(address: &str, certificate: &Certificate, name: &str, alpn: &str) -> anyhow::Result<Value> {
    tokio::time::timeout(SOON, async {
        let stream = certificate.connect(address, name, alpn).await?;
        let request = Request::builder().uri(format!("https://{name}/x")).header("host", name);
        let request = request.body(Full::<Bytes>::default())?;
        let response = if alpn == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (mut parts, body) = request.into_parts();
            parts.headers.clear();
            sender.send_request(Request::from_parts(parts, body)).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (mut parts, body) = request.into_parts();
            parts.uri = "/x".parse()?;
            sender.send_request(Request::from_parts(parts, body)).await?
        };
        ensure!(response.status() == 200, "{}", response.status());
        Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
    })
    .await
    .context("no answer in time")?
}

#[tokio::test]
async fn grpc_goes_from_pod_to_pod_message_by_message() -> anyhow::Result<()> {
    let Some(mesh) = mesh(&documents::plain()).await? else { return Ok(()) };
    // Each message is sent only when the one before it came back: nothing on the way holds one back.
    let echo = "http://grpc.default:9000/shop.Reviews/List";
    until("an answer", SOON, async || {
        let answer = call(&mesh, &["bookinfo", "grpc-call", echo, "--messages=20"]).await?;
        ensure!(answer["messages"] == 20 && answer["trailers"]["grpc-status"] == "0", "{answer}");
        ensure!(answer["headers"]["x-path"] == "/shop.Reviews/List", "{answer}");
        ensure!(answer["headers"]["x-authority"] == "grpc.default:9000", "{answer}");
        Ok(())
    })
    .await?;
    // Both proxies saw HTTP/2, and the server's saw the client's identity.
    let server = mesh.pod("default", "grpc")?.name.clone();
    until("the log line", SOON, async || {
        let log = mesh.access_log("default", &server)?;
        let line = log.last().context("no line")?;
        ensure!(line["protocol"] == "http/2" && line["grpc_status"] == 0, "{line}");
        ensure!(line["source"].as_str().is_some_and(|source| source.ends_with("/ns/default/sa/default")), "{line}");
        Ok(())
    })
    .await?;
    // A denial is gRPC's: trailers-only, status 7.
    let denied = call(&mesh, &["bookinfo", "grpc-call", "http://grpc.default:9000/shop.Admin/Drop"]).await?;
    ensure!(denied["status"] == 200 && denied["headers"]["grpc-status"] == "7", "{denied}");
    mesh.stop().await
}

#[tokio::test]
async fn copies_never_touch_the_original_and_preflights_are_answered() -> anyhow::Result<()> {
    let Some(mesh) = mesh(&documents::plain()).await? else { return Ok(()) };
    let edge = mesh.gateway("default/edge", 80)?.to_owned();
    let mut client = Client::new(&edge);
    for number in 0..20 {
        let body = Bytes::from(format!("body {number}"));
        let answer = client.send(Method::POST, "/copied?q=1", &[("host", "a.example.com")], body.clone()).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        let said: Value = serde_json::from_slice(answer.body())?;
        ensure!(said["pod"].as_str().is_some_and(|pod| pod.starts_with("echo")), "{said}");
        ensure!(said["data"] == String::from_utf8_lossy(&body).as_ref(), "{said}");
    }
    // The other pod got every one of them, body and all.
    let shadow = mesh.pod("default", "shadow")?.name.clone();
    until("twenty copies", SOON, async || {
        let log = mesh.access_log("default", &shadow)?;
        let copies: Vec<&Value> = log.iter().filter(|line| line["path"] == "/copied").collect();
        ensure!(copies.len() == 20, "{} copies", copies.len());
        ensure!(
            copies.iter().all(|line| line["status"] == 200 && line["bytes_received"].as_u64() > Some(5)),
            "{log:#?}"
        );
        Ok(())
    })
    .await?;
    // A mirror that never answers slows nothing.
    let started = tokio::time::Instant::now();
    let answer = client.get("/stalled", &[("host", "a.example.com")]).await?;
    ensure!(answer.status() == 200 && started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    let preflight =
        [("host", "a.example.com"), ("origin", "https://shop.example.com"), ("access-control-request-method", "PUT")];
    let answer = client.send(Method::OPTIONS, "/shared", &preflight, Bytes::new()).await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    ensure!(answer.headers()["access-control-allow-origin"] == "https://shop.example.com", "{:?}", answer.headers());
    let answer = client.get("/shared", &preflight[..2]).await?;
    ensure!(answer.headers()["access-control-allow-origin"] == "https://shop.example.com", "{:?}", answer.headers());
    let other = [("host", "a.example.com"), ("origin", "https://other.example.com")];
    let answer = client.get("/shared", &other).await?;
    ensure!(!answer.headers().contains_key("access-control-allow-origin"), "{:?}", answer.headers());
    mesh.stop().await
}
