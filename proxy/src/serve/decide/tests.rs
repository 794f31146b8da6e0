//! Every combination of mode, declared protocol and first bytes.

use super::*;
use crate::tls::InvalidHello;

use DeclaredProtocol::{Auto, Http, Tcp};
use MtlsMode::{Disable, Permissive, Strict};

fn tls(offer: &[&str]) -> Sniffed {
    Sniffed::Tls(ClientHello { server_name: None, alpn: offer.iter().map(|name| name.as_bytes().into()).collect() })
}

#[test]
fn decisions_are_istios() {
    const HTTP1: Treatment = Treatment::Plaintext(Payload::Http1);
    const HTTP2: Treatment = Treatment::Plaintext(Payload::Http2);
    const OPAQUE: Treatment = Treatment::Plaintext(Payload::Opaque);
    const MESH_HTTP: Treatment = Treatment::TerminateMesh(MeshProtocol::Http);
    const MESH_TCP: Treatment = Treatment::TerminateMesh(MeshProtocol::Tcp);
    const PASS: Treatment = Treatment::Passthrough;
    const PLAIN_REFUSED: Treatment = Treatment::Refuse(Refusal::Plaintext);
    const FOREIGN: Treatment = Treatment::Refuse(Refusal::ForeignTls);
    const INVALID: Treatment = Treatment::Refuse(Refusal::InvalidTls);

    let istio_h1 = ["istio-http/1.1", "istio", "http/1.1"];
    let istio_h2 = ["istio-h2", "istio", "h2"];
    let istio_tcp = ["istio-peer-exchange", "istio"];
    let istio_both = ["istio", "istio-h2"];
    // Columns: declared HTTP, declared TCP, detected.
    let rows: Vec<(MtlsMode, &str, Sniffed, [Treatment; 3])> = vec![
        (Strict, "mesh HTTP/1", tls(&istio_h1), [MESH_HTTP, MESH_TCP, MESH_HTTP]),
        (Strict, "mesh HTTP/2", tls(&istio_h2), [MESH_HTTP, MESH_TCP, MESH_HTTP]),
        (Strict, "mesh TCP", tls(&istio_tcp), [MESH_HTTP, MESH_TCP, MESH_TCP]),
        (Strict, "istio before istio-h2", tls(&istio_both), [MESH_HTTP, MESH_TCP, MESH_HTTP]),
        // The handshake will ask for a certificate of the mesh.
        (Strict, "a browser's TLS", tls(&["h2", "http/1.1"]), [MESH_HTTP, MESH_TCP, MESH_TCP]),
        (Strict, "TLS without ALPN", tls(&[]), [MESH_HTTP, MESH_TCP, MESH_TCP]),
        (Strict, "broken TLS", Sniffed::InvalidTls(InvalidHello::Malformed), [INVALID; 3]),
        (Strict, "HTTP/1", Sniffed::Http1, [PLAIN_REFUSED; 3]),
        (Strict, "HTTP/2", Sniffed::Http2, [PLAIN_REFUSED; 3]),
        (Strict, "other bytes", Sniffed::Other, [PLAIN_REFUSED; 3]),
        (Strict, "silence", Sniffed::Silent, [PLAIN_REFUSED; 3]),
        (Permissive, "mesh HTTP/1", tls(&istio_h1), [MESH_HTTP, MESH_TCP, MESH_HTTP]),
        (Permissive, "mesh HTTP/2", tls(&istio_h2), [MESH_HTTP, MESH_TCP, MESH_HTTP]),
        (Permissive, "mesh TCP", tls(&istio_tcp), [MESH_HTTP, MESH_TCP, MESH_TCP]),
        (Permissive, "istio before istio-h2", tls(&istio_both), [MESH_HTTP, MESH_TCP, MESH_TCP]),
        (Permissive, "a browser's TLS", tls(&["h2", "http/1.1"]), [FOREIGN, PASS, PASS]),
        (Permissive, "TLS without ALPN", tls(&[]), [FOREIGN, PASS, PASS]),
        (Permissive, "broken TLS", Sniffed::InvalidTls(InvalidHello::TooLarge), [HTTP1, OPAQUE, OPAQUE]),
        (Permissive, "HTTP/1", Sniffed::Http1, [HTTP1, OPAQUE, HTTP1]),
        (Permissive, "HTTP/2", Sniffed::Http2, [HTTP2, OPAQUE, HTTP2]),
        (Permissive, "other bytes", Sniffed::Other, [HTTP1, OPAQUE, OPAQUE]),
        (Permissive, "silence", Sniffed::Silent, [HTTP1, OPAQUE, OPAQUE]),
        // TLS is not looked at: on an HTTP port its bytes are bad HTTP, answered 400.
        (Disable, "mesh HTTP/1", tls(&istio_h1), [HTTP1, PASS, PASS]),
        (Disable, "a browser's TLS", tls(&["h2"]), [HTTP1, PASS, PASS]),
        (Disable, "HTTP/1", Sniffed::Http1, [HTTP1, OPAQUE, HTTP1]),
        (Disable, "HTTP/2", Sniffed::Http2, [HTTP2, OPAQUE, HTTP2]),
        (Disable, "other bytes", Sniffed::Other, [HTTP1, OPAQUE, OPAQUE]),
        (Disable, "silence", Sniffed::Silent, [HTTP1, OPAQUE, OPAQUE]),
    ];
    for (mode, name, sniffed, expected) in rows {
        for (declared, expected) in [Http, Tcp, Auto].into_iter().zip(expected) {
            assert_eq!(decide(mode, declared, &sniffed), expected, "{mode:?}, {declared:?}, {name}");
        }
    }
    for mode in [Strict, Permissive, Disable] {
        for declared in [Http, Tcp, Auto] {
            assert_eq!(decide(mode, declared, &Sniffed::Closed), Treatment::Refuse(Refusal::Closed));
        }
    }
}
