//! Who answers behind each service port, and which services each address belongs to.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use palisade_model::{
    endpoint::{Address, Endpoint, EndpointHealth, Endpoints, PeerProxy},
    identity::SpiffeId,
    listener::MtlsMode,
    settings::WorkloadRef,
};

use crate::{
    inputs::{
        Inputs,
        core::{EndpointSlice, PodObject, SliceEndpoint, TargetPort},
    },
    object::{self, Object, ObjectKey},
    resolve::{
        locality::{self, Locality},
        peers::Peers,
        services::{Registered, RegisteredPort, Registry, Services},
    },
    settings::MeshSettings,
};

pub(super) mod entries;
mod looks;
mod reuse;

use entries::{Entries, EntryEndpoint};
use reuse::Reuse;

/// A service port that leads to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The service.
    pub(crate) host: Arc<str>,
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its port.
    pub(crate) port: u16,
    /// The port at the address.
    pub(crate) at: u16,
}

/// Namespace and host of a service.
pub(crate) type HostKey = (Arc<str>, Arc<str>);

/// Pods and endpoints, indexed.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    /// By namespace and host, then port.
    endpoints: BTreeMap<HostKey, BTreeMap<u16, Arc<Endpoints>>>,
    /// The same of UDP ports.
    datagrams: BTreeMap<HostKey, BTreeMap<u16, Arc<Endpoints>>>,
    /// Names of workloads that are no identities: no certificate can prove them. By service port.
    unprovable: BTreeMap<HostKey, BTreeMap<u16, BTreeSet<String>>>,
    headless: BTreeMap<Arc<str>, Vec<(String, IpAddr)>>,
    /// Where each service's ports lead.
    behind: BTreeMap<HostKey, Arc<[(IpAddr, Target)]>>,
    /// The same by address.
    targets: Arc<BTreeMap<IpAddr, Vec<Target>>>,
    pod_at: Arc<BTreeMap<IpAddr, ObjectKey>>,
}

/// What a workload would be called if its service account were a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unprovable(String);

/// The identities of the workloads behind a service port.
#[derive(Debug, Default)]
struct Identities {
    proven: BTreeSet<SpiffeId>,
    unprovable: BTreeSet<String>,
}

impl Extend<Result<SpiffeId, Unprovable>> for Identities {
    fn extend<T: IntoIterator<Item = Result<SpiffeId, Unprovable>>>(&mut self, found: T) {
        for identity in found {
            match identity {
                Ok(identity) => self.proven.insert(identity),
                Err(Unprovable(text)) => self.unprovable.insert(text),
            };
        }
    }
}

/// One endpoint before it becomes the model's.
struct Candidate<'a> {
    address: SocketAddr,
    health: Option<EndpointHealth>,
    pod: Option<&'a PodObject>,
    zone: Option<&'a str>,
}

impl Workloads {
    /// Indexes all pods and the endpoints of all services. Of `before`, made from the inputs beside it, what still holds is
    /// taken over: the result is the same without it.
    pub(crate) fn after(
        before: Option<(&Self, &Inputs)>,
        inputs: &Inputs,
        services: &Services,
        peers: &Peers,
        settings: &MeshSettings,
    ) -> Self {
        let reuse = before.and_then(|(workloads, seen)| Reuse::new(workloads, seen, inputs));
        let mut workloads = Self {
            pod_at: match &reuse {
                Some(reuse) if reuse.addresses_hold() => Arc::clone(&reuse.before.pod_at),
                Some(_) | None => Arc::new(pods_by_address(inputs)),
            },
            ..Self::default()
        };
        let slices = slices_by_service(inputs);
        let labelled = OnceCell::new();
        let labelled = || labelled.get_or_init(|| Labelled::new(inputs));
        let entries = OnceCell::new();
        let mut hosts: Vec<&Registered> = services.iter().collect();
        hosts.sort_by(|a, b| {
            (a.created, &a.key.name, &a.key.namespace, &a.host).cmp(&(
                b.created,
                &b.key.name,
                &b.key.namespace,
                &b.host,
            ))
        });
        let mut is_moved = false;
        for service in &hosts {
            let key = host_key(service);
            let slices = slices.get(&service.key).map(Vec::as_slice).unwrap_or_default();
            if let Some(reuse) = reuse.as_ref().filter(|reuse| reuse.holds(service, slices)) {
                workloads.take_over(reuse.before, service, key);
                continue;
            }
            let mut behind = Vec::new();
            for port in &service.ports {
                if service.registry == Registry::Entries {
                    let entries = entries.get_or_init(|| Entries::new(inputs));
                    let found = entries.of(service, port, labelled(), settings);
                    workloads.add_entries(service, port, found, peers, &mut behind);
                    continue;
                }
                let candidates = if slices.is_empty() {
                    from_pods(labelled(), service, port)
                } else {
                    workloads.candidates_of(inputs, service, port, slices)
                };
                workloads.add(service, port, &candidates, peers, settings, &mut behind);
            }
            for port in &service.datagram_ports {
                let candidates = if slices.is_empty() {
                    from_pods(labelled(), service, port)
                } else {
                    workloads.candidates_of(inputs, service, port, slices)
                };
                let endpoints = Arc::new(datagram_endpoints(service, port, &candidates));
                workloads.datagrams.entry(key.clone()).or_default().insert(port.number, endpoints);
            }
            if service.is_headless && service.registry != Registry::Entries {
                let names = pod_names(inputs, service, slices);
                workloads.headless.insert(Arc::clone(&service.host), names);
            }
            is_moved |=
                reuse.as_ref().is_none_or(|reuse| reuse.before.behind.get(&key).is_none_or(|old| **old != *behind));
            workloads.behind.insert(key, behind.into());
        }
        workloads.targets = match &reuse {
            Some(reuse) if !is_moved => Arc::clone(&reuse.before.targets),
            Some(_) | None => Arc::new(workloads.targets_by_address(&hosts)),
        };
        workloads
    }

