//! The compiled mesh of an evaluation, and the proxies that have been asked so far.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use palisade_compile::{Inputs, Mesh, Object, ObjectKey, ProxyRef, compile, inputs::core, scope};
use palisade_model::{service::Query, settings::ProxyKind};
use palisade_proxy::{index::RuntimeIndex, request::connection::Entry, runtime::edge::terminates};

use super::case::{KindCase, ProxyCase};

/// A mesh whose proxies are built when they are first asked.
#[derive(Debug)]
pub(crate) struct World {
    mesh: Mesh,
    namespace: String,
    proxies: BTreeMap<ProxyCase, Asked>,
    /// Servers whose certificates have been tried.
    tried: BTreeSet<(ProxyCase, Arc<str>, usize)>,
}

/// A proxy that has been asked.
#[derive(Debug)]
struct Asked {
    proxy: ProxyRef,
    queries: BTreeSet<Query>,
    index: Arc<RuntimeIndex>,
}

impl World {
    /// Compiles the documents. Proxies without a namespace are looked for in `namespace`.
    pub(crate) fn new(inputs: &Arc<Inputs>, namespace: &str) -> Self {
        Self {
            mesh: compile(inputs).mesh,
            namespace: namespace.to_owned(),
            proxies: BTreeMap::new(),
            tried: BTreeSet::new(),
        }
    }

    /// The index of a proxy.
    ///
    /// # Errors
    /// When the proxy is not one, or its slice cannot be served.
    pub(super) fn index(&mut self, case: &ProxyCase) -> Result<Arc<RuntimeIndex>, String> {
        if let Some(asked) = self.proxies.get(case) {
            return Ok(Arc::clone(&asked.index));
        }
        let proxy = proxy_ref(case, &self.namespace, self.mesh.inputs())?;
        if let Some(doubt) = doubt(case.kind, &proxy, self.mesh.inputs()) {
            eprintln!("warning: {doubt}");
        }
        let queries = BTreeSet::new();
        let index = build(&self.mesh, &proxy, &queries, None)?;
        self.proxies.insert(case.clone(), Asked { proxy, queries, index: Arc::clone(&index) });
        Ok(index)
    }

    /// The mesh.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The index of a proxy by its reference, without what it might ask for.
    ///
    /// # Errors
    /// When its slice cannot be served.
    pub(crate) fn index_of(&self, proxy: &ProxyRef) -> Result<Arc<RuntimeIndex>, String> {
        build(&self.mesh, proxy, &BTreeSet::new(), None)
    }

    /// The index of a proxy that has asked one more query; `None` when it had asked that before.
    ///
    /// # Errors
    /// As [`World::index`].
    pub(super) fn ask(&mut self, case: &ProxyCase, query: Query) -> Result<Option<Arc<RuntimeIndex>>, String> {
        let Some(asked) = self.proxies.get_mut(case) else { return Ok(None) };
        if !asked.queries.insert(query) {
            return Ok(None);
        }
        asked.index = build(&self.mesh, &asked.proxy, &asked.queries, Some(&asked.index))?;
        Ok(Some(Arc::clone(&asked.index)))
    }

    /// Says once of each server when its certificates cannot be used: documents to be judged often have none that can, and a
    /// running gateway fails the handshake.
    pub(super) fn try_certificates(&mut self, case: &ProxyCase, index: &RuntimeIndex, entry: &Entry) {
        let Entry::Gateway(listener, position) = entry else { return };
        let Some(chain) = listener.chains.get(*position) else { return };
        let server = (case.clone(), Arc::clone(&listener.key), *position);
        if chain.tls.is_none() || !self.tried.insert(server) {
            return;
        }
        if let Err(problem) = terminates(index, chain) {
            eprintln!("warning: a running gateway fails the handshakes of server `{}`: {problem}", chain.name);
        }
    }

    /// The first virtual address of the service that a name means to a client in `namespace`.
    pub(super) fn address_of(&self, name: &str, namespace: &str) -> Option<IpAddr> {
        let inputs = self.mesh.inputs();
        let host = name.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let mut labels = host.split('.');
        let (service, of) = (labels.next()?, labels.next());
        let rest: Vec<&str> = labels.collect();
        let domain: Vec<&str> = inputs.settings.cluster_domain.split('.').collect();
        let is_cluster_name = match rest.split_first() {
            None => true,
            Some((&"svc", tail)) => tail.is_empty() || tail == domain,
            Some(_) => false,
        };
        let key = ObjectKey::new(of.unwrap_or(namespace), service);
        let service = inputs.services.get(&key).filter(|_| is_cluster_name);
        let own = service.and_then(|service| service.spec.addresses.first().copied());
        own.or_else(|| self.mesh.address_of(host, namespace))
    }
}

