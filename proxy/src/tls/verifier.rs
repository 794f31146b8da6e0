//! The verifiers that judge mesh peers: chain to the bundle, exactly one SPIFFE id, the expected domain or identity.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::identity::TrustDomain;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    peer::{InvalidPeer, PeerCertificate},
    provider,
    revoked::{Revoked, Shown},
};

/// Whom a client accepts behind an address that it dials.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AllowedPeers {
    /// Anybody with a certificate of the mesh: nothing is known about who should answer.
    AnyInMesh,
    /// The peer's SPIFFE URI, or one of its DNS names (a DestinationRule may say those), is one of these. Empty: nobody.
    Only(Arc<BTreeSet<Arc<str>>>),
}

/// Judges the server that a mesh client dialled. The server name is ignored: identity is the SPIFFE id.
#[derive(Debug)]
pub struct MeshServerVerifier {
    roots: Arc<RootCertStore>,
    allowed: AllowedPeers,
    revoked: Arc<Revoked>,
    provider: Arc<CryptoProvider>,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallerAuth {
    /// Without a valid certificate the handshake fails.
    Required,
    /// A certificate is asked for; one that is shown must be valid, none is accepted too.
    Offered,
}

/// Judges the client that dialled a mesh server: chain, exactly one SPIFFE id, a trust domain of the mesh.
#[derive(Debug)]
pub struct MeshClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    trust_domains: Arc<BTreeSet<TrustDomain>>,
    revoked: Arc<Revoked>,
}

impl AllowedPeers {
    /// The set of these names.
    pub fn only<T: Into<Arc<str>>>(names: impl IntoIterator<Item = T>) -> Self {
        Self::Only(Arc::new(names.into_iter().map(Into::into).collect()))
    }

    /// Whether the peer is one of those meant.
    ///
    /// # Errors
    /// Says who the peer is instead, or why it has no identity.
    pub fn check(&self, peer: &PeerCertificate) -> Result<(), InvalidPeer> {
        let uri = peer.spiffe_uri()?;
        match self {
            Self::AnyInMesh => Ok(()),
            Self::Only(names) if names.contains(uri) => Ok(()),
            Self::Only(names) if peer.dns_names().iter().any(|name| names.contains(name)) => Ok(()),
            Self::Only(_) => Err(InvalidPeer::Unexpected(Arc::clone(uri))),
        }
    }
}

impl MeshServerVerifier {
    /// A verifier that trusts `roots` and accepts `allowed`. No roots: nobody is accepted.
    pub fn new(roots: Arc<RootCertStore>, allowed: AllowedPeers) -> Self {
        Self { roots, allowed, revoked: Arc::default(), provider: provider() }
    }

    /// The same, and nobody whose certificate is revoked.
    #[must_use]
    pub fn revoking(self, revoked: Arc<Revoked>) -> Self {
        Self { revoked, ..self }
    }
}

impl MeshClientVerifier {
    /// A verifier that trusts `roots` for identities of `trust_domains`.
    ///
    /// # Errors
    /// When there are no roots.
    pub fn new(
        roots: Arc<RootCertStore>,
        trust_domains: Arc<BTreeSet<TrustDomain>>,
        auth: CallerAuth,
    ) -> Result<Self, VerifierBuilderError> {
        // The list of root names in the request only costs bytes: a mesh peer has one certificate to show.
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).clear_root_hint_subjects();
        let chain = match auth {
            CallerAuth::Required => builder.build()?,
            CallerAuth::Offered => builder.allow_unauthenticated().build()?,
        };
        Ok(Self { chain, roots, trust_domains, revoked: Arc::default() })
    }

    /// The same, and nobody whose certificate is revoked.
    #[must_use]
    pub fn revoking(self, revoked: Arc<Revoked>) -> Self {
        Self { revoked, ..self }
    }

    /// Judges the names of a caller whose chain holds.
    pub(crate) fn check(&self, peer: &PeerCertificate) -> Result<(), InvalidPeer> {
        check_trust_domain(peer, &self.trust_domains)
    }
}

impl ServerCertVerifier for MeshServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        self.revoked.check(end_entity, intermediates, &self.roots, now, Shown::ByServer)?;
        self.allowed.check(&PeerCertificate::from_chain(std::slice::from_ref(end_entity))?)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for MeshClientVerifier {
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
        self.revoked.check(end_entity, intermediates, &self.roots, now, Shown::ByClient)?;
        self.check(&PeerCertificate::from_chain(std::slice::from_ref(end_entity))?)?;
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

/// Istio: the peer's URI must start with `spiffe://DOMAIN/` for the mesh's trust domain or one of its aliases.
pub(crate) fn check_trust_domain(
    peer: &PeerCertificate,
    trust_domains: &BTreeSet<TrustDomain>,
) -> Result<(), InvalidPeer> {
    let uri = peer.spiffe_uri()?;
    let domain = uri.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
    if trust_domains.iter().any(|trusted| Some(trusted.as_str()) == domain) {
        Ok(())
    } else {
        Err(InvalidPeer::TrustDomain(Arc::clone(uri)))
    }
}

#[cfg(test)]
mod tests;
