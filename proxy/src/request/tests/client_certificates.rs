//! What becomes of `x-forwarded-client-cert`, by mode and by what the connection proved.

use palisade_model::settings::{ForwardClientCert as Mode, ProxySettings};
use palisade_policy::CertificateNames;

use super::*;
use crate::request::facts::{ClientCertificate, ClientTls, Trust};

/// A sidecar's port that anybody may ask.
fn sidecar(mode: Mode) -> RuntimeIndex {
    testing::index(vec![
        Resource::Settings(ProxySettings { forward_client_cert: mode, ..testing::settings(ProxyKind::Sidecar) }),
        Resource::Inbound(InboundPort {
            port: Some(80),
            protocol: Protocol::Http,
            mtls: MtlsMode::Permissive,
            cluster: "inbound|80||".into(),
            service: None,
            policies: "p".into(),
        }),
        Resource::Cluster(testing::cluster("inbound|80||", Discovery::Workload { port: None })),
        Resource::PolicySet(PolicySet {
            key: "p".into(),
            policies: [default_permit().id].into(),
            ..PolicySet::default()
        }),
        Resource::Policy(default_permit()),
    ])
}

/// What the application sees of a header that the client wrote in two lines.
fn seen(mode: Mode, uri: Option<&str>, written: &[&'static str]) -> Vec<String> {
    let tls = uri.map(|uri| ClientTls {
        sni: None,
        alpn: ["istio-http/1.1", "istio", "http/1.1"].map(Into::into).into(),
        certificate: Some(ClientCertificate {
            names: CertificateNames { uris: vec![uri.to_owned()], ..CertificateNames::default() },
            trust: Trust::Mesh,
            fingerprint: Some("ab12".into()),
        }),
        agreed: None,
    });
    let index = sidecar(mode);
    let admitted = admit(&index, Connection { tls, ..client() }, Seen::Http).unwrap();
    let mut headers = HeaderMap::new();
    for value in written {
        headers.append("x-forwarded-client-cert", HeaderValue::from_static(value));
    }
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: b"b",
        target: b"/",
        version: HttpVersion::Http11,
        headers: &headers,
        jwt: None,
    };
    let mut chance = Chance::fixed(SystemTime::UNIX_EPOCH, 0.0);
    let verdict = decide_http(&index, &admitted, Some(&request), &mut chance);
    let changes = plan(&verdict).head.changes.clone();
    changes::apply(&mut headers, &changes);
    headers.get_all("x-forwarded-client-cert").iter().map(|line| line.to_str().unwrap().to_owned()).collect()
}

#[test]
fn each_mode_does_with_client_certificates_what_envoys_does() {
    let caller = "spiffe://cluster.local/ns/foo/sa/sleep";
    let own = "By=spiffe://cluster.local/ns/foo/sa/a;Hash=ab12;Subject=\"\";URI=spiffe://cluster.local/ns/foo/sa/sleep";
    let appended = format!("By=x,By=y,{own}");
    let both = &["By=x", "By=y"][..];
    for (mode, over_mtls, over_plaintext) in [
        (Mode::Sanitize, &[][..], &[][..]),
        (Mode::SanitizeSet, &[own][..], &[][..]),
        (Mode::AppendForward, &[appended.as_str()][..], &[][..]),
        (Mode::ForwardOnly, both, &[][..]),
        (Mode::AlwaysForwardOnly, both, both),
    ] {
        assert_eq!(seen(mode, Some(caller), both), over_mtls, "{mode:?} over mutual TLS");
        assert_eq!(seen(mode, None, both), over_plaintext, "{mode:?} in plaintext");
    }
    assert_eq!(seen(Mode::AppendForward, Some(caller), &[]), [own]);
}

#[test]
fn a_name_that_no_header_may_hold_asserts_nothing() {
    let named = |mode| seen(mode, Some("spiffe://cluster.local/ns/foo/sa/a\r\nx: y"), &["By=x"]);
    assert_eq!(named(Mode::SanitizeSet), [""; 0]);
    assert_eq!(named(Mode::AppendForward), [""; 0]);
}
