//! From documents to the forms that are looked up, with a finding for every field that is not served.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::{
    BrokenTarget,
    istio::{
        self, Action, ClientTlsMode as WrittenTlsMode, ClientTlsSettings, ConnectionPoolSettings, DestinationRule,
        H2UpgradePolicy, HttpSettings, LoadBalancerSettings, PortTrafficPolicy, SimpleLb, TcpSettings,
    },
};
use palisade_model::cluster::{LoadBalancer, TcpKeepalive};
use palisade_policy::TrustDomains;

use crate::{
    hosts::{self, Visibility},
    inputs::Inputs,
    object::{self, Head},
    reports::{Code, Report, Reports},
    resolve::{
        authorization::{PolicyMemo, Restriction, Target},
        destination_rules::{
            Blocks, ClientTls, ClientTlsMode, ConnectionPool, DestinationPolicy, Subset, TrafficPolicy,
        },
        peers::PeerPolicy,
    },
    settings::MeshSettings,
    time,
};

/// Findings about one document.
struct Findings<'a> {
    head: &'a Head,
    reports: &'a mut Reports,
}

impl Findings<'_> {
    /// A field that is written and not served.
    fn not_served(&mut self, is_written: bool, path: &str) {
        if is_written {
            let field = path.rsplit('.').next().unwrap_or(path);
            let message = format!("`{field}` is not served yet and has no effect");
            self.reports.add(Report::warning(self.head, Code::NotServed, path, &message));
        }
    }
}

/// All DestinationRules, oldest first.
pub(super) fn destination_policies(
    inputs: &Inputs,
    settings: &MeshSettings,
    reports: &mut Reports,
) -> Vec<DestinationPolicy> {
    object::by_age(inputs.destination_rules.values())
        .into_iter()
        .filter_map(|document| {
            let DestinationRule { host, traffic_policy, subsets, export_to, workload_selector } = &document.spec;
            let namespace = &document.head.key.namespace;
            let mut findings = Findings { head: &document.head, reports };
            // What is no host pattern was refused by validation and names nothing.
            let host = hosts::full_name(host, namespace, &settings.cluster_domain).parse().ok()?;
            let is_private = workload_selector.is_some();
            let mut by_name: BTreeMap<Arc<str>, Subset> = BTreeMap::new();
            for (index, subset) in subsets.iter().enumerate() {
                let labels =
                    subset.labels.iter().map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str()))).collect();
                let place = format!("spec.subsets[{index}].trafficPolicy");
                let policy =
                    subset.traffic_policy.as_ref().map(|policy| traffic_policy_of(policy, &place, &mut findings));
                by_name.entry(subset.name.as_str().into()).or_insert(Subset { labels, policy });
            }
            Some(DestinationPolicy {
                host,
                namespace: Arc::clone(namespace),
                visibility: if is_private {
                    Visibility::parse(&["."], &[], namespace)
                } else {
                    Visibility::parse(export_to, &settings.default_destination_rule_export_to, namespace)
                },
                workload_selector: workload_selector.as_ref().map(|selector| selector.match_labels.clone()),
                policy: traffic_policy
                    .as_ref()
                    .map(|policy| traffic_policy_of(policy, "spec.trafficPolicy", &mut findings)),
                subsets: by_name,
                origins: vec![document.head.origin()],
            })
        })
        .collect()
}

