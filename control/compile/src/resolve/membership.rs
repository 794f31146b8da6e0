//! Which names and addresses the mesh has at all, for proxies to know what it does not have.

use std::sync::Arc;

use palisade_model::{
    hash::HashError,
    membership::{Member, Membership},
    resource::{Entry, Meta, Resource},
};

use crate::resolve::{
    services::{Registered, Services},
    workloads::Workloads,
};

/// Whether the filter of a mesh before is that of this one, as far as that is known without making it.
pub(crate) fn holds(before: (&Services, &Workloads), now: (&Services, &Workloads)) -> bool {
    std::ptr::eq(before.0, now.0) && (before.1.leads_as(now.1) || !now.0.iter().any(|service| service.is_headless))
}

/// The filter of all services and of the addresses behind headless ones, the same for every proxy: who may see what is not
/// its matter.
///
/// INVARIANT: whatever a query can be answered with (`lower::by_name`, `lower::by_address`) is a member.
pub(crate) fn entry(services: &Services, workloads: &Workloads) -> Result<Arc<Entry>, HashError> {
    let mut members = Vec::new();
    for service in services.iter() {
        // Every field is looked at: one that names or addresses a service must be a member.
        let Registered {
            host,
            pattern,
            registry: _,
            resolution: _,
            is_external: _,
            is_unaddressed: _,
            subject_alt_names: _,
            created: _,
            key: _,
            origin: _,
            visibility: _,
            addresses,
            networks,
            is_headless,
            ports: _,
            datagram_ports: _,
            selector: _,
            publish_not_ready: _,
            is_node_local: _,
            traffic_distribution: _,
            aliases,
        } = service;
        for host in [host].into_iter().chain(aliases.iter().map(|(alias, _)| alias)) {
            members.push(Member::Host(host));
            if *is_headless {
                members.push(Member::Below(host));
            }
        }
        if pattern.is_wildcard() {
            members.push(Member::Pattern(pattern.clone()));
        }
        members.extend(addresses.iter().copied().map(Member::Address));
        members.extend(networks.iter().copied().map(Member::Network));
    }
    members.extend(
        workloads
            .addresses()
            .filter(|(_, targets)| {
                targets.iter().any(|target| {
                    services.get_in(&target.host, &target.namespace).is_some_and(|service| service.is_headless)
                })
            })
            .map(|(address, _)| Member::Address(address)),
    );
    let resource = Resource::Membership(Membership::of(members));
    let meta = Meta { origins: [].into(), requires: resource.features() };
    Entry::new(resource, meta).map(Arc::new)
}
