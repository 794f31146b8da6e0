//! Which names and addresses the mesh has at all, in a few bytes each (architecture rule 6).
//!
//! A filter: it never denies what is there, and hardly ever takes what is not. A proxy that holds it knows by itself that a
//! name or address outside the mesh does not exist in it; calls to the outside then need no control plane.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{host::HostPattern, service::Query};

/// Resource name of the one filter of a snapshot.
pub const KEY: &str = "mesh";

/// What the mesh has, whoever may see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Membership {
    /// The first four bytes of each member's SHA-256, ascending, each once. A name that the mesh does not have is taken for a
    /// member with a chance of the length of this list in 2³².
    pub digests: Arc<[u32]>,
    /// Hosts that stand for all below them, for example `*.example.com`.
    pub patterns: Arc<[HostPattern]>,
    /// Networks all of whose addresses belong to some service.
    pub networks: Arc<[IpNet]>,
}

/// Something that the mesh has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member<'a> {
    /// A host name, in full.
    Host(&'a str),
    /// Every name with one label before this host: the pods of a headless service.
    Below(&'a str),
    /// Hosts of a pattern.
    Pattern(HostPattern),
    /// An address.
    Address(IpAddr),
    /// A network.
    Network(IpNet),
}

/// What takes a query that no member names exactly: two queries of one class have the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Class {
    /// These of the filter's patterns, by their places in it; at least one.
    Patterns(Box<[usize]>),
    /// These of its networks, likewise.
    Networks(Box<[usize]>),
}

impl Membership {
    /// The filter of these members, in any order.
    pub fn of<'a>(members: impl IntoIterator<Item = Member<'a>>) -> Self {
        let (mut digests, mut patterns, mut networks) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for member in members {
            match member {
                Member::Host(host) => drop(digests.insert(host_digest(host))),
                Member::Below(host) => drop(digests.insert(below_digest(host))),
                Member::Pattern(HostPattern::Exact(host)) => drop(digests.insert(host_digest(&host))),
                Member::Pattern(pattern) => drop(patterns.insert(pattern)),
                Member::Address(address) => drop(digests.insert(address_digest(address))),
                Member::Network(network) => drop(networks.insert(network)),
            }
        }
        Self {
            digests: digests.into_iter().collect(),
            patterns: patterns.into_iter().collect(),
            networks: networks.into_iter().collect(),
        }
    }

    /// Whether the mesh may have what a workload of `namespace` means by a query. `false` is certain. A binary search per
    /// spelling of the name.
    pub fn may_have(&self, query: &Query, namespace: &str, domain: &str) -> bool {
        match query {
            Query::Host(host) => spellings(host, namespace, domain).iter().any(|name| self.may_have_host(name)),
            Query::Address(address) => {
                let address = address.to_canonical();
                self.has(address_digest(address)) || self.networks.iter().any(|network| network.contains(&address))
            }
        }
    }

    /// The class of a query. `None`: a member may name it exactly, or short for something else, or nothing takes it at all. Two looks
    /// at every pattern or network at most.
    pub fn class(&self, query: &Query, namespace: &str, domain: &str) -> Option<Class> {
        let places = |found: Vec<usize>| (!found.is_empty()).then(|| found.into_boxed_slice());
        match query {
            Query::Host(host) => {
                let spellings = spellings(host, namespace, domain);
                let (own, longer) = spellings.split_first()?;
                let is_named = self.has_exactly(own) || longer.iter().any(|name| self.may_have_host(name));
                let taking = self.patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(own));
                places(taking.map(|(place, _)| place).collect()).filter(|_| !is_named).map(Class::Patterns)
            }
            Query::Address(address) => {
                let address = address.to_canonical();
                let taking = self.networks.iter().enumerate().filter(|(_, network)| network.contains(&address));
                let is_named = self.has(address_digest(address));
                places(taking.map(|(place, _)| place).collect()).filter(|_| !is_named).map(Class::Networks)
            }
        }
    }

    fn has_exactly(&self, name: &str) -> bool {
        self.has(host_digest(name)) || name.split_once('.').is_some_and(|(_, parent)| self.has(below_digest(parent)))
    }

    fn may_have_host(&self, name: &str) -> bool {
        self.has_exactly(name) || self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    fn has(&self, digest: u32) -> bool {
        self.digests.binary_search(&digest).is_ok()
    }
}

