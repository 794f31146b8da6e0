//! Looks at what changes often, and what was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use palisade_model::{endpoint::Endpoints, hash::ContentHash};

use crate::{
    inputs::core::PodObject,
    lower::client::Proxy,
    object::ObjectKey,
    resolve::{
        Resolved,
        authorization::Restriction,
        gateway_api::{ResolvedGateway, ServiceRoute},
        locality::Locality,
        services::Registry,
        sidecars::Scope,
        workloads::{HostKey, Target},
    },
};

/// A look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Read {
    /// The endpoints of a service port.
    Endpoints(HostKey, u16),
    /// The endpoints of a service's UDP port.
    Datagrams(HostKey, u16),
    /// Names behind a service port that are no identities.
    Unprovable(HostKey, u16),
    /// Names of a headless service's pods.
    PodNames(Arc<str>),
    /// Service ports that lead to an address.
    Targets(IpAddr),
    /// Routes that attach to a service.
    Routes(Registry, ObjectKey),
    /// A Gateway with the routes that attach to it.
    Gateway(ObjectKey),
    /// Which names and addresses there are at all.
    Membership,
    /// Policies of the proxy's workload.
    Restrictions,
    /// Those for what it may reach outside.
    EgressRestrictions,
    /// The Sidecar that applies to the proxy.
    Scope,
    /// The proxy's labels.
    Labels,
    /// Its addresses.
    Addresses,
    /// Where it is.
    Locality,
    /// Its node.
    Node,
    /// Its network.
    Network,
    /// The Gateways that it serves.
    Serves,
    /// All that is known of it.
    Proxy,
    /// The pod that it runs in.
    Pod,
}

/// What was seen.
#[derive(Debug)]
pub(crate) enum Answer {
    Endpoints(Option<Arc<Endpoints>>),
    Unprovable(Option<BTreeSet<String>>),
    PodNames(Box<[(String, IpAddr)]>),
    Targets(Box<[Target]>),
    Routes(Box<[ServiceRoute]>),
    Gateway(Option<Arc<ResolvedGateway>>),
    Membership(Option<ContentHash>),
    Restrictions(Box<[Arc<Restriction>]>),
    Scope(Option<Arc<Scope>>),
    Labels(BTreeMap<String, String>),
    Addresses(Box<[IpAddr]>),
    Locality(Locality),
    Text(String),
    Serves(Box<[ObjectKey]>),
    Proxy(Box<Proxy>),
    Pod(Option<Box<PodObject>>),
}

impl Read {
    /// Whether the answer depends on who asks.
    pub(super) fn is_of_proxy(&self) -> bool {
        match self {
            Self::Endpoints(..)
            | Self::Datagrams(..)
            | Self::Unprovable(..)
            | Self::PodNames(_)
            | Self::Targets(_)
            | Self::Routes(..)
            | Self::Gateway(_)
            | Self::Membership => false,
            Self::Restrictions
            | Self::EgressRestrictions
            | Self::Scope
            | Self::Labels
            | Self::Addresses
            | Self::Locality
            | Self::Node
            | Self::Network
            | Self::Serves
            | Self::Proxy
            | Self::Pod => true,
        }
    }

    /// What is seen.
    pub(super) fn answer(&self, resolved: &Resolved, proxy: &Proxy) -> Answer {
        let Resolved { workloads, gateway_api, authorization, .. } = resolved;
        match self {
            Self::Endpoints(key, port) => Answer::Endpoints(workloads.endpoints_of(key, *port).cloned()),
            Self::Datagrams(key, port) => Answer::Endpoints(workloads.datagrams_of(key, *port).cloned()),
            Self::Unprovable(key, port) => Answer::Unprovable(workloads.unprovable_of(key, *port).cloned()),
            Self::PodNames(host) => Answer::PodNames(workloads.names_of(host).into()),
            Self::Targets(ip) => Answer::Targets(workloads.leading_to(*ip).into()),
            Self::Routes(registry, key) => Answer::Routes(gateway_api.routes_at(*registry, key).into()),
            Self::Gateway(key) => Answer::Gateway(gateway_api.resolved_gateway(key).cloned()),
            Self::Membership => Answer::Membership(membership(resolved)),
            Self::Restrictions => Answer::Restrictions(authorization.restrictions_of(proxy).cloned().collect()),
            Self::EgressRestrictions => Answer::Restrictions(authorization.egress_of(proxy).cloned().collect()),
            Self::Scope => Answer::Scope(resolved.sidecars.of_workload(&proxy.namespace, &proxy.labels).cloned()),
            Self::Labels => Answer::Labels(proxy.labels.clone()),
            Self::Addresses => Answer::Addresses(proxy.addresses.as_slice().into()),
            Self::Locality => Answer::Locality(proxy.locality.clone()),
            Self::Node => Answer::Text(proxy.node.clone()),
            Self::Network => Answer::Text(proxy.network.clone()),
            Self::Serves => Answer::Serves(proxy.gateways.as_slice().into()),
            Self::Proxy => Answer::Proxy(Box::new(proxy.clone())),
            Self::Pod => Answer::Pod(own_pod(resolved, proxy).cloned().map(Box::new)),
        }
    }

