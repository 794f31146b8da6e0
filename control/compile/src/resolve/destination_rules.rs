//! Traffic policies of destinations: which DestinationRule a client gets for a host, and what its blocks add up to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use palisade_model::{
    cluster::{
        ConnectionPolicy, Limits, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, TcpKeepalive, Warmup,
    },
    host::HostPattern,
    origin::Origin,
};

use crate::{hosts::Visibility, object};

/// What one DestinationRule says, or several of one namespace and host together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DestinationPolicy {
    /// Host in full.
    pub(crate) host: HostPattern,
    /// Namespace of the document.
    pub(crate) namespace: Arc<str>,
    /// Who gets it.
    pub(crate) visibility: Visibility,
    /// Client workloads of the own namespace that it is for; `None` = all clients.
    pub(crate) workload_selector: Option<BTreeMap<String, String>>,
    /// Destination-level policy.
    pub(crate) policy: Option<TrafficPolicy>,
    /// Subsets by name.
    pub(crate) subsets: BTreeMap<Arc<str>, Subset>,
    /// The documents, the one that shaped the policy first.
    pub(crate) origins: Vec<Origin>,
}

/// A named part of a service's endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subset {
    /// Labels that its endpoints carry.
    pub(crate) labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Subset-level policy.
    pub(crate) policy: Option<TrafficPolicy>,
}

/// `trafficPolicy`: blocks, each whole or absent.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct TrafficPolicy {
    /// Blocks of this level.
    pub(crate) blocks: Blocks,
    /// `portLevelSettings` by service port.
    pub(crate) ports: BTreeMap<u16, Blocks>,
}

/// The blocks that are inherited or replaced whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Blocks {
    /// `loadBalancer`.
    pub(crate) load_balancer: Option<Balancing>,
    /// `connectionPool`.
    pub(crate) pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    pub(crate) outlier: Option<OutlierDetection>,
    /// `tls`.
    pub(crate) tls: Option<ClientTls>,
    /// `proxyProtocol`; settings of ports have none.
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`; settings of ports have none.
    pub(crate) retry_budget: Option<RetryBudget>,
}

/// `loadBalancer`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Balancing {
    /// `simple` or `consistentHash`.
    pub(crate) algorithm: LoadBalancer,
    /// `warmup`.
    pub(crate) warmup: Option<Warmup>,
    /// `localityLbSetting`.
    pub(crate) locality: Option<LocalityPreference>,
}

/// Percent by locality.
pub(crate) type Shares = BTreeMap<Arc<str>, u32>;

/// `localityLbSetting`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LocalityPreference {
    /// `enabled`.
    pub(crate) is_enabled: bool,
    /// `distribute`: from, then to with percent.
    pub(crate) distribute: Vec<(Arc<str>, Shares)>,
    /// `failover`: from, to.
    pub(crate) failover: Vec<(Arc<str>, Arc<str>)>,
    /// `failoverPriority`: `KEY` or `KEY=VALUE`.
    pub(crate) labels: Vec<String>,
}

/// `connectionPool`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ConnectionPool {
    /// Circuit breakers.
    pub(crate) limits: Limits,
    /// Settings of single connections; no PROXY protocol here.
    pub(crate) connection: ConnectionPolicy,
    /// `tcp.connectTimeout`.
    pub(crate) connect_timeout: Option<Duration>,
    /// `tcp.tcpKeepalive`.
    pub(crate) keepalive: Option<TcpKeepalive>,
    /// `http.maxRequestsPerConnection`.
    pub(crate) max_requests_per_connection: u32,
    /// `http.idleTimeout`, else `tcp.idleTimeout`; zero = never.
    pub(crate) idle_timeout: Option<Duration>,
    /// `http.useClientProtocol`.
    pub(crate) uses_client_protocol: bool,
    /// `http.h2UpgradePolicy`.
    pub(crate) http2: Http2Upgrade,
}

/// `http.h2UpgradePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Http2Upgrade {
    /// As the mesh says.
    #[default]
    Mesh,
    /// HTTP/1.1 stays.
    No,
    /// HTTP/1.1 becomes HTTP/2.
    Yes,
}

