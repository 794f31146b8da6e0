//! Recognition, pure and on real sockets.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::tls::{AllowedPeers, server_name, testing};

const ALL: SniffPlan = SniffPlan { tls: true, http: HttpDetection::Full, deadline: None };

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let client = client.unwrap();
    client.set_nodelay(true).unwrap();
    (client, accepted.unwrap().0)
}

fn hello() -> Vec<u8> {
    let ca = testing::TestCa::new("root");
    let config = testing::raw_client(None, &ca.pem(), AllowedPeers::AnyInMesh);
    let mut client = rustls::ClientConnection::new(config, server_name("a.example").unwrap()).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire
}

fn samples() -> Vec<(&'static str, Vec<u8>, Sniffed)> {
    let expected_hello = ClientHello { server_name: Some("a.example".into()), alpn: Vec::new() };
    let long_line = format!("GET /{} HTTP/1.1\r\n", "a".repeat(3000));
    vec![
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), Sniffed::Http1),
        ("HTTP/1.0, bare newline", b"GET / HTTP/1.0\n\n".to_vec(), Sniffed::Http1),
        ("an unknown method", b"M-SEARCH * HTTP/1.1\r\n\r\n".to_vec(), Sniffed::Http1),
        ("a long line", long_line.into_bytes(), Sniffed::Http1),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Sniffed::Http2),
        ("TLS", hello(), Sniffed::Tls(expected_hello)),
        ("HTTP/0.9", b"GET /\r\n".to_vec(), Sniffed::Other),
        ("another protocol's line", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), Sniffed::Other),
        ("binary", vec![0, 1, 2, 3], Sniffed::Other),
        ("nearly HTTP/2", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), Sniffed::Other),
        ("TLS that is no hello", b"\x16\x03\x01\x00\x02\x02\x00".to_vec(), Sniffed::Other),
        (
            "a hello that lies",
            b"\x16\x03\x01\x00\x04\x01\xff\xff\xff".to_vec(),
            Sniffed::InvalidTls(InvalidHello::TooLarge),
        ),
    ]
}

#[test]
fn protocols_are_told_apart_and_no_prefix_is_mistaken() {
    for (name, bytes, expected) in samples() {
        assert_eq!(classify(&bytes, ALL), Some(expected.clone()), "{name}");
        for cut in 0..bytes.len() {
            let early = classify(&bytes[..cut], ALL);
            assert!(early.is_none() || early == Some(expected.clone()), "{name} cut at {cut}: {early:?}");
        }
    }
}

#[test]
fn what_stays_incomplete_is_judged_by_what_is_there() {
    for (bytes, expected) in [
        (&b""[..], Sniffed::Silent),
        (b"GET /half", Sniffed::Http1),
        (b"GE", Sniffed::Other),
        (b"XYZZY /half", Sniffed::Other),
        (b"\x16\x03\x01", Sniffed::InvalidTls(InvalidHello::Malformed)),
    ] {
        assert_eq!(classify_final(bytes, ALL), expected, "{bytes:?}");
    }
    let endless = [b"GET /".to_vec(), vec![b'a'; MAX_REQUEST_LINE]].concat();
    assert_eq!(classify(&endless, ALL), Some(Sniffed::Http1));
}

#[test]
fn a_plan_looks_only_for_what_matters() {
    use DeclaredProtocol::{Auto, Http, Tcp};
    let plan = |mode, declared| SniffPlan::inbound(mode, declared, None);
    assert!(!plan(MtlsMode::Disable, Tcp).needs_bytes(), "server-first protocols must not wait");
    for (mode, declared, bytes, expected) in [
        (MtlsMode::Permissive, Tcp, &b"G"[..], Some(Sniffed::Other)),
        (MtlsMode::Permissive, Http, b"G", Some(Sniffed::Other)),
        (MtlsMode::Permissive, Http, b"P", None),
        (MtlsMode::Permissive, Auto, b"G", None),
        (MtlsMode::Strict, Auto, b"G", Some(Sniffed::Other)),
        (MtlsMode::Disable, Http, b"\x16\x03\x01", Some(Sniffed::Other)),
    ] {
        assert_eq!(classify(bytes, plan(mode, declared)), expected, "{mode:?} {declared:?} {bytes:?}");
    }
}

