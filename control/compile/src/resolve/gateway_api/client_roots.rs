//! What `spec.tls.frontend` trusts clients by, as far as a listener's status speaks about it.

use palisade_crds::gateway_api::{FrontendTlsValidation, Gateway, ObjectReference};

use super::{GROUP, Grants, Referrer, authorities, status::Condition, status::refused};
use crate::{inputs::Inputs, object::Object};

/// Whether the roots that clients are to be verified by are there.
pub(super) struct ClientRoots {
    /// The first reference that leads nowhere: reason and message.
    wrong: Option<(&'static str, String)>,
}

impl ClientRoots {
    /// Follows the references of a Gateway's validation.
    pub(super) fn of(
        inputs: &Inputs,
        gateway: &Object<Gateway>,
        grants: &Grants,
        validation: &FrontendTlsValidation,
    ) -> Self {
        let own = &gateway.head.key.namespace;
        let from = Referrer { group: GROUP, kind: "Gateway", namespace: own };
        let problem = |reference: &ObjectReference| {
            let ObjectReference { group, kind, name, namespace } = reference;
            let namespace = namespace.as_deref().unwrap_or(own);
            let is_kind = matches!(group.as_str(), "" | "core") && matches!(kind.as_str(), "ConfigMap" | "Secret");
            if !is_kind {
                return Some((
                    "InvalidCACertificateKind",
                    format!("`{group}/{kind}` is not a kind of root certificate"),
                ));
            }
            if !grants.permits(from, namespace, group, kind, name) {
                let message = format!("no ReferenceGrant lets this Gateway use {kind} `{namespace}/{name}`");
                return Some(("RefNotPermitted", message));
            }
            authorities::pem(inputs, group, kind, namespace, name)
                .is_none()
                .then(|| ("InvalidCACertificateRef", format!("{kind} `{namespace}/{name}` holds no `ca.crt`")))
        };
        Self { wrong: validation.ca_certificate_refs.iter().find_map(problem) }
    }

    /// The listener's conditions with this taken into account. One root that is missing makes the listener refuse every client.
    pub(super) fn shape(self, accepted: Condition, resolved_refs: Condition) -> (Condition, Condition) {
        let Self { wrong } = self;
        let Some((reason, message)) = wrong else { return (accepted, resolved_refs) };
        let refs = if resolved_refs.is_true { refused("ResolvedRefs", reason, &message) } else { resolved_refs };
        let accepted = if accepted.is_true {
            refused("Accepted", "NoValidCACertificate", "clients cannot be verified: every connection is refused")
        } else {
            accepted
        };
        (accepted, refs)
    }
}