/// `tls` towards a destination.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClientTls {
    /// What is spoken.
    pub(crate) mode: ClientTlsMode,
    /// `sni`; empty = unset.
    pub(crate) sni: String,
    /// `subjectAltNames`.
    pub(crate) subject_alt_names: Vec<String>,
    /// `caCertificates`: a path; empty = the system's roots.
    pub(crate) ca_certificates: String,
    /// `clientCertificate` and `privateKey`: paths.
    pub(crate) client_certificate: Option<(String, String)>,
    /// `credentialName`; empty = unset.
    pub(crate) credential_name: String,
    /// `insecureSkipVerify`.
    pub(crate) skip_verify: bool,
    /// A setting that is not served and must not be ignored.
    pub(crate) refused: Option<String>,
}

/// `tls.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientTlsMode {
    /// Plaintext.
    Disable,
    /// TLS with a server certificate.
    Simple,
    /// TLS with certificates of the user on both sides.
    Mutual,
    /// Mesh mutual TLS.
    IstioMutual,
}

/// All DestinationRules.
#[derive(Debug, Default)]
pub(crate) struct DestinationPolicies {
    by_namespace: BTreeMap<Arc<str>, Namespaced>,
    root: Arc<str>,
}

#[derive(Debug, Default)]
struct Namespaced {
    by_host: BTreeMap<HostPattern, Vec<DestinationPolicy>>,
    /// The wildcards among the hosts, most specific first.
    wildcards: BTreeSet<HostPattern>,
    for_workloads: Vec<DestinationPolicy>,
}

impl TrafficPolicy {
    /// The blocks of a destination-level and a subset-level policy for a port (`MergeTrafficPolicy`): a subset overrides block
    /// by block, settings of a port replace all blocks at once, and what they leave out goes to its default.
    pub(crate) fn merge(destination: Option<&Self>, subset: Option<&Self>, port: u16) -> Blocks {
        let mut merged = Blocks::default();
        for (level, is_subset) in [(destination, false), (subset, true)] {
            let Some(level) = level else { continue };
            let Blocks { load_balancer, pool, outlier, tls, proxy_protocol, retry_budget } = level.blocks.clone();
            merged.load_balancer = load_balancer.or(merged.load_balancer);
            merged.pool = pool.or(merged.pool);
            merged.outlier = outlier.or(merged.outlier);
            merged.tls = tls.or(merged.tls);
            merged.proxy_protocol = proxy_protocol.or(merged.proxy_protocol);
            merged.retry_budget = retry_budget.or(merged.retry_budget);
            if let Some(blocks) = level.ports.get(&port) {
                // What a port cannot say is lost at the destination's level, and stays at the subset's (Istio).
                let kept = if is_subset { merged } else { Blocks::default() };
                let Blocks { proxy_protocol, retry_budget, .. } = kept;
                merged = Blocks { proxy_protocol, retry_budget, ..blocks.clone() };
            }
        }
        merged
    }
}

impl Namespaced {
    /// Policies whose host takes all of `host`, most specific first.
    fn matching(&self, host: &HostPattern) -> Vec<&[DestinationPolicy]> {
        let exact = self.by_host.get(host).filter(|_| !host.is_wildcard());
        let wild = self.wildcards.iter().filter(|pattern| pattern.covers(host));
        exact.into_iter().chain(wild.filter_map(|pattern| self.by_host.get(pattern))).map(Vec::as_slice).collect()
    }
}

