//! The registry: every service that may be named or dialled, with who sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use palisade_model::{host::HostPattern, listener::Protocol, origin::Origin};

use crate::{
    hosts::{self, Visibility},
    inputs::{
        Inputs,
        core::{ServicePort, TargetPort},
    },
    object::{self, ObjectKey},
    resolve::{locality::TrafficDistribution, protocol, service_entries},
    settings::MeshSettings,
};

/// A service of the registry: a Kubernetes Service, or one host of the ServiceEntries of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Fully qualified host name; of a ServiceEntry perhaps a wildcard.
    pub(crate) host: Arc<str>,
    /// The host as a pattern.
    pub(crate) pattern: HostPattern,
    /// Which registry has it.
    pub(crate) registry: Registry,
    /// How its endpoints are found.
    pub(crate) resolution: Resolution,
    /// Outside the mesh: no mesh TLS of our own accord.
    pub(crate) is_external: bool,
    /// No document gives it an address: TLS is told apart by server name, other bytes by port alone.
    pub(crate) is_unaddressed: bool,
    /// Names of which the server's certificate must carry one, where no DestinationRule names any.
    pub(crate) subject_alt_names: Vec<String>,
    /// Unix seconds, for age.
    pub(crate) created: i64,
    /// Namespace and name of the object.
    pub(crate) key: ObjectKey,
    /// Provenance.
    pub(crate) origin: Origin,
    /// Who may name it.
    pub(crate) visibility: Visibility,
    /// Virtual addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Virtual networks (CIDR addresses of a ServiceEntry).
    pub(crate) networks: Vec<IpNet>,
    /// No virtual address: names resolve to the endpoints.
    pub(crate) is_headless: bool,
    /// Ports, by number.
    pub(crate) ports: Vec<RegisteredPort>,
    /// UDP ports, which only UDPRoutes lead to: they are none of the mesh's.
    pub(crate) datagram_ports: Vec<RegisteredPort>,
    /// Pods behind it.
    pub(crate) selector: BTreeMap<String, String>,
    /// Not ready pods count as ready.
    pub(crate) publish_not_ready: bool,
    /// Only endpoints on the client's node take its calls.
    pub(crate) is_node_local: bool,
    /// Endpoints near the client are preferred; `None` = as the mesh says.
    pub(crate) traffic_distribution: Option<TrafficDistribution>,
    /// Hosts of ExternalName services that lead here, with their namespaces.
    pub(crate) aliases: Vec<(Arc<str>, Arc<str>)>,
}

/// Where a service comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// ServiceEntries.
    Entries,
}

/// How a service's endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// They are listed.
    Listed,
    /// The address that the client dialled.
    OriginalDestination,
    /// All addresses of names.
    Dns,
    /// One address of a name at a time.
    DnsRoundRobin,
    /// The name that the request names.
    DynamicDns,
}

/// A port of a registered service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegisteredPort {
    /// Service port.
    pub(crate) number: u16,
    /// Port name.
    pub(crate) name: String,
    /// Where it leads at the pod.
    pub(crate) target: TargetPort,
    /// The target is written, not the port itself for want of one.
    pub(crate) is_target_written: bool,
    /// What it carries.
    pub(crate) protocol: Protocol,
}

/// All services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    all: Vec<Registered>,
    /// Positions of the services of a host, those of Kubernetes first, then by age.
    by_host: BTreeMap<Arc<str>, Vec<usize>>,
    by_namespace: BTreeMap<Arc<str>, Vec<usize>>,
    by_address: BTreeMap<IpAddr, Vec<usize>>,
    by_network: BTreeMap<IpNet, Vec<usize>>,
    /// Wildcard hosts of services, most specific first.
    wildcards: BTreeMap<HostPattern, Arc<str>>,
    aliases: BTreeMap<Arc<str>, Arc<str>>,
}

