//! What leaves the mesh: which hosts outside a route leads to, so that egress policies can be asked about each before anything is sent.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use palisade_model::{
    cluster::{Discovery, LoadBalancer},
    endpoint::Address,
    host::HostPattern,
    route::RouteAction,
    service::Query,
    settings::{OutboundPolicy, ProxySettings},
};

use super::{
    authority,
    connection::{Admitted, Entry},
    permitted,
    route::{Found, FoundL4, PASSTHROUGH},
    verdict::{Action, ForwardPlan, Verdict},
};
use crate::index::{IndexedCluster, Known, RuntimeIndex};

/// Where something in progress goes: a new configuration judges that, and not only where its own route would lead.
#[derive(Debug, Clone)]
pub struct Underway {
    cluster: Arc<IndexedCluster>,
    /// The host that it names upstream; empty: none.
    host: Box<str>,
}

impl Underway {
    /// Of a request; `None`: it is not sent anywhere, or is not the workload's own.
    pub fn of_request(verdict: &Verdict, admitted: &Admitted) -> Option<Self> {
        let (Action::Forward(plan), Entry::Outbound(_)) = (&verdict.action, &admitted.entry) else { return None };
        // Inside the mesh names are no matter of policies: nothing is kept of them.
        let host = if plan.cluster.cluster().is_external { plan.head.host() } else { Cow::Borrowed("") };
        Some(Self { cluster: Arc::clone(&plan.cluster), host: (&*host).into() })
    }

    /// Of an opaque connection.
    pub fn of_bytes(plan: &ForwardPlan, admitted: &Admitted) -> Self {
        Self { cluster: Arc::clone(&plan.cluster), host: server_name(admitted).unwrap_or_default().into() }
    }
}

/// Whether egress policies select this workload, and the traffic is its own.
pub(super) fn is_restricted(settings: &ProxySettings, admitted: &Admitted) -> bool {
    settings.egress_policies.is_some() && matches!(admitted.entry, Entry::Outbound(_))
}

/// Whether the registry knows where a cluster's traffic goes, where nothing else may be reached (`REGISTRY_ONLY`). A service whose pods
/// are dialled by address does not lead to addresses that are nobody's in the mesh, whatever the caller says that it wants.
///
/// # Errors
/// What must be asked first.
pub(super) fn is_registered(
    index: &RuntimeIndex,
    admitted: &Admitted,
    cluster: &IndexedCluster,
) -> Result<bool, Query> {
    let Entry::Outbound(outbound) = &admitted.entry else { return Ok(true) };
    let is_listed = matches!(cluster.cluster().discovery, Discovery::Endpoints { key: _, subset: _ });
    if index.settings().outbound != OutboundPolicy::RegistryOnly || !is_listed || !goes_where_dialled(cluster) {
        return Ok(true);
    }
    match &outbound.unknown {
        Some(query) => Err(query.clone()),
        None => {
            let known = index.services().by_address(admitted.facts.destination.ip());
            Ok(matches!(known, Known::Present(_)))
        }
    }
}

/// The hosts outside the mesh that a request may reach by its route: the one it names, and that of every backend and mirror. A draw has
/// not been made yet, so every one of them must be allowed. Empty: it stays inside.
///
/// # Errors
/// What must be asked first.
pub(super) fn hosts_of(
    index: &RuntimeIndex,
    admitted: &Admitted,
    requested: &str,
    found: &Found,
) -> Result<Vec<String>, Query> {
    let mut outside = Outside { index, admitted, hosts: Vec::new() };
    match found {
        Found::Ask(query) => return Err(query.clone()),
        // The proxy itself answers, whatever was asked for.
        Found::Nothing(_) | Found::HttpsRedirect => {}
        Found::Cluster(cluster) => outside.cluster(cluster, requested)?,
        Found::Rule(entry) => {
            outside.named(requested)?;
            if let RouteAction::Forward(forward) = &entry.rule.rule().action {
                for (at, backend) in forward.backends.iter().enumerate() {
                    // What is resolved, and what the server is told, is the name after all rewrites.
                    let rewritten = permitted::authority_of(entry, forward, at);
                    let sent = rewritten.map_or(Cow::Borrowed(requested), authority::host_of);
                    outside.cluster(&backend.cluster, &sent)?;
                    for mirror in forward.mirrors.iter() {
                        outside.cluster(&mirror.cluster, &sent)?;
                    }
                }
            }
        }
    }
    Ok(outside.hosts)
}

/// As [`hosts_of`], of an opaque connection, whose draw has been made.
///
/// # Errors
/// What must be asked first.
pub(super) fn hosts_of_bytes(index: &RuntimeIndex, admitted: &Admitted, found: &FoundL4) -> Result<Vec<String>, Query> {
    let named = server_name(admitted).unwrap_or_default();
    let mut outside = Outside { index, admitted, hosts: Vec::new() };
    match found {
        FoundL4::Ask(query) => return Err(query.clone()),
        FoundL4::Nothing(_) => {}
        FoundL4::Cluster(cluster) => outside.cluster(cluster, named)?,
        FoundL4::Route(route, at) => {
            outside.named(named)?;
            if let Some(backend) = route.backends.get(*at) {
                outside.cluster(&backend.cluster, named)?;
            }
        }
    }
    Ok(outside.hosts)
}