    /// Whether the same is seen that was seen.
    pub(super) fn is_answered(&self, seen: &Answer, resolved: &Resolved, proxy: &Proxy) -> bool {
        let Resolved { workloads, gateway_api, authorization, .. } = resolved;
        match (self, seen) {
            (Self::Endpoints(key, port), Answer::Endpoints(seen)) => {
                is_same(workloads.endpoints_of(key, *port), seen.as_ref())
            }
            (Self::Datagrams(key, port), Answer::Endpoints(seen)) => {
                is_same(workloads.datagrams_of(key, *port), seen.as_ref())
            }
            (Self::Unprovable(key, port), Answer::Unprovable(seen)) => {
                workloads.unprovable_of(key, *port) == seen.as_ref()
            }
            (Self::PodNames(host), Answer::PodNames(seen)) => *workloads.names_of(host) == **seen,
            (Self::Targets(ip), Answer::Targets(seen)) => *workloads.leading_to(*ip) == **seen,
            (Self::Routes(registry, key), Answer::Routes(seen)) => *gateway_api.routes_at(*registry, key) == **seen,
            (Self::Gateway(key), Answer::Gateway(seen)) => is_same(gateway_api.resolved_gateway(key), seen.as_ref()),
            (Self::Membership, Answer::Membership(seen)) => membership(resolved) == *seen,
            (Self::Restrictions, Answer::Restrictions(seen)) => are_these(authorization.restrictions_of(proxy), seen),
            (Self::EgressRestrictions, Answer::Restrictions(seen)) => are_these(authorization.egress_of(proxy), seen),
            (Self::Scope, Answer::Scope(seen)) => {
                let found = resolved.sidecars.of_workload(&proxy.namespace, &proxy.labels);
                match (found, seen) {
                    (Some(found), Some(seen)) => Arc::ptr_eq(found, seen),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                }
            }
            (Self::Labels, Answer::Labels(seen)) => proxy.labels == *seen,
            (Self::Addresses, Answer::Addresses(seen)) => *proxy.addresses == **seen,
            (Self::Locality, Answer::Locality(seen)) => proxy.locality == *seen,
            (Self::Node, Answer::Text(seen)) => proxy.node == *seen,
            (Self::Network, Answer::Text(seen)) => proxy.network == *seen,
            (Self::Serves, Answer::Serves(seen)) => *proxy.gateways == **seen,
            (Self::Proxy, Answer::Proxy(seen)) => *proxy == **seen,
            (Self::Pod, Answer::Pod(seen)) => own_pod(resolved, proxy) == seen.as_deref(),
            // Each look has its own kind of answer.
            _ => false,
        }
    }
}

fn membership(resolved: &Resolved) -> Option<ContentHash> {
    resolved.membership.as_ref().as_ref().ok().map(|entry| entry.hash())
}

fn own_pod<'a>(resolved: &'a Resolved, proxy: &Proxy) -> Option<&'a PodObject> {
    resolved.inputs.pods.get(&ObjectKey::new(Arc::clone(&proxy.namespace), Arc::clone(&proxy.name)))
}

/// What is shared is equal without being looked at.
fn is_same<T: PartialEq>(found: Option<&Arc<T>>, seen: Option<&Arc<T>>) -> bool {
    match (found, seen) {
        (Some(found), Some(seen)) => Arc::ptr_eq(found, seen) || found == seen,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What documents became that did not change is mostly the very same.
fn are_these<'a>(mut found: impl Iterator<Item = &'a Arc<Restriction>>, seen: &[Arc<Restriction>]) -> bool {
    let mut seen = seen.iter();
    loop {
        match (found.next(), seen.next()) {
            (Some(found), Some(seen)) if Arc::ptr_eq(found, seen) || found == seen => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}
