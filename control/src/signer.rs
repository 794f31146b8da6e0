//! Certificates that somebody else signs: a signer of the Kubernetes API, or an issuer of cert-manager.
//!
//! They sign what a request says, and control cannot rewrite a request, which its holder's key has signed. So the request must say exactly
//! the caller's proven identity and nothing else, or it is not passed on; and what comes back must be that identity, that key, and hold
//! against the mesh's roots, or it is not passed on either. Where the signer is away there is no certificate: no other root steps in.

use std::{fmt, str::FromStr, time::Duration};

use kube::Client;
use palisade_model::identity::SpiffeId;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate, X509CertificationRequest},
};

use crate::ca::{CertificateAuthority, SignError, requested_key};

mod cert_manager;
mod kubernetes;

/// How long a signer may take: less than a proxy waits for its certificate.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignerName {
    /// A `signerName` of CertificateSigningRequests.
    Kubernetes(String),
    /// An issuer of cert-manager.
    CertManager {
        /// Its name.
        name: String,
        /// `Issuer`, `ClusterIssuer`, or another's kind.
        kind: String,
        /// Its API group.
        group: String,
    },
}

/// Somebody else who signs.
pub struct ExternalSigner {
    client: Client,
    namespace: String,
    name: SignerName,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// The request itself.
    #[error(transparent)]
    Request(#[from] SignError),
    /// The request says something else than who the caller is.
    #[error("the certificate request must name exactly `{identity}`, since {signer} signs what it says: {problem}")]
    Names {
        /// Who the caller is.
        identity: SpiffeId,
        /// Who would sign.
        signer: SignerName,
        /// What it says instead.
        problem: String,
    },
    /// The API server.
    #[error("{signer} cannot be asked: {source}")]
    Api {
        /// Who.
        signer: SignerName,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It has refused.
    #[error("{signer} signs nothing: {why}")]
    Refused {
        /// Who.
        signer: SignerName,
        /// What it says.
        why: String,
    },
    /// It does not answer.
    #[error("{signer} has signed nothing within {limit} s: is it there?", limit = PATIENCE.as_secs())]
    Silent {
        /// Who.
        signer: SignerName,
    },
    /// It has signed something else.
    #[error("what {signer} signed is not used: {problem}")]
    Answer {
        /// Who.
        signer: SignerName,
        /// What is wrong with it.
        problem: String,
    },
}

impl ExternalSigner {
    /// Asks in this namespace.
    pub fn new(client: Client, namespace: &str, name: SignerName) -> Self {
        Self { client, namespace: namespace.to_owned(), name }
    }

    /// A certificate for a proven identity. PEM: the leaf, intermediates, last the mesh's roots.
    ///
    /// # Errors
    /// When the request does not say who the caller is, or the signer does not sign just that in time.
    pub async fn sign(
        &self,
        csr_pem: &str,
        identity: &SpiffeId,
        lifetime: Duration,
        authority: &CertificateAuthority,
    ) -> Result<Vec<String>, ExternalError> {
        let key = requested_key(csr_pem)?;
        let names = |problem| ExternalError::Names { identity: identity.clone(), signer: self.name.clone(), problem };
        check_request(csr_pem, identity).map_err(names)?;
        let chain = match &self.name {
            SignerName::Kubernetes(signer) => self.by_kubernetes(signer, csr_pem, lifetime).await,
            SignerName::CertManager { name, kind, group } => {
                self.by_cert_manager((name, kind, group), csr_pem, lifetime).await
            }
        }?;
        let answer = |problem| ExternalError::Answer { signer: self.name.clone(), problem };
        let mut chain = check_answer(&chain, rcgen::PublicKeyData::subject_public_key_info(&key), identity, authority)
            .map_err(answer)?;
        chain.push(authority.root_bundle().to_owned());
        Ok(chain)
    }

    /// Waits, but not for ever: what was asked is taken away again in any case.
    async fn in_time<T>(&self, signed: impl Future<Output = Result<T, ExternalError>>) -> Result<T, ExternalError> {
        let silent = |_| ExternalError::Silent { signer: self.name.clone() };
        tokio::time::timeout(PATIENCE, signed).await.map_err(silent)?
    }

    fn failed(&self, source: kube::Error) -> ExternalError {
        ExternalError::Api { signer: self.name.clone(), source: Box::new(source) }
    }

    fn refused(&self, why: String) -> ExternalError {
        ExternalError::Refused { signer: self.name.clone(), why }
    }
}

/// Whether a request names the caller and nobody else. Nothing is believed: what it says must be what was proven.
fn check_request(csr_pem: &str, identity: &SpiffeId) -> Result<(), String> {
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).map_err(|error| error.to_string())?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    if subject.iter().next().is_some() {
        return Err(format!("it has the subject `{subject}`"));
    }
    let mut is_named = false;
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) if !is_named => {
                is_only(&names.general_names, identity)?;
                is_named = true;
            }
            // What a certificate may be used for is the signer's to say.
            ParsedExtension::KeyUsage(_) | ParsedExtension::ExtendedKeyUsage(_) => {}
            ParsedExtension::BasicConstraints(constraints) if !constraints.ca => {}
            _ => return Err("it asks for more than a name".to_owned()),
        }
    }
    if is_named { Ok(()) } else { Err("it names nobody".to_owned()) }
}