/// As [`hosts_of`], of what is in progress, added to `hosts`. What is not known counts against it: nobody waits here.
pub(super) fn add_underway(index: &RuntimeIndex, admitted: &Admitted, underway: &Underway, hosts: &mut Vec<String>) {
    let mut outside = Outside { index, admitted, hosts: std::mem::take(hosts) };
    if outside.indexed(&underway.cluster, &underway.host).is_err() {
        outside.dialled();
    }
    *hosts = outside.hosts;
}

fn server_name(admitted: &Admitted) -> Option<&str> {
    admitted.facts.tls.as_ref()?.sni.as_deref()
}

struct Outside<'a> {
    index: &'a RuntimeIndex,
    admitted: &'a Admitted,
    hosts: Vec<String>,
}

impl Outside<'_> {
    fn add(&mut self, host: &str) {
        let host = plain(host);
        if !self.hosts.contains(&host) {
            self.hosts.push(host);
        }
    }

    fn address(&self) -> IpAddr {
        self.admitted.facts.destination.ip().to_canonical()
    }

    /// The address that was dialled: where that goes is certain, what it is called there is only the caller's word.
    fn dialled(&mut self) {
        let address = self.address().to_string();
        self.add(&address);
    }

    /// A registered host outside counts also where a route leads it through a gateway of the mesh.
    fn named(&mut self, requested: &str) -> Result<(), Query> {
        let name = plain(requested);
        if name.is_empty() || name.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        match self.index.services().by_host(&name) {
            Known::Present(service) if service.is_external => self.add(&name),
            Known::Present(_) | Known::Absent => {}
            Known::Unknown => return Err(Query::Host(name.as_str().into())),
        }
        Ok(())
    }

    /// What a cluster leads to, for a caller that names `sent` there. To a cluster that does not exist nothing is sent.
    fn cluster(&mut self, name: &str, sent: &str) -> Result<(), Query> {
        match self.index.cluster(name).map(Arc::clone) {
            Some(cluster) => self.indexed(&cluster, sent),
            None => Ok(()),
        }
    }

    fn indexed(&mut self, cluster: &IndexedCluster, sent: &str) -> Result<(), Query> {
        if &**cluster.name() == PASSTHROUGH {
            self.dialled();
            return Ok(());
        }
        let is_for_dialled = goes_where_dialled(cluster);
        let host = cluster.name().splitn(4, '|').nth(3).unwrap_or_default();
        if cluster.cluster().is_external {
            let pattern = host.parse::<HostPattern>().ok().filter(HostPattern::is_wildcard);
            match pattern {
                None => self.add(host),
                // A wildcard stands for the very host that is asked for.
                Some(pattern) if !sent.is_empty() && pattern.matches(&plain(sent)) => self.add(sent),
                Some(_) if is_for_dialled => {
                    self.dialled();
                    return Ok(());
                }
                Some(_) => self.add(host),
            }
        }
        if is_for_dialled && !self.is_of(cluster, host)? {
            self.dialled();
        }
        Ok(())
    }

    /// Whether the documents say that the dialled address is the host's. Else its name is no evidence of where the bytes go.
    fn is_of(&self, cluster: &IndexedCluster, host: &str) -> Result<bool, Query> {
        let address = self.address();
        let is_endpoint = |listed: &Address| match listed {
            Address::Socket(socket) => socket.ip().to_canonical() == address,
            Address::Unix(_) | Address::Name(_, _) | Address::LogicalName(_, _) => false,
        };
        if cluster.endpoints().iter().any(|indexed| is_endpoint(&indexed.endpoint.address)) {
            return Ok(true);
        }
        match self.index.services().by_address(address) {
            Known::Present(services) => Ok(services.iter().any(|service| {
                // What stays inside the mesh is no affair of egress policies.
                *service.host == *host || !(service.is_external || cluster.cluster().is_external)
            })),
            Known::Absent => Ok(false),
            Known::Unknown => Err(Query::Address(address)),
        }
    }
}

/// Whether a cluster's connections go to the address that the caller dialled.
fn goes_where_dialled(cluster: &IndexedCluster) -> bool {
    match &cluster.cluster().discovery {
        Discovery::OriginalDestination | Discovery::OriginalAddress { port: _ } => true,
        Discovery::Endpoints { key: _, subset: _ } => cluster.cluster().load_balancer == LoadBalancer::Passthrough,
        Discovery::Workload { port: _ } | Discovery::DynamicName { port: _ } | Discovery::BlackHole => false,
    }
}

/// A name as names are compared: a final dot makes no other name (RFC 1034 section 3.1).
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
