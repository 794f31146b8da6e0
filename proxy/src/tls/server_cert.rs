//! Terminating TLS with a user's certificates, as gateway listeners do.

use std::{collections::BTreeSet, fmt, sync::Arc};

use palisade_model::listener::{TlsAlgorithms, TlsVersion};
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureAlgorithm,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};

use super::{
    algorithms, alpn,
    client::names_match,
    material::{InvalidMaterial, certificates_from_pem, certified_key, private_key_from_pem, root_store},
    peer::{InvalidPeer, PeerCertificate},
    provider,
};

/// One certificate chain with its key, ready to sign.
#[derive(Clone)]
pub struct ServerCertificate(Arc<CertifiedKey>);

/// Whether and how clients are authenticated.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Not asked for (SIMPLE).
    None,
    /// Without a valid certificate the handshake fails (MUTUAL).
    Required(ClientTrust),
    /// One that is shown must be valid; none is accepted too (OPTIONAL_MUTUAL).
    Optional(ClientTrust),
    /// Whatever is shown is accepted, and counts only where it is valid (Gateway API, AllowInsecureFallback).
    Fallback(ClientTrust),
}

/// Whose client certificates are accepted.
#[derive(Debug, Clone)]
pub struct ClientTrust {
    /// Key of the secret or ConfigMap that the CA stands in. `None`: it is not kept in one.
    pub key: Option<Arc<str>>,
    roots: Arc<RootCertStore>,
    revocations: Vec<CertificateRevocationListDer<'static>>,
    /// Exact names (DNS, URI or IP), one of which the certificate must hold. Empty: any name.
    pub subject_alt_names: Vec<Arc<str>>,
    /// SHA-256 of accepted leaf certificates. Empty, together with `spki_hashes`: any.
    pub certificate_hashes: BTreeSet<[u8; 32]>,
    /// SHA-256 of accepted public keys (DER SubjectPublicKeyInfo). One match in either set is enough.
    pub spki_hashes: BTreeSet<[u8; 32]>,
}

/// What a listener or one of its servers says about TLS.
#[derive(Debug, Clone)]
pub struct TerminationSettings {
    /// At least one; with several the first that the client can verify serves, ECDSA before RSA.
    pub certificates: Vec<ServerCertificate>,
    /// Client authentication.
    pub client: ClientAuth,
    /// Least version, normally [`TlsVersion::V1_2`].
    pub min_version: TlsVersion,
    /// Greatest version, normally [`TlsVersion::V1_3`].
    pub max_version: TlsVersion,
    /// ALPN answers, most preferred first; empty: ALPN is ignored.
    pub alpn: Vec<Vec<u8>>,
    /// What the handshake may use.
    pub algorithms: TlsAlgorithms,
}

/// Settings turned into configurations. Tickets belong to the value: build a new one and old sessions do not resume.
#[derive(Clone)]
pub struct Termination {
    config: Arc<ServerConfig>,
    /// For a client that shares none of our ALPN names, as Envoy goes on without.
    silent: Arc<ServerConfig>,
    /// `None`: clients are not asked for certificates.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    client_ca: Option<Arc<str>>,
    /// Handshakes succeed whoever vouches for the client's certificate.
    takes_any_client: bool,
}

/// Lets handshakes go on with certificates that another verifier refuses. Who shows one still has to hold its key.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

#[derive(Debug)]
struct ByAlgorithm {
    ecdsa: Vec<Arc<CertifiedKey>>,
    others: Vec<Arc<CertifiedKey>>,
}

#[derive(Debug)]
struct UserClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust: ClientTrust,
}

impl ServerCertificate {
    /// From PEM texts: chain, leaf first, and its key (RSA, ECDSA P-256 or P-384, Ed25519).
    ///
    /// # Errors
    /// Says which part is unusable; never quotes key bytes.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, InvalidMaterial> {
        let key = private_key_from_pem(key)?;
        Ok(Self(certified_key(certificates_from_pem("certificate chain", chain)?, &key)?))
    }
}

impl ClientTrust {
    /// Trusts the CA certificates of a PEM text, and refuses what the revocation lists of `crl` (PEM) name.
    ///
    /// # Errors
    /// When no CA is in it, or one of them or of the lists cannot be read.
    pub fn from_pem(ca: &[u8], crl: Option<&[u8]>) -> Result<Self, InvalidMaterial> {
        let roots = root_store("client CA", &certificates_from_pem("client CA", ca)?)?;
        let revocations = match crl {
            None => Vec::new(),
            Some(pem) => CertificateRevocationListDer::pem_slice_iter(pem)
                .collect::<Result<_, _>>()
                .map_err(|source| InvalidMaterial::Pem { what: "revocation list", source })?,
        };
        Ok(Self {
            key: None,
            roots: Arc::new(roots),
            revocations,
            subject_alt_names: Vec::new(),
            certificate_hashes: BTreeSet::new(),
            spki_hashes: BTreeSet::new(),
        })
    }

    /// The checks beside the chain.
    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), InvalidPeer> {
        let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|_| InvalidPeer::Unreadable)?;
        if !self.subject_alt_names.is_empty() && !names_match(&parsed, &self.subject_alt_names) {
            return Err(InvalidPeer::NotPinned);
        }
        if self.certificate_hashes.is_empty() && self.spki_hashes.is_empty() {
            return Ok(());
        }
        let certificate: [u8; 32] = Sha256::digest(leaf).into();
        let key: [u8; 32] = Sha256::digest(parsed.subject_public_key_info()).into();
        if self.certificate_hashes.contains(&certificate) || self.spki_hashes.contains(&key) {
            Ok(())
        } else {
            Err(InvalidPeer::NotPinned)
        }
    }
}