fn traffic_policy_of(written: &istio::TrafficPolicy, place: &str, findings: &mut Findings<'_>) -> TrafficPolicy {
    let istio::TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = written;
    findings.not_served(outlier_detection.is_some(), &format!("{place}.outlierDetection"));
    findings.not_served(tunnel.is_some(), &format!("{place}.tunnel"));
    findings.not_served(proxy_protocol.is_some(), &format!("{place}.proxyProtocol"));
    findings.not_served(retry_budget.is_some(), &format!("{place}.retryBudget"));
    let mut ports = BTreeMap::new();
    for (index, port) in port_level_settings.iter().flatten().enumerate() {
        let PortTrafficPolicy { port, load_balancer, connection_pool, outlier_detection, tls } = port;
        let place = format!("{place}.portLevelSettings[{index}]");
        findings.not_served(outlier_detection.is_some(), &format!("{place}.outlierDetection"));
        let Some(number) = port.as_ref().and_then(|port| u16::try_from(port.number).ok()) else { continue };
        let blocks = blocks_of(load_balancer.as_ref(), connection_pool.as_ref(), tls.as_ref(), &place, findings);
        // The first setting of a port counts.
        ports.entry(number).or_insert(blocks);
    }
    TrafficPolicy {
        blocks: blocks_of(load_balancer.as_ref(), connection_pool.as_ref(), tls.as_ref(), place, findings),
        ports,
    }
}

fn blocks_of(
    load_balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    tls: Option<&ClientTlsSettings>,
    place: &str,
    findings: &mut Findings<'_>,
) -> Blocks {
    Blocks {
        load_balancer: load_balancer
            .map(|written| load_balancer_of(written, &format!("{place}.loadBalancer"), findings)),
        pool: pool.map(|written| pool_of(written, &format!("{place}.connectionPool"), findings)),
        tls: tls.map(tls_of),
    }
}

fn load_balancer_of(written: &LoadBalancerSettings, place: &str, findings: &mut Findings<'_>) -> LoadBalancer {
    let LoadBalancerSettings {
        simple,
        consistent_hash,
        backend_utilization,
        locality_lb_setting,
        zone_aware_lb_setting,
        warmup_duration_secs,
        warmup,
    } = written;
    findings.not_served(consistent_hash.is_some(), &format!("{place}.consistentHash"));
    findings.not_served(backend_utilization.is_some(), &format!("{place}.backendUtilization"));
    findings.not_served(locality_lb_setting.is_some(), &format!("{place}.localityLbSetting"));
    findings.not_served(zone_aware_lb_setting.is_some(), &format!("{place}.zoneAwareLbSetting"));
    findings.not_served(warmup_duration_secs.is_some(), &format!("{place}.warmupDurationSecs"));
    findings.not_served(warmup.is_some(), &format!("{place}.warmup"));
    match simple {
        None | Some(SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest) => {
            LoadBalancer::LeastRequest { choices: 2 }
        }
        Some(SimpleLb::Random) => LoadBalancer::Random,
        Some(SimpleLb::RoundRobin) => LoadBalancer::RoundRobin,
        Some(SimpleLb::Passthrough) => LoadBalancer::Passthrough,
    }
}

fn pool_of(written: &ConnectionPoolSettings, place: &str, findings: &mut Findings<'_>) -> ConnectionPool {
    let ConnectionPoolSettings { tcp, http } = written;
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = tcp {
        let TcpSettings { max_connections, connect_timeout, tcp_keepalive, max_connection_duration, idle_timeout } =
            tcp;
        let place = format!("{place}.tcp");
        findings.not_served(*max_connections != 0, &format!("{place}.maxConnections"));
        findings.not_served(max_connection_duration.is_some(), &format!("{place}.maxConnectionDuration"));
        pool.connect_timeout = connect_timeout.and_then(time::positive);
        pool.keepalive = tcp_keepalive.as_ref().map(|keepalive| TcpKeepalive {
            time: keepalive.time.and_then(time::positive),
            interval: keepalive.interval.and_then(time::positive),
            probes: (keepalive.probes > 0).then_some(keepalive.probes),
        });
        pool.idle_timeout = idle_timeout.map(|written| time::positive(written).unwrap_or_default());
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
        let place = format!("{place}.http");
        findings.not_served(*http1_max_pending_requests != 0, &format!("{place}.http1MaxPendingRequests"));
        findings.not_served(*http2_max_requests != 0, &format!("{place}.http2MaxRequests"));
        findings.not_served(*max_retries != 0, &format!("{place}.maxRetries"));
        findings.not_served(*max_concurrent_streams != 0, &format!("{place}.maxConcurrentStreams"));
        findings.not_served(http2_keep_alive.is_some(), &format!("{place}.http2KeepAlive"));
        pool.max_requests_per_connection = u32::try_from(*max_requests_per_connection).unwrap_or(0);
        pool.idle_timeout = idle_timeout.and_then(time::positive).or(pool.idle_timeout);
        pool.upgrades_to_http2 = *h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade);
        pool.uses_client_protocol = *use_client_protocol;
    }
    pool
}

