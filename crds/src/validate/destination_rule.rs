//! DestinationRule, and the traffic settings that Sidecar shares.

use std::collections::BTreeSet;

use super::{duration, export_to, host, labels, locality, percent, policy_target, port};
use crate::codes::Code;
use crate::istio::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, DestinationRule, H2UpgradePolicy,
    HttpSettings, LoadBalancerSettings, OutlierDetection, PortTrafficPolicy, TcpSettings, TrafficPolicy,
    TunnelSettings,
};
use crate::object::Meta;
use crate::schema::Cursor;

const CODE: Code = Code::DestinationRulePolicy;

pub(super) fn check(meta: &Meta, rule: &DestinationRule, cursor: &mut Cursor<'_>) {
    if let Err(message) = host::wildcard_domain(&rule.host) {
        cursor.report_at("host", CODE, message);
    }
    if let Some(policy) = &rule.traffic_policy {
        cursor.within("trafficPolicy", |cursor| traffic_policy(meta, policy, cursor));
    }
    cursor.within("subsets", |cursor| {
        let mut names = BTreeSet::new();
        for (index, subset) in rule.subsets.iter().enumerate() {
            cursor.within(index, |cursor| {
                if !names.insert(subset.name.as_str()) {
                    cursor.report_at("name", CODE, format!("subset `{}` is defined twice", subset.name));
                }
                if !host::is_label(&subset.name) {
                    cursor.report_at("name", CODE, format!("`{}` is not a subset name", subset.name));
                }
                labels("labels", &subset.labels, CODE, cursor);
                if let Some(policy) = &subset.traffic_policy {
                    cursor.within("trafficPolicy", |cursor| traffic_policy(meta, policy, cursor));
                }
            });
        }
    });
    export_to(&meta.namespace, &rule.export_to, false, CODE, cursor);
    policy_target::selector(rule.workload_selector.as_ref(), cursor);
    if rule.workload_selector.is_some() && !rule.export_to.iter().all(|entry| entry == "." || *entry == meta.namespace)
    {
        cursor.report_at("exportTo", CODE, "a rule with `workloadSelector` cannot be exported beyond its namespace");
    }
}

fn traffic_policy(meta: &Meta, policy: &TrafficPolicy, cursor: &mut Cursor<'_>) {
    let TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = policy;
    let is_empty = load_balancer.is_none()
        && connection_pool.is_none()
        && outlier_detection.is_none()
        && tls.is_none()
        && port_level_settings.as_ref().is_none_or(Vec::is_empty)
        && tunnel.is_none()
        && proxy_protocol.is_none()
        && retry_budget.is_none();
    if is_empty {
        cursor.report(CODE, "a traffic policy must have at least one field");
        return;
    }
    if tunnel.is_some() && proxy_protocol.is_some() {
        cursor.report_at("proxyProtocol", CODE, "`tunnel` and `proxyProtocol` exclude each other");
        return;
    }
    blocks(meta, load_balancer.as_ref(), connection_pool.as_ref(), outlier_detection.as_ref(), tls.as_ref(), cursor);
    if let Some(settings) = port_level_settings {
        cursor.within("portLevelSettings", |cursor| {
            for (index, policy) in settings.iter().enumerate() {
                cursor.within(index, |cursor| port_policy(meta, policy, cursor));
            }
        });
    }
    if let Some(tunnel) = tunnel {
        cursor.within("tunnel", |cursor| check_tunnel(tunnel, cursor));
    }
}

fn port_policy(meta: &Meta, policy: &PortTrafficPolicy, cursor: &mut Cursor<'_>) {
    let PortTrafficPolicy { port, load_balancer, connection_pool, outlier_detection, tls } = policy;
    if port.is_none() {
        cursor.report_at("port", CODE, "a port is required");
    }
    if load_balancer.is_none() && connection_pool.is_none() && outlier_detection.is_none() && tls.is_none() {
        cursor.report(CODE, "a port's traffic policy must have at least one field");
        return;
    }
    blocks(meta, load_balancer.as_ref(), connection_pool.as_ref(), outlier_detection.as_ref(), tls.as_ref(), cursor);
}

fn blocks(
    meta: &Meta,
    load_balancer: Option<&LoadBalancerSettings>,
    connection_pool: Option<&ConnectionPoolSettings>,
    outlier_detection: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    cursor: &mut Cursor<'_>,
) {
    if let Some(outlier) = outlier_detection {
        cursor.within("outlierDetection", |cursor| check_outlier(outlier, cursor));
    }
    if let Some(pool) = connection_pool {
        cursor.within("connectionPool", |cursor| check_connection_pool(pool, CODE, cursor));
    }
    if let Some(balancer) = load_balancer {
        cursor.within("loadBalancer", |cursor| check_load_balancer(balancer, outlier_detection.is_some(), cursor));
    }
    if let Some(tls) = tls {
        cursor.within("tls", |cursor| check_tls(meta, tls, cursor));
    }
}

