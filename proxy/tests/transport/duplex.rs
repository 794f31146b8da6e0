//! Full duplex is whole: whatever both sides send at once arrives, without a stall, a reset or much memory.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::child::{MEMORY_LIMIT_KIB, Proxies, two_hops};
use crate::support::h2_client::{Client, read};
use crate::support::h2_origin::send_pattern;
use crate::support::hop::Setup;
use crate::support::{eventually, h1_peer, h2_origin, within};
use palisade_proxy::transport::UpstreamProtocol;

const MB: usize = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_back_and_forth_through_two_hops() {
    let origin = h2_origin::start().await;
    let (a, b) = two_hops(origin.address).await;
    let client = Arc::new(Client::connect(a.address).await);
    within("ping-pong", async {
        let mut streams = JoinSet::new();
        let ask = |streams: &mut JoinSet<()>| {
            for _ in 0..100 {
                let client = Arc::clone(&client);
                streams.spawn(async move { client.ping_pong("/echo", 10).await.unwrap().assert_whole(10_000) });
            }
        };
        ask(&mut streams);
        // With the first answer the client knows how many streams it may have: more at once before would be refused.
        streams.join_next().await.unwrap().unwrap();
        ask(&mut streams);
        while let Some(done) = streams.join_next().await {
            done.unwrap();
        }
    })
    .await;
    // However many asked at once: single flight, and multiplexing.
    assert_eq!((b.accepted.load(SeqCst), origin.counts.connections.load(SeqCst)), (1, 1));
    eventually("all requests are logged", || b.seen.ended.load(SeqCst) == 200).await;
    assert_eq!((a.seen.failures.load(SeqCst), b.seen.failures.load(SeqCst)), (0, 0));
    assert_eq!((b.seen.sent.load(SeqCst), b.seen.received.load(SeqCst)), (2_000_000, 2_000_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_are_echoed() {
    let origin = h2_origin::start().await;
    let proxies = Proxies::start(origin.address);
    let client = Client::connect(proxies.address).await;
    within("echo", client.upload("/echo", 20 * MB)).await.unwrap().assert_whole(20 * MB);
    proxies.assert_memory("20 MB echoed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_uploads_at_once_are_each_answered_twentyfold() {
    let origin = h2_origin::start().await;
    let proxies = Proxies::start(origin.address);
    let client = Arc::new(Client::connect(proxies.address).await);
    within("amplified uploads", async {
        let mut uploads = JoinSet::new();
        for _ in 0..10 {
            let client = Arc::clone(&client);
            uploads.spawn(async move { client.upload("/amplify/20", MB).await.unwrap().assert_whole(20 * MB) });
        }
        while let Some(done) = uploads.join_next().await {
            done.unwrap();
        }
    })
    .await;
    proxies.assert_memory("10 x 1 MB answered twentyfold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_answered_fivefold_neither_stall_nor_reset() {
    let origin = h2_origin::start().await;
    let proxies = Proxies::start(origin.address);
    let client = Client::connect(proxies.address).await;
    within("50 MB answered fivefold", client.upload("/amplify/5", 50 * MB)).await.unwrap().assert_whole(250 * MB);
    proxies.assert_memory("50 MB answered fivefold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_read_only_after_its_upload() {
    let origin = h2_origin::start().await;
    let proxies = Proxies::start(origin.address);
    let client = Arc::new(Client::with_windows(proxies.address, 1 << 16, 1 << 24).await);
    within("late readers", async {
        let mut uploads = JoinSet::new();
        for _ in 0..8 {
            let client = Arc::clone(&client);
            uploads.spawn(async move {
                let (response, mut up) = client.open("/full/4", false).await.unwrap();
                send_pattern(&mut up, 10 * MB).await.unwrap();
                up.send_data(Bytes::new(), true).unwrap();
                read(response).await.unwrap().assert_whole(4 << 20);
            });
        }
        while let Some(done) = uploads.join_next().await {
            done.unwrap();
        }
    })
    .await;
    proxies.assert_memory("8 clients that read after their upload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_hold_up_nobody() {
    let origin = h2_origin::start().await;
    let proxies = Proxies::start(origin.address);
    // The client's own connection window is large: what it does not read must stop at its streams.
    let client = Client::with_windows(proxies.address, 1 << 16, 1 << 28).await;
    let mut unread = Vec::new();
    within("slow readers", async {
        for _ in 0..90 {
            let (response, mut up) = client.open("/amplify/200", false).await.unwrap();
            up.send_data(Bytes::from(vec![1; 16_000]), true).unwrap();
            unread.push((response.await.unwrap(), up));
        }
        let begin = Instant::now();
        for _ in 0..100 {
            client.ping_pong("/echo", 3).await.unwrap().assert_whole(3000);
        }
        println!("100 ping-pongs beside 90 slow readers: {:?}", begin.elapsed());
    })
    .await;
    // Two proxies, each with a full window of every stream.
    proxies.assert_memory_below(2 * MEMORY_LIMIT_KIB, "90 streams that nobody reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_upload_is_cancelled_everywhere() {
    let origin = h2_origin::start().await;
    let (a, b) = two_hops(origin.address).await;
    let client = Client::connect(a.address).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let (response, mut up) = client.open("/hold", false).await.unwrap();
        // More than all windows on the way together.
        up.send_data(Bytes::from(vec![1; 2 * MB]), false).unwrap();
        open.push((response, up));
    }
    let counts = Arc::clone(&origin.counts);
    eventually("all uploads have begun", || counts.active.load(SeqCst) == 20).await;
    drop(open);
    eventually("all uploads are reset", || counts.resets.lock().len() == 20).await;
    assert!(counts.resets.lock().iter().all(|reason| *reason == Reason::CANCEL), "{:?}", counts.resets.lock());
    eventually("the proxies know", || a.seen.ended.load(SeqCst) == 20 && b.seen.ended.load(SeqCst) == 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_answered_early_gets_its_answer_and_an_end() {
    let origin = h2_origin::start().await;
    let (a, _b) = two_hops(origin.address).await;
    let client = Client::connect(a.address).await;
    for _ in 0..20 {
        within("early answer", async {
            let (response, mut up) = client.open("/early", false).await.unwrap();
            // Fails where the answer is faster than we are.
            let _ = up.send_data(Bytes::from(vec![1; 10 * MB]), false);
            let answer = read(response).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.bytes), (200, 9));
            assert_eq!(answer.trailers["grpc-status"], "8");
            let reset = std::future::poll_fn(|cx| up.poll_reset(cx)).await.unwrap();
            assert_eq!(reset, Reason::NO_ERROR);
        })
        .await;
    }
}

/// Uploads in chunks and reads what comes back, on one HTTP/1 connection.
async fn h1_duplex(address: std::net::SocketAddr, path: &str, bytes: usize, times: usize) {
    let client = h1_peer::Client::connect(address).await;
    let h1_peer::Client { mut read, mut write } = client;
    let head = format!("POST {path} HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n");
    let sending = async {
        write.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![3; 16_000];
        for _ in 0..bytes / chunk.len() {
            h1_peer::write_chunk(&mut write, &chunk).await.unwrap();
        }
        write.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let reading = async {
        let head = read.head().await.unwrap();
        assert_eq!(head.status(), 200, "{head:?}");
        let mut got = 0;
        loop {
            let chunk = read.chunk().await.unwrap();
            if chunk.is_empty() {
                break got;
            }
            got += chunk.len();
        }
    };
    let (_, got) = within("HTTP/1 duplex", async { tokio::join!(sending, reading) }).await;
    assert_eq!(got, bytes * times);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http1_upstream_behind_an_http2_client_is_full_duplex() {
    let origin = h1_peer::start().await;
    let b = Setup::to(origin.address).speaking(UpstreamProtocol::Http1).start().await;
    let a = Setup::to(b.address).speaking(UpstreamProtocol::Http2).start().await;
    let mut requests = 0;
    for hop in [&b, &a] {
        let client = Client::connect(hop.address).await;
        for _ in 0..2 {
            let answer = within("H2 to H1", client.upload("/amplify/5", 10 * MB)).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.bytes), (200, 50 * MB));
            requests += 1;
            eventually("the request is over", || b.seen.ended.load(SeqCst) == requests).await;
        }
    }
    // Pingora now and then misses one that another thread is just putting back.
    assert!(origin.counts.connections.load(SeqCst) < requests, "connections are used again after a duplex exchange");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_http1_is_full_duplex_in_every_combination() {
    let origin = h1_peer::start().await;
    let b = Setup::to(origin.address).speaking(UpstreamProtocol::Http1).start().await;
    let over_h2 = Setup::to(b.address).speaking(UpstreamProtocol::Http2).start().await;
    let over_h1 = Setup::to(b.address).speaking(UpstreamProtocol::Http1).start().await;
    for hop in [&b, &over_h2, &over_h1] {
        h1_duplex(hop.address, "/amplify/4", 8 * MB, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_tunnel_is_full_duplex() {
    let origin = h1_peer::start().await;
    let (a, _b) = two_hops(origin.address).await;
    for (bytes, times) in [(20 * MB, 1), (10 * MB, 4)] {
        let mut client = h1_peer::Client::connect(a.address).await;
        let head = format!(
            "GET /amplify/{times} HTTP/1.1\r\nhost: a.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
        );
        client.send(&head).await;
        let head = client.read.head().await.unwrap();
        assert_eq!((head.status(), head.get("upgrade")), (101, Some("websocket")));
        let h1_peer::Client { mut read, mut write } = client;
        let sending = async {
            let chunk = vec![5; 16_000];
            for _ in 0..bytes / chunk.len() {
                write.write_all(&chunk).await.unwrap();
            }
        };
        let reading = async {
            let mut whole = vec![0; bytes * times];
            read.0.read_exact(&mut whole).await.unwrap();
            whole.iter().all(|b| *b == 5)
        };
        let (_, right) = within("tunnel", async { tokio::join!(sending, reading) }).await;
        assert!(right);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_bytes_of_a_tunnel_arrive() {
    let origin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hop = Setup::to(origin.local_addr().unwrap()).start().await;
    let server = tokio::spawn(async move {
        let (mut tcp, _) = origin.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let _ = tcp.read(&mut head).await.unwrap();
        tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        // Reads slowly, so that the proxy must keep the rest after its client has left.
        let mut got = 0;
        let mut buf = vec![0; 64 * 1024];
        loop {
            tokio::time::sleep(Duration::from_micros(200)).await;
            match tcp.read(&mut buf).await.unwrap() {
                0 => break got,
                n => got += n,
            }
        }
    });
    let mut client = h1_peer::Client::connect(hop.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.read.head().await.unwrap().status(), 101);
    client.write.write_all(&vec![6; 3 * MB]).await.unwrap();
    client.write.shutdown().await.unwrap();
    assert_eq!(within("tunnel's end", server).await.unwrap(), 3 * MB);
}
