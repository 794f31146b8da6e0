//! DestinationRules: limits, ejection, hashing, localities, and what replaces what (istio-semantics 5).

use std::time::Duration;

use palisade_compile::ProxyRef;
use palisade_model::{
    cluster::{
        Cluster, ConnectionPolicy, HashKey, HashTable, Limits, LoadBalancer, LocalityPolicy, OutlierDetection,
        ProxyProtocol, UpstreamProtocol,
    },
    resource::{Resource, ResourceKind},
    route::Percent,
};

use crate::support::{HTTP, client, cluster, compile_text, istio, of, pod, resource, service};

const CLUSTER: &str = "outbound|80||s.a.svc.cluster.local";

/// The cluster of service `s` as its neighbour sees it, under a DestinationRule.
fn under(spec: &str) -> Cluster {
    of_documents(&istio("DestinationRule", "d", "a", &format!("{{host: s, {spec}}}")))
}

fn of_documents(documents: &str) -> Cluster {
    let text = pod("client", "a", "") + &pod("s", "a", "") + &service("s", "a", HTTP) + documents;
    cluster(&of(&text, &client(), &[]), CLUSTER).clone()
}

fn outlier(cluster: &Cluster) -> &OutlierDetection {
    cluster.traffic.outlier.as_ref().unwrap()
}

#[test]
fn without_a_rule_there_are_no_limits() {
    let cluster = of_documents("");
    assert_eq!(cluster.traffic, Default::default());
    assert_eq!(cluster.load_balancer, LoadBalancer::LeastRequest { choices: 2 });
    assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
}

#[test]
fn a_connection_pool_limits() {
    let cluster = under(
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 1, connectTimeout: 3s, maxConnectionDuration: 60s, \
         idleTimeout: 7s, tcpKeepalive: {time: 7200s, interval: 75s, probes: 9}}, \
         http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRetries: 4, maxRequestsPerConnection: 5, \
         maxConcurrentStreams: 6, idleTimeout: 8s, http2KeepAlive: {interval: 5s, timeout: 1s}}}}",
    );
    let expected =
        Limits { max_connections: Some(1), max_pending_requests: Some(2), max_requests: Some(3), max_retries: Some(4) };
    assert_eq!(cluster.traffic.limits, expected);
    let ConnectionPolicy { max_duration, relay_idle, max_streams, ping, proxy_protocol } = cluster.traffic.connection;
    assert_eq!((max_duration, relay_idle), (Some(Duration::from_secs(60)), Some(Duration::from_secs(7))));
    assert_eq!((max_streams, ping.is_some(), proxy_protocol), (Some(6), true, None));
    assert_eq!((cluster.connect_timeout, cluster.max_requests_per_connection), (Duration::from_secs(3), 5));
    assert_eq!((cluster.idle_timeout, cluster.tcp_keepalive.is_some()), (Some(Duration::from_secs(8)), true));
}

#[test]
fn outlier_detection_has_istios_defaults() {
    let cluster = under("trafficPolicy: {outlierDetection: {}}");
    let expected = OutlierDetection {
        consecutive_5xx: 5,
        consecutive_gateway: 0,
        consecutive_local: None,
        error_statuses: [].into(),
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection_percent: 10,
        min_health_percent: 0,
    };
    assert_eq!(*outlier(&cluster), expected);
    let written = under(
        "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, \
         splitExternalLocalOriginErrors: true, baseEjectionTime: 3m, maxEjectionPercent: 100, minHealthPercent: 40}}",
    );
    let written = outlier(&written);
    assert_eq!((written.consecutive_5xx, written.consecutive_gateway, written.consecutive_local), (0, 3, Some(5)));
    assert_eq!((written.base_ejection, written.max_ejection_percent), (Duration::from_secs(180), 100));
    assert_eq!(written.min_health_percent, 40);
}

#[test]
fn hashes_are_read_in_every_form() {
    let hashed =
        |hash: &str| under(&format!("trafficPolicy: {{loadBalancer: {{consistentHash: {{{hash}}}}}}}")).load_balancer;
    let ring = HashTable::Ring { minimum_size: 1024 };
    for (written, key, table) in [
        ("httpHeaderName: X-User", HashKey::Header { name: "x-user".into() }, ring),
        ("useSourceIp: true", HashKey::SourceIp, ring),
        (
            "httpQueryParameterName: q, ringHash: {minimumRingSize: 64}",
            HashKey::Query { name: "q".into() },
            HashTable::Ring { minimum_size: 64 },
        ),
        ("useSourceIp: true, maglev: {tableSize: 251}", HashKey::SourceIp, HashTable::Maglev { size: 251 }),
        (
            "httpCookie: {name: user, path: /p, ttl: 0s}",
            HashKey::Cookie {
                name: "user".into(),
                path: "/p".into(),
                ttl: Some(Duration::ZERO),
                attributes: [].into(),
            },
            ring,
        ),
    ] {
        assert_eq!(hashed(written), LoadBalancer::ConsistentHash { key, table }, "{written}");
    }
}

