//! Certificates: Secrets and ConfigMaps under the keys that gateways ask for.

use std::{collections::BTreeMap, sync::Arc};

use palisade_model::{
    origin::Origin,
    secret::{PrivateKey, Secret},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    inputs::{Inputs, core::KeyedBytes},
    object::{Object, ObjectKey},
    resolve::gateway_api::authorities,
};

/// Everything that can be served as a certificate or a CA bundle.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    by_key: BTreeMap<Arc<str>, (Secret, Origin)>,
}

/// The resource key of a Secret.
pub(crate) fn secret_key(key: &ObjectKey) -> Arc<str> {
    format!("secret/{key}").into()
}

/// The resource key of a ConfigMap.
pub(crate) fn config_map_key(key: &ObjectKey) -> Arc<str> {
    format!("configmap/{key}").into()
}

impl Secrets {
    /// Reads all Secrets and ConfigMaps.
    pub(crate) fn new(inputs: &Inputs) -> Self {
        let secrets = inputs.secrets.values().map(|object| (secret_key(&object.head.key), object));
        let config_maps = inputs.config_maps.values().map(|object| (config_map_key(&object.head.key), object));
        let bundles = authorities::bundles(inputs)
            .into_iter()
            .map(|(secret, origin)| (Arc::clone(&secret.key), (secret, origin)));
        let by_key = secrets
            .chain(config_maps)
            .filter_map(|(key, object)| read(&key, object).map(|secret| (key, (secret, object.head.origin()))))
            .chain(bundles)
            .collect();
        Self { by_key }
    }

    /// A secret by resource key.
    pub(crate) fn get(&self, key: &str) -> Option<&(Secret, Origin)> {
        self.by_key.get(key)
    }

    /// Keys for a `credentialName` in a namespace: the certificate, and the CA bundle (`NAME-cacert` if there is one, else
    /// the same secret; istio-semantics 6).
    pub(crate) fn keys_for(&self, namespace: &str, name: &str) -> (Arc<str>, Arc<str>) {
        let name = name.strip_prefix("kubernetes://").unwrap_or(name);
        let certificate = secret_key(&ObjectKey::new(namespace, name));
        let ca = self.bundle_beside(&certificate);
        (certificate, ca)
    }

    /// The key of the CA bundle that belongs to the certificate with a key.
    pub(crate) fn bundle_beside(&self, certificate: &Arc<str>) -> Arc<str> {
        let cacert: Arc<str> = format!("{certificate}-cacert").into();
        if self.by_key.contains_key(&cacert) { cacert } else { Arc::clone(certificate) }
    }
}

/// Whether a Secret holds a certificate that can be read, and a key with it.
pub(crate) fn is_certificate(entries: &KeyedBytes) -> bool {
    let text = |name: &str| entries.entries.get(name).map(|bytes| &**bytes);
    [("cert", "key"), ("tls.crt", "tls.key")].into_iter().any(|(certificate, key)| {
        let (Some(certificate), Some(key)) = (text(certificate), text(key)) else { return false };
        is_readable(certificate, key)
    })
}

/// Whether these are PEM of certificates and of a key.
pub(crate) fn is_readable(certificate: &[u8], key: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(certificate).peekable();
    certificates.peek().is_some()
        && certificates.all(|der| der.is_ok_and(|der| X509Certificate::from_der(&der).is_ok()))
        && PrivateKeyDer::from_pem_slice(key).is_ok()
}

/// The first complete pair of `cert` and `key`, then `tls.crt` and `tls.key`; a CA alone is fine too.
fn read(key: &Arc<str>, object: &Object<KeyedBytes>) -> Option<Secret> {
    let text = |name: &str| {
        object
            .spec
            .entries
            .get(name)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .filter(|text| !text.trim().is_empty())
    };
    let pair = [("cert", "key"), ("tls.crt", "tls.key")]
        .into_iter()
        .find_map(|(certificate, private_key)| Some((text(certificate)?, text(private_key)?)));
    let ca = ["cacert", "ca.crt"].into_iter().find_map(text);
    if pair.is_none() && ca.is_none() {
        return None;
    }
    Some(Secret {
        key: Arc::clone(key),
        certificate: pair.map(|(certificate, _)| certificate.into()),
        private_key: pair.map(|(_, private_key)| PrivateKey::new(private_key)),
        ca: ca.map(Arc::from),
    })
}