/// The host names, in full, that a workload of `namespace` may mean by a name, in the order in which they are tried: the name
/// itself, and short ones as its resolver completes them.
pub fn spellings(name: &str, namespace: &str, domain: &str) -> Vec<String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let mut spellings = Vec::with_capacity(3);
    if !name.contains('.') {
        spellings.push(format!("{name}.{namespace}.svc.{domain}"));
    }
    spellings.push(format!("{name}.svc.{domain}"));
    spellings.push(format!("{name}.{domain}"));
    spellings.insert(0, name);
    spellings
}

fn host_digest(host: &str) -> u32 {
    digest(b"host", host.as_bytes())
}

fn below_digest(host: &str) -> u32 {
    digest(b"below", host.as_bytes())
}

fn address_digest(address: IpAddr) -> u32 {
    match address.to_canonical() {
        IpAddr::V4(address) => digest(b"address", &address.octets()),
        IpAddr::V6(address) => digest(b"address", &address.octets()),
    }
}

fn digest(kind: &[u8], content: &[u8]) -> u32 {
    let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(content).finalize();
    digest.iter().take(4).fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "cluster.local";

    fn host(name: &str) -> Query {
        Query::Host(name.into())
    }

    fn address(text: &str) -> Query {
        Query::Address(text.parse().unwrap())
    }

    fn filter() -> Membership {
        Membership::of([
            Member::Host("reviews.default.svc.cluster.local"),
            Member::Host("db.data.svc.cluster.local"),
            Member::Below("db.data.svc.cluster.local"),
            Member::Pattern("*.example.com".parse().unwrap()),
            Member::Address("10.96.0.7".parse().unwrap()),
            Member::Network("192.0.2.0/24".parse().unwrap()),
        ])
    }

    #[test]
    fn no_member_is_ever_denied_however_it_is_spelled() {
        let filter = filter();
        for name in
            ["reviews", "Reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local.", "a.example.com"]
        {
            assert!(filter.may_have(&host(name), "default", DOMAIN), "{name}");
        }
        assert!(filter.may_have(&host("db-0.db.data.svc.cluster.local"), "default", DOMAIN));
        for ip in ["10.96.0.7", "::ffff:10.96.0.7", "192.0.2.200"] {
            assert!(filter.may_have(&address(ip), "default", DOMAIN), "{ip}");
        }
    }

    #[test]
    fn what_the_mesh_does_not_have_is_known_not_to_exist() {
        let filter = filter();
        for name in ["www.example.org", "example.com", "reviews.other", "x.reviews.default.svc.cluster.local", "data"] {
            assert!(!filter.may_have(&host(name), "default", DOMAIN), "{name}");
        }
        assert!(!filter.may_have(&host("reviews"), "other", DOMAIN), "short names belong to a namespace");
        assert!(!filter.may_have(&address("10.96.0.8"), "default", DOMAIN));
        assert!(!Membership::default().may_have(&host("reviews"), "default", DOMAIN));
    }

    #[test]
    fn what_only_the_same_patterns_or_networks_take_is_one_class() {
        let filter = Membership::of([
            Member::Host("exact.example.com"),
            Member::Pattern("*.example.com".parse().unwrap()),
            Member::Pattern("*.deep.example.com".parse().unwrap()),
            Member::Address("192.0.2.7".parse().unwrap()),
            Member::Network("192.0.2.0/24".parse().unwrap()),
        ]);
        let class = |query: &Query| filter.class(query, "foo", DOMAIN);
        assert!(class(&host("a.example.com")).is_some());
        assert_eq!(class(&host("a.example.com")), class(&host("b.example.com")));
        assert_ne!(class(&host("a.example.com")), class(&host("a.deep.example.com")));
        assert_eq!(class(&address("192.0.2.1")), class(&address("192.0.2.2")));
        for named in [host("exact.example.com"), address("192.0.2.7"), host("www.example.org"), address("10.0.0.1")] {
            assert_eq!(class(&named), None, "{named}");
        }
        let everywhere = Membership::of([Member::Pattern("*".parse().unwrap())]);
        assert_eq!(everywhere.class(&host("a.b"), "foo", DOMAIN), None, "what it is short for is taken as well");
    }

    #[test]
    fn the_same_members_in_any_order_give_the_same_filter() {
        let names: Vec<String> = (0..1000).map(|i| format!("s{i}.ns.svc.cluster.local")).collect();
        let filter = |names: &mut dyn Iterator<Item = &String>| Membership::of(names.map(|name| Member::Host(name)));
        let ordered = filter(&mut names.iter());
        assert_eq!(ordered, filter(&mut names.iter().rev().chain(names.first())));
        let absent = (0..10_000).filter(|i| ordered.may_have(&host(&format!("x{i}.example.org")), "ns", DOMAIN));
        assert!(absent.count() < 3);
    }
}
