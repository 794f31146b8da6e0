//! The compiled mesh, and each proxy's slice of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use palisade_model::{
    hash::HashError,
    identity::{InvalidSpiffeId, SpiffeId},
    policy::Policy,
    service::Query,
    settings::ProxyKind,
    snapshot::{InvalidSnapshot, Snapshot},
};

use crate::{
    checks::{self, CheckedPolicies},
    inputs::{GATEWAY_NAME_LABEL, GatewayKind, Inputs, core},
    lower::client::Proxy,
    object::{Object, ObjectKey},
    reports::Reports,
    resolve::{Resolved, gateways, locality::Locality},
    settings::Topology,
    slice::scope_after,
};

/// Label of pods by the proxy that runs there.
pub const PROXY_LABEL: &str = "palisade.dev/proxy";

/// What documents mean: resolved, ready to be cut into slices. Cheap to clone and share.
#[derive(Debug, Clone)]
pub struct Mesh {
    resolved: Arc<Resolved>,
    checked: Arc<CheckedPolicies>,
}

/// The result of compiling.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The mesh.
    pub mesh: Mesh,
    /// What there is to say about the documents.
    pub reports: Reports,
}

/// Which proxy a slice is for. What is `None` comes from the pod of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyRef {
    /// Gateway or sidecar.
    pub kind: ProxyKind,
    /// Namespace of its pod.
    pub namespace: Arc<str>,
    /// Name of its pod; `None` = no pod of the documents.
    pub name: Option<Arc<str>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Service account.
    pub service_account: Option<String>,
    /// Addresses.
    pub ips: Option<Vec<IpAddr>>,
    /// The Gateway API Gateway that it serves.
    pub gateway: Option<ObjectKey>,
    /// `REGION/ZONE/SUBZONE`.
    pub locality: Option<String>,
    /// Node.
    pub node: Option<String>,
    /// Network.
    pub network: Option<String>,
}

/// Why there is no slice for a proxy.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// Namespace or service account are no names.
    #[error("proxy {proxy}: {source}")]
    Identity {
        /// The proxy.
        proxy: String,
        /// Why.
        source: InvalidSpiffeId,
    },
    /// The slice is not closed: a defect of the compiler.
    #[error("proxy {proxy}: {source}")]
    Snapshot {
        /// The proxy.
        proxy: String,
        /// Why.
        source: InvalidSnapshot,
    },
    /// A resource could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

impl ProxyRef {
    /// A sidecar by pod.
    pub fn sidecar(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self::new(ProxyKind::Sidecar, namespace, Some(name.into()))
    }

    /// A gateway by pod, or by the name that people give it (`NAMESPACE/NAME` of a Gateway API Gateway).
    pub fn gateway(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self::new(ProxyKind::Gateway, namespace, Some(name.into()))
    }

    /// A proxy without anything of its own.
    pub fn new(kind: ProxyKind, namespace: impl Into<Arc<str>>, name: Option<Arc<str>>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name,
            labels: None,
            service_account: None,
            ips: None,
            gateway: None,
            locality: None,
            node: None,
            network: None,
        }
    }
}

/// Compiles documents. Pure: equal inputs give equal results.
pub fn compile(inputs: &Arc<Inputs>) -> Compiled {
    compile_from(None, Arc::clone(inputs))
}

/// Compiles documents of which most are as they were. The result is that of [`compile`]; what did not change is taken over
/// from `previous`.
pub fn compile_after(previous: &Mesh, mut inputs: Inputs) -> Compiled {
    inputs.adopt(previous.inputs());
    compile_from(Some(previous), Arc::new(inputs))
}

fn compile_from(previous: Option<&Mesh>, inputs: Arc<Inputs>) -> Compiled {
    let mut reports = inputs.reports.clone();
    let resolved = Resolved::after(previous.map(Mesh::resolved), inputs, &mut reports);
    let checked = checks::check(previous.map(|previous| &*previous.checked), &resolved, &mut reports);
    Compiled { mesh: Mesh { resolved: Arc::new(resolved), checked: Arc::new(checked) }, reports }
}

/// One proxy's slice of the mesh. `queries` are the hosts and addresses that it has subscribed to.
///
/// # Errors
/// When the proxy has no identity, or the slice would not be closed.
pub fn scope(mesh: &Mesh, proxy: &ProxyRef, queries: &BTreeSet<Query>) -> Result<Snapshot, ScopeError> {
    scope_after(None, mesh, proxy, queries).map(|slice| Arc::unwrap_or_clone(Arc::clone(slice.snapshot())))
}

impl Mesh {
    /// The address by which a client in `namespace` reaches the service that a host in full means, if it has one; of both
    /// families the IPv4 address.
    pub fn address_of(&self, host: &str, namespace: &str) -> Option<IpAddr> {
        let services = &self.resolved.services;
        let target = services.alias_target(host).unwrap_or_else(|| host.into());
        let wildcard = || services.wildcards_of(&target).find_map(|host| services.visible(host, namespace));
        let addresses = &services.visible(&target, namespace).or_else(wildcard)?.addresses;
        addresses.iter().find(|ip| ip.is_ipv4()).or_else(|| addresses.first()).copied()
    }

