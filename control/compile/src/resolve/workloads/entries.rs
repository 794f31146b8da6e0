//! Endpoints of ServiceEntries: written in them, or WorkloadEntries and pods that they select.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use palisade_crds::istio::{ServiceEntry, WorkloadEntry};
use palisade_model::{
    endpoint::{Address, Endpoint, EndpointHealth, PeerProxy},
    identity::SpiffeId,
};

use super::{Candidate, Labelled, Unprovable, endpoint, identity_of};
use crate::{
    inputs::{Inputs, core::TargetPort},
    object::{self, Object},
    resolve::{
        locality::{self, Locality},
        services::{Registered, RegisteredPort, Resolution},
    },
    settings::MeshSettings,
};

/// Label that says whether a workload speaks mesh TLS.
const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";
/// Label with a workload's `REGION.ZONE.SUBZONE`.
const LOCALITY_LABEL: &str = "istio-locality";

/// An endpoint with the identity of what answers there.
pub(super) struct EntryEndpoint {
    pub(super) endpoint: Endpoint,
    /// `None`: the documents do not say.
    pub(super) identity: Option<Result<SpiffeId, Unprovable>>,
}

/// ServiceEntries by namespace and host, oldest first; WorkloadEntries by namespace.
pub(super) struct Entries<'a> {
    by_host: BTreeMap<(Arc<str>, String), Vec<&'a Object<ServiceEntry>>>,
    workloads: BTreeMap<Arc<str>, Vec<Selectable<'a>>>,
}

/// A WorkloadEntry with all its labels.
struct Selectable<'a> {
    entry: &'a WorkloadEntry,
    labels: BTreeMap<String, String>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let mut by_host: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for entry in object::by_age(inputs.service_entries.values()) {
            for host in &entry.spec.hosts {
                let key = (Arc::clone(&entry.head.key.namespace), host.to_ascii_lowercase());
                by_host.entry(key).or_default().push(entry);
            }
        }
        let mut workloads: BTreeMap<Arc<str>, Vec<Selectable<'a>>> = BTreeMap::new();
        for entry in inputs.workload_entries.values() {
            // Labels of the object win over those of its spec (istio-semantics 7).
            let mut labels = entry.spec.labels.clone();
            labels.extend(entry.head.labels.clone());
            let selectable = Selectable { entry: &entry.spec, labels };
            workloads.entry(Arc::clone(&entry.head.key.namespace)).or_default().push(selectable);
        }
        Self { by_host, workloads }
    }

    /// The endpoints of a port of a ServiceEntry's host.
    pub(super) fn of(
        &self,
        service: &Registered,
        port: &RegisteredPort,
        pods: &Labelled<'a>,
        settings: &MeshSettings,
    ) -> Vec<EntryEndpoint> {
        let key = (Arc::clone(&service.key.namespace), service.host.to_string());
        let documents = self.by_host.get(&key).map(Vec::as_slice).unwrap_or_default();
        let mut endpoints = Vec::new();
        for document in documents.iter().filter(|document| is_of(document, service)) {
            let own = document.spec.ports.iter().filter_map(super::super::service_entries::port_of);
            // A port of the same number and another name is another port, which the oldest document has.
            let Some(port) = own.into_iter().find(|own| own.number == port.number && own.name == port.name) else {
                continue;
            };
            let written = document.spec.endpoints.as_deref().unwrap_or_default();
            if let Some(selector) = &document.spec.workload_selector {
                endpoints.extend(self.selected(service, &port, &selector.labels, pods, settings));
            } else if !written.is_empty() {
                let listed = written.iter().filter_map(|entry| made(entry, &entry.labels, service, &port, settings));
                endpoints.extend(listed);
            } else {
                endpoints.extend(host_itself(service, &port));
            }
        }
        endpoints
    }

    fn selected(
        &self,
        service: &Registered,
        port: &RegisteredPort,
        selector: &BTreeMap<String, String>,
        pods: &Labelled<'a>,
        settings: &MeshSettings,
    ) -> Vec<EntryEndpoint> {
        let entries = self.workloads.get(&service.key.namespace).map(Vec::as_slice).unwrap_or_default();
        let mut selected: Vec<EntryEndpoint> = entries
            .iter()
            .filter(|workload| object::selects(selector, &workload.labels))
            .filter_map(|workload| made(workload.entry, &workload.labels, service, port, settings))
            .collect();
        let TargetPort::Number(at) = port.target else { return selected };
        // Pods count once they are ready, as WorkloadEntries do.
        for pod in pods.selected(&service.key.namespace, selector).into_iter().filter(|pod| pod.spec.is_ready) {
            for ip in &pod.spec.ips {
                let candidate = Candidate {
                    address: SocketAddr::new(*ip, at),
                    health: Some(EndpointHealth::Healthy),
                    pod: Some(pod),
                    zone: None,
                };
                selected.push(EntryEndpoint {
                    endpoint: endpoint(&candidate, EndpointHealth::Healthy),
                    identity: Some(identity_of(pod, settings)),
                });
            }
        }
        selected
    }
}

