//! VirtualServices with every name in full, delegates merged in, in the order in which each client sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::istio::{Delegate, HttpRoute, TcpRoute, TlsRoute, VirtualService};
use palisade_model::{host::HostPattern, origin::Origin};
use parking_lot::Mutex;

use crate::{
    hosts::{self, Visibility},
    object::{self, Head, Object},
    resolve::delegates,
    settings::MeshSettings,
};

/// The name of the gateway that stands for all sidecars.
pub(crate) const MESH: &str = "mesh";

/// A VirtualService that binds hosts.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// Metadata.
    pub(crate) head: Head,
    /// Hosts in full, lower-case.
    pub(crate) hosts: Vec<HostPattern>,
    /// Who sees it.
    pub(crate) visibility: Visibility,
    /// `mesh`, or `NAMESPACE/NAME` of Istio Gateways.
    pub(crate) gateways: Vec<String>,
    /// HTTP rules; those of delegates stand where the root names them.
    pub(crate) http: Vec<HttpRule>,
    /// TLS rules.
    pub(crate) tls: Vec<TlsRoute>,
    /// TCP rules.
    pub(crate) tcp: Vec<TcpRoute>,
}

/// One HTTP rule.
#[derive(Debug, Clone)]
pub(crate) struct HttpRule {
    /// Index in the root document's `http`.
    pub(crate) index: usize,
    /// Index in the delegate's `http`, if the rule is one of a delegate.
    pub(crate) delegated: Option<usize>,
    /// The delegate document.
    pub(crate) delegate: Option<Origin>,
    /// The rule; destinations and gateways in full.
    pub(crate) route: HttpRoute,
}

/// Namespace of clients, and the gateway that they serve or `mesh`.
type SeenKey = (Arc<str>, Arc<str>);

/// All VirtualServices with hosts.
#[derive(Debug, Default)]
pub(crate) struct VirtualServices {
    bound: Vec<Arc<Bound>>,
    /// What clients see, by namespace and gateway: clients of one namespace share it.
    seen: Mutex<BTreeMap<SeenKey, Arc<Seen>>>,
}

/// The VirtualServices that a client sees, in the order that decides, by host.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// In order.
    pub(crate) all: Vec<Arc<Bound>>,
    exact: BTreeMap<Arc<str>, Vec<usize>>,
    wildcards: BTreeMap<HostPattern, Vec<usize>>,
}

impl Seen {
    fn new(all: Vec<Arc<Bound>>) -> Self {
        let mut exact: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        let mut wildcards: BTreeMap<HostPattern, Vec<usize>> = BTreeMap::new();
        for (position, bound) in all.iter().enumerate() {
            for host in &bound.hosts {
                let positions = match host {
                    HostPattern::Exact(name) => exact.entry(Arc::clone(name)).or_default(),
                    wildcard => wildcards.entry(wildcard.clone()).or_default(),
                };
                if positions.last() != Some(&position) {
                    positions.push(position);
                }
            }
        }
        Self { all, exact, wildcards }
    }

    /// Those whose HTTP rules a service's requests may meet, of those that are admitted: those with exactly its host, in
    /// order; if there are none, the first with the most specific wildcard that takes it (Istio's `MostSpecificHostMatch`).
    pub(crate) fn for_requests(&self, host: &HostPattern, admits: impl Fn(&Bound) -> bool) -> Vec<&Arc<Bound>> {
        let at = |positions: &[usize]| -> Vec<&Arc<Bound>> {
            positions.iter().filter_map(|at| self.all.get(*at)).filter(|bound| admits(bound)).collect()
        };
        let exact = match host {
            HostPattern::Exact(name) => self.exact.get(name).map(|positions| at(positions)).unwrap_or_default(),
            HostPattern::Suffix(_) | HostPattern::Any => Vec::new(),
        };
        if !exact.is_empty() {
            return exact;
        }
        let wild = self.wildcards.iter().filter(|(pattern, _)| pattern.covers(host));
        wild.map(|(_, positions)| at(positions)).find_map(|found| found.first().copied()).into_iter().collect()
    }

