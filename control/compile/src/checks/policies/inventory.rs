//! Who there is: names in policies that nobody has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::istio::{AuthorizationPolicy, Rule, Source};
use palisade_model::listener::Protocol;

use crate::{
    inputs::core::{Pod, TargetPort},
    object::{self, Object},
    reports::Code,
    resolve::{
        Resolved,
        services::{Registered, RegisteredPort, Registry},
    },
};

/// Namespaces, service accounts, pods and opaque ports of the documents.
pub(super) struct Inventory<'a> {
    namespaces: BTreeSet<Arc<str>>,
    /// `NAMESPACE/ACCOUNT` of every pod.
    accounts: BTreeSet<String>,
    pods: BTreeMap<&'a str, Vec<&'a Object<Pod>>>,
    /// Services that select pods and declare opaque ports.
    opaque: Vec<&'a Registered>,
    root_namespace: &'a str,
}

impl<'a> Inventory<'a> {
    pub(super) fn of(resolved: &'a Resolved) -> Self {
        let inputs = &resolved.inputs;
        let pods = || inputs.pods.values();
        let mut by_namespace: BTreeMap<&str, Vec<&Object<Pod>>> = BTreeMap::new();
        for pod in pods() {
            by_namespace.entry(&pod.head.key.namespace).or_default().push(pod);
        }
        let has_opaque_ports = |service: &&Registered| {
            let is_selecting = service.registry == Registry::Kubernetes && !service.selector.is_empty();
            is_selecting && service.ports.iter().any(is_opaque)
        };
        Self {
            opaque: resolved.services.iter().filter(has_opaque_ports).collect(),
            pods: by_namespace,
            root_namespace: &resolved.settings.root_namespace,
            namespaces: inputs.namespaces.keys().chain(pods().map(|pod| &pod.head.key.namespace)).cloned().collect(),
            accounts: pods().map(|pod| format!("{}/{}", pod.head.key.namespace, pod.spec.service_account)).collect(),
        }
    }

    /// Names that nobody has. Without any pod there is nothing to compare with.
    pub(super) fn check(&self, own: &str, rule: &Rule, path: &str, warn: &mut impl FnMut(Code, &str, &str)) {
        if self.accounts.is_empty() {
            return;
        }
        for (index, from) in rule.from.iter().flatten().enumerate() {
            let Source {
                principals,
                not_principals,
                namespaces,
                not_namespaces,
                service_accounts,
                not_service_accounts,
                ..
            } = &from.source;
            let at = |field: &str, position: usize| format!("{path}.from[{index}].source.{field}[{position}]");
            for (field, values) in [("namespaces", namespaces), ("notNamespaces", not_namespaces)] {
                for (position, value) in values.iter().enumerate() {
                    if let Some(message) = self.namespace_problem(value) {
                        warn(Code::PolicyUnknownName, &at(field, position), &message);
                    }
                }
            }
            for (field, values) in [("principals", principals), ("notPrincipals", not_principals)] {
                for (position, value) in values.iter().enumerate() {
                    if let Some(message) = self.principal_problem(value) {
                        warn(Code::PolicyUnknownName, &at(field, position), &message);
                    }
                }
            }
            for (field, values) in [("serviceAccounts", service_accounts), ("notServiceAccounts", not_service_accounts)]
            {
                for (position, value) in values.iter().enumerate() {
                    let account = if value.contains('/') { value.clone() } else { format!("{own}/{value}") };
                    if let Some(message) = self.account_problem(&account) {
                        warn(Code::PolicyUnknownName, &at(field, position), &message);
                    }
                }
            }
        }
    }

    fn namespace_problem(&self, namespace: &str) -> Option<String> {
        let is_known = namespace.contains('*') || self.namespaces.contains(namespace);
        (!is_known).then(|| format!("there is no namespace `{namespace}`"))
    }

    fn account_problem(&self, account: &str) -> Option<String> {
        (!self.accounts.contains(account)).then(|| format!("no pod runs as service account `{account}`"))
    }

    fn principal_problem(&self, principal: &str) -> Option<String> {
        if principal.contains('*') {
            return None;
        }
        if let Some(rest) = principal.strip_prefix("spiffe://") {
            return Some(format!("never matches: principals are written without `spiffe://`: `{rest}`"));
        }
        let parts: Vec<&str> = principal.split('/').collect();
        match parts.as_slice() {
            [_, "ns", namespace, "sa", account] => self.account_problem(&format!("{namespace}/{account}")),
            _ => Some(format!(
                "`{principal}` is not of the form TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT that workloads have"
            )),
        }
    }

    /// Pods that a policy of this namespace could select: its own, or all for one of the root namespace.
    pub(super) fn pods_within(&self, namespace: &str) -> impl Iterator<Item = &'a Object<Pod>> {
        let is_root = namespace == self.root_namespace;
        let own = self.pods.get(namespace).filter(|_| !is_root).into_iter();
        let all = self.pods.values().filter(move |_| is_root);
        own.chain(all).flatten().copied()
    }

    /// Whether there is any pod to compare with.
    pub(super) fn has_pods(&self) -> bool {
        !self.pods.is_empty()
    }

    /// Declared TCP ports of the workloads that a policy selects: the pod's port and the service that declares it.
    pub(super) fn tcp_ports(&self, document: &Object<AuthorizationPolicy>) -> BTreeMap<u16, String> {
        let mut ports = BTreeMap::new();
        if self.opaque.is_empty() || document.spec.targets().next().is_some() {
            return ports;
        }
        let labels = document.spec.selector.as_ref().map(|s| s.match_labels.clone()).unwrap_or_default();
        let own = &document.head.key.namespace;
        let pods: Vec<_> = self.pods_within(own).filter(|pod| object::selects(&labels, &pod.head.labels)).collect();
        for service in &self.opaque {
            let mut behind = pods.iter().filter(|pod| pod.head.key.namespace == service.key.namespace);
            if !behind.any(|pod| object::selects(&service.selector, &pod.head.labels)) {
                continue;
            }
            for port in service.ports.iter().filter(|port| is_opaque(port)) {
                let target = match &port.target {
                    TargetPort::Number(number) => *number,
                    TargetPort::Name(_) => port.number,
                };
                ports.insert(target, format!("Service {}", service.key));
            }
        }
        ports
    }
}

fn is_opaque(port: &RegisteredPort) -> bool {
    matches!(port.protocol, Protocol::Tcp | Protocol::Tls)
}
