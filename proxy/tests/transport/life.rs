//! Draining and restarting under load: nothing that was accepted is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::certs::Pki;
use crate::support::h2_client::Client;
use crate::support::hop::{Hop, Setup};
use crate::support::{eventually, h1_peer, h2_origin, within};
use palisade_proxy::transport::ConnectionEnd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_completes_what_is_open_and_refuses_what_is_new() {
    let origin = h2_origin::start().await;
    let plain = h1_peer::start().await;
    let hop = Setup::to(origin.address).start().await;
    let tunnels = Setup::to(plain.address).start().await;
    let client = Client::connect(hop.address).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let (response, mut up) = client.open("/echo", false).await.unwrap();
        up.send_data(Bytes::from_static(b"before"), false).unwrap();
        streams.push((within("header", response).await.unwrap(), up));
    }
    let mut idle = h1_peer::Client::connect(tunnels.address).await;
    within("request", idle.get("/")).await.unwrap();
    let mut busy = h1_peer::Client::connect(tunnels.address).await;
    busy.send("POST /p HTTP/1.1\r\nhost: a.example\r\ncontent-length: 10\r\n\r\nbegin").await;
    eventually("the request has begun", || plain.counts.requests.load(SeqCst) == 2).await;

    hop.signal();
    tunnels.signal();
    assert!(within("idle connections close", idle.read.head()).await.is_none());
    within("new connections are refused", async { while TcpStream::connect(hop.address).await.is_ok() {} }).await;
    within("new streams are refused", async { while client.get("/echo").await.is_ok() {} }).await;
    for (response, mut up) in streams {
        up.send_data(Bytes::from_static(b" after"), true).unwrap();
        let mut body = response.into_body();
        assert_eq!(within("body", crate::support::h2_client::drain(&mut body)).await.unwrap(), 12);
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
    busy.send(" ends").await;
    let (head, body) = within("answer", busy.answer()).await.unwrap();
    assert_eq!((head.status(), &body[..]), (200, &b"ok\nbegin ends"[..]));
    within("drained", async {
        hop.drain().await;
        tunnels.drain().await;
    })
    .await;
    assert_eq!(hop.ends(), [ConnectionEnd::Drained]);
}

/// Two generations of B on one port, as a rolling restart has them: the new one accepts before the old one drains.
async fn restart(old: Hop, setup: &Setup) -> Hop {
    let next = Setup { listen: old.address, ..setup.clone() }.start().await;
    within("drained", old.drain()).await;
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_http2_request() {
    let origin = h2_origin::start().await;
    let pki = Pki::new();
    let setup = Setup { accept_tls: Some(pki.server), ..Setup::to(origin.address) };
    let mut b = setup.clone().start().await;
    let a = Setup { dial_tls: Some(pki.client), ..Setup::to(b.address) }.start().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = Arc::new(Client::connect(a.address).await);
    let mut load = JoinSet::new();
    for _ in 0..16 {
        let (stop, done, client) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&client));
        load.spawn(async move {
            while !stop.load(SeqCst) {
                client.upload("/echo", 1000).await.unwrap().assert_whole(1000);
                done.fetch_add(1, SeqCst);
            }
        });
    }
    for generation in 1..=6 {
        let so_far = done.load(SeqCst);
        eventually("the load flows", || done.load(SeqCst) > so_far + 100).await;
        b = restart(b, &setup).await;
        println!("generation {generation}: {} requests, {} retries", done.load(SeqCst), a.seen.retries.load(SeqCst));
    }
    stop.store(true, SeqCst);
    within("load", async {
        while let Some(end) = load.join_next().await {
            end.unwrap()
        }
    })
    .await;
    assert_eq!(a.seen.failures.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_http1_request() {
    let origin = h1_peer::start().await;
    let pki = Pki::new();
    let setup = Setup { accept_tls: Some(pki.server), ..Setup::to(origin.address) };
    let mut b = setup.clone().start().await;
    let a = Setup { dial_tls: Some(pki.client), ..Setup::to(b.address) }.start().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..16 {
        let (stop, done, address) = (Arc::clone(&stop), Arc::clone(&done), a.address);
        load.spawn(async move {
            let mut client = h1_peer::Client::connect(address).await;
            while !stop.load(SeqCst) {
                let (head, _) = client.get("/").await.unwrap();
                assert_eq!(head.status(), 200);
                done.fetch_add(1, SeqCst);
            }
        });
    }
    for generation in 1..=6 {
        let so_far = done.load(SeqCst);
        eventually("the load flows", || done.load(SeqCst) > so_far + 200).await;
        b = restart(b, &setup).await;
        println!("generation {generation}: {} requests, {} retries", done.load(SeqCst), a.seen.retries.load(SeqCst));
    }
    stop.store(true, SeqCst);
    within("load", async {
        while let Some(end) = load.join_next().await {
            end.unwrap()
        }
    })
    .await;
    assert_eq!(a.seen.failures.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_restarts_while_its_connections_idle_costs_no_request() {
    // All pooled connections go stale at once; each retry must take a fresh one.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let closing =
        |listener: &std::net::TcpListener| tokio::net::TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
    let origin = h1_peer::start_on(closing(&listener));
    let hop = Setup::to(address).start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(h1_peer::Client::connect(hop.address).await);
    }
    for round in 0..5 {
        for client in &mut clients {
            let (head, _) = within("request", client.get("/")).await.unwrap();
            assert_eq!(head.status(), 200, "round {round}");
        }
        origin.counts.hang_up.notify_waiters();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(hop.seen.failures.load(SeqCst), 0);
}
