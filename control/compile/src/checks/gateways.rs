//! Findings about Istio Gateways.

use std::{collections::BTreeSet, sync::Arc};

use palisade_crds::istio::{Gateway, ServerTlsMode};
use palisade_model::{identity::SpiffeId, settings::ProxyKind};

use crate::{
    lower::client::Proxy,
    object::{Object, ObjectKey},
    reports::{Code, Report, Reports},
    resolve::{Resolved, gateways, secrets},
};

pub(super) fn check(resolved: &Resolved, reports: &mut Reports) {
    let inputs = &resolved.inputs;
    let mut rejected: BTreeSet<(ObjectKey, usize, String)> = BTreeSet::new();
    let mut seen: BTreeSet<Vec<&ObjectKey>> = BTreeSet::new();
    for pod in inputs.pods.values() {
        let selecting = || gateways::selecting(inputs, &pod.head.key.namespace, &pod.head.labels);
        let selected: Vec<&ObjectKey> =
            selecting().filter(|gateway| !gateway.spec.selector.is_empty()).map(|gateway| &gateway.head.key).collect();
        // Pods that serve the same Gateways have the same conflicts.
        if selected.is_empty() || !seen.insert(selected) {
            continue;
        }
        let account = &pod.spec.service_account;
        let Ok(identity) = SpiffeId::new(resolved.settings.trust_domain.clone(), &pod.head.key.namespace, account)
        else {
            continue;
        };
        let proxy = Proxy {
            kind: ProxyKind::Gateway,
            namespace: Arc::clone(&pod.head.key.namespace),
            name: Arc::clone(&pod.head.key.name),
            labels: pod.head.labels.clone(),
            identity,
            addresses: pod.spec.ips.clone(),
            gateways: Vec::new(),
            topology: None,
            locality: Default::default(),
            node: String::new(),
            network: String::new(),
        };
        for (key, servers) in gateways::servers_of(inputs, &proxy).1 {
            rejected.extend(servers.into_iter().map(|server| (key.clone(), server.index, server.message)));
        }
        for gateway in selecting() {
            certificates(resolved, gateway, &pod.head.key.namespace, reports);
        }
    }
    for (key, index, message) in rejected {
        if let Some(gateway) = inputs.gateways.get(&key) {
            let path = format!("spec.servers[{index}]");
            reports.add(Report::warning(&gateway.head, Code::ServerRejected, &path, &format!("not served: {message}")));
        }
    }
}

/// Certificates are looked up in the namespace of the gateway's pod, wherever the Gateway lives.
fn certificates(resolved: &Resolved, gateway: &Object<Gateway>, namespace: &Arc<str>, reports: &mut Reports) {
    for (index, server) in gateway.spec.servers.iter().enumerate() {
        let Some(tls) = &server.tls else { continue };
        let terminates =
            matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
        let names = tls
            .credential_names
            .iter()
            .flatten()
            .chain((!tls.credential_name.is_empty()).then_some(&tls.credential_name));
        for name in names.filter(|_| terminates) {
            let key = ObjectKey::new(Arc::clone(namespace), name.as_str());
            let secret = resolved.secrets.get(&secrets::secret_key(&key)).map(|(secret, _)| secret);
            let pair = secret.and_then(|secret| Some((secret.certificate.as_ref()?, secret.private_key.as_ref()?)));
            let problem = match pair {
                None => Some("there is no certificate in secret"),
                Some((certificate, key)) if !secrets::is_readable(certificate.as_bytes(), key.expose().as_bytes()) => {
                    Some("certificate and key cannot be read in secret")
                }
                Some(_) => None,
            };
            if let Some(problem) = problem {
                let message = format!("{problem} `{key}`: handshakes fail");
                let path = format!("spec.servers[{index}].tls.credentialName");
                reports.add(Report::warning(&gateway.head, Code::UnknownSecret, &path, &message));
            }
        }
    }
}
