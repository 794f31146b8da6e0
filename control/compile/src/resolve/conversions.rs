//! From documents to the forms that are looked up, with a finding for every field that is not served.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::{
    BrokenTarget,
    istio::{Action, ClientTlsMode as WrittenTlsMode, ClientTlsSettings, DestinationRule},
};
use palisade_policy::TrustDomains;

use crate::{
    hosts::{self, Visibility},
    inputs::Inputs,
    object,
    reports::Reports,
    resolve::{
        authorization::{PolicyMemo, Restriction, Target, is_dry_run},
        destination_rules::{ClientTls, ClientTlsMode, DestinationPolicy, Subset},
        peers::PeerPolicy,
    },
    settings::MeshSettings,
};

pub(crate) mod traffic;

use traffic::traffic_policy_of;

/// All DestinationRules, oldest first.
pub(super) fn destination_policies(inputs: &Inputs, settings: &MeshSettings) -> Vec<DestinationPolicy> {
    object::by_age(inputs.destination_rules.values())
        .into_iter()
        .filter_map(|document| {
            let DestinationRule { host, traffic_policy, subsets, export_to, workload_selector } = &document.spec;
            let namespace = &document.head.key.namespace;
            // What is no host pattern was refused by validation and names nothing.
            let host = hosts::full_name(host, namespace, &settings.cluster_domain).parse().ok()?;
            let is_private = workload_selector.is_some();
            let mut by_name: BTreeMap<Arc<str>, Subset> = BTreeMap::new();
            for subset in subsets {
                let labels =
                    subset.labels.iter().map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str()))).collect();
                let policy = subset.traffic_policy.as_ref().map(traffic_policy_of);
                by_name.entry(subset.name.as_str().into()).or_insert(Subset { labels, policy });
            }
            Some(DestinationPolicy {
                host,
                namespace: Arc::clone(namespace),
                visibility: if is_private {
                    Visibility::parse(&["."], &[], namespace)
                } else {
                    Visibility::parse(export_to, &settings.default_destination_rule_export_to, namespace)
                },
                workload_selector: workload_selector.as_ref().map(|selector| selector.match_labels.clone()),
                policy: traffic_policy.as_ref().map(traffic_policy_of),
                subsets: by_name,
                origins: vec![document.head.origin()],
            })
        })
        .collect()
}

fn tls_of(written: &ClientTlsSettings) -> ClientTls {
    let ClientTlsSettings {
        mode,
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        subject_alt_names,
        sni,
        insecure_skip_verify,
        ca_crl,
    } = written;
    ClientTls {
        mode: match mode {
            WrittenTlsMode::Disable => ClientTlsMode::Disable,
            WrittenTlsMode::Simple => ClientTlsMode::Simple,
            WrittenTlsMode::Mutual => ClientTlsMode::Mutual,
            WrittenTlsMode::IstioMutual => ClientTlsMode::IstioMutual,
        },
        sni: sni.clone(),
        subject_alt_names: subject_alt_names.clone(),
        ca_certificates: ca_certificates.clone(),
        client_certificate: (!client_certificate.is_empty()).then(|| (client_certificate.clone(), private_key.clone())),
        credential_name: credential_name.clone(),
        skip_verify: insecure_skip_verify.unwrap_or(false),
        refused: (!ca_crl.is_empty()).then(|| "`tls.caCrl` is not served".to_owned()),
    }
}

/// All PeerAuthentications; a rejected one is STRICT for what it selects.
pub(super) fn peer_policies(inputs: &Inputs) -> Vec<PeerPolicy> {
    let broken =
        inputs.broken_policies.iter().filter(|(head, _)| &*head.kind == "PeerAuthentication").map(|(head, broken)| {
            let selector = match &broken.target {
                BrokenTarget::Readable { selector, target_refs: _ } => {
                    selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default()
                }
                BrokenTarget::Unreadable => BTreeMap::new(),
            };
            PeerPolicy::broken(head.clone(), selector)
        });
    inputs.peer_authentications.values().map(PeerPolicy::new).chain(broken).collect()
}

/// What security documents do to the proxies that they apply to.
pub(super) fn restrictions(
    inputs: &Inputs,
    settings: &MeshSettings,
    reports: &mut Reports,
    memo: &mut PolicyMemo<'_>,
) -> Vec<Arc<Restriction>> {
    let aliases = settings.trust_domain_aliases.iter().map(ToString::to_string);
    let domains = TrustDomains::new(settings.trust_domain.as_str(), aliases);
    // CUSTOM policies stand before all others, apart from them.
    let documents = inputs.authorization_policies.shared().map(|(_, document)| document);
    let documents = documents.filter(|document| document.spec.action != Action::Custom);
    let policies = documents.filter_map(|document| {
        memo.convert(document, reports, |reports| Restriction::new(document, &domains, reports))
    });
    let mut restrictions: Vec<Arc<Restriction>> = policies.collect();
    for (head, broken) in &inputs.broken_policies {
        // The authentications have their own ways to fail closed; an AUDIT policy never changes an answer.
        let is_authentication = matches!(&*head.kind, "PeerAuthentication" | "RequestAuthentication");
        if is_authentication || broken.action == Some(Action::Audit) {
            continue;
        }
        let (selector, targets) = match &broken.target {
            BrokenTarget::Readable { selector, target_refs } => (selector.clone(), target_refs.clone()),
            BrokenTarget::Unreadable => (None, Vec::new()),
        };
        let is_dry_run = &*head.kind == "AuthorizationPolicy" && is_dry_run(head);
        let restrict = |target| match is_dry_run {
            true => Restriction::recording(head, target),
            false => Restriction::denying(head, target, &broken.message),
        };
        // Both written: everything that either names.
        if !targets.is_empty() {
            restrictions.push(Arc::new(restrict(Target::Objects(targets.clone()))));
        }
        if selector.is_some() || targets.is_empty() {
            let labels = selector.map(|selector| selector.match_labels).unwrap_or_default();
            restrictions.push(Arc::new(restrict(Target::Workloads(labels))));
        }
    }
    restrictions
}
