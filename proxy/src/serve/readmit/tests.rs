//! Open connections under changed settings.

use std::time::Duration;

use super::*;
use crate::{
    serve::{AdmissionTimeouts, handshake::HandshakeFacts},
    tls::{
        ClientAuth, ClientHello, ClientTrust, SniTable, Termination, TerminationSettings,
        testing::{Issued, Leaf, TestCa},
    },
};

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";

fn facts(issued: Option<&Issued>, verified_by: VerifiedBy, name: &str) -> TlsFacts {
    TlsFacts {
        hello: ClientHello { server_name: Some(name.into()), alpn: Vec::new() },
        handshake: HandshakeFacts {
            alpn: None,
            peer: issued.map(|issued| PeerCertificate::from_chain(&issued.chain_der()).unwrap()),
            version: None,
            cipher_suite: None,
            resumed: false,
        },
        verified_by,
    }
}

#[test]
fn a_changed_mode_closes_what_it_would_not_admit() {
    let ca = TestCa::new("root");
    let (store, identity) = ca.store(B);
    let plain = DownstreamTls::Plaintext;
    let foreign = DownstreamTls::Passthrough(ClientHello::default());
    let verified = VerifiedBy::Identity(identity.generation());
    let mesh = DownstreamTls::Mesh(facts(Some(&ca.mesh(A)), verified.clone(), "b"));
    use {DeclaredProtocol::*, MtlsMode::*};
    for (name, tls, mode, declared, expected) in [
        ("plaintext", &plain, Strict, Auto, false),
        ("plaintext", &plain, Permissive, Auto, true),
        ("plaintext", &plain, Disable, Http, true),
        ("foreign TLS", &foreign, Strict, Tcp, false),
        ("foreign TLS", &foreign, Permissive, Tcp, true),
        ("foreign TLS", &foreign, Permissive, Http, false),
        ("mesh TLS", &mesh, Strict, Http, true),
        ("mesh TLS", &mesh, Permissive, Http, true),
        ("mesh TLS", &mesh, Disable, Http, false),
    ] {
        let admitted = readmit_mesh(tls, Some(&verified), mode, declared, &store, UnixTime::now());
        assert_eq!(admitted.is_ok(), expected, "{name} {mode:?} {declared:?}: {admitted:?}");
    }
}

#[test]
fn a_caller_whose_root_is_gone_is_closed_and_one_whose_root_stays_is_kept() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let (store, first) = old.store(B);
    let mut verified = Some(VerifiedBy::Identity(first.generation()));
    let mesh = DownstreamTls::Mesh(facts(Some(&old.mesh(A)), VerifiedBy::Identity(first.generation()), "b"));
    let judge = |verified: &Option<VerifiedBy>| {
        readmit_mesh(&mesh, verified.as_ref(), MtlsMode::Strict, DeclaredProtocol::Http, &store, UnixTime::now())
    };
    let own = new.mesh(B);
    store.install(own.material(&format!("{}{}", old.pem(), new.pem())), UnixTime::now()).unwrap();
    verified = judge(&verified).unwrap();
    assert!(matches!(verified, Some(VerifiedBy::Identity(by)) if by == store.generation()), "{verified:?}");
    store.install(own.material(&new.pem()), UnixTime::now()).unwrap();
    assert!(matches!(judge(&verified), Err(RefusalCause::Client(_))));
}

