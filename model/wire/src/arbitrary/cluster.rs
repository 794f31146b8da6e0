//! Random clusters.

use std::sync::Arc;

use palisade_model::{
    cluster::{
        Closeness, Cluster, ConnectionPolicy, Discovery, Failover, HashKey, HashTable, Limits, LoadBalancer,
        LocalityPolicy, LocalityShare, MeshTls, Originate, OutlierDetection, Ping, ProxyProtocol, RetryBudget,
        TcpKeepalive, TrafficPolicy, UpstreamProtocol, UpstreamTls, Warmup,
    },
    route::Percent,
};
use proptest::{option, prelude::*, sample::select};

use super::scalar::{duration, labels, list, name, set, text};
use super::{tls_algorithms, tls_version};

fn upstream_tls() -> impl Strategy<Value = UpstreamTls> {
    let mesh = || (text(), list(text())).prop_map(|(sni, subject_alt_names)| MeshTls { sni, subject_alt_names });
    let one = || option::of(text());
    let limits = (tls_version(), tls_algorithms());
    let originate = (one(), list(text()), one(), one(), any::<bool>(), limits).prop_map(
        |(sni, subject_alt_names, ca, client_certificate, skip_verify, (min_version, algorithms))| Originate {
            sni,
            subject_alt_names,
            ca,
            client_certificate,
            skip_verify,
            min_version,
            algorithms,
        },
    );
    prop_oneof![
        Just(UpstreamTls::Off),
        mesh().prop_map(UpstreamTls::Auto),
        mesh().prop_map(UpstreamTls::Mesh),
        originate.prop_map(UpstreamTls::Originate),
        text().prop_map(|message| UpstreamTls::Refuse { message })
    ]
}

pub(super) fn cluster() -> impl Strategy<Value = Cluster> {
    let discovery = prop_oneof![
        (name(), labels()).prop_map(|(key, subset)| Discovery::Endpoints { key, subset }),
        Just(Discovery::OriginalDestination),
        any::<u16>().prop_map(|port| Discovery::OriginalAddress { port }),
        option::of(any::<u16>()).prop_map(|port| Discovery::Workload { port }),
        any::<u16>().prop_map(|port| Discovery::DynamicName { port }),
        Just(Discovery::BlackHole)
    ];
    let protocol =
        select(vec![UpstreamProtocol::Http1, UpstreamProtocol::Http2, UpstreamProtocol::Client, UpstreamProtocol::Tcp]);
    let balancer = prop_oneof![
        any::<u32>().prop_map(|choices| LoadBalancer::LeastRequest { choices }),
        Just(LoadBalancer::RoundRobin),
        Just(LoadBalancer::Random),
        Just(LoadBalancer::Passthrough),
        (hash_key(), hash_table()).prop_map(|(key, table)| LoadBalancer::ConsistentHash { key, table })
    ];
    let keepalive = (option::of(duration()), option::of(duration()), option::of(any::<u32>()))
        .prop_map(|(time, interval, probes)| TcpKeepalive { time, interval, probes });
    (
        name(),
        discovery,
        protocol,
        upstream_tls(),
        balancer,
        duration(),
        any::<u32>(),
        option::of(keepalive),
        option::of(duration()),
        (traffic(), any::<bool>()),
    )
        .prop_map(
            |(
                name,
                discovery,
                protocol,
                tls,
                load_balancer,
                connect_timeout,
                requests,
                tcp_keepalive,
                idle_timeout,
                (traffic, is_external),
            )| {
                Cluster {
                    name,
                    discovery,
                    protocol,
                    tls,
                    load_balancer,
                    connect_timeout,
                    max_requests_per_connection: requests,
                    tcp_keepalive,
                    idle_timeout,
                    traffic,
                    is_external,
                }
            },
        )
}

fn pair() -> impl Strategy<Value = (Arc<str>, Arc<str>)> {
    (text(), text())
}

fn hash_key() -> impl Strategy<Value = HashKey> {
    prop_oneof![
        Just(HashKey::Nothing),
        text().prop_map(|name| HashKey::Header { name }),
        (text(), text(), option::of(duration()), list(pair()))
            .prop_map(|(name, path, ttl, attributes)| HashKey::Cookie { name, path, ttl, attributes }),
        Just(HashKey::SourceIp),
        text().prop_map(|name| HashKey::Query { name })
    ]
}

fn hash_table() -> impl Strategy<Value = HashTable> {
    prop_oneof![
        any::<u64>().prop_map(|minimum_size| HashTable::Ring { minimum_size }),
        any::<u32>().prop_map(|size| HashTable::Maglev { size })
    ]
}

fn percent() -> impl Strategy<Value = Percent> {
    (0..=Percent::ALWAYS.0).prop_map(Percent)
}

fn limits() -> impl Strategy<Value = Limits> {
    let limit = || option::of(any::<u32>());
    (limit(), limit(), limit(), limit()).prop_map(
        |(max_connections, max_pending_requests, max_requests, max_retries)| Limits {
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
        },
    )
}

fn outlier() -> impl Strategy<Value = OutlierDetection> {
    let counts = (any::<u32>(), any::<u32>(), option::of(any::<u32>()), set(any::<u16>()));
    (counts, duration(), duration(), any::<u8>(), any::<u8>()).prop_map(
        |(counts, interval, base_ejection, max_ejection_percent, min_health_percent)| {
            let (consecutive_5xx, consecutive_gateway, consecutive_local, error_statuses) = counts;
            OutlierDetection {
                consecutive_5xx,
                consecutive_gateway,
                consecutive_local,
                error_statuses,
                interval,
                base_ejection,
                max_ejection_percent,
                min_health_percent,
            }
        },
    )
}

fn locality() -> impl Strategy<Value = LocalityPolicy> {
    let closeness = (text(), option::of(text())).prop_map(|(own, next_region)| Closeness { own, next_region });
    let share = (text(), any::<u32>()).prop_map(|(locality, weight)| LocalityShare { locality, weight });
    prop_oneof![
        Just(LocalityPolicy::Any),
        (list(pair()), option::of(closeness))
            .prop_map(|(labels, closeness)| LocalityPolicy::Failover(Failover { labels, closeness })),
        list(share).prop_map(LocalityPolicy::Distribute)
    ]
}

fn connection() -> impl Strategy<Value = ConnectionPolicy> {
    let ping = (duration(), duration()).prop_map(|(interval, timeout)| Ping { interval, timeout });
    let version = select(vec![ProxyProtocol::V1, ProxyProtocol::V2]);
    (option::of(duration()), option::of(duration()), option::of(any::<u32>()), option::of(ping), option::of(version))
        .prop_map(|(max_duration, relay_idle, max_streams, ping, proxy_protocol)| ConnectionPolicy {
            max_duration,
            relay_idle,
            max_streams,
            ping,
            proxy_protocol,
        })
}

fn traffic() -> impl Strategy<Value = TrafficPolicy> {
    let warmup = (duration(), percent(), any::<u32>()).prop_map(|(duration, minimum, aggression)| Warmup {
        duration,
        minimum,
        aggression,
    });
    let budget = (percent(), any::<u32>(), option::of(duration()))
        .prop_map(|(percent, min_concurrency, interval)| RetryBudget { percent, min_concurrency, interval });
    (limits(), option::of(outlier()), option::of(warmup), locality(), option::of(budget), connection()).prop_map(
        |(limits, outlier, warmup, locality, retry_budget, connection)| TrafficPolicy {
            limits,
            outlier,
            warmup,
            locality,
            retry_budget,
            connection,
        },
    )
}
