//! For whom something is lowered: the proxy whose labels and namespace decide what it sees.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use palisade_model::{identity::SpiffeId, settings::ProxyKind};

use crate::{
    memo::{self, Notes, PartKey, Read, Trace, What},
    object::ObjectKey,
    resolve::{
        Resolved, gateway_api::ResolvedGateway, locality::Locality, services::Registered, sidecars::Scope,
        virtual_services::Bound,
    },
    settings::Topology,
};

/// A proxy with all that lowering reads of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Gateway or sidecar.
    pub(crate) kind: ProxyKind,
    /// Its pod's namespace.
    pub(crate) namespace: Arc<str>,
    /// Its pod's name.
    pub(crate) name: Arc<str>,
    /// Its pod's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its identity.
    pub(crate) identity: SpiffeId,
    /// Its pod's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The Gateway API Gateways that it serves.
    pub(crate) gateways: Vec<ObjectKey>,
    /// What stands in front of it, where its pod says so.
    pub(crate) topology: Option<Topology>,
    /// Where it is.
    pub(crate) locality: Locality,
    /// Its node; empty = unknown.
    pub(crate) node: String,
    /// Its network; empty = unknown.
    pub(crate) network: String,
}

/// A client of services: a proxy as far as outbound lowering depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client<'a> {
    /// What everything is looked up in.
    pub(crate) resolved: &'a Resolved,
    /// The proxy. Each look at it is noted.
    proxy: &'a Proxy,
    /// The Sidecar that limits what it sees; gateways have none.
    scope: Option<&'a Scope>,
}

impl<'a> Client<'a> {
    /// A proxy as a client, with the Sidecar that applies to it.
    pub(crate) fn new(resolved: &'a Resolved, proxy: &'a Proxy) -> Self {
        let scope = match proxy.kind {
            ProxyKind::Sidecar => resolved.sidecars.of_workload(&proxy.namespace, &proxy.labels),
            ProxyKind::Gateway => None,
        };
        Self { resolved, proxy, scope: scope.map(|scope| &**scope) }
    }

    /// All that is known of the proxy. What is lowered with it is for this proxy alone.
    pub(crate) fn proxy(&self) -> &'a Proxy {
        memo::note(|| Read::Proxy);
        self.proxy
    }

    /// The Sidecar that limits what the proxy sees; gateways have none.
    pub(crate) fn scope(&self) -> Option<&'a Scope> {
        memo::note(|| Read::Scope);
        self.scope
    }

    /// The proxy's labels.
    pub(crate) fn labels(&self) -> &'a BTreeMap<String, String> {
        memo::note(|| Read::Labels);
        &self.proxy.labels
    }

    /// Its pod's addresses.
    pub(crate) fn addresses(&self) -> &'a [IpAddr] {
        memo::note(|| Read::Addresses);
        &self.proxy.addresses
    }

    /// Where it is.
    pub(crate) fn locality(&self) -> &'a Locality {
        memo::note(|| Read::Locality);
        &self.proxy.locality
    }

    /// Its node; empty = unknown.
    pub(crate) fn node(&self) -> &'a str {
        memo::note(|| Read::Node);
        &self.proxy.node
    }

    /// Its network; empty = unknown.
    pub(crate) fn network(&self) -> &'a str {
        memo::note(|| Read::Network);
        &self.proxy.network
    }

    /// The Gateway API's Gateways that the proxy serves.
    pub(crate) fn served_gateways(&self) -> impl Iterator<Item = &'a Arc<ResolvedGateway>> + use<'a> {
        memo::note(|| Read::Serves);
        let resolved = self.resolved;
        self.proxy.gateways.iter().filter_map(|key| resolved.gateway_api.gateway(key))
    }

    /// Whether what something was made from is what this client sees.
    pub(crate) fn holds(&self, trace: &Trace) -> bool {
        trace.holds(self.resolved, self.proxy)
    }

    /// What was looked at for this client.
    pub(crate) fn trace(&self, notes: Notes) -> Trace {
        Trace::new(notes, self.resolved, self.proxy)
    }

    /// The name of a part of this client's slice.
    pub(crate) fn part(&self, what: What) -> PartKey {
        PartKey { kind: self.proxy.kind, namespace: Arc::clone(&self.proxy.namespace), what }
    }

    /// The client's namespace.
    pub(crate) fn namespace(&self) -> &'a str {
        &self.proxy.namespace
    }

    /// The service that a route of this client means by a host: a Sidecar that lets a rule be seen lets its destinations be.
    pub(crate) fn destination_service(&self, host: &str) -> Option<&'a Registered> {
        self.resolved.services.visible(host, self.namespace())
    }

    /// The service that the application means by a host.
    pub(crate) fn service(&self, host: &str) -> Option<&'a Registered> {
        let imports = |service: &Registered| self.scope().is_none_or(|scope| scope.imports(service, self.namespace()));
        self.resolved.services.visible_where(host, self.namespace(), imports)
    }

    /// The service with the most specific wildcard host that takes a name.
    pub(crate) fn wildcard_service(&self, name: &str) -> Option<&'a Registered> {
        self.resolved.services.wildcards_of(name).find_map(|host| self.service(host))
    }

    /// Every service that the application may name, by host.
    pub(crate) fn services(self) -> impl Iterator<Item = &'a Registered> {
        self.resolved.services.hosts().filter_map(move |host| self.service(host))
    }

    /// Whether this is the service that the application means by its host.
    pub(crate) fn sees(&self, service: &Registered) -> bool {
        self.service(&service.host).is_some_and(|seen| std::ptr::eq(seen, service))
    }

    /// Whether a service is seen on a port.
    pub(crate) fn sees_at(&self, service: &Registered, port: u16) -> bool {
        self.scope().is_none_or(|scope| scope.imports_at(service, port, self.namespace()))
    }

    /// Whether a VirtualService counts on a port.
    pub(crate) fn sees_rules(&self, bound: &Bound, port: u16) -> bool {
        self.scope().is_none_or(|scope| scope.imports_rules(bound, port, self.namespace()))
    }

    /// Whether it is a sidecar.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.proxy.kind == ProxyKind::Sidecar
    }
}