#[tokio::test]
async fn bytes_that_dribble_in_are_recognised_and_none_is_consumed() {
    for (name, bytes, expected) in samples() {
        let (mut client, mut server) = pair().await;
        let step = (bytes.len() / 40).max(1);
        let send = async {
            for chunk in bytes.chunks(step) {
                client.write_all(chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (sniffed, ()) = tokio::join!(sniff(&server, ALL), send);
        assert_eq!(sniffed.unwrap(), expected, "{name}");
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, bytes, "{name}");
    }
}

#[tokio::test]
async fn silence_close_and_half_a_request_end_the_wait() {
    let brief = SniffPlan { deadline: Some(Duration::from_millis(20)), ..ALL };
    let (_client, server) = pair().await;
    assert_eq!(sniff(&server, brief).await.unwrap(), Sniffed::Silent);

    let (client, server) = pair().await;
    drop(client);
    assert_eq!(sniff(&server, ALL).await.unwrap(), Sniffed::Closed);

    let (mut client, server) = pair().await;
    client.write_all(b"GET /half").await.unwrap();
    assert_eq!(sniff(&server, brief).await.unwrap(), Sniffed::Http1);
    client.shutdown().await.unwrap();
    assert_eq!(sniff(&server, ALL).await.unwrap(), Sniffed::Http1, "a half-closed client will say no more");
}

#[tokio::test]
async fn waiting_for_more_bytes_does_not_spin() {
    let (mut client, server) = pair().await;
    client.write_all(b"GET /half").await.unwrap();
    let polls = AtomicUsize::new(0);
    let plan = SniffPlan { deadline: Some(Duration::from_millis(100)), ..ALL };
    let mut sniffing = pin!(sniff(&server, plan));
    std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        sniffing.as_mut().poll(cx)
    })
    .await
    .unwrap();
    assert!(polls.into_inner() < 10);
}

#[tokio::test]
async fn a_hello_of_many_kilobytes_is_recognised() {
    // A long ticket or a post-quantum key share: more than the first look takes.
    let (mut client, server) = pair().await;
    let mut body = hello()[5..].to_vec();
    let padding = 9000_usize;
    body.extend_from_slice(&[0xfa, 0xfa]);
    body.extend_from_slice(&u16::try_from(padding).unwrap().to_be_bytes());
    body.extend(std::iter::repeat_n(0, padding));
    let message = u32::try_from(body.len() - 4).unwrap().to_be_bytes();
    body[1..4].copy_from_slice(&message[1..]);
    let extensions = 4 + 2 + 32 + 1 + usize::from(body[38]);
    let suites = usize::from(u16::from_be_bytes([body[extensions], body[extensions + 1]]));
    let at = extensions + 2 + suites + 2;
    let length = u16::from_be_bytes([body[at], body[at + 1]]) + u16::try_from(padding + 4).unwrap();
    body[at..at + 2].copy_from_slice(&length.to_be_bytes());
    let mut wire = vec![22, 3, 1];
    wire.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    wire.extend_from_slice(&body);
    let (sent, sniffed) = tokio::join!(client.write_all(&wire), sniff(&server, ALL));
    sent.unwrap();
    assert!(matches!(sniffed.unwrap(), Sniffed::Tls(hello) if hello.server_name.as_deref() == Some("a.example")));
}

proptest! {
    #[test]
    fn garbage_never_panics_and_more_bytes_never_change_a_verdict(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'\n'), Just(b'G'), Just(22), Just(3)], 0..200),
        cut in any::<prop::sample::Index>(),
    ) {
        for tls in [false, true] {
            for http in [HttpDetection::Off, HttpDetection::PrefaceOnly, HttpDetection::Full] {
                let plan = SniffPlan { tls, http, deadline: None };
                let whole = classify(&bytes, plan);
                let _ = classify_final(&bytes, plan);
                let early = classify(&bytes[..cut.index(bytes.len() + 1)], plan);
                prop_assert!(early.is_none() || early == whole, "{:?} then {:?}", early, whole);
            }
        }
    }
}