fn check_tunnel(tunnel: &TunnelSettings, cursor: &mut Cursor<'_>) {
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        cursor.report_at("protocol", CODE, "the protocol must be CONNECT or POST");
    }
    if let Err(message) = host::fqdn(&tunnel.target_host)
        && !host::is_ip(&tunnel.target_host)
    {
        cursor.report_at("targetHost", CODE, message);
    }
    port("targetPort", tunnel.target_port, CODE, cursor);
}

fn check_outlier(outlier: &OutlierDetection, cursor: &mut Cursor<'_>) {
    duration("baseEjectionTime", outlier.base_ejection_time, CODE, cursor);
    duration("interval", outlier.interval, CODE, cursor);
    if outlier.consecutive_errors != 0 {
        let message = "`consecutiveErrors` is deprecated; use `consecutiveGatewayErrors` or `consecutive5xxErrors`";
        cursor.report_at("consecutiveErrors", Code::DeprecatedField, message);
    }
    if !outlier.split_external_local_origin_errors
        && outlier.consecutive_local_origin_failures.is_some_and(|count| count > 0)
    {
        cursor.report_at("consecutiveLocalOriginFailures", CODE, "needs `splitExternalLocalOriginErrors: true`");
    }
    percent("maxEjectionPercent", outlier.max_ejection_percent, CODE, cursor);
    percent("minHealthPercent", outlier.min_health_percent, CODE, cursor);
}

fn not_negative(field: &str, value: i32, code: Code, cursor: &mut Cursor<'_>) {
    if value < 0 {
        cursor.report_at(field, code, "must not be negative");
    }
}

pub(super) fn check_connection_pool(pool: &ConnectionPoolSettings, code: Code, cursor: &mut Cursor<'_>) {
    let ConnectionPoolSettings { tcp, http } = pool;
    if tcp.is_none() && http.is_none() {
        cursor.report(code, "a connection pool must have at least one field");
    }
    if let Some(http) = http {
        cursor.within("http", |cursor| check_http_pool(http, code, cursor));
    }
    if let Some(tcp) = tcp {
        cursor.within("tcp", |cursor| check_tcp_pool(tcp, code, cursor));
    }
}

fn check_http_pool(http: &HttpSettings, code: Code, cursor: &mut Cursor<'_>) {
    not_negative("http1MaxPendingRequests", http.http1_max_pending_requests, code, cursor);
    not_negative("http2MaxRequests", http.http2_max_requests, code, cursor);
    not_negative("maxRequestsPerConnection", http.max_requests_per_connection, code, cursor);
    not_negative("maxRetries", http.max_retries, code, cursor);
    not_negative("maxConcurrentStreams", http.max_concurrent_streams, code, cursor);
    duration("idleTimeout", http.idle_timeout, code, cursor);
    if http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) && http.use_client_protocol {
        cursor.report_at(
            "useClientProtocol",
            code,
            "`useClientProtocol` and `h2UpgradePolicy: UPGRADE` exclude each other",
        );
    }
    if let Some(keep_alive) = &http.http2_keep_alive {
        cursor.within("http2KeepAlive", |cursor| {
            for (field, value) in [("interval", keep_alive.interval), ("timeout", keep_alive.timeout)] {
                if value.is_none() {
                    cursor.report_at(field, code, format!("`{field}` is required"));
                }
                duration(field, value, code, cursor);
            }
        });
    }
}

fn check_tcp_pool(tcp: &TcpSettings, code: Code, cursor: &mut Cursor<'_>) {
    not_negative("maxConnections", tcp.max_connections, code, cursor);
    duration("connectTimeout", tcp.connect_timeout, code, cursor);
    duration("maxConnectionDuration", tcp.max_connection_duration, code, cursor);
    // Less than a millisecond counts as 0, which switches the timeout off.
    duration("idleTimeout", tcp.idle_timeout.filter(|timeout| timeout.as_nanos() / 1_000_000 != 0), code, cursor);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        cursor.within("tcpKeepalive", |cursor| {
            duration("time", keepalive.time, code, cursor);
            duration("interval", keepalive.interval, code, cursor);
        });
    }
}

