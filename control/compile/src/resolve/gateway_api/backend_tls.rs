//! BackendTLSPolicies: which Service ports gateways speak TLS to, and how the server proves itself.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::gateway_api::{BackendTlsTarget, BackendTlsValidation, SubjectAltName};
use palisade_model::{
    cluster::{Originate, UpstreamTls},
    listener::{TlsAlgorithms, TlsVersion},
    origin::Origin,
};

use super::authorities;
use crate::{
    inputs::Inputs,
    object::{self, ObjectKey},
};

/// What a policy asks for.
#[derive(Debug, Clone)]
pub(crate) struct BackendTls {
    /// TLS as the policy asks for it; refused where it cannot be had.
    pub(crate) tls: UpstreamTls,
    /// The policy.
    pub(crate) origin: Origin,
}

/// All policies by Service, then by the name of the port; an empty name = all ports.
#[derive(Debug, Default)]
pub(crate) struct BackendTlsPolicies(BTreeMap<ObjectKey, BTreeMap<Arc<str>, BackendTls>>);

impl BackendTlsPolicies {
    /// Reads all policies. Of several for one target the oldest counts.
    pub(super) fn new(inputs: &Inputs) -> Self {
        let mut by_service: BTreeMap<ObjectKey, BTreeMap<Arc<str>, BackendTls>> = BTreeMap::new();
        for policy in object::by_age(inputs.backend_tls_policies.values()) {
            let tls = tls(inputs, &policy.head.key, &policy.spec.validation);
            for BackendTlsTarget { group, kind, name, section_name } in &policy.spec.target_refs {
                if !matches!(group.as_str(), "" | "core") || kind != "Service" {
                    continue;
                }
                let service = ObjectKey::new(Arc::clone(&policy.head.key.namespace), name.as_str());
                let ports = by_service.entry(service).or_default();
                let port: Arc<str> = section_name.as_deref().unwrap_or_default().into();
                ports.entry(port).or_insert_with(|| BackendTls { tls: tls.clone(), origin: policy.head.origin() });
            }
        }
        Self(by_service)
    }

    /// The policy for exactly a Service and a port's name.
    pub(super) fn exactly(&self, service: &ObjectKey, port: &str) -> Option<&BackendTls> {
        self.0.get(service)?.get(port)
    }

    /// The policy of a Service port: one for the port before one for the Service.
    pub(super) fn find(&self, service: &ObjectKey, port: &str) -> Option<&BackendTls> {
        let ports = self.0.get(service)?;
        ports.get(port).filter(|_| !port.is_empty()).or_else(|| ports.get(""))
    }
}

fn tls(inputs: &Inputs, policy: &ObjectKey, validation: &BackendTlsValidation) -> UpstreamTls {
    let BackendTlsValidation { ca_certificate_refs, well_known_ca_certificates, hostname, subject_alt_names } =
        validation;
    let refuse =
        |message: &str| UpstreamTls::Refuse { message: format!("BackendTLSPolicy {policy}: {message}").into() };
    let ca = match (ca_certificate_refs.as_slice(), well_known_ca_certificates.as_deref()) {
        ([], Some("System")) => None,
        ([], _) => return refuse("`wellKnownCACertificates` can only be `System`"),
        _ => {
            let key = authorities::backend_key(policy);
            if !authorities::bundles(inputs).iter().any(|(secret, _)| secret.key == key) {
                return refuse("a reference to roots leads nowhere");
            }
            Some(key)
        }
    };
    // The server name is also the name that is checked, unless others are given (GEP-1897).
    let names: Vec<Arc<str>> = match subject_alt_names.as_slice() {
        [] => vec![hostname.as_str().into()],
        names => names
            .iter()
            .filter_map(|SubjectAltName { name_type: _, hostname, uri }| hostname.as_deref().or(uri.as_deref()))
            .map(Arc::from)
            .collect(),
    };
    if names.is_empty() {
        return refuse("`subjectAltNames` names nothing");
    }
    UpstreamTls::Originate(Originate {
        sni: Some(hostname.as_str().into()),
        subject_alt_names: names.into(),
        ca,
        client_certificate: None,
        skip_verify: false,
        min_version: TlsVersion::V1_2,
        algorithms: TlsAlgorithms::default(),
    })
}
