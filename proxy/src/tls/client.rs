//! TLS towards services outside the mesh: DestinationRule modes SIMPLE and MUTUAL.

use std::{fmt, path::Path, sync::Arc};

use palisade_model::listener::{TlsLimits, TlsVersion};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use super::{
    algorithms,
    material::{InvalidMaterial, certificates_from_pem, certified_key, private_key_from_pem, root_store},
    peer::InvalidPeer,
    provider,
};

/// Sessions kept for resumption: 8 tickets for each of 16 server names.
const CLIENT_SESSIONS: usize = 128;

/// Which certificate authorities vouch for the server.
#[derive(Debug, Clone)]
pub enum TrustAnchors {
    /// Only these.
    Roots(Arc<RootCertStore>),
    /// Nobody is asked: any certificate is accepted (`insecureSkipVerify`).
    Unverified,
}

/// Which names the server's certificate must hold, once its chain is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameCheck {
    /// The name that is dialled (SNI, or the host when no SNI is set).
    DialledName,
    /// One of these, each a DNS name, URI or IP address. Empty: no name is good.
    OneOf(Vec<Arc<str>>),
    /// None. Istio: `sni` is set and `subjectAltNames` is not.
    Unchecked,
}

/// A certificate chain to show, with its key, ready to sign.
#[derive(Clone)]
pub struct ClientCertificate(Arc<CertifiedKey>);

/// What a DestinationRule says about TLS.
#[derive(Clone)]
pub struct OriginationSettings {
    /// Trust.
    pub anchors: TrustAnchors,
    /// Names.
    pub names: NameCheck,
    /// The SNI to send. `None`: the host that is dialled; an IP address is sent as none.
    pub sni: Option<Arc<str>>,
    /// Our certificate (MUTUAL). `None`: none is shown (SIMPLE).
    pub certificate: Option<ClientCertificate>,
    /// ALPN offer, most preferred first; empty: none.
    pub alpn: Vec<Vec<u8>>,
    /// Lowest version, and what the handshake may use.
    pub limits: TlsLimits,
}

/// Settings turned into a configuration, shared by all connections of a cluster.
#[derive(Clone)]
pub struct Origination {
    config: Arc<ClientConfig>,
    sni: Option<ServerName<'static>>,
}

/// Why origination settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidOrigination {
    /// Certificates, keys or CAs.
    #[error(transparent)]
    Material(#[from] InvalidMaterial),
    /// The SNI or host is no name that TLS can carry.
    #[error("`{0}` cannot be sent as a TLS server name")]
    ServerName(Arc<str>),
    /// The CA file cannot be read.
    #[error("the CA file `{path}` cannot be read: {source}")]
    CaFile {
        /// Where.
        path: Arc<str>,
        /// What the reader said.
        source: rustls_pki_types::pem::Error,
    },
    /// rustls refused the configuration.
    #[error("the TLS configuration cannot be built: {0}")]
    Configuration(#[from] Error),
}

#[derive(Debug)]
struct OriginationVerifier {
    anchors: TrustAnchors,
    names: NameCheck,
}

impl ClientCertificate {
    /// From PEM texts: chain, leaf first, and its key.
    ///
    /// # Errors
    /// Says which part is unusable; never quotes key bytes.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, InvalidMaterial> {
        let key = private_key_from_pem(key)?;
        Ok(Self(certified_key(certificates_from_pem("client certificate chain", chain)?, &key)?))
    }
}

impl TrustAnchors {
    /// The CAs of a PEM text; every one must be readable.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn from_pem(ca: &[u8]) -> Result<Self, InvalidMaterial> {
        Ok(Self::Roots(Arc::new(root_store("CA", &certificates_from_pem("CA", ca)?)?)))
    }

    /// The system's CAs from a PEM file, for example `/etc/ssl/certs/ca-certificates.crt`. Blocking; CAs that cannot
    /// be used are left out, as system bundles contain odd ones.
    ///
    /// # Errors
    /// When the file cannot be read or holds no CA that can be used.
    pub fn system(file: &Path) -> Result<Self, InvalidOrigination> {
        let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|source| InvalidOrigination::CaFile { path: file.display().to_string().into(), source })?;
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(certificates);
        if ignored > 0 {
            tracing::debug!(file = %file.display(), ignored, "system CAs left out");
        }
        if roots.is_empty() {
            Err(InvalidMaterial::Empty("system CA file").into())
        } else {
            Ok(Self::Roots(Arc::new(roots)))
        }
    }
}

impl Origination {
    /// Builds the configuration.
    ///
    /// # Errors
    /// [`InvalidOrigination`].
    pub fn new(settings: OriginationSettings) -> Result<Self, InvalidOrigination> {
        let OriginationSettings { anchors, names, sni, certificate, alpn, limits } = settings;
        let builder = ClientConfig::builder_with_provider(algorithms::provider_with(&limits.algorithms)?)
            .with_protocol_versions(algorithms::versions(limits.min_version, TlsVersion::V1_3))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OriginationVerifier { anchors, names }));
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(ClientCertificate(certified)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = alpn;
        config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        let sni = sni.map(|sni| server_name(&sni)).transpose()?;
        Ok(Self { config: Arc::new(config), sni })
    }

    /// The configuration; the same `Arc` for the life of the value, so that sessions resume.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The name to dial with: the SNI that was set, else `host` (a DNS name or an IP address, without port).
    ///
    /// # Errors
    /// [`InvalidOrigination::ServerName`] when the host is neither.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, InvalidOrigination> {
        match &self.sni {
            Some(sni) => Ok(sni.clone()),
            None => server_name(host),
        }
    }
}

/// A text as rustls's server name. `outbound_.9080_._.reviews.default.svc.cluster.local` is one: underscores are kept.
///
/// # Errors
/// [`InvalidOrigination::ServerName`].
pub fn server_name(name: &str) -> Result<ServerName<'static>, InvalidOrigination> {
    ServerName::try_from(name.to_owned()).map_err(|_| InvalidOrigination::ServerName(name.into()))
}

/// Whether a certificate holds one of these names: DNS and IP by webpki's rules, anything with `:` and `/` as URI.
pub(super) fn names_match(certificate: &webpki::EndEntityCert<'_>, wanted: &[Arc<str>]) -> bool {
    wanted.iter().any(|name| {
        if name.contains("://") {
            return certificate.valid_uri_names().any(|uri| uri == name.as_ref());
        }
        ServerName::try_from(name.as_ref())
            .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    })
}

impl ServerCertVerifier for OriginationVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let TrustAnchors::Roots(roots) = &self.anchors else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        match &self.names {
            NameCheck::DialledName => rustls::client::verify_server_name(&parsed, dialled)?,
            NameCheck::OneOf(wanted) => {
                let certificate = webpki::EndEntityCert::try_from(end_entity).map_err(|_| InvalidPeer::Unreadable)?;
                if !names_match(&certificate, wanted) {
                    return Err(InvalidPeer::NotPinned.into());
                }
            }
            NameCheck::Unchecked => {}
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("certificates", &self.0.cert.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for OriginationSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginationSettings")
            .field("anchors", &self.anchors)
            .field("names", &self.names)
            .field("sni", &self.sni)
            .field("shows_certificate", &self.certificate.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origination").field("sni", &self.sni).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