/// Whether a document is one of those that a service was made from.
fn is_of(document: &Object<ServiceEntry>, service: &Registered) -> bool {
    use palisade_crds::istio::{Location, Resolution as Written};
    let resolution = match document.spec.resolution {
        Written::None => Resolution::OriginalDestination,
        Written::Static => Resolution::Listed,
        Written::Dns => Resolution::Dns,
        Written::DnsRoundRobin => Resolution::DnsRoundRobin,
        Written::DynamicDns => Resolution::DynamicDns,
    };
    resolution == service.resolution && (document.spec.location == Location::MeshExternal) == service.is_external
}

/// Without endpoints the host's own name is the endpoint, where names are resolved at all.
fn host_itself(service: &Registered, port: &RegisteredPort) -> Option<EntryEndpoint> {
    let TargetPort::Number(at) = port.target else { return None };
    let address = match service.resolution {
        Resolution::Dns => Address::Name(Arc::clone(&service.host), at),
        Resolution::DnsRoundRobin => Address::LogicalName(Arc::clone(&service.host), at),
        Resolution::Listed | Resolution::OriginalDestination | Resolution::DynamicDns => return None,
    };
    Some(EntryEndpoint { endpoint: plain(address), identity: None })
}

fn plain(address: Address) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        priority: 0,
        health: EndpointHealth::Healthy,
        labels: BTreeMap::new(),
        locality: None,
        peer: PeerProxy::None,
        workload: None,
    }
}

/// The port of an endpoint behind a service port.
pub(in crate::resolve) fn port_at(entry: &WorkloadEntry, port: &RegisteredPort) -> Option<u16> {
    let TargetPort::Number(target) = port.target else { return None };
    let own = entry.ports.get(&port.name).and_then(|at| u16::try_from(*at).ok());
    Some(own.filter(|at| *at > 0).unwrap_or(target))
}

/// An endpoint as written; `None` where its address is none that the resolution takes.
fn made(
    entry: &WorkloadEntry,
    labels: &BTreeMap<String, String>,
    service: &Registered,
    port: &RegisteredPort,
    settings: &MeshSettings,
) -> Option<EntryEndpoint> {
    // Endpoints of other networks are reached like those of this one: there are no gateways between networks.
    let WorkloadEntry { address, ports: _, labels: _, network, locality, weight, service_account } = entry;
    let at = port_at(entry, port)?;
    let text = address.as_deref()?;
    let address = match (text.strip_prefix("unix://"), text.parse::<IpAddr>()) {
        (Some(path), _) => Address::Unix(path.into()),
        (None, Ok(ip)) => Address::Socket(SocketAddr::new(ip, at)),
        (None, Err(_)) => {
            let name: Arc<str> = text.trim_end_matches('.').to_ascii_lowercase().into();
            match service.resolution {
                Resolution::Dns => Address::Name(name, at),
                Resolution::DnsRoundRobin => Address::LogicalName(name, at),
                Resolution::Listed | Resolution::OriginalDestination | Resolution::DynamicDns => return None,
            }
        }
    };
    let locality = match (locality.as_str(), labels.get(LOCALITY_LABEL)) {
        ("", None) => Locality::default(),
        ("", Some(label)) => Locality::parse(&label.replace('.', "/")),
        (written, _) => Locality::parse(written),
    };
    let identity =
        (!service_account.is_empty()).then(|| super::identity(settings, &service.key.namespace, service_account));
    let endpoint = Endpoint {
        weight: (*weight).max(1),
        labels: locality::augmented(labels, &locality, "", network.as_deref().unwrap_or_default()),
        locality: (!locality.is_unknown()).then(|| locality.to_string().into()),
        peer: if labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio") {
            PeerProxy::Istio
        } else {
            PeerProxy::None
        },
        ..plain(address)
    };
    Some(EntryEndpoint { endpoint, identity })
}