impl Registered {
    /// The port of this number.
    pub(crate) fn port(&self, number: u16) -> Option<&RegisteredPort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The UDP port of this number.
    pub(crate) fn datagram_port(&self, number: u16) -> Option<&RegisteredPort> {
        self.datagram_ports.iter().find(|port| port.number == number)
    }
}

impl RegisteredPort {
    /// Whether HTTP rules apply.
    pub(crate) fn may_be_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Http2 | Protocol::Auto)
    }
}

fn registered_port(port: &ServicePort, protocol: Protocol) -> RegisteredPort {
    RegisteredPort {
        number: port.port,
        name: port.name.clone(),
        target: port.target.clone(),
        is_target_written: true,
        protocol,
    }
}

impl Services {
    /// The registry of all Services and ServiceEntries.
    pub(crate) fn new(inputs: &Inputs, settings: &MeshSettings) -> Self {
        let mut services = Self::default();
        let mut aliases: BTreeMap<Arc<str>, (String, Arc<str>)> = BTreeMap::new();
        for service in object::by_age(inputs.services.values()) {
            let key = &service.head.key;
            let host = hosts::service_host(&key.name, &key.namespace, &settings.cluster_domain);
            if let Some(target) = &service.spec.external_name {
                let target = target.trim_end_matches('.').to_ascii_lowercase();
                aliases.insert(host, (target, Arc::clone(&key.namespace)));
                continue;
            }
            let export_to: Vec<&str> = service
                .head
                .annotations
                .get("networking.istio.io/exportTo")
                .map(|list| list.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
                .unwrap_or_default();
            services.insert(Registered {
                host: Arc::clone(&host),
                pattern: HostPattern::Exact(host),
                registry: Registry::Kubernetes,
                resolution: Resolution::Listed,
                is_external: false,
                is_unaddressed: false,
                subject_alt_names: Vec::new(),
                created: service.head.created,
                key: key.clone(),
                origin: service.head.origin(),
                visibility: Visibility::parse(&export_to, &settings.default_service_export_to, &key.namespace),
                addresses: service.spec.addresses.clone(),
                networks: Vec::new(),
                is_headless: service.spec.is_headless,
                // UDP and SCTP ports are not the mesh's: they are none of its ports.
                ports: service
                    .spec
                    .ports
                    .iter()
                    .filter_map(|port| protocol::of_port(port).map(|protocol| registered_port(port, protocol)))
                    .collect(),
                datagram_ports: service
                    .spec
                    .ports
                    .iter()
                    .filter(|port| port.is_udp())
                    .map(|port| registered_port(port, Protocol::Tcp))
                    .collect(),
                selector: service.spec.selector.clone(),
                publish_not_ready: service.spec.publish_not_ready,
                is_node_local: service.spec.is_local_only,
                traffic_distribution: TrafficDistribution::parse(&service.spec.traffic_distribution),
                aliases: Vec::new(),
            });
        }
        for entry in service_entries::registered(inputs, settings) {
            services.insert(entry);
        }
        services.bind_aliases(&aliases);
        services
    }

    /// Adds a service; callers come with those of Kubernetes first, and the oldest first.
    fn insert(&mut self, service: Registered) {
        let position = self.all.len();
        for address in &service.addresses {
            self.by_address.entry(*address).or_default().push(position);
        }
        for network in &service.networks {
            self.by_network.entry(*network).or_default().push(position);
        }
        if service.pattern.is_wildcard() {
            self.wildcards.insert(service.pattern.clone(), Arc::clone(&service.host));
        }
        self.by_namespace.entry(Arc::clone(&service.key.namespace)).or_default().push(position);
        self.by_host.entry(Arc::clone(&service.host)).or_default().push(position);
        self.all.push(service);
    }

    /// ExternalName services lead to the service at the end of their chain; a loop leads nowhere.
    fn bind_aliases(&mut self, aliases: &BTreeMap<Arc<str>, (String, Arc<str>)>) {
        for (alias, (target, namespace)) in aliases {
            let mut seen = BTreeSet::from([&**alias]);
            let mut at = target.as_str();
            while let Some((next, _)) = aliases.get(at) {
                if !seen.insert(at) {
                    break;
                }
                at = next;
            }
            let first = self.by_host.get(at).and_then(|positions| positions.first());
            if let Some(service) = first.and_then(|position| self.all.get_mut(*position)) {
                service.aliases.push((Arc::clone(alias), Arc::clone(namespace)));
                self.aliases.insert(Arc::clone(alias), Arc::clone(&service.host));
            }
        }
    }

    /// The host of the service that an ExternalName service leads to.
    pub(crate) fn alias_target(&self, host: &str) -> Option<Arc<str>> {
        self.aliases.get(host).cloned()
    }

    fn at(&self, positions: Option<&Vec<usize>>) -> impl Iterator<Item = &Registered> {
        positions.map(Vec::as_slice).unwrap_or_default().iter().filter_map(|position| self.all.get(*position))
    }

    /// The service of this host, whoever asks: Kubernetes', else the oldest.
    pub(crate) fn get(&self, host: &str) -> Option<&Registered> {
        self.at(self.by_host.get(host)).next()
    }

    /// The service of this host in this namespace.
    pub(crate) fn get_in(&self, host: &str, namespace: &str) -> Option<&Registered> {
        self.at(self.by_host.get(host)).find(|service| *service.key.namespace == *namespace)
    }

    /// The service that a client in `namespace` means by a host: Kubernetes' if it may see it, else one of its own namespace,
    /// else the oldest that it may see (istio-semantics 7).
    pub(crate) fn visible(&self, host: &str, namespace: &str) -> Option<&Registered> {
        self.visible_where(host, namespace, |_| true)
    }

    /// The same among those that something else lets it see as well.
    pub(crate) fn visible_where(
        &self,
        host: &str,
        namespace: &str,
        admits: impl Fn(&Registered) -> bool,
    ) -> Option<&Registered> {
        let seen = || {
            let all = self.at(self.by_host.get(host));
            all.filter(|service| service.visibility.admits(namespace) && admits(service))
        };
        seen()
            .find(|service| service.registry == Registry::Kubernetes)
            .or_else(|| seen().find(|service| *service.key.namespace == *namespace))
            .or_else(|| seen().next())
    }

    /// Wildcard hosts of services that take a name, most specific first.
    pub(crate) fn wildcards_of(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        self.wildcards.iter().filter(move |(pattern, _)| pattern.matches(name)).map(|(_, host)| host)
    }

    /// Every host that some service has.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_host.keys()
    }

