//! The registry: every service that may be named or dialled, with who sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use palisade_model::{listener::Protocol, origin::Origin};

use crate::{
    hosts::{self, Visibility},
    inputs::{Inputs, core::TargetPort},
    object::{self, ObjectKey},
    resolve::protocol,
    settings::MeshSettings,
};

/// A service of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Fully qualified host name.
    pub(crate) host: Arc<str>,
    /// Namespace and name of the object.
    pub(crate) key: ObjectKey,
    /// Provenance.
    pub(crate) origin: Origin,
    /// Who may name it.
    pub(crate) visibility: Visibility,
    /// Virtual addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// No virtual address: names resolve to the endpoints.
    pub(crate) is_headless: bool,
    /// Ports, by number.
    pub(crate) ports: Vec<RegisteredPort>,
    /// Pods behind it.
    pub(crate) selector: BTreeMap<String, String>,
    /// Not ready pods count as ready.
    pub(crate) publish_not_ready: bool,
    /// Hosts of ExternalName services that lead here, with their namespaces.
    pub(crate) aliases: Vec<(Arc<str>, Arc<str>)>,
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
    /// What it carries.
    pub(crate) protocol: Protocol,
}

/// All services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    by_host: BTreeMap<Arc<str>, Registered>,
    by_namespace: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    by_address: BTreeMap<IpAddr, Vec<Arc<str>>>,
    aliases: BTreeMap<Arc<str>, Arc<str>>,
}

impl Registered {
    /// The port of this number.
    pub(crate) fn port(&self, number: u16) -> Option<&RegisteredPort> {
        self.ports.iter().find(|port| port.number == number)
    }
}

impl RegisteredPort {
    /// Whether HTTP rules apply.
    pub(crate) fn may_be_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Http2 | Protocol::Auto)
    }
}

impl Services {
    /// The registry of all Services.
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
            let registered = Registered {
                host: Arc::clone(&host),
                key: key.clone(),
                origin: service.head.origin(),
                visibility: Visibility::parse(&export_to, &settings.default_service_export_to, &key.namespace),
                addresses: service.spec.addresses.clone(),
                is_headless: service.spec.is_headless,
                ports: service
                    .spec
                    .ports
                    .iter()
                    .filter_map(|port| {
                        // UDP and SCTP ports are not the mesh's: they are none of its ports.
                        protocol::of_port(port).map(|protocol| RegisteredPort {
                            number: port.port,
                            name: port.name.clone(),
                            target: port.target.clone(),
                            protocol,
                        })
                    })
                    .collect(),
                selector: service.spec.selector.clone(),
                publish_not_ready: service.spec.publish_not_ready,
                aliases: Vec::new(),
            };
            for address in &registered.addresses {
                services.by_address.entry(*address).or_default().push(Arc::clone(&host));
            }
            services.by_namespace.entry(Arc::clone(&key.namespace)).or_default().push(Arc::clone(&host));
            services.by_host.insert(host, registered);
        }
        services.bind_aliases(&aliases);
        services
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
            if let Some(service) = self.by_host.get_mut(at) {
                service.aliases.push((Arc::clone(alias), Arc::clone(namespace)));
                self.aliases.insert(Arc::clone(alias), Arc::clone(&service.host));
            }
        }
    }

    /// The host of the service that an ExternalName service leads to.
    pub(crate) fn alias_target(&self, host: &str) -> Option<Arc<str>> {
        self.aliases.get(host).cloned()
    }

    /// The service of this host, whoever asks.
    pub(crate) fn get(&self, host: &str) -> Option<&Registered> {
        self.by_host.get(host)
    }

    /// The service of this host, if a client in `namespace` may see it.
    pub(crate) fn visible(&self, host: &str, namespace: &str) -> Option<&Registered> {
        self.get(host).filter(|service| service.visibility.admits(namespace))
    }

    /// All services by host.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.by_host.values()
    }

    /// Services of a namespace, oldest first.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Registered> {
        self.by_namespace.get(namespace).into_iter().flatten().filter_map(|host| self.by_host.get(host))
    }

    /// Services with this virtual address, oldest first.
    pub(crate) fn at_address(&self, address: IpAddr) -> impl Iterator<Item = &Registered> {
        self.by_address.get(&address).into_iter().flatten().filter_map(|host| self.by_host.get(host))
    }
}
