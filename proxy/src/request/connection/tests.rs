//! Which connections are taken, and as what.

use palisade_model::{
    cluster::Discovery,
    listener::{ServerTls, TlsVersion},
    policy::PolicySet,
    resource::Resource,
    secret::{PrivateKey, Secret},
};
use palisade_policy::CertificateNames;

use super::*;
use crate::request::testing;

fn sidecar(mtls: MtlsMode, protocol: Protocol) -> RuntimeIndex {
    testing::index(vec![
        Resource::Settings(testing::settings(ProxyKind::Sidecar)),
        Resource::Inbound(InboundPort {
            port: Some(80),
            protocol,
            mtls,
            cluster: "inbound|80||".into(),
            service: None,
            policies: "p".into(),
        }),
        Resource::Cluster(testing::cluster("inbound|80||", Discovery::Workload { port: None })),
        Resource::PolicySet(PolicySet { key: "p".into(), policies: [].into(), ..PolicySet::default() }),
    ])
}

fn connection(tls: Option<ClientTls>) -> Connection {
    Connection {
        direction: Direction::Inbound,
        source: "10.0.0.4:40000".parse().unwrap(),
        destination: "10.0.0.9:80".parse().unwrap(),
        tls,
    }
}

fn certificate(uri: &str, trust: Trust) -> Option<ClientCertificate> {
    let names = CertificateNames { uris: vec![uri.into()], ..CertificateNames::default() };
    Some(ClientCertificate { names, trust, fingerprint: None })
}

fn tls(alpn: &[&str], certificate: Option<ClientCertificate>) -> Option<ClientTls> {
    let alpn = alpn.iter().map(|name| Arc::from(*name)).collect();
    Some(ClientTls { sni: Some("a.com".into()), alpn, certificate, agreed: None })
}

#[test]
fn peer_authentication_decides_inbound() {
    use {MtlsMode as M, Protocol as P};
    let mesh = || certificate("spiffe://cluster.local/ns/foo/sa/sleep", Trust::Mesh);
    let h1 = &["istio-http/1.1", "istio", "http/1.1"][..];
    let tcp = &["istio-peer-exchange", "istio"][..];
    for (name, mode, protocol, tls, seen, expected) in [
        ("plaintext under STRICT", M::Strict, P::Http, None, Seen::Http, None),
        ("mesh under STRICT", M::Strict, P::Http, tls(h1, mesh()), Seen::Http, Some((Mode::Mtls, Carries::Http))),
        ("no certificate", M::Strict, P::Http, tls(h1, None), Seen::Http, None),
        (
            "a foreign trust domain",
            M::Permissive,
            P::Http,
            tls(h1, certificate("spiffe://else/ns/foo/sa/x", Trust::Mesh)),
            Seen::Http,
            None,
        ),
        (
            "a trust domain that begins like ours",
            M::Permissive,
            P::Http,
            tls(h1, certificate("spiffe://cluster.local.evil/ns/foo/sa/x", Trust::Mesh)),
            Seen::Http,
            None,
        ),
        (
            "an untrusted chain",
            M::Permissive,
            P::Http,
            tls(h1, certificate("spiffe://cluster.local/ns/foo/sa/x", Trust::Nobody)),
            Seen::Http,
            None,
        ),
        ("plaintext", M::Permissive, P::Http, None, Seen::Http, Some((Mode::Plaintext, Carries::Http))),
        ("plaintext bytes, auto", M::Permissive, P::Auto, None, Seen::Other, Some((Mode::Plaintext, Carries::Bytes))),
        ("http on a TCP port", M::Permissive, P::Tcp, None, Seen::Http, Some((Mode::Plaintext, Carries::Bytes))),
        ("foreign TLS, HTTP port", M::Permissive, P::Http, tls(&["h2"], None), Seen::Http, None),
        (
            "foreign TLS, auto port",
            M::Permissive,
            P::Auto,
            tls(&["h2"], None),
            Seen::Http,
            Some((Mode::TlsPassthrough, Carries::Bytes)),
        ),
        (
            "the offer decides, not the bytes",
            M::Permissive,
            P::Auto,
            tls(tcp, mesh()),
            Seen::Http,
            Some((Mode::Mtls, Carries::Bytes)),
        ),
        (
            "TLS under DISABLE",
            M::Disable,
            P::Auto,
            tls(h1, mesh()),
            Seen::Http,
            Some((Mode::TlsPassthrough, Carries::Bytes)),
        ),
        (
            "TLS under DISABLE, HTTP port",
            M::Disable,
            P::Http,
            tls(h1, mesh()),
            Seen::Http,
            Some((Mode::Plaintext, Carries::Http)),
        ),
    ] {
        let taken = admit(&sidecar(mode, protocol), connection(tls), seen);
        let result = taken.as_ref().ok().map(|admitted| (admitted.mode, admitted.carries));
        assert_eq!(result, expected, "{name}");
        if expected.is_none() {
            assert_eq!(taken.err(), Some(Refused { reason: Reason::PeerRefused }), "{name}");
        }
    }
}

