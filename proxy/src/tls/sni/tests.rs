//! The parser against ClientHellos that rustls writes, in every fragmentation.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection};

use super::*;
use crate::tls::{AllowedPeers, alpn, server_name, testing};

fn hello(name: Option<&str>, offer: &[&[u8]]) -> Vec<u8> {
    let ca = testing::TestCa::new("root");
    let config = testing::raw_client(None, &ca.pem(), AllowedPeers::AnyInMesh);
    let mut config = ClientConfig::clone(&config);
    config.alpn_protocols = alpn::owned(offer);
    let name = server_name(name.unwrap_or("127.0.0.1")).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire
}

/// The same handshake message in records whose payloads have these lengths; what is left goes into a last one.
fn in_records(wire: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut message = &wire[RECORD_HEADER..];
    let mut records = Vec::new();
    let mut push = |payload: &[u8]| {
        records.extend_from_slice(&[22, 3, 1]);
        records.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        records.extend_from_slice(payload);
    };
    for length in lengths {
        let length = (*length).min(message.len());
        if length == 0 {
            break;
        }
        push(&message[..length]);
        message = &message[length..];
    }
    if !message.is_empty() {
        push(message);
    }
    records
}

#[test]
fn names_and_offers_are_read_at_every_cut() {
    let cases: [(Option<&str>, &[&[u8]]); 4] = [
        (Some("example.com"), &[b"h2", b"http/1.1"]),
        (Some("outbound_.9080_._.reviews.default.svc.cluster.local"), &[b"istio-peer-exchange", b"istio"]),
        (None, &[b"h2"]),
        (Some("Mixed.Example.COM"), &[]),
    ];
    for (name, offer) in cases {
        let wire = hello(name, offer);
        let expected = ClientHello {
            server_name: name.map(|name| name.to_ascii_lowercase().into()),
            alpn: offer.iter().map(|name| Box::from(*name)).collect(),
        };
        for cut in 0..wire.len() {
            assert_eq!(parse_client_hello(&wire[..cut]), HelloParse::Incomplete, "{name:?} cut at {cut}");
        }
        assert_eq!(parse_client_hello(&wire), HelloParse::Complete(expected.clone()));
        let mut longer = wire.clone();
        longer.extend_from_slice(b"what follows does not matter");
        assert_eq!(parse_client_hello(&longer), HelloParse::Complete(expected));
    }
}

#[test]
fn other_protocols_are_told_at_once() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x00", b"SSH-2.0-x", b"\x17\x03\x03", b"\x16\x02", b"\x16\x03\x09"] {
        assert_eq!(parse_client_hello(bytes), HelloParse::NotTls, "{bytes:?}");
    }
    assert_eq!(parse_client_hello(b"\x16\x03\x01\x00\x05\x02"), HelloParse::NotTls, "a ServerHello");
    assert_eq!(parse_client_hello(b""), HelloParse::Incomplete);
}

#[test]
fn limits_and_malformations_are_refused() {
    let too_long = [&[22, 3, 1, 0, 4, 1][..], &[0xff, 0xff, 0xff]].concat();
    assert_eq!(parse_client_hello(&too_long), HelloParse::Invalid(InvalidHello::TooLarge));
    let endless = [vec![22, 3, 1, 0, 1, 1], [22, 3, 1, 0, 1, 0].repeat(4096)].concat();
    assert!(matches!(parse_client_hello(&endless), HelloParse::Invalid(_)));
    let wire = hello(Some("example.com"), &[b"h2"]);
    let position = wire.windows(11).position(|window| window == b"example.com").unwrap();
    for bad in [0_u8, b' ', b'/', 0xff] {
        let mut broken = wire.clone();
        broken[position] = bad;
        assert_eq!(parse_client_hello(&broken), HelloParse::Invalid(InvalidHello::ServerName), "{bad}");
    }
    let mut second_record = in_records(&wire, &[50]);
    second_record[RECORD_HEADER + 50] = 23;
    assert_eq!(parse_client_hello(&second_record), HelloParse::Invalid(InvalidHello::Malformed));
}

proptest! {
    #[test]
    fn any_fragmentation_into_records_reads_the_same(
        lengths in prop::collection::vec(1_usize..300, 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let wire = hello(Some("a.b.example.com"), &[b"istio-h2", b"istio", b"h2"]);
        let fragmented = in_records(&wire, &lengths);
        prop_assert_eq!(parse_client_hello(&fragmented), parse_client_hello(&wire));
        let cut = cut.index(fragmented.len());
        prop_assert_eq!(parse_client_hello(&fragmented[..cut]), HelloParse::Incomplete);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse_client_hello(&bytes);
        let mut record = vec![22, 3, 1, 1, 0, 1];
        record.extend_from_slice(&bytes);
        let _ = parse_client_hello(&record);
    }

    #[test]
    fn broken_hellos_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut wire = hello(Some("example.com"), &[b"h2", b"http/1.1"]);
        for (position, value) in flips {
            let position = position.index(wire.len());
            wire[position] = value;
        }
        let _ = parse_client_hello(&wire);
        let _ = parse_client_hello(&wire[..cut.index(wire.len())]);
    }
}