    /// Takes over what an earlier mesh knew of a service.
    fn take_over(&mut self, before: &Self, service: &Registered, key: HostKey) {
        if let Some(ports) = before.endpoints.get(&key) {
            self.endpoints.insert(key.clone(), ports.clone());
        }
        if let Some(ports) = before.datagrams.get(&key) {
            self.datagrams.insert(key.clone(), ports.clone());
        }
        if let Some(ports) = before.unprovable.get(&key) {
            self.unprovable.insert(key.clone(), ports.clone());
        }
        if let Some(names) = before.headless.get(&service.host) {
            self.headless.insert(Arc::clone(&service.host), names.clone());
        }
        if let Some(behind) = before.behind.get(&key) {
            self.behind.insert(key, Arc::clone(behind));
        }
    }

    /// Where ports of services lead, by address; those of the oldest service first.
    fn targets_by_address(&self, hosts: &[&Registered]) -> BTreeMap<IpAddr, Vec<Target>> {
        let mut targets: BTreeMap<IpAddr, Vec<Target>> = BTreeMap::new();
        for (ip, target) in
            hosts.iter().filter_map(|service| self.behind.get(&host_key(service))).flat_map(|b| b.iter())
        {
            let at = targets.entry(*ip).or_default();
            if !at.contains(target) {
                at.push(target.clone());
            }
        }
        targets
    }

    fn add(
        &mut self,
        service: &Registered,
        port: &RegisteredPort,
        candidates: &[Candidate<'_>],
        peers: &Peers,
        settings: &MeshSettings,
        behind: &mut Vec<(IpAddr, Target)>,
    ) {
        let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        let mut identities = Identities::default();
        for candidate in candidates {
            behind.push((candidate.address.ip(), target_of(service, port, candidate.address)));
            let Some(health) = candidate.health else { continue };
            identities.extend(candidate.pod.map(|pod| identity_of(pod, settings)));
            endpoints.entry(candidate.address).or_insert_with(|| endpoint(candidate, health));
        }
        self.set(service, port, endpoints.into_values().collect(), identities, peers);
    }

    fn add_entries(
        &mut self,
        service: &Registered,
        port: &RegisteredPort,
        found: Vec<EntryEndpoint>,
        peers: &Peers,
        behind: &mut Vec<(IpAddr, Target)>,
    ) {
        let mut endpoints: BTreeMap<Address, Endpoint> = BTreeMap::new();
        let mut identities = Identities::default();
        for EntryEndpoint { endpoint, identity } in found {
            if let Address::Socket(address) = endpoint.address {
                behind.push((address.ip(), target_of(service, port, address)));
            }
            identities.extend(identity);
            endpoints.entry(endpoint.address.clone()).or_insert(endpoint);
        }
        self.set(service, port, endpoints.into_values().collect(), identities, peers);
    }

    fn set(
        &mut self,
        service: &Registered,
        port: &RegisteredPort,
        mut endpoints: Vec<Endpoint>,
        identities: Identities,
        peers: &Peers,
    ) {
        for endpoint in &mut endpoints {
            let Address::Socket(address) = &endpoint.address else { continue };
            let namespace = endpoint.workload.as_ref().map_or(&service.key.namespace, |workload| &workload.namespace);
            let label = |name: &str| endpoint.labels.get(name).map(|value| &**value);
            // As Istio: clients of a port that takes no mesh TLS offer none.
            if peers.mode_at(namespace, label, address.port()) == MtlsMode::Disable {
                endpoint.peer = PeerProxy::None;
            }
        }
        let Identities { proven, unprovable } = identities;
        let endpoints = endpoints.into();
        let resource = Endpoints { key: endpoints_key(&service.host, port.number), endpoints, identities: proven };
        let key = host_key(service);
        if !unprovable.is_empty() {
            self.unprovable.entry(key.clone()).or_default().insert(port.number, unprovable);
        }
        self.endpoints.entry(key).or_default().insert(port.number, Arc::new(resource));
    }

    fn candidates_of<'a>(
        &self,
        inputs: &'a Inputs,
        service: &Registered,
        port: &RegisteredPort,
        slices: &[&'a Object<EndpointSlice>],
    ) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::new();
        for slice in slices {
            let Some(at) = slice.spec.ports.iter().find(|p| p.name == port.name).map(|p| p.port) else { continue };
            for endpoint in &slice.spec.endpoints {
                for ip in &endpoint.addresses {
                    let named =
                        endpoint.pod.as_deref().map(|name| ObjectKey::new(Arc::clone(&service.key.namespace), name));
                    let pod = named
                        .as_ref()
                        .and_then(|key| inputs.pods.get(key))
                        .or_else(|| self.pod_at.get(ip).and_then(|key| inputs.pods.get(key)));
                    candidates.push(Candidate {
                        address: SocketAddr::new(*ip, at),
                        health: slice_health(endpoint),
                        pod,
                        zone: endpoint.zone.as_deref(),
                    });
                }
            }
        }
        candidates
    }
}

