//! A root, Envoy's certificate, and a client certificate for each set of names that the corpus has.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::facts::Plain;

/// The root of both sides.
pub(crate) struct Root {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "judge");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// Certificate and key of a server that takes these names, as PEM.
    pub(crate) fn server(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// What a client with these names presents; `None`: nothing.
    pub(crate) fn client(&self, plain: &Plain) -> Option<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        if plain.uris.is_empty() && plain.dns.is_empty() && plain.subject.is_empty() {
            return None;
        }
        let uris = plain.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        let dns = plain.dns.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.chain(dns).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = DistinguishedName::new();
        match plain.subject.split_once('=') {
            None => assert_eq!(plain.subject, ""),
            Some(("CN", name)) => params.distinguished_name.push(DnType::CommonName, name),
            Some(("O", name)) => params.distinguished_name.push(DnType::OrganizationName, name),
            Some(_) => panic!("no such part of a subject: {}", plain.subject),
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Some((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }
}