fn tls_of(written: &ClientTlsSettings) -> ClientTls {
    let ClientTlsSettings {
        mode,
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        subject_alt_names,
        sni,
        insecure_skip_verify,
        ca_crl,
    } = written;
    ClientTls {
        mode: match mode {
            WrittenTlsMode::Disable => ClientTlsMode::Disable,
            WrittenTlsMode::Simple => ClientTlsMode::Simple,
            WrittenTlsMode::Mutual => ClientTlsMode::Mutual,
            WrittenTlsMode::IstioMutual => ClientTlsMode::IstioMutual,
        },
        sni: sni.clone(),
        subject_alt_names: subject_alt_names.clone(),
        ca_certificates: ca_certificates.clone(),
        client_certificate: (!client_certificate.is_empty()).then(|| (client_certificate.clone(), private_key.clone())),
        credential_name: credential_name.clone(),
        skip_verify: insecure_skip_verify.unwrap_or(false),
        refused: (!ca_crl.is_empty()).then(|| "`tls.caCrl` is not served".to_owned()),
    }
}

/// All PeerAuthentications; a rejected one is STRICT for what it selects.
pub(super) fn peer_policies(inputs: &Inputs) -> Vec<PeerPolicy> {
    let broken =
        inputs.broken_policies.iter().filter(|(head, _)| &*head.kind == "PeerAuthentication").map(|(head, broken)| {
            let selector = match &broken.target {
                BrokenTarget::Readable { selector, target_refs: _ } => {
                    selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default()
                }
                BrokenTarget::Unreadable => BTreeMap::new(),
            };
            PeerPolicy::broken(head.clone(), selector)
        });
    inputs.peer_authentications.values().map(PeerPolicy::new).chain(broken).collect()
}

/// What security documents do to the proxies that they apply to.
pub(super) fn restrictions(
    inputs: &Inputs,
    settings: &MeshSettings,
    reports: &mut Reports,
    memo: &mut PolicyMemo<'_>,
) -> Vec<Restriction> {
    let aliases = settings.trust_domain_aliases.iter().map(ToString::to_string);
    let domains = TrustDomains::new(settings.trust_domain.as_str(), aliases);
    // CUSTOM policies stand before all others, apart from them.
    let documents = inputs.authorization_policies.values().filter(|document| document.spec.action != Action::Custom);
    let policies = documents.filter_map(|document| {
        memo.convert(document, reports, |reports| Restriction::new(document, &domains, reports))
    });
    let mut restrictions: Vec<Restriction> = policies.collect();
    for (head, broken) in &inputs.broken_policies {
        // The authentications have their own ways to fail closed; an AUDIT policy never changes an answer.
        let is_authentication = matches!(&*head.kind, "PeerAuthentication" | "RequestAuthentication");
        if is_authentication || broken.action == Some(Action::Audit) {
            continue;
        }
        let (selector, targets) = match &broken.target {
            BrokenTarget::Readable { selector, target_refs } => (selector.clone(), target_refs.clone()),
            BrokenTarget::Unreadable => (None, Vec::new()),
        };
        // Both written: everything that either names.
        if !targets.is_empty() {
            restrictions.push(Restriction::denying(head, Target::Objects(targets.clone()), &broken.message));
        }
        if selector.is_some() || targets.is_empty() {
            let labels = selector.map(|selector| selector.match_labels).unwrap_or_default();
            restrictions.push(Restriction::denying(head, Target::Workloads(labels), &broken.message));
        }
    }
    restrictions
}