    /// Those with a host that overlaps a service's, in order, however specific (Istio's `getConfigsForHost`).
    pub(crate) fn for_bytes(&self, host: &HostPattern) -> Vec<&Arc<Bound>> {
        let exact: Vec<&Vec<usize>> = match host {
            HostPattern::Exact(name) => self.exact.get(name).into_iter().collect(),
            wildcard => self.exact.iter().filter(|(name, _)| wildcard.matches(name)).map(|(_, at)| at).collect(),
        };
        let wild = self.wildcards.iter().filter(|(pattern, _)| pattern.intersect(host).is_some());
        let positions: BTreeSet<usize> =
            exact.into_iter().chain(wild.map(|(_, positions)| positions)).flatten().copied().collect();
        positions.into_iter().filter_map(|position| self.all.get(position)).collect()
    }
}

impl Bound {
    /// Whether it is bound to one of these gateways.
    pub(crate) fn is_bound_to(&self, gateway: &str) -> bool {
        self.gateways.iter().any(|bound| bound == gateway)
    }

    /// Which of the three lists it stands in for a client: private, exported by name, public; `None` = not seen.
    fn bucket(&self, client: &str) -> Option<u8> {
        match &self.visibility {
            Visibility::Public => Some(2),
            Visibility::Namespaces(namespaces) if !namespaces.contains(client) => None,
            Visibility::Namespaces(_) if *self.head.key.namespace == *client => Some(0),
            Visibility::Namespaces(_) => Some(1),
        }
    }
}

impl VirtualServices {
    /// Resolves all documents.
    pub(crate) fn new<'a>(
        documents: impl IntoIterator<Item = &'a Object<VirtualService>>,
        settings: &MeshSettings,
    ) -> Self {
        let sorted = object::by_age(documents);
        let delegates: BTreeMap<_, _> =
            sorted.iter().filter(|d| d.spec.hosts.is_empty()).map(|d| (d.head.key.clone(), *d)).collect();
        let bound = sorted.iter().filter(|d| !d.spec.hosts.is_empty()).map(|d| Arc::new(bind(d, &delegates, settings)));
        Self { bound: bound.collect(), seen: Mutex::default() }
    }

    /// What a client in `namespace` sees of those bound to `gateway`, in the order that decides (istio-semantics 4.1).
    pub(crate) fn seen_by(&self, namespace: &str, gateway: &str) -> Arc<Seen> {
        let key = (Arc::from(namespace), Arc::from(gateway));
        if let Some(seen) = self.seen.lock().get(&key) {
            return Arc::clone(seen);
        }
        let seen = Arc::new(Seen::new(self.select(namespace, gateway)));
        self.seen.lock().insert(key, Arc::clone(&seen));
        seen
    }

    fn select(&self, namespace: &str, gateway: &str) -> Vec<Arc<Bound>> {
        let mut seen: Vec<(u8, &Arc<Bound>)> = self
            .bound
            .iter()
            .filter(|bound| bound.is_bound_to(gateway))
            .filter_map(|bound| bound.bucket(namespace).map(|bucket| (bucket, bound)))
            .collect();
        // Stable: age decides inside a bucket.
        seen.sort_by_key(|(bucket, _)| *bucket);
        seen.into_iter().map(|(_, bound)| Arc::clone(bound)).collect()
    }

    /// All, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Bound>> {
        self.bound.iter()
    }
}