fn gateway(client: Option<ClientValidation>, with_secrets: bool) -> RuntimeIndex {
    let http = || ChainHandler::Http { tables: [].into() };
    let chain = |name: &str, sni: &[&str], tls, handler| Chain {
        name: name.into(),
        sni: sni.iter().map(|s| s.parse().unwrap()).collect(),
        tls,
        handler,
    };
    let terminate = ServerTls {
        mode: ServerTlsMode::Secrets { certificates: ["secret/foo/cert".into()].into(), client },
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        alpn: [].into(),
        algorithms: Default::default(),
    };
    let listener = |port, chains: Vec<Chain>| {
        Resource::Listener(Listener {
            key: format!("0.0.0.0:{port}").into(),
            address: None,
            port,
            declared_port: port,
            chains: chains.into(),
            policies: "p".into(),
            detects_misdirected: false,
            is_udp: false,
        })
    };
    let mut resources = vec![
        Resource::Settings(testing::settings(ProxyKind::Gateway)),
        Resource::PolicySet(PolicySet { key: "p".into(), policies: [].into(), ..PolicySet::default() }),
        listener(80, vec![chain("http", &[], None, http())]),
        listener(
            443,
            vec![
                chain("a", &["a.com"], Some(terminate), http()),
                chain("pass", &["*.b.com"], None, ChainHandler::Tcp { routes: [].into() }),
                chain("auto", &["*.local"], None, ChainHandler::AutoPassthrough),
            ],
        ),
    ];
    if with_secrets {
        resources.push(Resource::Secret(Secret {
            key: "secret/foo/cert".into(),
            certificate: Some("pem".into()),
            private_key: Some(PrivateKey::new("pem")),
            ca: None,
        }));
        resources.push(Resource::Secret(Secret {
            key: "secret/foo/ca".into(),
            certificate: None,
            private_key: None,
            ca: Some("pem".into()),
        }));
    }
    testing::index(resources)
}

fn at_gateway(port: u16, sni: Option<&str>, tls: Option<ClientTls>) -> Connection {
    let destination = std::net::SocketAddr::new("10.0.0.9".parse().unwrap(), port);
    let tls = tls.map(|tls| ClientTls { sni: sni.map(Arc::from), ..tls });
    Connection { destination, ..connection(tls) }
}

#[test]
fn a_gateways_chains_take_by_server_name() {
    let index = gateway(None, true);
    let istio = &["istio", "h2"][..];
    for (name, facts, expected) in [
        ("plaintext", at_gateway(80, None, None), Some((Mode::Plaintext, Carries::Http))),
        ("terminated", at_gateway(443, Some("a.com"), tls(&[], None)), Some((Mode::TlsTerminated, Carries::Http))),
        ("passthrough", at_gateway(443, Some("x.b.com"), tls(&[], None)), Some((Mode::TlsPassthrough, Carries::Bytes))),
        ("no server name", at_gateway(443, None, tls(&[], None)), None),
        ("another server name", at_gateway(443, Some("c.com"), tls(&[], None)), None),
        ("plaintext on a TLS port", at_gateway(443, None, None), None),
        ("no such port", at_gateway(99, None, None), None),
        ("auto passthrough, a stranger", at_gateway(443, Some("outbound_.80_._.x.local"), tls(&["h2"], None)), None),
        (
            "auto passthrough, the mesh",
            at_gateway(443, Some("outbound_.80_._.x.local"), tls(istio, None)),
            Some((Mode::TlsPassthrough, Carries::Bytes)),
        ),
    ] {
        let taken = admit(&index, facts, Seen::Http);
        assert_eq!(taken.as_ref().ok().map(|a| (a.mode, a.carries)), expected, "{name}");
        if expected.is_none() {
            assert_eq!(taken.err(), Some(Refused { reason: Reason::NoFilterChain }), "{name}");
        }
    }
    let without = gateway(None, false);
    assert!(
        admit(&without, at_gateway(443, Some("a.com"), tls(&[], None)), Seen::Http).is_err(),
        "a missing certificate"
    );
}

