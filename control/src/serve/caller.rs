//! Who is calling: a pod's token, or the client certificate of a workload. Nothing else in a request is believed.

use std::{net::IpAddr, sync::Arc};

use palisade_model::{
    identity::{InvalidSpiffeId, SpiffeId},
    settings::WorkloadRef,
};
use rustls_pki_types::CertificateDer;
use tonic::{Status, metadata::MetadataMap};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    identity::{Proven, ProvenPod, TokenError},
    slices::{Slices, identity},
};

/// What a connection proved by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerProof {
    /// The client's certificate, leaf first; empty = none was shown. The handshake proves that the client has its key; what it is
    /// worth is judged for each call, since what is trusted changes while connections stay.
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
    /// Where it comes from; `None` = from this process.
    pub(crate) address: Option<IpAddr>,
}

/// A proven caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The identity that certificates for it carry.
    pub(crate) identity: SpiffeId,
    /// The pod, when a token names it. A certificate names only the service account.
    pub(crate) pod: Option<WorkloadRef>,
    /// Which pod of that name the token is bound to; empty without one.
    pub(crate) uid: Arc<str>,
}

/// What a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Configuration, or a say about it: for pods.
    Configuration,
    /// A certificate: for workloads, which may run outside the cluster.
    Certificate,
}

/// Why a caller is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("a token or a client certificate is needed")]
    NoProof,
    #[error("the authorization header is not one bearer token")]
    Header,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the token of {0} is bound to no pod; configuration is for pods")]
    Unbound(String),
    #[error("the token of {0} is bound to no pod, and no WorkloadEntry of its namespace names that service account")]
    Nowhere(String),
    #[error("the client certificate is no mesh identity: {0}")]
    Certificate(String),
    #[error("the certificate's trust domain `{0}` is not this mesh's")]
    TrustDomain(String),
    #[error("the token's identity {token} is not the client certificate's {certificate}")]
    TwoIdentities { token: SpiffeId, certificate: SpiffeId },
    #[error("pod {0} is not in the mesh")]
    UnknownPod(String),
    #[error("pod {pod} is not the pod of this {proof}: its {what} differs")]
    OtherPod { pod: String, proof: &'static str, what: &'static str },
    #[error("the token is bound to pod {bound}, not to {claimed}")]
    OtherName { bound: String, claimed: String },
    #[error(transparent)]
    Identity(#[from] InvalidSpiffeId),
}

impl Refused {
    /// Whether nobody was proven at all, as opposed to someone who may not.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        match self {
            Self::NoProof | Self::Header | Self::Token(_) | Self::Certificate(_) | Self::TrustDomain(_) => true,
            Self::TwoIdentities { .. }
            | Self::Unbound(_)
            | Self::Nowhere(_)
            | Self::UnknownPod(_)
            | Self::OtherPod { .. }
            | Self::OtherName { .. }
            | Self::Identity(_) => false,
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        if let Refused::Token(TokenError::Unavailable(_)) = refused {
            // It may be good: the caller is to come back.
            Self::unavailable(refused.to_string())
        } else if refused.is_unauthenticated() {
            Self::unauthenticated(refused.to_string())
        } else {
            Self::permission_denied(refused.to_string())
        }
    }
}