fn check_load_balancer(balancer: &LoadBalancerSettings, has_outlier_detection: bool, cursor: &mut Cursor<'_>) {
    if let Some(hash) = &balancer.consistent_hash {
        cursor.within("consistentHash", |cursor| check_hash(hash, cursor));
    }
    if balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some() {
        cursor.report_at("zoneAwareLbSetting", CODE, "`localityLbSetting` and `zoneAwareLbSetting` exclude each other");
    }
    if let Some(setting) = &balancer.locality_lb_setting {
        cursor.within("localityLbSetting", |cursor| locality::locality(setting, has_outlier_detection, cursor));
    }
    if let Some(setting) = &balancer.zone_aware_lb_setting {
        cursor.within("zoneAwareLbSetting", |cursor| locality::zone_aware(setting, has_outlier_detection, cursor));
    }
    if let Some(warmup) = &balancer.warmup {
        cursor.within("warmup", |cursor| {
            duration("duration", Some(warmup.duration), CODE, cursor);
            if warmup.aggression.is_some_and(|aggression| aggression <= 0.0) {
                cursor.report_at("aggression", CODE, "must be larger than 0");
            }
        });
    }
}

fn check_hash(hash: &ConsistentHashLb, cursor: &mut Cursor<'_>) {
    const LARGEST_TABLE: u64 = 5_000_011;
    if let Some(cookie) = &hash.http_cookie {
        cursor.within("httpCookie", |cursor| {
            if cookie.name.is_empty() {
                cursor.report_at("name", CODE, "a cookie must have a name");
            }
            for (index, attribute) in cookie.attributes.iter().enumerate() {
                let problem = if attribute.name.is_empty() {
                    "an attribute must have a name"
                } else if cookie.attributes.iter().take(index).any(|earlier| earlier.name == attribute.name) {
                    "the attribute is listed twice"
                } else {
                    continue;
                };
                cursor.within("attributes", |cursor| cursor.report_at(index, CODE, problem));
            }
        });
    }
    if hash.minimum_ring_size != 0 {
        cursor.report_at(
            "minimumRingSize",
            Code::DeprecatedField,
            "`minimumRingSize` is deprecated; use `ringHash.minimumRingSize`",
        );
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            cursor.report_at("minimumRingSize", CODE, "`minimumRingSize` excludes `ringHash` and `maglev`");
        }
    }
    if let Some(maglev) = &hash.maglev
        && (maglev.table_size >= LARGEST_TABLE || !is_prime(maglev.table_size))
    {
        cursor.within("maglev", |cursor| {
            cursor.report_at("tableSize", CODE, format!("must be a prime below {LARGEST_TABLE}"))
        });
    }
}

/// Only asked below five million. 1 counts as a prime, as in Envoy.
fn is_prime(number: u64) -> bool {
    match number {
        0 => false,
        1..=3 => true,
        _ if number.is_multiple_of(2) => false,
        _ => (3..)
            .step_by(2)
            .take_while(|factor: &u64| factor.saturating_mul(*factor) <= number)
            .all(|factor| !number.is_multiple_of(factor)),
    }
}

fn check_tls(meta: &Meta, tls: &ClientTlsSettings, cursor: &mut Cursor<'_>) {
    let ClientTlsSettings {
        mode,
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        subject_alt_names,
        sni: _,
        insecure_skip_verify,
        ca_crl,
    } = tls;
    if let Some(reference) = credential_name.strip_prefix("configmap://") {
        let is_own = reference
            .split_once('/')
            .is_some_and(|(namespace, name)| namespace == meta.namespace && !name.is_empty() && !name.contains('/'));
        let is_plain = !reference.is_empty() && !reference.contains('/');
        if !is_own && !is_plain {
            cursor.report_at(
                "credentialName",
                CODE,
                format!("`{credential_name}` must name a ConfigMap of namespace `{}`", meta.namespace),
            );
        }
    }
    let takes_user_certificates = matches!(mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    if *insecure_skip_verify == Some(true) && takes_user_certificates {
        let names_credential = *mode == ClientTlsMode::Simple && !credential_name.is_empty();
        if !ca_certificates.is_empty() || !subject_alt_names.is_empty() || names_credential {
            cursor.report_at(
                "insecureSkipVerify",
                CODE,
                "excludes everything that the server certificate is checked with",
            );
        }
    }
    if takes_user_certificates && !credential_name.is_empty() {
        if [client_certificate, ca_certificates, private_key, ca_crl].iter().any(|file| !file.is_empty()) {
            cursor.report_at(
                "credentialName",
                CODE,
                "`credentialName` excludes certificates, keys and revocation lists as files",
            );
        }
        return;
    }
    if *mode == ClientTlsMode::Mutual {
        for (field, file) in [("clientCertificate", client_certificate), ("privateKey", private_key)] {
            if file.is_empty() {
                cursor.report_at(field, CODE, format!("MUTUAL needs `{field}`"));
            }
        }
    }
}