    /// All services, by host.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.by_host.values().flatten().filter_map(|position| self.all.get(*position))
    }

    /// Addresses that hosts without one have been given, by the ServiceEntry that names them.
    pub(crate) fn allocated(&self) -> BTreeMap<&ObjectKey, Vec<(&Arc<str>, IpAddr)>> {
        let mut allocated: BTreeMap<&ObjectKey, Vec<(&Arc<str>, IpAddr)>> = BTreeMap::new();
        for service in self.iter().filter(|service| service.is_unaddressed) {
            let given = service.addresses.iter().map(|address| (&service.host, *address));
            allocated.entry(&service.key).or_default().extend(given);
        }
        allocated
    }

    /// Services of a namespace, those of Kubernetes first, oldest first.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Registered> {
        self.at(self.by_namespace.get(namespace))
    }

    /// Services with this virtual address, then those with a network around it, the narrowest first; each list oldest first.
    pub(crate) fn at_address(&self, address: IpAddr) -> impl Iterator<Item = &Registered> {
        let mut around: Vec<(&IpNet, &Vec<usize>)> =
            self.by_network.iter().filter(|(network, _)| network.contains(&address)).collect();
        around.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        let around: Vec<usize> = around.into_iter().flat_map(|(_, positions)| positions.iter().copied()).collect();
        self.at(self.by_address.get(&address)).chain(around.into_iter().filter_map(|position| self.all.get(position)))
    }
}
