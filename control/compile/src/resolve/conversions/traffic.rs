//! Blocks of traffic policies, from documents and from the mesh configuration.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use palisade_crds::istio::{
    self, ConnectionPoolSettings, ConsistentHashLb, H2UpgradePolicy, HttpCookie, HttpSettings, LoadBalancerSettings,
    LocalityLbSetting, PortTrafficPolicy, ProxyProtocolVersion, SimpleLb, TcpSettings,
};
use palisade_model::{
    cluster::{
        HashKey, HashTable, Limits, LoadBalancer, OutlierDetection, Ping, ProxyProtocol, RetryBudget, TcpKeepalive,
        Warmup,
    },
    route::Percent,
};

use super::tls_of;
use crate::{
    resolve::destination_rules::{Balancing, Blocks, ConnectionPool, Http2Upgrade, LocalityPreference, TrafficPolicy},
    time,
};

/// Points of a ring where none are written (Envoy).
const RING_SIZE: u64 = 1024;
/// Entries of a Maglev table where none are written (Envoy).
const MAGLEV_SIZE: u32 = 65_537;

pub(super) fn traffic_policy_of(written: &istio::TrafficPolicy) -> TrafficPolicy {
    let istio::TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel: _,
        proxy_protocol,
        retry_budget,
    } = written;
    let mut ports = std::collections::BTreeMap::new();
    for port in port_level_settings.iter().flatten() {
        let PortTrafficPolicy { port, load_balancer, connection_pool, outlier_detection, tls } = port;
        let Some(number) = port.as_ref().and_then(|port| u16::try_from(port.number).ok()) else { continue };
        let blocks = Blocks {
            load_balancer: load_balancer.as_ref().map(balancing),
            pool: connection_pool.as_ref().map(pool),
            outlier: outlier_detection.as_ref().map(outlier),
            tls: tls.as_ref().map(tls_of),
            proxy_protocol: None,
            retry_budget: None,
        };
        // The first setting of a port counts.
        ports.entry(number).or_insert(blocks);
    }
    let blocks = Blocks {
        load_balancer: load_balancer.as_ref().map(balancing),
        pool: connection_pool.as_ref().map(pool),
        outlier: outlier_detection.as_ref().map(outlier),
        tls: tls.as_ref().map(tls_of),
        proxy_protocol: proxy_protocol.as_ref().map(|written| match written.version {
            ProxyProtocolVersion::V1 => ProxyProtocol::V1,
            ProxyProtocolVersion::V2 => ProxyProtocol::V2,
        }),
        retry_budget: retry_budget.as_ref().map(|written| {
            let istio::RetryBudget { percent, min_retry_concurrency, budget_interval } = written;
            RetryBudget {
                percent: millionths(percent.unwrap_or(20.0)),
                min_concurrency: *min_retry_concurrency,
                interval: budget_interval.and_then(time::positive),
            }
        }),
    };
    TrafficPolicy { blocks, ports }
}

