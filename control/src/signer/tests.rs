//! Only requests that name the caller are passed on, and only what was asked for is taken.

use std::{path::Path, time::SystemTime};

use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType, Issuer, KeyPair, SanType};

use super::*;
use crate::ca::Material;

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";
const B: &str = "spiffe://cluster.local/ns/foo/sa/b";

fn request(uris: &[&str], dns: &[&str], common_name: Option<&str>) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    let dns = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
    params.subject_alt_names = uris.chain(dns).collect();
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

#[test]
fn a_request_names_the_caller_and_nobody_else() {
    let identity: SpiffeId = A.parse().unwrap();
    check_request(&request(&[A], &[], None), &identity).unwrap();
    for (name, csr) in [
        ("nobody", request(&[], &[], None)),
        ("another", request(&[B], &[], None)),
        ("two", request(&[A, B], &[], None)),
        ("a host as well", request(&[A], &["api.foo.svc"], None)),
        ("a host", request(&[], &["api.foo.svc"], None)),
        ("a subject", request(&[A], &[], Some("system:admin"))),
    ] {
        check_request(&csr, &identity).expect_err(name);
    }
}

#[test]
fn an_answer_is_of_this_key_this_identity_and_a_root_of_the_mesh() {
    let (identity, now): (SpiffeId, _) = (A.parse().unwrap(), SystemTime::now());
    let material = || Material::generate(identity.trust_domain(), now).unwrap();
    let (ours, foreign) = (material(), material());
    let authority = ours.clone().authority(Path::new("here"), now).unwrap();
    let sign = |by: &Material, csr: &str| {
        let issuer = Issuer::from_ca_cert_pem(&by.certificate, KeyPair::from_pem(&by.key).unwrap()).unwrap();
        CertificateSigningRequestParams::from_pem(csr).unwrap().signed_by(&issuer).unwrap().pem()
    };
    let csr = request(&[A], &[], None);
    let key = || rcgen::PublicKeyData::subject_public_key_info(&requested_key(&csr).unwrap());
    let check = |chain: &str| check_answer(chain, key(), &identity, &authority);
    assert_eq!(check(&sign(&ours, &csr)).unwrap().len(), 1);
    assert!(check(&sign(&foreign, &csr)).unwrap_err().contains("mesh's roots"));
    assert!(check(&sign(&ours, &request(&[A], &[], None))).unwrap_err().contains("another key"));
    assert!(check(&ours.certificate).unwrap_err().contains("authority"));
    check("").unwrap_err();
    let other = request(&[B], &[], None);
    let other_key = rcgen::PublicKeyData::subject_public_key_info(&requested_key(&other).unwrap());
    assert!(check_answer(&sign(&ours, &other), other_key, &identity, &authority).unwrap_err().contains("it names"));
}

#[test]
fn signers_have_names() {
    let parse = |text: &str| text.parse::<SignerName>();
    assert_eq!(parse("kubernetes:acme.io/mesh"), Ok(SignerName::Kubernetes("acme.io/mesh".to_owned())));
    let issuer = |name: &str, kind: &str, group: &str| {
        Ok(SignerName::CertManager { name: name.to_owned(), kind: kind.to_owned(), group: group.to_owned() })
    };
    assert_eq!(parse("cert-manager:mesh"), issuer("mesh", "Issuer", "cert-manager.io"));
    assert_eq!(parse("cert-manager:ClusterIssuer/mesh"), issuer("mesh", "ClusterIssuer", "cert-manager.io"));
    assert_eq!(
        parse("cert-manager:AWSPCAIssuer.awspca.cert-manager.io/mesh"),
        issuer("mesh", "AWSPCAIssuer", "awspca.cert-manager.io")
    );
    for text in ["", "mesh", "kubernetes:mesh", "kubernetes:/mesh", "cert-manager:", "cert-manager:/x", "vault:x"] {
        parse(text).unwrap_err();
    }
}
