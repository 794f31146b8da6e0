//! TLS towards services outside the mesh, over real handshakes.

use std::sync::Arc;

use super::*;
use crate::tls::{
    ClientAuth, ClientTrust, Termination, TerminationSettings,
    testing::{Issued, Leaf, TestCa, connect},
};

fn settings(ca: &TestCa) -> OriginationSettings {
    OriginationSettings {
        anchors: TrustAnchors::from_pem(ca.pem().as_bytes()).unwrap(),
        names: NameCheck::DialledName,
        sni: None,
        certificate: None,
        alpn: Vec::new(),
        limits: TlsLimits::default(),
    }
}

fn service(issued: &Issued) -> Arc<rustls::ServerConfig> {
    let simple = TerminationSettings::simple(issued.server_certificate());
    Termination::new(simple).unwrap().config::<&[u8]>(&[])
}

async fn accepts(settings: OriginationSettings, issued: &Issued, host: &str) -> bool {
    let origination = Origination::new(settings).unwrap();
    let name = match origination.server_name(host).unwrap() {
        ServerName::DnsName(name) => name.as_ref().to_owned(),
        _ => host.to_owned(),
    };
    connect(Arc::clone(origination.config()), service(issued), &name).await.is_ok()
}

#[tokio::test]
async fn chain_and_names_are_checked_as_asked_for() {
    let (ca, foreign) = (TestCa::new("web"), TestCa::new("foreign"));
    let issued =
        ca.issue(&Leaf { dns: &["db.example", "*.pool.example"], uris: &["spiffe://x/db"], ..Leaf::default() });
    let one_of = |names: &[&str]| NameCheck::OneOf(names.iter().map(|name| Arc::from(*name)).collect());
    type Case<'a> = (&'a str, &'a TestCa, NameCheck, Option<&'a str>, &'a str, bool);
    let cases: [Case<'_>; 11] = [
        ("the host's name", &ca, NameCheck::DialledName, None, "db.example", true),
        ("a wildcard's name", &ca, NameCheck::DialledName, None, "a.pool.example", true),
        ("another name", &ca, NameCheck::DialledName, None, "other.example", false),
        ("another CA", &foreign, NameCheck::DialledName, None, "db.example", false),
        ("the SNI instead of the host", &ca, NameCheck::DialledName, Some("db.example"), "10.0.0.1", true),
        ("SNI set, names unchecked", &ca, NameCheck::Unchecked, Some("odd.example"), "10.0.0.1", true),
        ("unchecked names, another CA", &foreign, NameCheck::Unchecked, Some("odd.example"), "x", false),
        ("one of the names", &ca, one_of(&["x.example", "db.example"]), None, "10.0.0.1", true),
        ("the URI name", &ca, one_of(&["spiffe://x/db"]), None, "10.0.0.1", true),
        ("none of the names", &ca, one_of(&["x.example", "spiffe://x/other"]), None, "db.example", false),
        ("no name is good", &ca, one_of(&[]), None, "db.example", false),
    ];
    for (name, trusted, names, sni, host, expected) in cases {
        let settings = OriginationSettings { names, sni: sni.map(Arc::from), ..settings(trusted) };
        assert_eq!(accepts(settings, &issued, host).await, expected, "{name}");
    }
    let anything = OriginationSettings { anchors: TrustAnchors::Unverified, ..settings(&foreign) };
    assert!(accepts(anything, &issued, "whatever.example").await, "insecureSkipVerify");
}

#[tokio::test]
async fn mutual_shows_our_certificate() {
    let (web, users) = (TestCa::new("web"), TestCa::new("users"));
    let site = web.issue(&Leaf { dns: &["db.example"], ..Leaf::default() });
    let ours = users.issue(&Leaf { dns: &["client.example"], ..Leaf::default() });
    let trust = ClientTrust::from_pem(users.pem().as_bytes(), None).unwrap();
    let simple = TerminationSettings::simple(site.server_certificate());
    let server = Termination::new(TerminationSettings { client: ClientAuth::Required(trust), ..simple }).unwrap();
    for (certificate, expected) in [(None, false), (Some(&ours), true)] {
        let certificate = certificate.map(Issued::client_certificate);
        let origination = Origination::new(OriginationSettings { certificate, ..settings(&web) }).unwrap();
        let ends = connect(Arc::clone(origination.config()), server.config::<&[u8]>(&[]), "db.example").await;
        assert_eq!(ends.is_ok(), expected, "{}", ends.error());
        if expected {
            assert_eq!(&*ends.caller().unwrap().dns_names()[0], "client.example");
        }
    }
}

#[test]
fn hosts_that_tls_cannot_name_are_errors() {
    let ca = TestCa::new("web");
    let origination = Origination::new(settings(&ca)).unwrap();
    for host in ["", "a b", "exa\0mple", &"a".repeat(300)] {
        assert!(origination.server_name(host).is_err(), "{host:?}");
    }
    assert!(Origination::new(OriginationSettings { sni: Some("no name".into()), ..settings(&ca) }).is_err());
    assert!(matches!(origination.server_name("10.0.0.1"), Ok(ServerName::IpAddress(_))));
}

#[test]
fn system_roots_come_from_a_file() {
    let ca = TestCa::new("web");
    let path = std::env::temp_dir().join(format!("palisade-roots-{}.pem", std::process::id()));
    let odd = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    std::fs::write(&path, format!("{odd}{}", ca.pem())).unwrap();
    let anchors = TrustAnchors::system(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(anchors, Ok(TrustAnchors::Roots(roots)) if roots.len() == 1));
    let missing = TrustAnchors::system(&path).unwrap_err();
    assert!(missing.to_string().contains("palisade-roots"), "{missing}");
}