#[test]
fn a_subset_overrides_block_by_block_and_a_port_everything() {
    let rule = "{host: s, trafficPolicy: {outlierDetection: {}, connectionPool: {tcp: {maxConnections: 1}}, \
        proxyProtocol: {}, retryBudget: {percent: 30}, \
        portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnections: 2}}}]}, \
        subsets: [{name: v1, labels: {app: s}, trafficPolicy: {connectionPool: {http: {maxRetries: 3}}, \
        portLevelSettings: [{port: {number: 81}, outlierDetection: {}}]}}]}";
    let ports = "{name: http, port: 80}, {name: http-two, port: 81}";
    let routes = "{hosts: [s], http: [{route: [{destination: {host: s, subset: v1}}]}]}";
    let text = pod("client", "a", "")
        + &service("s", "a", ports)
        + &istio("VirtualService", "v", "a", routes)
        + &istio("DestinationRule", "d", "a", rule);
    let held = of(&text, &client(), &[]);
    let named = |port: u16, subset: &str| {
        cluster(&held, &format!("outbound|{port}|{subset}|s.a.svc.cluster.local")).traffic.clone()
    };
    let of_subset = named(80, "v1");
    assert_eq!((of_subset.limits.max_connections, of_subset.limits.max_retries), (None, Some(3)));
    assert!(of_subset.outlier.is_some());
    assert_eq!(of_subset.connection.proxy_protocol, Some(ProxyProtocol::V1));
    assert_eq!(of_subset.retry_budget.unwrap().percent, Percent(300_000));
    let of_port = named(81, "v1");
    assert_eq!((of_port.limits.max_connections, of_port.outlier.is_some()), (None, true));
    // What a port cannot say is lost with the destination's settings.
    assert_eq!((of_port.connection.proxy_protocol, of_port.retry_budget), (None, None));
}

#[test]
fn the_mesh_supplies_what_no_rule_says() {
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
        h2UpgradePolicy: UPGRADE\n    tcpKeepalive: {time: 60s}\n    defaultTrafficPolicy:\n      \
        connectionPool: {http: {maxRetries: 7}}\n      outlierDetection: {consecutive5xxErrors: 9}\n---\n";
    let cluster = of_documents(mesh);
    assert_eq!(cluster.protocol, UpstreamProtocol::Http2);
    assert_eq!(cluster.tcp_keepalive.unwrap().time, Some(Duration::from_secs(60)));
    assert_eq!((cluster.traffic.limits.max_retries, outlier(&cluster).consecutive_5xx), (Some(7), 9));
    let own = istio(
        "DestinationRule",
        "d",
        "a",
        "{host: s, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}}",
    );
    let cluster = of_documents(&(mesh.to_owned() + &own));
    assert_eq!((cluster.protocol, cluster.traffic.limits.max_retries), (UpstreamProtocol::Http1, None));
}

/// The localities and priorities of the endpoints of `s`, seen from `r1/z1/s1`.
fn preferred(documents: &str) -> Vec<(String, Option<u32>)> {
    let node = |name: &str, region: &str, zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {region}, \
             topology.kubernetes.io/zone: {zone}}}}}\n---\n"
        )
    };
    let at = |name: &str, node: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, labels: {{app: s{more}}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}\n---\n"
        )
    };
    let text = pod("client", "a", "")
        + &node("n1", "r1", "z1")
        + &node("n2", "r1", "z2")
        + &node("n3", "r2", "z1")
        + &at("s-1", "n1", "")
        + &at("s-2", "n2", ", version: v1")
        + &at("s-3", "n3", "")
        + &at("s-4", "n3", ", istio-locality: r3.z1")
        + &service("s", "a", HTTP)
        + documents;
    let proxy = ProxyRef {
        locality: Some("r1/z1/".into()),
        labels: Some([("app".to_owned(), "client".to_owned()), ("version".to_owned(), "v1".to_owned())].into()),
        ..client()
    };
    let held = of(&text, &proxy, &[]);
    let policy = &cluster(&held, CLUSTER).traffic.locality;
    let Some(Resource::Endpoints(endpoints)) = resource(&held, ResourceKind::Endpoints, "s.a.svc.cluster.local|80")
    else {
        panic!("no endpoints");
    };
    let mut preferred: Vec<_> = endpoints
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.locality.as_deref().unwrap_or_default().to_owned(), policy.priority(endpoint)))
        .collect();
    preferred.sort();
    preferred
}