impl DestinationPolicies {
    /// Indexes policies, which come in age order. Those for one host in one namespace with the same visibility add up: subsets
    /// of all (the oldest of each name), the policy of the oldest that has one.
    pub(crate) fn new(root: Arc<str>, policies: impl IntoIterator<Item = DestinationPolicy>) -> Self {
        let mut index = Self { by_namespace: BTreeMap::new(), root };
        for policy in policies {
            let namespaced = index.by_namespace.entry(Arc::clone(&policy.namespace)).or_default();
            if policy.workload_selector.is_some() {
                namespaced.for_workloads.push(policy);
                continue;
            }
            if policy.host.is_wildcard() {
                namespaced.wildcards.insert(policy.host.clone());
            }
            let same_host = namespaced.by_host.entry(policy.host.clone()).or_default();
            let Some(older) = same_host.iter_mut().find(|older| older.visibility == policy.visibility) else {
                same_host.push(policy);
                continue;
            };
            for (name, subset) in policy.subsets {
                older.subsets.entry(name).or_insert(subset);
            }
            older.policy = older.policy.take().or(policy.policy);
            older.origins.extend(policy.origins);
        }
        index
    }

    /// Whether some rule of a namespace is for workloads with labels alone.
    pub(crate) fn selects_workloads(&self, client: &str) -> bool {
        self.by_namespace.get(client).is_some_and(|own| !own.for_workloads.is_empty())
    }

    /// The policy that a client gets for a service: that of the first namespace with any matching host among the client's, the
    /// service's and the root namespace (istio-semantics 5).
    pub(crate) fn find(
        &self,
        client: &str,
        labels: &BTreeMap<String, String>,
        host: &HostPattern,
        service_namespace: Option<&str>,
    ) -> Option<&DestinationPolicy> {
        if let Some(own) = self.by_namespace.get(client) {
            let selected = own
                .for_workloads
                .iter()
                .filter(|policy| policy.host.covers(host))
                .filter(|policy| policy.workload_selector.as_ref().is_some_and(|s| object::selects(s, labels)))
                .min_by(|a, b| a.host.cmp(&b.host));
            if selected.is_some() {
                return selected;
            }
        }
        if *client == *self.root {
            // The root namespace's public rules come last for its own clients as well.
            if let Some(policy) = self.best(client, host, |v| v.is_private_to(client)) {
                return Some(policy);
            }
        } else if let Some(policy) = self.best(client, host, |visibility| visibility.admits(client)) {
            return Some(policy);
        }
        if let Some(namespace) = service_namespace.filter(|ns| *ns != client && **ns != *self.root)
            && let Some(policy) = self.exported(namespace, client, host)
        {
            return Some(policy);
        }
        self.exported(&self.root, client, host)
    }

    /// The most specific rule among those that `admits` accepts.
    fn best(
        &self,
        namespace: &str,
        host: &HostPattern,
        admits: impl Fn(&Visibility) -> bool,
    ) -> Option<&DestinationPolicy> {
        let namespaced = self.by_namespace.get(namespace)?;
        namespaced
            .matching(host)
            .into_iter()
            .find_map(|policies| policies.iter().find(|policy| admits(&policy.visibility)))
    }

    /// The most specific host is chosen first; only then its export is looked at, so that an unexported exact rule hides an
    /// exported wildcard.
    fn exported(&self, namespace: &str, client: &str, host: &HostPattern) -> Option<&DestinationPolicy> {
        let namespaced = self.by_namespace.get(namespace)?;
        // Rules that are private to their namespace were never on offer, and hide nothing.
        let offered = |policies: &[DestinationPolicy]| policies.iter().any(|p| !p.visibility.is_private_to(namespace));
        let policies = namespaced.matching(host).into_iter().find(|policies| offered(policies))?;
        policies.iter().find(|policy| policy.visibility.admits(client) && !policy.visibility.is_private_to(namespace))
    }

