//! Downstream HTTP/1: keep-alive, pipelining, deadlines, upgrades.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::h1_peer::{self, Client};
use crate::support::hop::Setup;
use crate::support::{eventually, h2_origin, within};
use palisade_proxy::transport::{ConnectionEnd, H1Limits, UpstreamProtocol};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept_on_both_sides() {
    let origin = h1_peer::start().await;
    let hop = Setup::to(origin.address).start().await;
    let mut client = Client::connect(hop.address).await;
    for i in 0..50 {
        let (head, body) = within("request", client.get(&format!("/{i}"))).await.unwrap();
        assert_eq!((head.status(), &body[..]), (200, &b"ok\n"[..]));
        client.send(&format!("POST /p HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nbody{}", i % 10)).await;
        let (_, body) = within("request", client.answer()).await.unwrap();
        assert_eq!(body, format!("ok\nbody{}", i % 10).as_bytes());
        eventually("the request is over", || hop.seen.ended.load(SeqCst) == 2 * (i + 1)).await;
    }
    assert_eq!(hop.accepted.load(SeqCst), 1);
    // Pingora now and then misses one that another thread is just putting back.
    assert!(origin.counts.connections.load(SeqCst) < 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let origin = h1_peer::start().await;
    let hop = Setup::to(origin.address).start().await;
    let mut client = Client::connect(hop.address).await;
    let requests: Vec<String> = (0..20).map(|i| format!("GET /{i} HTTP/1.1\r\nhost: a.example\r\n\r\n")).collect();
    client.send(&requests.concat()).await;
    for i in 0..20 {
        let (head, _) = within("answer", client.answer()).await.unwrap();
        assert_eq!((head.status(), head.get("x-target")), (200, Some(format!("/{i}").as_str())));
    }
    // One that arrives while its predecessor is being answered.
    client.send("GET /a HTTP/1.1\r\nhost: a.example\r\n\r\nGE").await;
    assert_eq!(within("answer", client.answer()).await.unwrap().0.get("x-target"), Some("/a"));
    client.send("T /b HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert_eq!(within("answer", client.answer()).await.unwrap().0.get("x-target"), Some("/b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_must_come_in_time_and_not_be_too_large() {
    let origin = h1_peer::start().await;
    let h1 = H1Limits { header_timeout: Duration::from_millis(100), max_header_bytes: 2000, ..H1Limits::default() };
    let hop = Setup { h1, ..Setup::to(origin.address) }.start().await;
    // Byte by byte: each arrives in time, the header does not.
    let mut slow = Client::connect(hop.address).await;
    let sending = async {
        for byte in b"GET / HTTP/1.1\r\nhost: a.example\r\nx: ".iter().chain([b'y'; 1000].iter()) {
            if slow.write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = sending => {}
        head = slow.read.head() => assert_eq!(head.unwrap().status(), 408),
    }
    let mut large = Client::connect(hop.address).await;
    large.send(&format!("GET / HTTP/1.1\r\nhost: a.example\r\nx: {}", "y".repeat(2500))).await;
    assert_eq!(within("431", large.answer()).await.unwrap().0.status(), 431);
    eventually("both are closed", || {
        let ends = hop.ends();
        ends.contains(&ConnectionEnd::HeaderTimeout) && ends.contains(&ConnectionEnd::HeaderTooLarge)
    })
    .await;
    assert_eq!(hop.seen.requests.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_after_its_requests_its_age_and_its_idle_time() {
    let origin = h1_peer::start().await;
    let short = Duration::from_millis(60);
    for (h1, end) in [
        (H1Limits { max_requests: Some(3), ..H1Limits::default() }, ConnectionEnd::MaxRequests),
        (H1Limits { max_age: Some(short), ..H1Limits::default() }, ConnectionEnd::MaxAge),
        (H1Limits { idle_timeout: short, ..H1Limits::default() }, ConnectionEnd::Idle),
    ] {
        let hop = Setup { h1, ..Setup::to(origin.address) }.start().await;
        let mut client = Client::connect(hop.address).await;
        let mut last = None;
        for _ in 0..3 {
            last = within("request", client.get("/")).await;
        }
        let said = last.unwrap().0.get("connection").map(str::to_owned);
        if end == ConnectionEnd::MaxRequests {
            assert_eq!(said.as_deref(), Some("close"));
        }
        let mut rest = Vec::new();
        within("close", client.read.0.read_to_end(&mut rest)).await.unwrap();
        eventually("the server is done", || hop.ends() == [end]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_are_refused() {
    let origin = h1_peer::start().await;
    let hop = Setup::to(origin.address).start().await;
    for (name, fields) in [
        ("no host", "x: y\r\n"),
        ("two hosts", "host: a\r\nhost: a\r\n"),
        ("user information", "host: u@a\r\n"),
        ("empty port", "host: a:\r\n"),
        ("large port", "host: a:99999\r\n"),
    ] {
        let mut client = Client::connect(hop.address).await;
        client.send(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).await;
        assert_eq!(within(name, client.answer()).await.unwrap().0.status(), 400, "{name}");
    }
    assert_eq!(origin.counts.requests.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_answered_early_gets_its_answer() {
    let origin = h1_peer::start().await;
    let direct = Setup::to(origin.address).start().await;
    let direct_h1 = Setup::to(origin.address).speaking(UpstreamProtocol::Http1).start().await;
    let behind_h2 = Setup::to(direct_h1.address).speaking(UpstreamProtocol::Http2).start().await;
    // HTTP/2 client, HTTP/1 upstream: the upload is cut, and does not look complete.
    let client = crate::support::h2_client::Client::connect(direct_h1.address).await;
    let (response, mut up) = client.open("/early", false).await.unwrap();
    // Fails where the answer is faster than we are.
    let _ = up.send_data(bytes::Bytes::from(vec![1; 5_000_000]), false);
    let answer = within("early", crate::support::h2_client::read(response)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.bytes), (413, 4));
    let reset = within("the end", std::future::poll_fn(|cx| up.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, h2::Reason::NO_ERROR);
    // HTTP/1 clients: the answer arrives while the upload goes on.
    for hop in [&direct, &behind_h2] {
        let mut client = Client::connect(hop.address).await;
        client.send("POST /early HTTP/1.1\r\nhost: a.example\r\ncontent-length: 100000\r\n\r\nbegin").await;
        let (head, body) = within("early", client.answer()).await.unwrap();
        assert_eq!((head.status(), &body[..]), (413, &b"much"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http1_client_speaks_to_an_http2_server() {
    let origin = h2_origin::start().await;
    let hop = Setup::to(origin.address).speaking(UpstreamProtocol::Http2).start().await;
    let mut client = Client::connect(hop.address).await;
    for _ in 0..10 {
        client.send("POST /echo HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello").await;
        let (head, body) = within("answer", client.answer()).await.unwrap();
        assert_eq!((head.status(), &body[..]), (200, &b"hello"[..]));
        assert_eq!(head.get("x-uri"), Some("http://a.example/echo"));
    }
    assert_eq!(origin.counts.connections.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_on_which_nothing_moves_is_ended() {
    let origin = h1_peer::start().await;
    let h1 = H1Limits { stream_idle_timeout: Some(Duration::from_millis(100)), ..H1Limits::default() };
    let hop = Setup { h1, ..Setup::to(origin.address) }.start().await;
    let mut client = Client::connect(hop.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(within("101", client.read.head()).await.unwrap().status(), 101);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.send("ping").await;
        let mut back = [0; 4];
        within("pong", client.read.0.read_exact(&mut back)).await.unwrap();
    }
    let mut rest = Vec::new();
    let _ = within("the end", client.read.0.read_to_end(&mut rest)).await;
    eventually("it counts as idle", || hop.seen.idle.load(SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_request() {
    let origin = h2_origin::start().await;
    let hop = Setup::to(origin.address).speaking(UpstreamProtocol::Http2).start().await;
    let mut client = Client::connect(hop.address).await;
    client.send("GET /hold HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    within("header", client.read.head()).await.unwrap();
    drop(client);
    let counts = &origin.counts;
    eventually("the server is told", || counts.resets.lock().as_slice() == [h2::Reason::CANCEL]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_the_server_declines_is_an_ordinary_request() {
    let origin = h1_peer::start().await;
    let hop = Setup::to(origin.address).start().await;
    let mut client = Client::connect(hop.address).await;
    for _ in 0..10 {
        client
            .send("GET /no-upgrade HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await;
        let (head, body) = within("declined", client.answer()).await.unwrap();
        assert_eq!((head.status(), &body[..]), (200, &b"ok\n"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let origin = h1_peer::start().await;
    let h1 = Setup::to(origin.address).speaking(UpstreamProtocol::Http1).start().await;
    let h2 = Setup::to(h1.address).speaking(UpstreamProtocol::Http2).start().await;
    for hop in [&h1, &h2] {
        let mut client = Client::connect(hop.address).await;
        client.send("POST / HTTP/1.1\r\nhost: a.example\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
        assert_eq!(within("100", client.read.head()).await.unwrap().status(), 100);
        client.send("hello").await;
        let (head, body) = within("answer", client.answer()).await.unwrap();
        assert_eq!((head.status(), &body[..]), (200, &b"ok\nhello"[..]));
    }
}