/// Proves the caller of one call, whose token if any has been verified. When both a token and a certificate are shown they
/// must agree.
pub(crate) fn prove(
    token: Option<Proven>,
    proof: &PeerProof,
    purpose: Purpose,
    mesh: &dyn Slices,
) -> Result<Caller, Refused> {
    let by_certificate = proof.certificates.first().map(|leaf| certified(leaf, mesh)).transpose()?;
    let Some(token) = token else {
        let identity = by_certificate.ok_or(Refused::NoProof)?;
        return Ok(Caller { identity, pod: None, uid: "".into() });
    };
    let Proven { namespace, service_account, pod } = token;
    let identity = identity(mesh, &namespace, &service_account)?;
    let (pod, uid) = match pod {
        Some(ProvenPod { name, uid }) => {
            let pod = WorkloadRef { namespace: Arc::clone(&namespace), name };
            same_pod(&pod, &uid, &identity, mesh)?;
            (Some(pod), uid)
        }
        None => {
            let account = format!("service account {namespace}/{service_account}");
            match purpose {
                Purpose::Configuration => return Err(Refused::Unbound(account)),
                // Istio's CA takes any token of the audience, for machines outside the cluster. Those are declared.
                Purpose::Certificate if !mesh.is_declared(&namespace, &service_account) => {
                    return Err(Refused::Nowhere(account));
                }
                Purpose::Certificate => (None, "".into()),
            }
        }
    };
    match by_certificate {
        Some(certificate) if certificate != identity => Err(Refused::TwoIdentities { token: identity, certificate }),
        Some(_) | None => Ok(Caller { identity, pod, uid }),
    }
}

/// Whether the mesh's pod of this name is the one that a token proved: names go to other pods.
fn same_pod(pod: &WorkloadRef, uid: &str, proven: &SpiffeId, mesh: &dyn Slices) -> Result<(), Refused> {
    let text = || format!("{}/{}", pod.namespace, pod.name);
    let known = mesh.workload(pod).ok_or_else(|| Refused::UnknownPod(text()))?;
    if identity(mesh, &pod.namespace, &known.service_account)? != *proven {
        return Err(Refused::OtherPod { pod: text(), proof: "token", what: "service account" });
    }
    if !known.uid.is_empty() && *known.uid != *uid {
        return Err(Refused::OtherPod { pod: text(), proof: "token", what: "uid" });
    }
    Ok(())
}

/// The pod whose slice a proven caller gets, by the mesh as it is now: asked again for each mesh. What the proxy believes to be must be what it proved; with a certificate
/// alone, which names no pod, it may be any pod of exactly that identity, but no gateway: what a gateway is told holds private keys, and pods of one service
/// account need not share those.
pub(crate) fn pod_of(caller: &Caller, believed: WorkloadRef, mesh: &dyn Slices) -> Result<WorkloadRef, Refused> {
    let text = |pod: &WorkloadRef| format!("{}/{}", pod.namespace, pod.name);
    if let Some(pod) = &caller.pod {
        if *pod != believed {
            return Err(Refused::OtherName { bound: text(pod), claimed: text(&believed) });
        }
        return same_pod(pod, &caller.uid, &caller.identity, mesh).map(|()| believed);
    }
    let known = mesh.workload(&believed).ok_or_else(|| Refused::UnknownPod(text(&believed)))?;
    if known.is_gateway {
        return Err(Refused::OtherPod {
            pod: text(&believed),
            proof: "certificate",
            what: "kind (a gateway shows its token)",
        });
    }
    if identity(mesh, &believed.namespace, &known.service_account)? != caller.identity {
        return Err(Refused::OtherPod { pod: text(&believed), proof: "certificate", what: "identity" });
    }
    Ok(believed)
}

/// The token of a call.
pub(crate) fn bearer(metadata: &MetadataMap) -> Result<Option<String>, Refused> {
    let mut values = metadata.get_all("authorization").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refused::Header);
    }
    let text = value.to_str().map_err(|_| Refused::Header)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim().to_owned())),
        Some(_) | None => Err(Refused::Header),
    }
}

/// The identity of a certificate that was judged.
fn certified(leaf: &CertificateDer<'_>, mesh: &dyn Slices) -> Result<SpiffeId, Refused> {
    let failed = |error: String| Refused::Certificate(error);
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| failed(error.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| failed(error.to_string()))?
        .ok_or_else(|| failed("it has no subject alternative name".to_owned()))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(failed("it has not exactly one URI".to_owned()));
    };
    let identity: SpiffeId = uri.parse().map_err(|error: InvalidSpiffeId| failed(error.to_string()))?;
    if identity.trust_domain() != mesh.trust_domain() {
        return Err(Refused::TrustDomain(identity.trust_domain().to_string()));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests;