#[test]
fn a_gateway_connection_stays_only_with_its_server_and_its_client_ca() {
    let (web, users, others) = (TestCa::new("web"), TestCa::new("users"), TestCa::new("others"));
    let store = IdentityStore::new();
    let port = |host: &str, name: &str, tls: GatewayTls| {
        let mut servers = SniTable::new();
        servers.insert(host, GatewayServer { name: name.into(), tls, payload: DeclaredProtocol::Http });
        let timeouts = AdmissionTimeouts { detection: None, handshake: Duration::from_secs(1) };
        let tls = Some(Arc::new(servers));
        GatewayPort { proxy_protocol: false, tls, plaintext: DeclaredProtocol::Http, timeouts }
    };
    let termination = |ca: Option<&TestCa>| {
        let site = web.issue(&Leaf { dns: &["shop.example"], ..Leaf::default() });
        let client = match ca {
            None => ClientAuth::None,
            Some(ca) => ClientAuth::Required(ClientTrust::from_pem(ca.pem().as_bytes(), None).unwrap()),
        };
        let simple = TerminationSettings::simple(site.server_certificate());
        GatewayTls::Terminate(Arc::new(Termination::new(TerminationSettings { client, ..simple }).unwrap()))
    };
    let user = users.issue(&Leaf::default());
    let with_user = DownstreamTls::Terminated(facts(Some(&user), VerifiedBy::Identity(0), "shop.example"));
    let without = DownstreamTls::Terminated(facts(None, VerifiedBy::Identity(0), "shop.example"));
    for (name, tls, port, expected) in [
        ("unchanged", &with_user, port("shop.example", "shop", termination(Some(&users))), true),
        ("no client CA any more", &with_user, port("shop.example", "shop", termination(None)), true),
        ("another client CA", &with_user, port("shop.example", "shop", termination(Some(&others))), false),
        ("a client CA now", &without, port("shop.example", "shop", termination(Some(&users))), false),
        ("another server for the name", &without, port("*.example", "any", termination(None)), false),
        ("nobody for the name", &without, port("other.example", "shop", termination(None)), false),
        ("not terminated any more", &without, port("shop.example", "shop", GatewayTls::Passthrough), false),
        ("its certificate is gone", &without, port("shop.example", "shop", GatewayTls::Unavailable), false),
    ] {
        let admitted = readmit_gateway(tls, None, Some("shop"), &port, &store, UnixTime::now());
        assert_eq!(admitted.is_ok(), expected, "{name}: {admitted:?}");
    }
    let mut plaintext = port("shop.example", "shop", GatewayTls::Passthrough);
    assert!(readmit_gateway(&DownstreamTls::Plaintext, None, None, &plaintext, &store, UnixTime::now()).is_err());
    plaintext.tls = None;
    assert!(readmit_gateway(&DownstreamTls::Plaintext, None, None, &plaintext, &store, UnixTime::now()).is_ok());
    assert!(readmit_gateway(&without, None, Some("shop"), &plaintext, &store, UnixTime::now()).is_err());
}

#[test]
fn settings_that_judged_a_client_are_not_asked_again() {
    let (web, users) = (TestCa::new("web"), TestCa::new("users"));
    let site = web.issue(&Leaf { dns: &["shop.example"], ..Leaf::default() });
    let client = ClientAuth::Required(ClientTrust::from_pem(users.pem().as_bytes(), None).unwrap());
    let simple = TerminationSettings::simple(site.server_certificate());
    let settings = || TerminationSettings { client: client.clone(), ..simple.clone() };
    let present = Arc::new(Termination::new(settings()).unwrap());
    let other = Arc::new(Termination::new(settings()).unwrap());
    let mut servers = SniTable::new();
    let tls = GatewayTls::Terminate(Arc::clone(&present));
    servers.insert("shop.example", GatewayServer { name: "shop".into(), tls, payload: DeclaredProtocol::Http });
    let timeouts = AdmissionTimeouts { detection: None, handshake: Duration::from_secs(1) };
    let tls = Some(Arc::new(servers));
    let port = GatewayPort { proxy_protocol: false, tls, plaintext: DeclaredProtocol::Http, timeouts };
    // Nobody would accept this certificate: only a judgement that stands can let it pass.
    let stranger = web.issue(&Leaf::default());
    let held = DownstreamTls::Terminated(facts(Some(&stranger), VerifiedBy::Identity(0), "shop.example"));
    for (name, by, expected) in [("the same", present, true), ("others", other, false)] {
        let by = VerifiedBy::Termination(by);
        let admitted = readmit_gateway(&held, Some(&by), Some("shop"), &port, &IdentityStore::new(), UnixTime::now());
        assert_eq!(admitted.is_ok(), expected, "{name}: {admitted:?}");
    }
}