pub(crate) fn host_key(service: &Registered) -> HostKey {
    (Arc::clone(&service.key.namespace), Arc::clone(&service.host))
}

fn target_of(service: &Registered, port: &RegisteredPort, address: SocketAddr) -> Target {
    Target {
        host: Arc::clone(&service.host),
        namespace: Arc::clone(&service.key.namespace),
        port: port.number,
        at: address.port(),
    }
}

/// Pods by address. Pods on the node's network share its address: it names none of them.
fn pods_by_address(inputs: &Inputs) -> BTreeMap<IpAddr, ObjectKey> {
    let mut pod_at = BTreeMap::new();
    for (key, pod) in &inputs.pods {
        for ip in reuse::own_addresses(pod) {
            pod_at.entry(*ip).or_insert_with(|| key.clone());
        }
    }
    pod_at
}

/// The endpoints of a UDP port: nobody secures datagrams, whatever stands beside the pods.
fn datagram_endpoints(service: &Registered, port: &RegisteredPort, candidates: &[Candidate<'_>]) -> Endpoints {
    let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for candidate in candidates {
        let Some(health) = candidate.health else { continue };
        let plain = || Endpoint { peer: PeerProxy::None, ..endpoint(candidate, health) };
        endpoints.entry(candidate.address).or_insert_with(plain);
    }
    Endpoints {
        key: format!("{}|{}/udp", service.host, port.number).into(),
        endpoints: endpoints.into_values().collect(),
        identities: BTreeSet::new(),
    }
}

/// The name of the endpoints resource of a service port.
pub(crate) fn endpoints_key(host: &str, port: u16) -> Arc<str> {
    format!("{host}|{port}").into()
}

/// The identity of a pod's certificate.
///
/// # Errors
/// Its service account is no name.
fn identity_of(pod: &PodObject, settings: &MeshSettings) -> Result<SpiffeId, Unprovable> {
    identity(settings, &pod.head.key.namespace, &pod.spec.service_account)
}

/// The identity of a service account.
///
/// # Errors
/// It is no name.
fn identity(settings: &MeshSettings, namespace: &str, account: &str) -> Result<SpiffeId, Unprovable> {
    let domain = &settings.trust_domain;
    SpiffeId::new(domain.clone(), namespace, account)
        .map_err(|_| Unprovable(format!("spiffe://{domain}/ns/{namespace}/sa/{account}")))
}

fn slices_by_service(inputs: &Inputs) -> BTreeMap<ObjectKey, Vec<&Object<EndpointSlice>>> {
    let mut by_service: BTreeMap<ObjectKey, Vec<&Object<EndpointSlice>>> = BTreeMap::new();
    for slice in inputs.endpoint_slices.values() {
        let key = ObjectKey::new(Arc::clone(&slice.head.key.namespace), slice.spec.service.as_str());
        by_service.entry(key).or_default().push(slice);
    }
    by_service
}

/// Pods by namespace and label, so that a selector need not look at all of them.
struct Labelled<'a>(BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a PodObject>>);

impl<'a> Labelled<'a> {
    fn new(inputs: &'a Inputs) -> Self {
        let mut labelled: BTreeMap<(&str, &str, &str), Vec<&PodObject>> = BTreeMap::new();
        for pod in inputs.pods.values().filter(|pod| !pod.spec.is_gone) {
            for (key, value) in &pod.head.labels {
                labelled.entry((&pod.head.key.namespace, key, value)).or_default().push(pod);
            }
        }
        Self(labelled)
    }

    /// Pods of a namespace with all these labels; none for an empty selector.
    fn selected(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a PodObject> {
        let by_label = selector.iter().map(|(key, value)| self.0.get(&(namespace, key.as_str(), value.as_str())));
        let fewest = by_label.map(|pods| pods.map(Vec::as_slice).unwrap_or_default()).min_by_key(|pods| pods.len());
        let candidates = fewest.unwrap_or_default().iter().copied();
        candidates.filter(|pod| object::selects(selector, &pod.head.labels)).collect()
    }
}

/// Endpoints as Kubernetes would publish them for a selector.
fn from_pods<'a>(pods: &Labelled<'a>, service: &Registered, port: &RegisteredPort) -> Vec<Candidate<'a>> {
    pods.selected(&service.key.namespace, &service.selector)
        .into_iter()
        .flat_map(|pod| {
            let at = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => pod.spec.named_port(name),
            };
            let is_ready = pod.spec.is_ready || service.publish_not_ready;
            let health = if is_ready { EndpointHealth::Healthy } else { EndpointHealth::Unhealthy };
            let ips = at.map(|at| (pod.spec.ips.as_slice(), at));
            ips.into_iter().flat_map(move |(ips, at)| {
                ips.iter().map(move |ip| Candidate {
                    address: SocketAddr::new(*ip, at),
                    health: Some(health),
                    pod: Some(pod),
                    zone: None,
                })
            })
        })
        .collect()
}

