//! Which services' endpoints are as they were: where only pods and slices changed, those of all others still hold.

use std::{collections::BTreeSet, net::IpAddr};

use super::Workloads;
use crate::{
    inputs::{
        Inputs,
        core::{EndpointSlice, PodObject},
    },
    object::{Object, ObjectKey},
    resolve::services::{Registered, Registry},
};

/// What of an earlier mesh may still hold.
pub(super) struct Reuse<'a> {
    pub(super) before: &'a Workloads,
    /// Pods that are there no more, or are others.
    pods: BTreeSet<&'a ObjectKey>,
    /// Their namespaces.
    namespaces: BTreeSet<&'a str>,
    /// Their addresses, then and now.
    ips: BTreeSet<IpAddr>,
    /// Services with a slice that is another one.
    services: BTreeSet<ObjectKey>,
    /// All pods have the addresses that they had.
    is_addressed_the_same: bool,
}

impl<'a> Reuse<'a> {
    /// What holds of `before`, made from `seen`; `None` where more changed than pods and slices.
    pub(super) fn new(before: &'a Workloads, seen: &'a Inputs, inputs: &'a Inputs) -> Option<Self> {
        let is_same = inputs.settings == seen.settings
            && inputs.services == seen.services
            && inputs.service_entries == seen.service_entries
            && inputs.workload_entries == seen.workload_entries
            && inputs.namespaces == seen.namespaces
            && inputs.peer_authentications == seen.peer_authentications
            && inputs.broken_policies == seen.broken_policies;
        if !is_same {
            return None;
        }
        let mut reuse = Self {
            before,
            pods: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            ips: BTreeSet::new(),
            services: BTreeSet::new(),
            is_addressed_the_same: true,
        };
        for (key, now, then) in inputs.pods.differences(&seen.pods) {
            reuse.pods.insert(key);
            reuse.namespaces.insert(&key.namespace);
            reuse.ips.extend([now, then].into_iter().flatten().flat_map(|pod| &pod.spec.ips));
            let addresses = |pod: Option<&'a PodObject>| pod.map(own_addresses).unwrap_or_default();
            reuse.is_addressed_the_same &= addresses(now) == addresses(then);
        }
        for (key, now, then) in inputs.endpoint_slices.differences(&seen.endpoint_slices) {
            for slice in [now, then].into_iter().flatten() {
                reuse.services.insert(ObjectKey::new(key.namespace.clone(), slice.spec.service.as_str()));
            }
        }
        Some(reuse)
    }

    /// Whether every address leads to the pod that it led to.
    pub(super) fn addresses_hold(&self) -> bool {
        self.is_addressed_the_same
    }

    /// Whether what is behind a service is what was. `slices` are its own.
    pub(super) fn holds(&self, service: &Registered, slices: &[&Object<EndpointSlice>]) -> bool {
        let namespace = &service.key.namespace;
        if self.services.contains(&service.key) {
            return false;
        }
        if self.pods.is_empty() {
            return true;
        }
        if service.registry == Registry::Entries || slices.is_empty() {
            return !self.namespaces.contains(&**namespace);
        }
        let is_in_namespace = self.namespaces.contains(&**namespace);
        let is_touched = |name: &str| is_in_namespace && self.pods.contains(&ObjectKey::new(namespace.clone(), name));
        !slices.iter().flat_map(|slice| &slice.spec.endpoints).any(|endpoint| {
            endpoint.pod.as_deref().is_some_and(is_touched) || endpoint.addresses.iter().any(|ip| self.ips.contains(ip))
        })
    }
}

/// The addresses that are a pod's own.
pub(super) fn own_addresses(pod: &PodObject) -> &[IpAddr] {
    if pod.spec.is_gone || pod.spec.is_host_network { &[] } else { &pod.spec.ips }
}
