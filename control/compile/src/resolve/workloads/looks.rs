//! What is asked about workloads and endpoints; what lowering asks is noted.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use palisade_model::endpoint::Endpoints;

use super::{HostKey, Target, Workloads, host_key};
use crate::{
    memo::{self, Read},
    resolve::services::Registered,
};

impl Workloads {
    /// The endpoints of a service port; `None` when there is no such port.
    pub(crate) fn endpoints(&self, service: &Registered, port: u16) -> Option<&Arc<Endpoints>> {
        let key = host_key(service);
        memo::note(|| Read::Endpoints(key.clone(), port));
        self.endpoints_of(&key, port)
    }

    /// The same by key, for who compares.
    pub(crate) fn endpoints_of(&self, key: &HostKey, port: u16) -> Option<&Arc<Endpoints>> {
        self.endpoints.get(key)?.get(&port)
    }

    /// The endpoints of a service's UDP port; `None` when there is no such port.
    pub(crate) fn datagram_endpoints(&self, service: &Registered, port: u16) -> Option<&Arc<Endpoints>> {
        let key = host_key(service);
        memo::note(|| Read::Datagrams(key.clone(), port));
        self.datagrams_of(&key, port)
    }

    /// The same by key, for who compares.
    pub(crate) fn datagrams_of(&self, key: &HostKey, port: u16) -> Option<&Arc<Endpoints>> {
        self.datagrams.get(key)?.get(&port)
    }

    /// What the documents call workloads behind a service port though it is no identity. `None`: there is no such workload.
    pub(crate) fn unprovable(&self, service: &Registered, port: u16) -> Option<&BTreeSet<String>> {
        let key = host_key(service);
        memo::note(|| Read::Unprovable(key.clone(), port));
        self.unprovable_of(&key, port)
    }

    /// The same by key, for who compares.
    pub(crate) fn unprovable_of(&self, key: &HostKey, port: u16) -> Option<&BTreeSet<String>> {
        self.unprovable.get(key)?.get(&port)
    }

    /// Service ports that lead to an address, those of the oldest service first.
    pub(crate) fn targets_at(&self, ip: IpAddr) -> &[Target] {
        memo::note(|| Read::Targets(ip));
        self.leading_to(ip)
    }

    /// The same, for who compares.
    pub(crate) fn leading_to(&self, ip: IpAddr) -> &[Target] {
        self.targets.get(&ip).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether all addresses are known to lead where they lead in `other`.
    pub(crate) fn leads_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.targets, &other.targets)
    }

    /// All addresses that service ports lead to.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, &[Target])> {
        self.targets.iter().map(|(address, targets)| (*address, targets.as_slice()))
    }

    /// DNS names of a headless service's pods (`HOSTNAME.HOST`), and its ready addresses under the empty name.
    pub(crate) fn pod_names(&self, host: &str) -> &[(String, IpAddr)] {
        memo::note(|| Read::PodNames(host.into()));
        self.names_of(host)
    }

    /// The same, for who compares.
    pub(crate) fn names_of(&self, host: &str) -> &[(String, IpAddr)] {
        self.headless.get(host).map(Vec::as_slice).unwrap_or_default()
    }
}