/// Health of a slice's endpoint; `None` = never sent (istio-semantics 13: not ready, and terminating or silent about it).
fn slice_health(endpoint: &SliceEndpoint) -> Option<EndpointHealth> {
    match (endpoint.ready, endpoint.terminating) {
        (None | Some(true), _) => Some(EndpointHealth::Healthy),
        (Some(false), Some(false)) => Some(EndpointHealth::Unhealthy),
        (Some(false), None | Some(true)) => None,
    }
}

fn endpoint(candidate: &Candidate<'_>, health: EndpointHealth) -> Endpoint {
    let pod = candidate.pod;
    let peer = match pod {
        Some(pod) if pod.spec.accepts_mesh_tls && pod.spec.is_palisade => PeerProxy::Palisade,
        Some(pod) if pod.spec.accepts_mesh_tls => PeerProxy::Istio,
        Some(_) | None => PeerProxy::None,
    };
    let known = pod.map(|pod| Locality::parse(&pod.spec.locality)).filter(|locality| !locality.is_unknown());
    let locality = known
        .or_else(|| candidate.zone.map(|zone| Locality { zone: zone.to_owned(), ..Locality::default() }))
        .unwrap_or_default();
    Endpoint {
        address: Address::Socket(candidate.address),
        weight: 1,
        priority: 0,
        health,
        labels: pod.map(|pod| locality::augmented(&pod.head.labels, &locality, &pod.spec.node, "")).unwrap_or_default(),
        locality: (!locality.is_unknown()).then(|| locality.to_string().into()),
        peer,
        workload: pod.map(|pod| WorkloadRef {
            namespace: Arc::clone(&pod.head.key.namespace),
            name: Arc::clone(&pod.head.key.name),
        }),
    }
}

/// Names that DNS answers for a headless service: the service itself (under the empty name) and each pod with a host name.
fn pod_names(inputs: &Inputs, service: &Registered, slices: &[&Object<EndpointSlice>]) -> Vec<(String, IpAddr)> {
    let mut names = BTreeSet::new();
    if slices.is_empty() {
        for pod in inputs.pods_in(&service.key.namespace) {
            let is_behind = !service.selector.is_empty() && object::selects(&service.selector, &pod.head.labels);
            if !is_behind || pod.spec.is_gone || !(pod.spec.is_ready || service.publish_not_ready) {
                continue;
            }
            for ip in &pod.spec.ips {
                names.insert((String::new(), *ip));
                if let (Some(hostname), Some(subdomain)) = (&pod.spec.hostname, &pod.spec.subdomain)
                    && **subdomain == *service.key.name
                {
                    names.insert((format!("{hostname}.{}", service.host), *ip));
                }
            }
        }
    }
    for endpoint in slices.iter().flat_map(|slice| &slice.spec.endpoints) {
        if slice_health(endpoint) != Some(EndpointHealth::Healthy) {
            continue;
        }
        for ip in &endpoint.addresses {
            names.insert((String::new(), *ip));
            if let Some(hostname) = &endpoint.hostname {
                names.insert((format!("{hostname}.{}", service.host), *ip));
            }
        }
    }
    names.into_iter().collect()
}
