//! How replicas prove themselves to each other: by certificates that only who holds the mesh's root key can make.
//!
//! A workload's certificate carries one URI and nothing else. The one that a replica shows as a client carries a DNS name of the
//! control plane's namespace, and no URI, so that neither can pass for the other.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::ca::{CertificateAuthority, SignError};

/// Lifetime of the certificate of one connection's attempt; the connection may live longer, as it does for proxies.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Why a replica cannot call another one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    /// The authority does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// rustls does not take the result.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The root bundle is not PEM.
    #[error("the root bundle: {0}")]
    Roots(#[from] rustls_pki_types::pem::Error),
}

/// The DNS name that says of a client that it is a replica of the control plane in this namespace.
fn replica_name(namespace: &str) -> String {
    format!("replica.palisade-control.{namespace}.svc")
}

/// The DNS name that a replica's serving certificate carries.
pub(super) fn server_name(namespace: &str) -> String {
    format!("palisade-control.{namespace}.svc")
}

/// TLS towards another replica, as a replica.
pub(super) fn client_config(authority: &CertificateAuthority, namespace: &str) -> Result<ClientConfig, ProofError> {
    let own = authority.serving(&[replica_name(namespace)], &[], LIFETIME, SystemTime::now())?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.root_bundle().as_bytes()) {
        roots.add(root?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(own.chain, own.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Whether a client certificate, which the authority has judged to be good, is a replica's of this namespace.
pub(super) fn is_replica(certificates: &[CertificateDer<'_>], namespace: &str) -> bool {
    let Some(Ok((_, leaf))) = certificates.first().map(|leaf| X509Certificate::from_der(leaf)) else { return false };
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
    let expected = replica_name(namespace);
    matches!(names.value.general_names.as_slice(), [GeneralName::DNSName(name)] if *name == expected)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn authority() -> (tempfile::TempDir, CertificateAuthority) {
        let folder = tempfile::tempdir().unwrap();
        let domain = "cluster.local".parse().unwrap();
        let authority = CertificateAuthority::load_or_create(folder.path(), &domain, SystemTime::now()).unwrap();
        (folder, authority)
    }

    #[test]
    fn only_what_the_authority_made_for_a_replica_of_this_namespace_passes_for_one() {
        let (_folder, authority) = authority();
        let serving = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            authority.serving(&names, &[], LIFETIME, SystemTime::now()).unwrap().chain
        };
        assert!(is_replica(&serving(&["replica.palisade-control.palisade-system.svc"]), "palisade-system"));
        for (name, chain) in [
            ("a serving certificate", serving(&["palisade-control.palisade-system.svc"])),
            ("another namespace's", serving(&["replica.palisade-control.other.svc"])),
            ("two names", serving(&["replica.palisade-control.palisade-system.svc", "x"])),
            ("none", Vec::new()),
        ] {
            assert!(!is_replica(&chain, "palisade-system"), "{name}");
        }
    }

    #[test]
    fn a_workload_that_asks_for_the_name_gets_its_identity_and_nothing_else() {
        let (_folder, authority) = authority();
        let key = KeyPair::generate().unwrap();
        let asked = CertificateParams::new(vec![replica_name("palisade-system")]).unwrap();
        let csr = asked.serialize_request(&key).unwrap().pem().unwrap();
        let identity = "spiffe://cluster.local/ns/palisade-system/sa/palisade-control".parse().unwrap();
        let chain = authority.sign(&csr, &identity, LIFETIME, SystemTime::now()).unwrap();
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        assert!(!is_replica(&[leaf], "palisade-system"));
    }
}