fn is_only(names: &[GeneralName<'_>], identity: &SpiffeId) -> Result<(), String> {
    match names {
        [GeneralName::URI(uri)] if **uri == *identity.to_string() => Ok(()),
        names => Err(format!("it names {names:?}")),
    }
}

/// What came back, certificate by certificate: the leaf is this key's and this identity's, and holds against the mesh's roots.
fn check_answer(
    chain: &str,
    key: Vec<u8>,
    identity: &SpiffeId,
    authority: &CertificateAuthority,
) -> Result<Vec<String>, String> {
    let der = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let der = der.map_err(|error| error.to_string())?;
    let leaf = der.first().ok_or("no certificate")?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    if parsed.is_ca() {
        return Err("it is the certificate of an authority".to_owned());
    }
    if parsed.public_key().raw != key.as_slice() {
        return Err("it is another key's".to_owned());
    }
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?.ok_or("it names nobody")?;
    is_only(&names.value.general_names, identity)?;
    authority
        .judge(&der, std::time::SystemTime::now())
        .map_err(|error| format!("it does not hold against the mesh's roots: {error}"))?;
    Ok(der.iter().map(crate::ca::pem).collect())
}

impl FromStr for SignerName {
    type Err = String;

    /// `kubernetes:SIGNER` or `cert-manager:[KIND[.GROUP]/]NAME`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("kubernetes", signer))
                if signer.split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()) =>
            {
                Ok(Self::Kubernetes(signer.to_owned()))
            }
            Some(("kubernetes", signer)) => Err(format!("`{signer}` is no signer: DOMAIN/NAME")),
            Some(("cert-manager", issuer)) => {
                let (kind, name) = issuer.split_once('/').unwrap_or(("Issuer", issuer));
                let (kind, group) = kind.split_once('.').unwrap_or((kind, "cert-manager.io"));
                if name.is_empty() || kind.is_empty() || group.is_empty() {
                    return Err(format!("`{issuer}` is no issuer: [KIND[.GROUP]/]NAME"));
                }
                Ok(Self::CertManager { name: name.to_owned(), kind: kind.to_owned(), group: group.to_owned() })
            }
            _ => Err(format!("`{text}` is neither `kubernetes:SIGNER` nor `cert-manager:ISSUER`")),
        }
    }
}

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubernetes(signer) => write!(f, "the signer `{signer}`"),
            Self::CertManager { name, kind, group } => write!(f, "cert-manager's {kind}.{group} `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests;
