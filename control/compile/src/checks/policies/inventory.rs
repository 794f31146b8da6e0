//! Who there is: names in policies that nobody has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::istio::{AuthorizationPolicy, Rule, Source};
use palisade_model::listener::Protocol;

use crate::{
    inputs::{
        Input, Inputs,
        core::{Pod, TargetPort},
    },
    object::{self, Object},
    reports::Code,
    resolve::{
        Resolved,
        services::{Registered, RegisteredPort, Registry, Services},
    },
};

/// Namespaces, service accounts, pods and opaque ports of the documents.
#[derive(Debug)]
pub(super) struct Inventory {
    /// All that it was made from, and nothing else.
    pub(super) seen: Inputs,
    namespaces: BTreeSet<Arc<str>>,
    /// Accounts of pods, by namespace.
    accounts: BTreeMap<Arc<str>, BTreeSet<String>>,
    /// Services that select pods and declare opaque ports.
    opaque: Vec<Registered>,
}

const READS: &[Input] = &[Input::Pods, Input::Services, Input::ServiceEntries, Input::Namespaces, Input::ApiGateways];

impl Inventory {
    /// That of `before`, if there is what there was.
    pub(super) fn after(before: Option<&Arc<Self>>, resolved: &Resolved) -> Arc<Self> {
        let seen = resolved.inputs.only(&[READS]);
        match before.filter(|held| held.seen.is_same(&seen)) {
            Some(held) => Arc::clone(held),
            None => Arc::new(Self::of(seen, &resolved.services)),
        }
    }

    fn of(seen: Inputs, services: &Services) -> Self {
        let mut accounts: BTreeMap<Arc<str>, BTreeSet<String>> = BTreeMap::new();
        for pod in seen.pods.values() {
            let own = accounts.entry(Arc::clone(&pod.head.key.namespace)).or_default();
            if !own.contains(&pod.spec.service_account) {
                own.insert(pod.spec.service_account.clone());
            }
        }
        let has_opaque_ports = |service: &&Registered| {
            let is_selecting = service.registry == Registry::Kubernetes && !service.selector.is_empty();
            is_selecting && service.ports.iter().any(is_opaque)
        };
        Self {
            opaque: services.iter().filter(has_opaque_ports).cloned().collect(),
            namespaces: seen.namespaces.keys().chain(accounts.keys()).cloned().collect(),
            accounts,
            seen,
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
        let is_known = account
            .split_once('/')
            .is_some_and(|(namespace, account)| self.accounts.get(namespace).is_some_and(|own| own.contains(account)));
        (!is_known).then(|| format!("no pod runs as service account `{account}`"))
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
    pub(super) fn pods_within(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Object<Pod>> {
        let is_root = *namespace == self.seen.settings.root_namespace;
        let own = (!is_root).then(|| self.seen.pods_in(namespace));
        let all = is_root.then(|| self.seen.pods.values());
        own.into_iter().flatten().chain(all.into_iter().flatten())
    }

    /// Whether there is any pod to compare with.
    pub(super) fn has_pods(&self) -> bool {
        !self.seen.pods.is_empty()
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
