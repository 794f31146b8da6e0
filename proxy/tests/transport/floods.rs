//! Floods of frames and connections that only cost: the memory of the proxies stays flat, and others are served.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::child::{MEMORY_LIMIT_KIB, Proxies};
use crate::support::h2_client::Client;
use crate::support::{h2_origin, within};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://a/`, without the flag that ends the headers.
fn headers(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, flags, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])
}

async fn flood(address: std::net::SocketAddr, frames: &[u8], times: usize) {
    let mut client = TcpStream::connect(address).await.unwrap();
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    client.write_all(&begin).await.unwrap();
    // Nothing is ever read: answers pile up on the proxy's side, or it stops reading, or it closes.
    let sending = async {
        for _ in 0..times {
            if client.write_all(frames).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(4), sending).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_leave_memory_flat() {
    let origin = h2_origin::start().await;
    let proxies = Proxies::start(origin.address);
    let resets: Vec<u8> =
        (0..500).flat_map(|i| [headers(2 * i + 1, 5), frame(3, 0, 2 * i + 1, &[0, 0, 0, 8])].concat()).collect();
    for (name, frames) in [
        ("pings", frame(6, 0, 0, &[7; 8]).repeat(1000)),
        ("settings", frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(1000)),
        ("priorities", frame(2, 0, 3, &[0, 0, 0, 0, 1]).repeat(1000)),
        ("window updates", frame(8, 0, 0, &[0, 0, 0, 1]).repeat(1000)),
        ("unknown frames", frame(99, 0, 0, &[1; 1000]).repeat(100)),
        ("empty data", [headers(1, 4), frame(0, 0, 1, &[]).repeat(1000)].concat()),
        ("continuations", [headers(1, 0), frame(9, 0, 1, &[0, 1, b'x', 1, b'y']).repeat(1000)].concat()),
        ("resets", resets),
    ] {
        let floods = (0..4).map(|_| flood(proxies.address, &frames, 200));
        futures::future::join_all(floods).await;
        proxies.assert_memory_below(MEMORY_LIMIT_KIB, name);
    }
    let neighbour = Client::connect(proxies.address).await;
    within("a neighbour", neighbour.get("/echo")).await.unwrap().assert_whole(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_slow_connections_leaves_memory_flat() {
    let origin = h2_origin::start().await;
    let proxies = Proxies::start(origin.address);
    let mut held = Vec::new();
    for i in 0..400_usize {
        let mut client = TcpStream::connect(proxies.address).await.unwrap();
        // Each stops at another byte of a header.
        let head = b"GET / HTTP/1.1\r\nhost: a.example\r\nx: yyyyyyyyyyyyyyyy\r\n";
        client.write_all(&head[..3 + i % (head.len() - 3)]).await.unwrap();
        held.push(client);
    }
    let neighbour = Client::connect(proxies.address).await;
    within("a neighbour", neighbour.get("/echo")).await.unwrap().assert_whole(0);
    proxies.assert_memory_below(MEMORY_LIMIT_KIB, "400 unfinished headers");
}