fn rule(policy: &str) -> String {
    istio("DestinationRule", "d", "a", &format!("{{host: s, trafficPolicy: {{{policy}}}}}"))
}

fn priorities(documents: &str) -> Vec<Option<u32>> {
    preferred(documents).into_iter().map(|(_, priority)| priority).collect()
}

#[test]
fn others_take_over_only_where_failures_are_detected() {
    assert_eq!(priorities(""), [Some(0); 4]);
    let near = preferred(&rule("outlierDetection: {}"));
    let expected = [("r1/z1/", 0), ("r1/z2/", 2), ("r2/z1/", 3), ("r3/z1/", 3)];
    assert_eq!(near, expected.map(|(locality, priority)| (locality.to_owned(), Some(priority))));
    let off = rule("outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}");
    assert_eq!(priorities(&off), [Some(0); 4]);
}

#[test]
fn a_named_region_takes_over_first_and_labels_replace_localities() {
    let failover = rule("outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r3}]}}");
    assert_eq!(priorities(&failover), [Some(0), Some(2), Some(4), Some(3)]);
    let labels = rule("outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [version]}}");
    assert_eq!(priorities(&labels), [Some(5), Some(0), Some(5), Some(5)]);
    let region = rule(
        "outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region]}}",
    );
    assert_eq!(priorities(&region)[..3], [Some(0), Some(0), Some(5)]);
}

#[test]
fn shares_need_no_detection_and_leave_others_out() {
    let shares = rule(
        "loadBalancer: {localityLbSetting: {distribute: [{from: r9/*, to: {r1/*: 100}}, \
         {from: r1/z1/*, to: {r1/z1/*: 80, r1/z2/*: 20}}]}}",
    );
    assert_eq!(priorities(&shares), [Some(0), Some(0), None, None]);
    let elsewhere = rule("loadBalancer: {localityLbSetting: {distribute: [{from: r9/*, to: {r1/*: 100}}]}}");
    assert_eq!(priorities(&elsewhere), [Some(0); 4]);
}

#[test]
fn a_service_may_prefer_near_endpoints_and_a_rule_wins_over_it() {
    let close = service("s", "a", HTTP).replace("selector:", "trafficDistribution: PreferClose, selector:");
    let policy = |documents: &str| {
        let text = pod("client", "a", "") + &close + documents;
        cluster(&of(&text, &client(), &[]), CLUSTER).traffic.locality.clone()
    };
    assert!(matches!(policy(""), LocalityPolicy::Failover(failover) if failover.labels.len() == 3));
    let off = rule("loadBalancer: {localityLbSetting: {enabled: false}}");
    assert_eq!(policy(&off), LocalityPolicy::Any);
}

#[test]
fn a_rules_pool_limits_what_comes_in_as_well() {
    let text = pod("s", "a", "")
        + &service("s", "a", "{name: http, port: 80, targetPort: 8080}")
        + &rule("connectionPool: {tcp: {maxConnections: 7}}, outlierDetection: {}");
    let held = of(&text, &ProxyRef::sidecar("a", "s"), &[]);
    let inbound = cluster(&held, "inbound|8080||");
    assert_eq!((inbound.traffic.limits.max_connections, inbound.traffic.outlier.is_none()), (Some(7), true));
}

#[test]
fn what_is_served_is_not_warned_about_and_what_is_not_is_named() {
    let documents = rule(
        "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 10s}, localityLbSetting: {enabled: true}}, \
         connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}, outlierDetection: {}, \
         retryBudget: {}, tunnel: {targetHost: x, targetPort: 1}",
    );
    let compiled = compile_text(&(service("s", "a", HTTP) + &documents));
    let reported: Vec<String> = compiled.reports.diagnostics().iter().map(|d| d.path.clone()).collect();
    assert_eq!(reported, ["spec.trafficPolicy.tunnel"]);
}