/// Percent in millionths.
fn millionths(percent: f64) -> Percent {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=100 before")]
    let millionths = (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    Percent(millionths)
}

fn balancing(written: &LoadBalancerSettings) -> Balancing {
    let LoadBalancerSettings {
        simple,
        consistent_hash,
        backend_utilization: _,
        locality_lb_setting,
        zone_aware_lb_setting: _,
        warmup_duration_secs,
        warmup,
    } = written;
    let algorithm = match (consistent_hash, simple) {
        (Some(hash), _) => self::consistent_hash(hash),
        (None, None | Some(SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest)) => {
            LoadBalancer::LeastRequest { choices: 2 }
        }
        (None, Some(SimpleLb::Random)) => LoadBalancer::Random,
        (None, Some(SimpleLb::RoundRobin)) => LoadBalancer::RoundRobin,
        (None, Some(SimpleLb::Passthrough)) => LoadBalancer::Passthrough,
    };
    let warmup = match (warmup, warmup_duration_secs) {
        (Some(warmup), _) => time::positive(warmup.duration).map(|duration| Warmup {
            duration,
            minimum: millionths(warmup.minimum_percent.unwrap_or(10.0)),
            aggression: thousandths(warmup.aggression.unwrap_or(1.0)),
        }),
        (None, Some(duration)) => time::positive(*duration).map(|duration| Warmup {
            duration,
            minimum: millionths(10.0),
            aggression: thousandths(1.0),
        }),
        (None, None) => None,
    };
    Balancing { algorithm, warmup, locality: locality_lb_setting.as_ref().map(locality) }
}

/// A positive number in thousandths.
fn thousandths(number: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    let thousandths = (number.clamp(0.001, 1000.0) * 1000.0).round() as u32;
    thousandths
}

fn consistent_hash(written: &ConsistentHashLb) -> LoadBalancer {
    let ConsistentHashLb {
        http_header_name,
        http_cookie,
        use_source_ip,
        http_query_parameter_name,
        ring_hash,
        maglev,
        minimum_ring_size,
    } = written;
    let key = match (http_header_name, http_cookie, use_source_ip, http_query_parameter_name) {
        (Some(name), _, _, _) => HashKey::Header { name: name.to_ascii_lowercase().into() },
        (None, Some(HttpCookie { name, path, ttl, attributes }), _, _) => HashKey::Cookie {
            name: name.as_str().into(),
            path: path.as_str().into(),
            ttl: ttl.map(|ttl| time::positive(ttl).unwrap_or_default()),
            attributes: attributes
                .iter()
                .map(|attribute| (Arc::from(attribute.name.as_str()), Arc::from(attribute.value.as_str())))
                .collect(),
        },
        (None, None, Some(true), _) => HashKey::SourceIp,
        (None, None, _, Some(name)) => HashKey::Query { name: name.as_str().into() },
        (None, None, _, None) => HashKey::Nothing,
    };
    let written_or = |written: u64, default: u64| if written == 0 { default } else { written };
    let table = match (maglev, ring_hash) {
        (Some(maglev), _) => {
            HashTable::Maglev { size: u32::try_from(maglev.table_size).ok().filter(|n| *n > 0).unwrap_or(MAGLEV_SIZE) }
        }
        (None, Some(ring)) => HashTable::Ring { minimum_size: written_or(ring.minimum_ring_size, RING_SIZE) },
        (None, None) => HashTable::Ring { minimum_size: written_or(*minimum_ring_size, RING_SIZE) },
    };
    LoadBalancer::ConsistentHash { key, table }
}

/// `localityLbSetting`, of a DestinationRule or of the mesh.
pub(crate) fn locality(written: &LocalityLbSetting) -> LocalityPreference {
    let LocalityLbSetting { distribute, failover, failover_priority, enabled } = written;
    LocalityPreference {
        is_enabled: enabled.unwrap_or(true),
        distribute: distribute
            .iter()
            .map(|share| {
                let to = share.to.iter().map(|(to, percent)| (to.as_str().into(), *percent)).collect();
                (Arc::from(share.from.as_str()), to)
            })
            .collect(),
        failover: failover.iter().map(|step| (step.from.as_str().into(), step.to.as_str().into())).collect(),
        labels: failover_priority.clone(),
    }
}

/// `outlierDetection`, with the defaults of Istio and Envoy.
pub(crate) fn outlier(written: &istio::OutlierDetection) -> OutlierDetection {
    let istio::OutlierDetection {
        consecutive_errors: _,
        split_external_local_origin_errors,
        consecutive_local_origin_failures,
        consecutive_gateway_errors,
        consecutive_5xx_errors,
        interval,
        base_ejection_time,
        max_ejection_percent,
        min_health_percent,
        http_error_codes,
    } = written;
    let percent = |written: i32| u8::try_from(written.clamp(0, 100)).unwrap_or(100);
    OutlierDetection {
        consecutive_5xx: consecutive_5xx_errors.unwrap_or(5),
        consecutive_gateway: consecutive_gateway_errors.unwrap_or(0),
        // 0 is unset here, other than in the two above.
        consecutive_local: split_external_local_origin_errors
            .then(|| consecutive_local_origin_failures.filter(|count| *count > 0).unwrap_or(5)),
        error_statuses: http_error_codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect::<BTreeSet<_>>(),
        interval: interval.and_then(time::positive).unwrap_or(Duration::from_secs(10)),
        base_ejection: base_ejection_time.and_then(time::positive).unwrap_or(Duration::from_secs(30)),
        max_ejection_percent: if *max_ejection_percent > 0 { percent(*max_ejection_percent) } else { 10 },
        min_health_percent: percent(*min_health_percent),
    }
}

/// `connectionPool`. Numbers that are not positive are unset.
pub(crate) fn pool(written: &ConnectionPoolSettings) -> ConnectionPool {
    let ConnectionPoolSettings { tcp, http } = written;
    let limit = |written: i32| u32::try_from(written).ok().filter(|limit| *limit > 0);
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = tcp {
        let TcpSettings { max_connections, connect_timeout, tcp_keepalive, max_connection_duration, idle_timeout } =
            tcp;
        pool.limits.max_connections = limit(*max_connections);
        pool.connection.max_duration = max_connection_duration.and_then(time::positive);
        pool.connect_timeout = connect_timeout.and_then(time::positive);
        pool.keepalive = tcp_keepalive.as_ref().map(keepalive);
        pool.idle_timeout = idle_timeout.map(|written| time::positive(written).unwrap_or_default());
        pool.connection.relay_idle = pool.idle_timeout;
    }
    if let Some(http) = http {
        let HttpSettings {
            http1_max_pending_requests,
            http2_max_requests,
            max_requests_per_connection,
            max_retries,
            idle_timeout,
            h2_upgrade_policy,
            use_client_protocol,
            max_concurrent_streams,
            http2_keep_alive,
        } = http;
        pool.limits = Limits {
            max_connections: pool.limits.max_connections,
            max_pending_requests: limit(*http1_max_pending_requests),
            max_requests: limit(*http2_max_requests),
            max_retries: limit(*max_retries),
        };
        pool.connection.max_streams = limit(*max_concurrent_streams);
        pool.connection.ping = http2_keep_alive.as_ref().and_then(|written| {
            let interval = written.interval.and_then(time::positive)?;
            Some(Ping { interval, timeout: written.timeout.and_then(time::positive)? })
        });
        pool.max_requests_per_connection = limit(*max_requests_per_connection).unwrap_or(0);
        pool.idle_timeout = idle_timeout.and_then(time::positive).or(pool.idle_timeout);
        pool.http2 = match h2_upgrade_policy {
            Some(H2UpgradePolicy::Upgrade) => Http2Upgrade::Yes,
            Some(H2UpgradePolicy::DoNotUpgrade) => Http2Upgrade::No,
            Some(H2UpgradePolicy::Default) | None => Http2Upgrade::Mesh,
        };
        pool.uses_client_protocol = *use_client_protocol;
    }
    pool
}

/// `tcpKeepalive`, of a DestinationRule or of the mesh.
pub(crate) fn keepalive(written: &istio::TcpKeepalive) -> TcpKeepalive {
    let istio::TcpKeepalive { probes, time, interval } = written;
    TcpKeepalive {
        time: time.and_then(time::positive),
        interval: interval.and_then(time::positive),
        probes: (*probes > 0).then_some(*probes),
    }
}