impl TerminationSettings {
    /// The usual form: one certificate, no client authentication, TLS 1.2 to 1.3, `h2,http/1.1`.
    pub fn simple(certificate: ServerCertificate) -> Self {
        Self {
            certificates: vec![certificate],
            client: ClientAuth::None,
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            alpn: alpn::owned(&alpn::HTTP_ANSWERS),
            algorithms: TlsAlgorithms::default(),
        }
    }
}

impl Termination {
    /// Builds the configurations.
    ///
    /// # Errors
    /// No certificate, an empty version range, no cipher suite left, or a client CA that cannot be used.
    pub fn new(settings: TerminationSettings) -> Result<Self, InvalidMaterial> {
        let TerminationSettings { certificates, client, min_version, max_version, alpn, algorithms } = settings;
        if certificates.is_empty() {
            return Err(InvalidMaterial::Empty("server certificate list"));
        }
        let unusable = |what: &'static str| move |source| InvalidMaterial::Unusable { what, source };
        let versions = algorithms::versions(min_version, max_version);
        if versions.is_empty() {
            return Err(InvalidMaterial::Empty("TLS version range"));
        }
        let builder = ServerConfig::builder_with_provider(algorithms::provider_with(&algorithms)?)
            .with_protocol_versions(versions)
            .map_err(unusable("TLS version range"))?;
        let client_ca = match &client {
            ClientAuth::None => None,
            ClientAuth::Required(trust) | ClientAuth::Optional(trust) | ClientAuth::Fallback(trust) => {
                trust.key.clone()
            }
        };
        let takes_any_client = matches!(client, ClientAuth::Fallback(_));
        let clients = match client {
            ClientAuth::None => None,
            ClientAuth::Required(trust) => Some(user_verifier(trust, false)?),
            ClientAuth::Optional(trust) | ClientAuth::Fallback(trust) => Some(user_verifier(trust, true)?),
        };
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(verifier) if takes_any_client => {
                builder.with_client_cert_verifier(Arc::new(Lenient(Arc::clone(verifier))))
            }
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByAlgorithm::new(certificates)));
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(unusable("ticket key"))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let silent = Arc::new(config.clone());
        config.alpn_protocols = alpn;
        Ok(Self { config: Arc::new(config), silent, clients, client_ca, takes_any_client })
    }

    /// The configuration for a connection whose client offers these ALPN names.
    pub fn config<T: AsRef<[u8]>>(&self, offer: &[T]) -> Arc<ServerConfig> {
        let negotiable = alpn::is_negotiable(&self.config.alpn_protocols, offer);
        Arc::clone(if negotiable { &self.config } else { &self.silent })
    }

    /// Key of the CA that clients' certificates are verified with, where it has one.
    pub fn client_ca(&self) -> Option<&Arc<str>> {
        self.client_ca.as_ref()
    }

    /// Whether clients are asked for certificates.
    pub fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// What a handshake proved of its client: nothing where the certificate was taken although nobody vouches for it.
    pub fn proven(&self, client: Option<PeerCertificate>, now: UnixTime) -> Option<PeerCertificate> {
        client.filter(|client| !self.takes_any_client || self.verify_client(Some(client), now).is_ok())
    }

    /// Judges a client again who was admitted before, perhaps by other settings. `None`: it showed no certificate.
    ///
    /// # Errors
    /// Says why the client would not be admitted now.
    pub fn verify_client(&self, client: Option<&PeerCertificate>, now: UnixTime) -> Result<(), Error> {
        let Some(verifier) = &self.clients else {
            return Ok(());
        };
        match client.map(PeerCertificate::chain) {
            Some([leaf, intermediates @ ..]) => {
                verifier.verify_client_cert(leaf, intermediates, now).map(|_verified| ())
            }
            Some([]) | None if verifier.client_auth_mandatory() => Err(InvalidPeer::Missing.into()),
            Some([]) | None => Ok(()),
        }
    }
}

impl ByAlgorithm {
    fn new(certificates: Vec<ServerCertificate>) -> Self {
        let (ecdsa, others) = certificates
            .into_iter()
            .map(|ServerCertificate(certified)| certified)
            .partition(|certified| certified.key.algorithm() == SignatureAlgorithm::ECDSA);
        Self { ecdsa, others }
    }
}

impl ResolvesServerCert for ByAlgorithm {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let signs = |certified: &&Arc<CertifiedKey>| certified.key.choose_scheme(hello.signature_schemes()).is_some();
        let takes_ecdsa = hello.cipher_suites().iter().any(|suite| is_for_ecdsa(*suite));
        let ecdsa = self.ecdsa.iter().filter(|_| takes_ecdsa);
        ecdsa.chain(&self.others).find(signs).or_else(|| self.ecdsa.first()).map(Arc::clone)
    }
}

impl ClientCertVerifier for UserClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.trust.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Lenient {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients with certificates of other roots are to show them as well.
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // `Termination::proven` tells afterwards what it is worth.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("certificates", &self.0.cert.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Termination").finish_non_exhaustive()
    }
}

fn user_verifier(trust: ClientTrust, optional: bool) -> Result<Arc<dyn ClientCertVerifier>, InvalidMaterial> {
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&trust.roots), provider())
        .with_crls(trust.revocations.iter().cloned());
    if !trust.revocations.is_empty() {
        // As Envoy's: a list for some issuers leaves the others unchecked.
        builder = builder.allow_unknown_revocation_status();
    }
    if optional {
        builder = builder.allow_unauthenticated();
    }
    Ok(Arc::new(UserClientVerifier { chain: builder.build()?, trust }))
}

fn is_for_ecdsa(suite: CipherSuite) -> bool {
    suite.as_str().is_some_and(|name| name.starts_with("TLS13_") || name.contains("_ECDSA_"))
}

#[cfg(test)]
mod tests;
