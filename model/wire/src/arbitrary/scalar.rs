//! Random names, texts, numbers, addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use palisade_model::{
    host::HostPattern,
    identity::{SpiffeId, TrustDomain},
};
use proptest::{collection::vec, prelude::*, sample::select};

/// Names come from a small set so that random resources collide and refer to each other.
pub(super) fn name() -> impl Strategy<Value = Arc<str>> + Clone {
    select(vec!["a", "b", "c", "d", "e"]).prop_map(Arc::from)
}

pub(super) fn text() -> impl Strategy<Value = Arc<str>> + Clone {
    prop_oneof![Just(String::new()), "[a-z/.*:|-]{1,12}", "\\PC{0,6}"].prop_map(Arc::from)
}

pub(super) fn list<T: Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Arc<[T]>> {
    vec(item, 0..3).prop_map(Arc::from)
}

pub(super) fn set<T: Debug + Ord>(item: impl Strategy<Value = T>) -> impl Strategy<Value = BTreeSet<T>> {
    vec(item, 0..3).prop_map(BTreeSet::from_iter)
}

pub(super) fn duration() -> impl Strategy<Value = Duration> + Clone {
    prop_oneof![
        (0..100_000u64).prop_map(Duration::from_millis),
        (any::<u64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
    ]
}

pub(super) fn ip() -> impl Strategy<Value = IpAddr> + Clone {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
    ]
}

pub(super) fn socket() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (ip(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port)),
        (any::<u128>(), any::<u16>(), any::<u32>(), any::<u32>())
            .prop_map(|(ip, port, flow, scope)| SocketAddrV6::new(ip.into(), port, flow, scope).into())
    ]
}

pub(super) fn network() -> impl Strategy<Value = IpNet> {
    (ip(), any::<u8>()).prop_map(|(ip, length)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length % (longest + 1)).unwrap_or_else(|_| IpNet::from(ip))
    })
}

pub(super) fn pattern() -> impl Strategy<Value = HostPattern> + Clone {
    prop_oneof![
        Just(HostPattern::Any),
        "[a-z0-9-]{1,6}(\\.[a-z]{1,4}){0,2}".prop_map(|host| HostPattern::Exact(host.into())),
        "\\.[a-z]{1,6}".prop_map(|suffix| HostPattern::Suffix(suffix.into()))
    ]
}

pub(super) fn trust_domain() -> impl Strategy<Value = TrustDomain> + Clone {
    "[a-z0-9._-]{1,12}".prop_filter_map("a trust domain", |text| text.parse().ok())
}

pub(super) fn identity() -> impl Strategy<Value = SpiffeId> {
    (trust_domain(), name(), name())
        .prop_filter_map("an identity", |(domain, namespace, account)| SpiffeId::new(domain, &namespace, &account).ok())
}

pub(super) fn labels() -> impl Strategy<Value = BTreeMap<Arc<str>, Arc<str>>> {
    vec((text(), text()), 0..3).prop_map(BTreeMap::from_iter)
}
