//! Certificates for tests: a certificate authority that issues whatever is asked for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use palisade_model::identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::UnixTime;

use super::{IdentityMaterial, IdentityStore, MeshIdentity, ServerCertificate};

/// RSA keys for tests, used nowhere else: ring cannot make any.
pub(crate) const RSA_LEAF_KEY: &str = include_str!("testdata/rsa-2048-leaf-key.pem");
const RSA_CA_KEY: &str = include_str!("testdata/rsa-2048-ca-key.pem");

/// A root that signs what it is given.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// What a test certificate says.
pub(crate) struct Leaf<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) dns: &'a [&'a str],
    /// Seconds since the Unix epoch.
    pub(crate) not_before: u64,
    /// Seconds since the Unix epoch.
    pub(crate) not_after: u64,
    /// PEM; `None`: a new ECDSA P-256 key.
    pub(crate) key: Option<&'a str>,
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        let now = UnixTime::now().as_secs();
        Self { uris: &[], dns: &[], not_before: now - 60, not_after: now + 3600, key: None }
    }
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    pub(crate) fn with_key(name: &str, key: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    pub(crate) fn rsa(name: &str) -> Self {
        Self::with_key(name, KeyPair::from_pem(RSA_CA_KEY).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Issued {
        let key = match leaf.key {
            None => KeyPair::generate().unwrap(),
            Some(pem) => KeyPair::from_pem(pem).unwrap(),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(leaf.not_before);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(leaf.not_after);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uris = leaf.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let dns = leaf.dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns).collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A mesh certificate.
    pub(crate) fn mesh(&self, uri: &str) -> Issued {
        self.issue(&Leaf { uris: &[uri], ..Leaf::default() })
    }

    /// A store with one identity of this root, trusting it, for callers of `cluster.local`.
    pub(crate) fn store(&self, uri: &str) -> (Arc<IdentityStore>, Arc<MeshIdentity>) {
        let store = Arc::new(IdentityStore::new());
        let identity = store.install(self.material(&self.mesh(uri)), UnixTime::now()).unwrap();
        (store, identity)
    }

    /// Material of an issued certificate that trusts this root.
    pub(crate) fn material(&self, issued: &Issued) -> IdentityMaterial {
        issued.material(&self.pem())
    }
}

impl Issued {
    pub(crate) fn material(&self, bundle: &str) -> IdentityMaterial {
        IdentityMaterial::from_pem(self.chain.as_bytes(), self.key.as_bytes(), bundle.as_bytes(), domains()).unwrap()
    }

    pub(crate) fn server_certificate(&self) -> ServerCertificate {
        ServerCertificate::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

/// `cluster.local`.
pub(crate) fn domains() -> BTreeSet<TrustDomain> {
    BTreeSet::from(["cluster.local".parse().unwrap()])
}
