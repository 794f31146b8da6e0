//! Clients that send or read as slowly as they can, and storms of them: each ends by a limit, and others are served meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::{ClientConnection, pki_types::ServerName};

use super::*;
use crate::{
    runtime::tests::traffic::{silence, tcp_inbound},
    tls::{AllowedPeers, testing::raw_client},
};

const IDLE: Duration = Duration::from_millis(300);

fn impatient() -> RuntimeSettings {
    let idle = Some(IDLE);
    let mut settings =
        RuntimeSettings { stream_idle_timeout: idle, tcp_idle_timeout: idle, ..RuntimeSettings::new("foo/b") };
    settings.h1.stream_idle_timeout = idle;
    settings.timeouts.handshake = Duration::from_millis(500);
    settings
}

/// An application that says more than anybody holds, as soon as it has heard anything; how much it got rid of.
async fn talking(head: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, sent) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(head).await;
                while let Ok(written @ 1..) = stream.write(&[b'x'; 65536]).await {
                    count.fetch_add(written, Ordering::Relaxed);
                }
            });
        }
    });
    (address, sent)
}

/// More than the kernel's buffers of both connections and what the proxy holds of one stream.
const HELD: usize = 48 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_body_that_stops_coming_ends_by_the_idle_timeout() {
    let application = silence().await;
    let sidecar = sidecar_with(&TestCa::new("mesh"), "b", Role::Inbound, application, impatient()).await;
    sidecar.runtime.apply(plaintext(application.port(), vec![default_permit()])).unwrap();
    for head in ["content-length: 100\r\n\r\nx", "transfer-encoding: chunked\r\n\r\n5\r\nab"] {
        let mut client = TcpStream::connect(sidecar.address).await.unwrap();
        client.write_all(format!("POST / HTTP/1.1\r\nhost: b\r\n{head}").as_bytes()).await.unwrap();
        let began = std::time::Instant::now();
        let mut received = Vec::new();
        let _ = within(client.read_to_end(&mut received)).await;
        assert!(began.elapsed() >= IDLE, "{head:?}");
        let answer = String::from_utf8_lossy(&received);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"), "{answer}");
    }
    logged(&sidecar.log, "\"reason\":\"idle-timeout\"").await;
    assert_eq!(sidecar.runtime.registry.counts().streams, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_body_that_drips_is_taken_as_long_as_it_drips() {
    let (application, seen) = noting().await;
    let sidecar = sidecar_with(&TestCa::new("mesh"), "b", Role::Inbound, application, impatient()).await;
    sidecar.runtime.apply(plaintext(application.port(), vec![default_permit()])).unwrap();
    let mut client = TcpStream::connect(sidecar.address).await.unwrap();
    // The blank line that the application waits for is the body's end.
    client.write_all(b"POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 8\r\n\r\n").await.unwrap();
    for byte in b"drip\r\n\r\n" {
        tokio::time::sleep(IDLE / 2).await;
        client.write_all(&[*byte]).await.unwrap();
    }
    within(async {
        while !seen.lock().ends_with(b"drip\r\n\r\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_answer_holds_little_and_is_ended() {
    let (application, sent) = talking(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let sidecar = sidecar_with(&TestCa::new("mesh"), "b", Role::Inbound, application, impatient()).await;
    sidecar.runtime.apply(plaintext(application.port(), vec![default_permit()])).unwrap();
    let mut client = TcpStream::connect(sidecar.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    logged(&sidecar.log, "\"reason\":\"idle-timeout\"").await;
    assert!(sent.load(Ordering::Relaxed) < HELD, "{} bytes are held", sent.load(Ordering::Relaxed));
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_a_relay_holds_little_and_is_ended() {
    let (application, sent) = talking(b"").await;
    let sidecar = sidecar_with(&TestCa::new("mesh"), "b", Role::Inbound, application, impatient()).await;
    let snapshot = tcp_inbound(application.port(), vec![default_permit()]);
    let resources = snapshot.entries().values().map(|entry| match entry.resource() {
        Resource::Inbound(port) => Resource::Inbound(InboundPort { mtls: MtlsMode::Disable, ..port.clone() }),
        other => other.clone(),
    });
    sidecar.runtime.apply(testing::snapshot(resources.collect())).unwrap();
    let mut client = TcpStream::connect(sidecar.address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    logged(&sidecar.log, "\"reason\":\"idle-timeout\"").await;
    assert!(sent.load(Ordering::Relaxed) < HELD, "{} bytes are held", sent.load(Ordering::Relaxed));
    drop(client);
}

/// Clients that begin handshakes and leave, and others that stop in the middle of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_handshakes_passes_and_others_are_served_meanwhile() {
    const CLIENTS: usize = 300;
    let ca = TestCa::new("mesh");
    let application = application().await;
    let b = sidecar_with(&ca, "b", Role::Inbound, application, impatient()).await;
    let a = sidecar(&ca, "a", Role::Outbound, VIP.parse().unwrap()).await;
    b.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Strict, vec![default_permit()])).unwrap();
    a.runtime.apply(outbound_snapshot(b.address)).unwrap();
    let mut hello = Vec::new();
    let config = raw_client(None, &ca.pem(), AllowedPeers::AnyInMesh);
    let mut session = ClientConnection::new(config, ServerName::try_from("b").unwrap()).unwrap();
    session.write_tls(&mut hello).unwrap();
    let mut stalling = Vec::new();
    for number in 0..CLIENTS {
        let mut client = TcpStream::connect(b.address).await.unwrap();
        // Whole, or up to any byte.
        let part = if number % 3 == 0 { hello.len() } else { number % hello.len() };
        let _ = client.write_all(&hello[..part]).await;
        if number % 2 == 0 {
            stalling.push(client);
        }
    }
    let mut client = TcpStream::connect(a.address).await.unwrap();
    let (head, _) = within(ask(&mut client, "/")).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    // They are ended by the proxy, not by their clients: what is left is the neighbour's one connection.
    within(async {
        while b.runtime.metrics.open_connections.get() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    drop(stalling);
}