fn bind(
    document: &Object<VirtualService>,
    delegates: &BTreeMap<object::ObjectKey, &Object<VirtualService>>,
    settings: &MeshSettings,
) -> Bound {
    let namespace = &document.head.key.namespace;
    let VirtualService { hosts, gateways, http, tls, tcp, export_to } = &document.spec;
    let gateways = if gateways.is_empty() {
        vec![MESH.to_owned()]
    } else {
        gateways.iter().map(|name| gateway_name(name, namespace)).collect()
    };
    let mut rules = Vec::new();
    for (index, route) in http.iter().enumerate() {
        let route = in_full(route, namespace, settings);
        match route.delegate.clone() {
            None => rules.push(HttpRule { index, delegated: None, delegate: None, route }),
            Some(Delegate { name, namespace: written }) => {
                let delegate_namespace = if written.is_empty() { &**namespace } else { written.as_str() };
                let key = object::ObjectKey::new(delegate_namespace, name.as_str());
                let found = delegates.get(&key).filter(|delegate| {
                    Visibility::parse(
                        &delegate.spec.export_to,
                        &settings.default_virtual_service_export_to,
                        &delegate.head.key.namespace,
                    )
                    .admits(namespace)
                });
                // A missing delegate: the rule is skipped, the others stand (istio-semantics 4.1).
                let Some(delegate) = found else { continue };
                for (delegated, inner) in delegate.spec.http.iter().enumerate() {
                    let inner = in_full(inner, &delegate.head.key.namespace, settings);
                    if let Some(route) = delegates::merge(&route, &inner) {
                        rules.push(HttpRule {
                            index,
                            delegated: Some(delegated),
                            delegate: Some(delegate.head.origin()),
                            route,
                        });
                    }
                }
            }
        }
    }
    Bound {
        head: document.head.clone(),
        hosts: hosts
            .iter()
            // What is no host pattern was refused by validation and binds nothing.
            .filter_map(|host| hosts::full_name(host, namespace, &settings.cluster_domain).parse().ok())
            .collect(),
        visibility: Visibility::parse(export_to, &settings.default_virtual_service_export_to, namespace),
        gateways,
        http: rules,
        tls: tls.iter().map(|route| tls_in_full(route, namespace, settings)).collect(),
        tcp: tcp.iter().map(|route| tcp_in_full(route, namespace, settings)).collect(),
    }
}

fn gateway_name(name: &str, namespace: &str) -> String {
    if name == MESH {
        return MESH.to_owned();
    }
    match name.split_once('/') {
        Some((".", name)) => format!("{namespace}/{name}"),
        Some(_) => name.to_owned(),
        // The older form `NAME.NAMESPACE.svc.DOMAIN` names the Gateway of that namespace.
        None => match name.split('.').collect::<Vec<_>>().as_slice() {
            [name] => format!("{namespace}/{name}"),
            [name, namespace, ..] => format!("{namespace}/{name}"),
            [] => String::new(),
        },
    }
}

fn in_full(route: &HttpRoute, namespace: &str, settings: &MeshSettings) -> HttpRoute {
    let mut route = route.clone();
    let domain = &settings.cluster_domain;
    for destination in &mut route.route {
        destination.destination.host = hosts::full_name(&destination.destination.host, namespace, domain);
    }
    if let Some(mirror) = &mut route.mirror {
        mirror.host = hosts::full_name(&mirror.host, namespace, domain);
    }
    for mirror in &mut route.mirrors {
        mirror.destination.host = hosts::full_name(&mirror.destination.host, namespace, domain);
    }
    for alternative in &mut route.r#match {
        for gateway in &mut alternative.gateways {
            *gateway = gateway_name(gateway, namespace);
        }
    }
    route
}

fn tls_in_full(route: &TlsRoute, namespace: &str, settings: &MeshSettings) -> TlsRoute {
    let mut route = route.clone();
    for destination in &mut route.route {
        destination.destination.host =
            hosts::full_name(&destination.destination.host, namespace, &settings.cluster_domain);
    }
    for gateway in route.r#match.iter_mut().flat_map(|alternative| &mut alternative.gateways) {
        *gateway = gateway_name(gateway, namespace);
    }
    route
}

fn tcp_in_full(route: &TcpRoute, namespace: &str, settings: &MeshSettings) -> TcpRoute {
    let mut route = route.clone();
    for destination in &mut route.route {
        destination.destination.host =
            hosts::full_name(&destination.destination.host, namespace, &settings.cluster_domain);
    }
    for gateway in route.r#match.iter_mut().flat_map(|alternative| &mut alternative.gateways) {
        *gateway = gateway_name(gateway, namespace);
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_named_in_the_namespace_of_the_rule() {
        for (written, full) in [
            ("mesh", "mesh"),
            ("gw", "ns/gw"),
            ("./gw", "ns/gw"),
            ("other/gw", "other/gw"),
            ("gw.other.svc.cluster.local", "other/gw"),
        ] {
            assert_eq!(gateway_name(written, "ns"), full);
        }
    }
}