    /// What the mesh was compiled from.
    pub fn inputs(&self) -> &Arc<Inputs> {
        &self.resolved.inputs
    }

    /// Whether a pod is a gateway: it says so, or documents lead to it and no sidecar of ours runs there.
    pub fn is_gateway(&self, pod: &Object<core::Pod>) -> bool {
        let labels = &pod.head.labels;
        match labels.get(PROXY_LABEL).map(String::as_str) {
            Some("gateway") => return true,
            // Injection says so, and nobody else.
            Some("sidecar") => return false,
            Some(_) | None => {}
        }
        if pod.spec.gateway.is_some() || labels.contains_key(GATEWAY_NAME_LABEL) {
            return true;
        }
        let namespace = &pod.head.key.namespace;
        let is_selected = || {
            let gateways = gateways::selecting(self.inputs(), namespace, labels);
            // Without a selector a Gateway makes nobody one.
            gateways.into_iter().any(|gateway| !gateway.spec.selector.is_empty())
        };
        !pod.spec.is_injected && (!self.resolved.gateway_api.served().by(namespace, labels).is_empty() || is_selected())
    }

    pub(crate) fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Every authorization policy of every document, in canonical order: what there is, whoever it applies to. Policies that only speak
    /// for a whole document are left out.
    pub fn policies(&self) -> Vec<&Policy> {
        let mut policies: Vec<&Policy> =
            self.resolved.authorization.policies().filter(|policy| policy.rule.is_some()).collect();
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        policies.dedup_by(|a, b| a.id == b.id);
        policies
    }

    /// How many steps of resolving both meshes share, because nothing changed for them.
    pub fn shares_with(&self, other: &Self) -> usize {
        self.resolved.shares_with(&other.resolved)
    }

    /// A proxy with what its pod says about it.
    pub(crate) fn proxy(&self, asked: &ProxyRef) -> Result<Proxy, ScopeError> {
        let ProxyRef { kind, namespace, name, labels, service_account, ips, gateway, locality, node, network } = asked;
        let inputs = &self.resolved.inputs;
        let key = name.as_ref().map(|name| ObjectKey::new(Arc::clone(namespace), Arc::clone(name)));
        let by_gateway = |wanted: &ObjectKey| {
            inputs.pods.values().find(|pod| pod.spec.gateway.as_ref().is_some_and(|(_, key)| key == wanted))
        };
        let pod = key
            .as_ref()
            .and_then(|key| inputs.pods.get(key))
            .or_else(|| gateway.as_ref().and_then(by_gateway))
            .or_else(|| key.as_ref().filter(|_| *kind == ProxyKind::Gateway).and_then(by_gateway));
        let labels = labels.clone().or_else(|| pod.map(|pod| pod.head.labels.clone())).unwrap_or_default();
        let service_account = service_account
            .clone()
            .or_else(|| pod.map(|pod| pod.spec.service_account.clone()))
            .unwrap_or_else(|| "default".to_owned());
        let addresses = ips.clone().or_else(|| pod.map(|pod| pod.spec.ips.clone())).unwrap_or_default();
        let namespace = pod
            .filter(|_| name.is_none())
            .map_or_else(|| Arc::clone(namespace), |pod| Arc::clone(&pod.head.key.namespace));
        let name = pod
            .map(|pod| Arc::clone(&pod.head.key.name))
            .or_else(|| name.clone())
            .or_else(|| gateway.as_ref().map(|gateway| Arc::clone(&gateway.name)))
            .unwrap_or_default();
        let of_pod = pod.and_then(|pod| pod.spec.gateway.as_ref()).and_then(|(kind, key)| match kind {
            GatewayKind::GatewayApi => Some(key.clone()),
            GatewayKind::Istio => None,
        });
        let gateways = match (kind, gateway.clone().or(of_pod)) {
            (ProxyKind::Sidecar, _) => Vec::new(),
            (ProxyKind::Gateway, Some(gateway)) => vec![gateway],
            (ProxyKind::Gateway, None) => self.resolved.gateway_api.served().by(&namespace, &labels),
        };
        let identity = SpiffeId::new(inputs.settings.trust_domain.clone(), &namespace, &service_account)
            .map_err(|source| ScopeError::Identity { proxy: format!("{namespace}/{name}"), source })?;
        let node = node.clone().or_else(|| pod.map(|pod| pod.spec.node.clone())).unwrap_or_default();
        let locality = match (locality, pod) {
            (Some(written), _) => Locality::parse(written),
            (None, Some(pod)) => Locality::parse(&pod.spec.locality),
            (None, None) => Locality::default(),
        };
        let network = network.clone().unwrap_or_default();
        let topology = pod.and_then(|pod| Topology::of_pod(&pod.head.annotations));
        Ok(Proxy {
            kind: *kind,
            namespace,
            name,
            labels,
            identity,
            addresses,
            gateways,
            topology,
            locality,
            node,
            network,
        })
    }
}
