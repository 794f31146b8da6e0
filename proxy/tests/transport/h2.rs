//! Downstream HTTP/2: trailers, 1xx, resets, refusals, limits.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Request};
use tokio::task::JoinSet;

use crate::child::two_hops;
use crate::support::certs::Pki;
use crate::support::h2_client::{Client, read};
use crate::support::hop::Setup;
use crate::support::{eventually, h1_peer, h2_origin, within};
use palisade_proxy::transport::{ConnectionEnd, H2Limits, H2Windows, PingKeepalive, UpstreamProtocol};

fn checksum() -> HeaderMap {
    HeaderMap::from_iter([("x-checksum".parse().unwrap(), "42".parse().unwrap())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_both_ways() {
    let origin = h2_origin::start().await;
    let (a, _b) = two_hops(origin.address).await;
    let client = Client::connect(a.address).await;
    for body in [0, 1, 100_000] {
        let answer = within("trailers", async {
            let (response, mut up) = client.open("/echo", false).await.unwrap();
            if body > 0 {
                up.send_data(Bytes::from(vec![1; body]), false).unwrap();
            }
            up.send_trailers(checksum()).unwrap();
            read(response).await.unwrap()
        })
        .await;
        answer.assert_whole(body);
        assert_eq!(answer.trailers["x-checksum"], "42", "{body} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_survive_beside_http1_traffic_to_the_same_endpoint() {
    // B takes both protocols on one port: pools that were mixed up would send a stream over HTTP/1, without trailers.
    let origin = h2_origin::start().await;
    let pki = Pki::new();
    let b = Setup { accept_tls: Some(pki.server), ..Setup::to(origin.address) };
    let b = b.speaking(UpstreamProtocol::Http2).start().await;
    let a = Setup { dial_tls: Some(pki.client), ..Setup::to(b.address) }.start().await;
    let client = Arc::new(Client::connect(a.address).await);
    let mut work = JoinSet::new();
    for _ in 0..4 {
        let (client, address) = (Arc::clone(&client), a.address);
        work.spawn(async move {
            for _ in 0..50 {
                client.ping_pong("/echo", 1).await.unwrap().assert_whole(1000);
            }
        });
        work.spawn(async move {
            let mut client = h1_peer::Client::connect(address).await;
            for _ in 0..50 {
                assert_eq!(client.get("/echo").await.unwrap().0.status(), 200);
            }
        });
    }
    within("mixed pools", async {
        while let Some(done) = work.join_next().await {
            done.unwrap()
        }
    })
    .await;
    assert!((2..50).contains(&b.accepted.load(SeqCst)), "one for HTTP/2, and pooled ones for HTTP/1");
    assert_eq!(origin.counts.connections.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informational_responses_pass() {
    let origin = h2_origin::start().await;
    let (a, _b) = two_hops(origin.address).await;
    let client = Client::connect(a.address).await;
    let (mut response, _up) = client.open("/hints", true).await.unwrap();
    let hints = within("103", std::future::poll_fn(|cx| response.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!((hints.status().as_u16(), hints.headers()["link"].as_bytes()), (103, &b"</a.css>"[..]));
    read(response).await.unwrap().assert_whole(0);
    // To an HTTP/1 client too.
    let b = Setup::to(origin.address).speaking(UpstreamProtocol::Http2).start().await;
    let mut client = h1_peer::Client::connect(b.address).await;
    client.send("GET /hints HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert_eq!(client.read.head().await.unwrap().status(), 103);
    assert_eq!(client.read.head().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_reset_keeps_its_code() {
    let origin = h2_origin::start().await;
    let (a, _b) = two_hops(origin.address).await;
    let client = Client::connect(a.address).await;
    for (sent, seen) in [
        (Reason::CANCEL, Reason::CANCEL),
        (Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
        (Reason::INTERNAL_ERROR, Reason::INTERNAL_ERROR),
        (Reason::PROTOCOL_ERROR, Reason::INTERNAL_ERROR),
    ] {
        let path = format!("/abort/{}", u32::from(sent));
        let (response, mut up) = client.open(&path, false).await.unwrap();
        let mut body = within("header", response).await.unwrap().into_body();
        up.send_data(Bytes::from_static(b"go"), false).unwrap();
        let error = within("reset", crate::support::h2_client::drain(&mut body)).await.unwrap_err();
        assert_eq!((error.is_remote(), error.reason()), (true, Some(seen)), "{sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_reset_keeps_its_meaning() {
    let origin = h2_origin::start().await;
    let (a, _b) = two_hops(origin.address).await;
    let client = Client::connect(a.address).await;
    for (sent, seen) in [
        (Reason::CANCEL, Reason::CANCEL),
        (Reason::INTERNAL_ERROR, Reason::INTERNAL_ERROR),
        (Reason::NO_ERROR, Reason::CANCEL),
    ] {
        let counts = &origin.counts;
        counts.resets.lock().clear();
        let (response, mut up) = client.open("/hold", false).await.unwrap();
        let _response = within("header", response).await.unwrap();
        up.send_reset(sent);
        eventually("the reset arrives", || counts.resets.lock().as_slice() == [seen]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_is_tried_again() {
    let origin = h2_origin::start().await;
    let hop = Setup::to(origin.address).start().await;
    let client = Client::connect(hop.address).await;
    let answer = within("refused", client.upload("/refuse/7", 1000)).await.unwrap();
    assert_eq!((answer.status.as_u16(), hop.seen.retries.load(SeqCst)), (502, 3));
    let answer = within("aborted", client.upload("/refuse/2", 1000)).await.unwrap();
    assert_eq!((answer.status.as_u16(), hop.seen.retries.load(SeqCst)), (502, 3), "INTERNAL_ERROR is no promise");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_asterisk_passes_over_both_protocols() {
    let origin = h2_origin::start().await;
    let (a, _b) = two_hops(origin.address).await;
    let request = || {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some("http".parse().unwrap());
        uri.authority = Some("a.example".parse().unwrap());
        uri.path_and_query = Some("*".parse().unwrap());
        let mut request = Request::new(());
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = uri.try_into().unwrap();
        request
    };
    let answer = within("OPTIONS *", Client::connect(a.address).await.request(request())).await.unwrap();
    answer.assert_whole(0);
    let plain = h1_peer::start().await;
    let hop = Setup::to(plain.address).speaking(UpstreamProtocol::Http1).start().await;
    let answer = within("OPTIONS *", Client::connect(hop.address).await.request(request())).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.headers["x-target"]), (200, &http::HeaderValue::from_static("*")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_before_the_application_sees_them() {
    let origin = h2_origin::start().await;
    let limits = H2Limits { max_malformed: 5, ..H2Limits::default() };
    let hop = Setup { h2: limits, ..Setup::to(origin.address) }.start().await;
    let client = Client::connect(hop.address).await;
    let with_host = |host: &'static str| Request::get("http://a.example/").header("host", host).body(()).unwrap();
    for (name, request, status) in [
        ("host differs", with_host("b.example"), 400),
        ("user information", Request::get("http://u@a.example/").body(()).unwrap(), 400),
        (
            "two lengths",
            {
                let request = Request::get("http://a.example/").header("content-length", "0");
                request.header("content-length", "0").body(()).unwrap()
            },
            400,
        ),
        ("connect", Request::connect("a.example:80").body(()).unwrap(), 400),
    ] {
        let status_seen = within(name, client.request(request)).await.map(|answer| answer.status.as_u16());
        assert_eq!(status_seen.unwrap(), status, "{name}");
    }
    assert_eq!(hop.seen.requests.load(SeqCst), 0);
    assert!(within("the last one", client.request(with_host("b.example"))).await.is_err());
    let error = within("goodbye", client.connection).await.unwrap().unwrap_err();
    assert_eq!((error.is_go_away(), error.reason()), (true, Some(Reason::ENHANCE_YOUR_CALM)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_after_its_requests_its_age_and_its_idle_time() {
    let origin = h2_origin::start().await;
    let short = Duration::from_millis(50);
    for (limits, end) in [
        (H2Limits { max_requests: Some(3), ..H2Limits::default() }, ConnectionEnd::MaxRequests),
        (H2Limits { max_age: Some(short), ..H2Limits::default() }, ConnectionEnd::MaxAge),
        (H2Limits { idle_timeout: short, ..H2Limits::default() }, ConnectionEnd::Idle),
    ] {
        let hop = Setup { h2: limits, ..Setup::to(origin.address) }.start().await;
        let client = Client::connect(hop.address).await;
        println!("{end:?}");
        // Open before the end, completed after it.
        let (response, mut up) = client.open("/echo", false).await.unwrap();
        up.send_data(Bytes::from_static(b"x"), false).unwrap();
        let response = within("header", response).await.unwrap();
        if end == ConnectionEnd::MaxRequests {
            for _ in 0..2 {
                within("request", client.get("/echo")).await.unwrap().assert_whole(0);
            }
        }
        if end != ConnectionEnd::Idle {
            within("GOAWAY", async { while client.get("/echo").await.is_ok() {} }).await;
        }
        up.send_data(Bytes::new(), true).unwrap();
        let mut body = response.into_body();
        assert_eq!(crate::support::h2_client::drain(&mut body).await.unwrap(), 1, "{end:?}");
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0", "{end:?}");
        drop((body, up));
        let _ = within("the end", client.connection).await;
        eventually("the server is done", || hop.ends() == [end]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let ping = Some(PingKeepalive { interval: Duration::from_millis(20), timeout: Duration::from_millis(50) });
    let limits = H2Limits { ping, ..H2Limits::default() };
    let hop = Setup { h2: limits, ..Setup::to(([127, 0, 0, 1], 9).into()) }.start().await;
    let mut silent = tokio::net::TcpStream::connect(hop.address).await.unwrap();
    // The preface and empty settings, and never a word again.
    tokio::io::AsyncWriteExt::write_all(&mut silent, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    eventually("given up", || hop.ends() == [ConnectionEnd::PingTimeout]).await;
    // One that answers is kept.
    let client = Client::connect(hop.address).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!client.connection.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_is_ended_by_the_idle_timeout_and_a_busy_one_is_not() {
    let origin = h2_origin::start().await;
    let limits = H2Limits { stream_idle_timeout: Some(Duration::from_millis(150)), ..H2Limits::default() };
    let hop = Setup { h2: limits, ..Setup::to(origin.address) }.start().await;
    let client = Client::with_windows(hop.address, 1 << 16, 1 << 24).await;
    let (response, mut up) = client.open("/amplify/100", false).await.unwrap();
    up.send_data(Bytes::from(vec![1; 16_000]), false).unwrap();
    let unread = within("header", response).await.unwrap();
    let (held, _held_up) = client.open("/hold", false).await.unwrap();
    let _held = within("header", held).await.unwrap();
    let begin = std::time::Instant::now();
    let busy = async {
        let (response, mut up) = client.open("/echo", false).await.unwrap();
        while begin.elapsed() < Duration::from_millis(800) {
            up.send_data(Bytes::from_static(b"x"), false).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        up.send_data(Bytes::new(), true).unwrap();
        read(response).await.unwrap()
    };
    let busy = within("busy", busy).await;
    assert_eq!(busy.trailers["grpc-status"], "0");
    eventually("both are ended", || hop.seen.idle.load(SeqCst) == 2).await;
    drop(unread);
    eventually("the server is told", || origin.counts.active.load(SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_a_header_is_refused() {
    let origin = h2_origin::start().await;
    let limits = H2Limits { max_header_list_bytes: 2000, windows: H2Windows::default(), ..H2Limits::default() };
    let hop = Setup { h2: limits, ..Setup::to(origin.address) }.start().await;
    let client = Client::connect(hop.address).await;
    let request = Request::get("http://a.example/").header("x", "y".repeat(3000)).body(()).unwrap();
    let refused = within("431", client.request(request)).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status.as_u16() == 431));
    assert_eq!(hop.seen.requests.load(SeqCst), 0);
}
