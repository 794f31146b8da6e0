//! The certificate that a Gateway shows to backends that it speaks TLS to (`spec.tls.backend.clientCertificateRef`).

use std::sync::Arc;

use palisade_crds::gateway_api::{Gateway, SecretObjectReference};

use super::{GROUP, Grants, Referrer, status::Condition, status::refused};
use crate::{
    inputs::Inputs,
    object::{Object, ObjectKey},
    resolve::secrets::{is_certificate, secret_key},
};

/// What a Gateway shows to its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackendCertificate {
    /// Nothing.
    None,
    /// The certificate of this key.
    Secret(Arc<str>),
    /// The reference leads nowhere, for this reason: TLS connections to backends are refused.
    Unusable(Condition),
}

impl BackendCertificate {
    /// Follows a Gateway's reference.
    pub(super) fn of(inputs: &Inputs, gateway: &Object<Gateway>, grants: &Grants) -> Self {
        let written = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
        let Some(reference) = written.and_then(|backend| backend.client_certificate_ref.as_ref()) else {
            return Self::None;
        };
        let SecretObjectReference { group, kind, name, namespace } = reference;
        let unusable = |reason, message: &str| Self::Unusable(refused("ResolvedRefs", reason, message));
        let own = &gateway.head.key.namespace;
        let namespace = namespace.as_deref().unwrap_or(own);
        let from = Referrer { group: GROUP, kind: "Gateway", namespace: own };
        if !group.is_empty() || kind != "Secret" {
            let message = format!("`{group}/{kind}` is not a kind of certificate");
            return unusable("InvalidClientCertificateRef", &message);
        }
        if !grants.permits(from, namespace, "", "Secret", name) {
            let message = format!("no ReferenceGrant lets this Gateway use secret `{namespace}/{name}`");
            return unusable("RefNotPermitted", &message);
        }
        let key = ObjectKey::new(namespace, name.as_str());
        match inputs.secrets.get(&key) {
            None => unusable("InvalidClientCertificateRef", &format!("secret `{key}` does not exist")),
            Some(secret) if !is_certificate(&secret.spec) => {
                let message = format!("secret `{key}` holds no PEM certificate with its key");
                unusable("InvalidClientCertificateRef", &message)
            }
            Some(_) => Self::Secret(secret_key(&key)),
        }
    }
}
