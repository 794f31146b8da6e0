//! Headers as balancers write them, at every cut, and garbage.

use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::*;

fn v2(version_command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend_from_slice(&[version_command, family]);
    header.extend_from_slice(&u16::try_from(addresses.len()).unwrap().to_be_bytes());
    header.extend_from_slice(addresses);
    header
}

fn written(source: SocketAddr, destination: SocketAddr, version: u8) -> Vec<u8> {
    if version == 1 {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (source.ip(), destination.ip());
        return format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes();
    }
    let mut addresses = Vec::new();
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => addresses.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => addresses.extend_from_slice(&ip.octets()),
        }
    }
    addresses.extend_from_slice(&source.port().to_be_bytes());
    addresses.extend_from_slice(&destination.port().to_be_bytes());
    // A type-length-value as balancers append them (PP2_TYPE_NOOP).
    addresses.extend_from_slice(&[4, 0, 1, 0]);
    v2(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &addresses)
}

#[test]
fn odd_headers_are_judged_as_specified() {
    let long_v1 = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let cases: Vec<(&str, Vec<u8>, ProxyParse)> = vec![
        ("unknown", b"PROXY UNKNOWN\r\n".to_vec(), ProxyParse::Complete(ProxyHeader::Local, 15)),
        ("unknown with rest", b"PROXY UNKNOWN a b c\r\n".to_vec(), ProxyParse::Complete(ProxyHeader::Local, 21)),
        ("health check", v2(0x20, 0, &[]), ProxyParse::Complete(ProxyHeader::Local, 16)),
        ("unix sockets", v2(0x21, 0x31, &[0; 216]), ProxyParse::Complete(ProxyHeader::Local, 232)),
        ("plain HTTP", b"POST / HTTP/1.1\r\n".to_vec(), ProxyParse::NotProxy),
        ("TLS", vec![22, 3, 1], ProxyParse::NotProxy),
        ("an empty line", b"\r\nGET".to_vec(), ProxyParse::NotProxy),
        ("a newline alone", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n".to_vec(), ProxyParse::Invalid),
        ("a port too many", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n".to_vec(), ProxyParse::Invalid),
        ("a port out of range", b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n".to_vec(), ProxyParse::Invalid),
        ("a signed port", b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n".to_vec(), ProxyParse::Invalid),
        ("two spaces", b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n".to_vec(), ProxyParse::Invalid),
        ("families mixed", b"PROXY TCP4 ::1 2.2.2.2 1 2\r\n".to_vec(), ProxyParse::Invalid),
        ("no line end", long_v1, ProxyParse::Invalid),
        ("version 3", v2(0x31, 0x11, &[0; 12]), ProxyParse::Invalid),
        ("an unknown command", v2(0x22, 0x11, &[0; 12]), ProxyParse::Invalid),
        ("an unknown family", v2(0x21, 0x41, &[0; 12]), ProxyParse::Invalid),
        ("addresses too short", v2(0x21, 0x11, &[0; 11]), ProxyParse::Invalid),
        ("far too long", v2(0x21, 0x11, &[0; 5000]), ProxyParse::Invalid),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(parse_proxy_header(&bytes), expected, "{name}");
    }
}

fn address() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = (any::<Ipv4Addr>(), any::<Ipv4Addr>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    let v6 = (any::<Ipv6Addr>(), any::<Ipv6Addr>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    (prop_oneof![v4, v6], any::<u16>(), any::<u16>())
        .prop_map(|((a, b), from, to)| (SocketAddr::new(a, from), SocketAddr::new(b, to)))
}

proptest! {
    #[test]
    fn headers_round_trip_and_are_incomplete_at_every_cut(
        (source, destination) in address(),
        version in 1_u8..=2,
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let header = written(source, destination, version);
        let expected = ProxyHeader::Proxied { source: canonical(source), destination: canonical(destination) };
        let with_rest = [header.clone(), rest].concat();
        prop_assert_eq!(parse_proxy_header(&with_rest), ProxyParse::Complete(expected, header.len()));
        for cut in 0..header.len() {
            prop_assert_eq!(parse_proxy_header(&header[..cut]), ProxyParse::Incomplete);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_proxy_header(&bytes);
        let _ = parse_proxy_header(&[V2_SIGNATURE.to_vec(), bytes.clone()].concat());
        let _ = parse_proxy_header(&[b"PROXY TCP6 ".to_vec(), bytes].concat());
    }
}

#[tokio::test]
async fn the_header_is_consumed_and_nothing_after_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for version in [1, 2] {
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut client, mut server) = (client.unwrap(), accepted.unwrap().0);
        let (source, destination) = ("203.0.113.7:4711".parse().unwrap(), "10.0.0.1:443".parse().unwrap());
        let header = written(source, destination, version);
        let send = async {
            for chunk in header.chunks(9) {
                client.write_all(chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.write_all(b"GET /").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(read_proxy_header(&mut server, Duration::from_secs(5)), send);
        assert_eq!(read.unwrap(), ProxyHeader::Proxied { source, destination });
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"GET /");
    }
}

#[tokio::test]
async fn a_missing_or_slow_header_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = async || {
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    };
    let limit = Duration::from_millis(50);
    let (mut client, mut server) = open().await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert!(matches!(read_proxy_header(&mut server, limit).await, Err(ProxyHeaderError::Missing)));
    let (mut client, mut server) = open().await;
    client.write_all(b"PROXY TCP4 ").await.unwrap();
    assert!(matches!(read_proxy_header(&mut server, limit).await, Err(ProxyHeaderError::Timeout(_))));
    client.shutdown().await.unwrap();
    assert!(matches!(read_proxy_header(&mut server, limit).await, Err(ProxyHeaderError::Io(_))));
}