    /// All policies, for reports.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DestinationPolicy> {
        self.by_namespace.values().flat_map(|ns| ns.by_host.values().flatten().chain(&ns.for_workloads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(namespace: &str, host: &str, export_to: &[&str], name: &str) -> DestinationPolicy {
        DestinationPolicy {
            host: host.parse().unwrap(),
            namespace: namespace.into(),
            visibility: Visibility::parse(export_to, &[], namespace),
            workload_selector: None,
            policy: None,
            subsets: BTreeMap::from([(Arc::from(name), Subset { labels: BTreeMap::new(), policy: None })]),
            origins: Vec::new(),
        }
    }

    fn found(policies: Vec<DestinationPolicy>, client: &str) -> Option<String> {
        let index = DestinationPolicies::new("istio-system".into(), policies);
        index
            .find(client, &BTreeMap::new(), &"a.svc.local".parse().unwrap(), Some("svc"))
            .map(|policy| policy.subsets.keys().map(|k| k.to_string()).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn the_first_namespace_with_any_match_wins() {
        let all = vec![
            rule("client", "*.local", &[], "client"),
            rule("svc", "a.svc.local", &[], "service"),
            rule("istio-system", "a.svc.local", &[], "root"),
        ];
        assert_eq!(found(all.clone(), "client").as_deref(), Some("client"));
        assert_eq!(found(all.clone(), "other").as_deref(), Some("service"));
        assert_eq!(found(all[2..].to_vec(), "other").as_deref(), Some("root"));
        assert_eq!(found(all, "istio-system").as_deref(), Some("service"));
    }

    #[test]
    fn an_unexported_exact_rule_hides_an_exported_wildcard_of_its_namespace() {
        let all = |export_to: &'static [&'static str]| {
            vec![
                rule("svc", "a.svc.local", export_to, "exact"),
                rule("svc", "*.local", &["*"], "wildcard"),
                rule("istio-system", "*.local", &["*"], "root"),
            ]
        };
        assert_eq!(found(all(&["other"]), "client").as_deref(), Some("root"));
        // A rule that its own namespace is not among the exports of is not for that namespace either.
        assert_eq!(found(all(&["other"]), "svc").as_deref(), Some("wildcard"));
        // A rule that is private to its namespace was never on offer, and hides nothing.
        assert_eq!(found(all(&["."]), "client").as_deref(), Some("wildcard"));
    }

    #[test]
    fn rules_of_one_host_add_up_when_their_exports_are_equal() {
        let all = vec![rule("svc", "a.svc.local", &[], "v1"), rule("svc", "a.svc.local", &["*"], "v2")];
        assert_eq!(found(all, "svc").as_deref(), Some("v1,v2"));
        let apart = vec![rule("svc", "a.svc.local", &[], "v1"), rule("svc", "a.svc.local", &["."], "v2")];
        assert_eq!(found(apart, "svc").as_deref(), Some("v1"));
    }

    #[test]
    fn settings_of_a_port_replace_everything() {
        let tls = |mode| {
            Some(ClientTls {
                mode,
                sni: String::new(),
                subject_alt_names: Vec::new(),
                ca_certificates: String::new(),
                client_certificate: None,
                credential_name: String::new(),
                skip_verify: false,
                refused: None,
            })
        };
        let balanced = |algorithm| Some(Balancing { algorithm, warmup: None, locality: None });
        let destination = TrafficPolicy {
            blocks: Blocks {
                load_balancer: balanced(LoadBalancer::Random),
                tls: tls(ClientTlsMode::IstioMutual),
                proxy_protocol: Some(ProxyProtocol::V1),
                ..Blocks::default()
            },
            ports: BTreeMap::from([(
                80,
                Blocks { load_balancer: balanced(LoadBalancer::RoundRobin), ..Blocks::default() },
            )]),
        };
        let merged = TrafficPolicy::merge(Some(&destination), None, 80);
        assert_eq!(merged.load_balancer, balanced(LoadBalancer::RoundRobin));
        assert_eq!((merged.tls, merged.proxy_protocol), (None, None));
        let subset = TrafficPolicy {
            blocks: Blocks { tls: tls(ClientTlsMode::Disable), ..Blocks::default() },
            ports: BTreeMap::new(),
        };
        let merged = TrafficPolicy::merge(Some(&destination), Some(&subset), 81);
        assert_eq!(merged.load_balancer, balanced(LoadBalancer::Random));
        assert_eq!(merged.proxy_protocol, Some(ProxyProtocol::V1));
        assert_eq!(merged.tls.map(|tls| tls.mode), Some(ClientTlsMode::Disable));
        let merged = TrafficPolicy::merge(Some(&destination), Some(&subset), 80);
        assert_eq!(merged.load_balancer, balanced(LoadBalancer::RoundRobin));
    }
}