#[test]
fn cve_2021_31921_auto_passthrough_is_for_mesh_peers() {
    let index = gateway(None, true);
    let name = Some("outbound_.80_._.x.local");
    for offer in [&["h2"][..], &["http/1.1"], &[], &["istiox"], &["h2", "ISTIO"]] {
        let taken = admit(&index, at_gateway(443, name, tls(offer, None)), Seen::Http);
        assert_eq!(taken.err(), Some(Refused { reason: Reason::NoFilterChain }), "{offer:?}");
    }
    assert!(admit(&index, at_gateway(443, name, tls(&["istio"], None)), Seen::Http).is_ok());
    assert!(admit(&index, at_gateway(443, name, None), Seen::Http).is_err(), "plaintext");
}

#[test]
fn a_gateway_asks_for_client_certificates_as_told() {
    let validation = |is_required, sans: &[&str]| ClientValidation {
        ca: "secret/foo/ca".into(),
        is_required,
        subject_alt_names: sans.iter().map(|s| Arc::from(*s)).collect(),
        tolerates_invalid: false,
    };
    let by = |key: &str| certificate("spiffe://x/y", Trust::Secret(key.into()));
    for (name, validation, certificate, expected) in [
        ("none, required", validation(true, &[]), None, false),
        ("none, optional", validation(false, &[]), None, true),
        ("trusted", validation(true, &[]), by("foo/ca"), true),
        ("another bundle", validation(false, &[]), by("foo/else"), false),
        ("nobody's", validation(false, &[]), certificate("spiffe://x/y", Trust::Nobody), false),
        ("named", validation(true, &["spiffe://x/y"]), by("foo/ca"), true),
        ("not named", validation(true, &["spiffe://x/z"]), by("foo/ca"), false),
    ] {
        let index = gateway(Some(validation), true);
        let facts = at_gateway(443, Some("a.com"), tls(&[], certificate));
        assert_eq!(admit(&index, facts, Seen::Http).is_ok(), expected, "{name}");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_none_where_that_is_tolerated() {
    let validation = ClientValidation {
        ca: "secret/foo/ca".into(),
        is_required: false,
        subject_alt_names: [].into(),
        tolerates_invalid: true,
    };
    let index = gateway(Some(validation), true);
    for (name, trust, counts) in [
        ("trusted", Trust::Secret("foo/ca".into()), true),
        ("another bundle", Trust::Secret("foo/else".into()), false),
        ("nobody's", Trust::Nobody, false),
    ] {
        let facts = at_gateway(443, Some("a.com"), tls(&[], certificate("spiffe://x/y", trust)));
        let admitted = admit(&index, facts, Seen::Http).unwrap();
        assert_eq!(admitted.peer_uri().is_some(), counts, "{name}");
    }
}

#[test]
fn datagrams_and_connections_of_one_port_have_listeners_of_their_own() {
    let listener = |key: &str, is_udp| {
        Resource::Listener(Listener {
            key: key.into(),
            address: None,
            port: 53,
            declared_port: 53,
            chains: [Chain {
                name: key.into(),
                sni: [].into(),
                tls: None,
                handler: ChainHandler::Tcp { routes: [].into() },
            }]
            .into(),
            policies: "p".into(),
            detects_misdirected: false,
            is_udp,
        })
    };
    let base = || {
        vec![
            Resource::Settings(testing::settings(ProxyKind::Gateway)),
            Resource::PolicySet(PolicySet { key: "p".into(), policies: [].into(), ..PolicySet::default() }),
        ]
    };
    let taken = |found: Result<Admitted, Refused>| match found.ok()?.entry {
        Entry::Gateway(listener, _) => Some(listener.key.to_string()),
        Entry::Inbound(_) | Entry::Outbound(_) => None,
    };
    let both = testing::index(base().into_iter().chain([listener("b/udp", true), listener("a", false)]).collect());
    assert_eq!(taken(admit_datagrams(&both, at_gateway(53, None, None))).as_deref(), Some("b/udp"));
    assert_eq!(taken(admit(&both, at_gateway(53, None, None), Seen::Other)).as_deref(), Some("a"));
    let one = testing::index(base().into_iter().chain([listener("b/udp", true)]).collect());
    assert!(
        admit(&one, at_gateway(53, None, None), Seen::Other).is_err(),
        "a connection where only datagrams are taken"
    );
}