fn build(
    mesh: &Mesh,
    proxy: &ProxyRef,
    queries: &BTreeSet<Query>,
    previous: Option<&RuntimeIndex>,
) -> Result<Arc<RuntimeIndex>, String> {
    let snapshot = scope(mesh, proxy, queries).map_err(|error| error.to_string())?;
    RuntimeIndex::build(Arc::new(snapshot), previous).map(Arc::new).map_err(|error| error.to_string())
}

/// What a reader of the verdict should know of a proxy that the documents do not: a typing error looks the same.
fn doubt(written: Option<KindCase>, proxy: &ProxyRef, inputs: &Inputs) -> Option<String> {
    let ProxyRef { kind, namespace, name, labels, ips, gateway, .. } = proxy;
    let name = name.as_ref()?;
    let key = ObjectKey::new(Arc::clone(namespace), Arc::clone(name));
    if written.is_none()
        && *kind == ProxyKind::Sidecar
        && let Some(labels) = labels
        && let Some(selecting) = selecting_gateway(inputs, &key, labels)
    {
        return Some(format!(
            "proxy {key} counts as a sidecar, and its labels are those that Gateway `{selecting}` selects: a gateway needs `\"kind\": \"gateway\"`"
        ));
    }
    let is_described = labels.is_some() || ips.is_some() || gateway.is_some();
    let is_known = inputs.pods.contains_key(&key)
        || (*kind == ProxyKind::Gateway && inputs.pods.values().any(|pod| serves(pod, &key)));
    if is_described || is_known {
        return None;
    }
    let near: Vec<String> = inputs.pods_in(namespace).take(5).map(|pod| pod.head.key.to_string()).collect();
    let near = if near.is_empty() { String::new() } else { format!("; that namespace has {}", near.join(", ")) };
    Some(format!(
        "no document makes a pod `{key}`{near}; it is judged as a pod without labels and addresses, which no workload's policy selects"
    ))
}

fn serves(pod: &Object<core::Pod>, gateway: &ObjectKey) -> bool {
    pod.spec.gateway.as_ref().is_some_and(|(_, served)| served == gateway)
}

/// An Istio Gateway that selects exactly such labels, where no pod of the documents says what the proxy is.
fn selecting_gateway(inputs: &Inputs, key: &ObjectKey, labels: &BTreeMap<String, String>) -> Option<ObjectKey> {
    if inputs.pods.contains_key(key) {
        return None;
    }
    let selects = |selector: &BTreeMap<String, String>| {
        !selector.is_empty() && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
    };
    inputs.gateways.values().find(|gateway| selects(&gateway.spec.selector)).map(|gateway| gateway.head.key.clone())
}

fn proxy_ref(case: &ProxyCase, default_namespace: &str, inputs: &Inputs) -> Result<ProxyRef, String> {
    let ProxyCase { kind, namespace, name, labels, service_account, ip, ips, gateway, locality, node, network } = case;
    let namespace = namespace.clone().unwrap_or_else(|| default_namespace.to_owned());
    let gateway = match gateway.as_deref() {
        None => None,
        Some(text) => match text.split_once('/') {
            Some((_, "") | ("", _)) => return Err(format!("proxy.gateway: `{text}` is not NAMESPACE/NAME")),
            Some((namespace, name)) => Some(ObjectKey::new(namespace, name)),
            None => Some(ObjectKey::new(namespace.as_str(), text)),
        },
    };
    let is_gateway_pod = || {
        let key = ObjectKey::new(namespace.as_str(), name.as_deref()?);
        inputs.pods.get(&key)?.spec.gateway.as_ref()
    };
    let kind = match (kind, &gateway) {
        (Some(KindCase::Gateway), _) | (None, Some(_)) => ProxyKind::Gateway,
        // What the pod of that name is.
        (None, None) if is_gateway_pod().is_some() => ProxyKind::Gateway,
        (Some(KindCase::Sidecar), _) | (None, None) => ProxyKind::Sidecar,
    };
    let ips = match (ips, ip) {
        (Some(ips), _) => Some(ips.clone()),
        (None, ip) => ip.map(|ip| vec![ip]),
    };
    let mut proxy = ProxyRef::new(kind, namespace, name.as_deref().map(Arc::from));
    proxy.labels.clone_from(labels);
    proxy.service_account.clone_from(service_account);
    proxy.ips = ips;
    proxy.gateway = gateway;
    proxy.locality.clone_from(locality);
    proxy.node.clone_from(node);
    proxy.network.clone_from(network);
    Ok(proxy)
}
