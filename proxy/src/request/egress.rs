//! What leaves the mesh: which hosts outside a route leads to, so that egress policies can be asked about each before anything is sent.

use palisade_model::{route::RouteAction, service::Query, settings::ProxySettings};

use super::{
    connection::{Admitted, Entry},
    route::{Found, FoundL4, PASSTHROUGH},
};
use crate::index::{Known, RuntimeIndex};

/// Whether egress policies select this workload, and the traffic is its own.
pub(super) fn is_restricted(settings: &ProxySettings, admitted: &Admitted) -> bool {
    settings.egress_policies.is_some() && matches!(admitted.entry, Entry::Outbound(_))
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
    let mut outside = Outside { index, admitted, requested: Some(requested), hosts: Vec::new() };
    match found {
        Found::Ask(query) => return Err(query.clone()),
        // The proxy itself answers, whatever was asked for.
        Found::Nothing(_) | Found::HttpsRedirect => {}
        Found::Cluster(cluster) => outside.cluster(cluster),
        Found::Rule(entry) => {
            outside.named()?;
            if let RouteAction::Forward(forward) = &entry.rule.rule().action {
                for backend in forward.backends.iter() {
                    outside.cluster(&backend.cluster);
                }
                for mirror in forward.mirrors.iter() {
                    outside.cluster(&mirror.cluster);
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
    let requested = admitted.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    let mut outside = Outside { index, admitted, requested, hosts: Vec::new() };
    match found {
        FoundL4::Ask(query) => return Err(query.clone()),
        FoundL4::Nothing(_) => {}
        FoundL4::Cluster(cluster) => outside.cluster(cluster),
        FoundL4::Route(route, at) => {
            outside.named()?;
            if let Some(backend) = route.backends.get(*at) {
                outside.cluster(&backend.cluster);
            }
        }
    }
    Ok(outside.hosts)
}

struct Outside<'a> {
    index: &'a RuntimeIndex,
    admitted: &'a Admitted,
    /// What the caller says that it wants.
    requested: Option<&'a str>,
    hosts: Vec<String>,
}

impl Outside<'_> {
    fn add(&mut self, host: &str) {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if !self.hosts.contains(&host) {
            self.hosts.push(host);
        }
    }

    /// A registered host outside counts also where a route leads it through a gateway of the mesh.
    fn named(&mut self) -> Result<(), Query> {
        let Some(requested) = self.requested else { return Ok(()) };
        let name = requested.strip_suffix('.').unwrap_or(requested).to_ascii_lowercase();
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Ok(());
        }
        match self.index.services().by_host(&name) {
            Known::Present(service) if service.is_external => self.add(&name),
            Known::Present(_) | Known::Absent => {}
            Known::Unknown => return Err(Query::Host(name.as_str().into())),
        }
        Ok(())
    }

    fn cluster(&mut self, name: &str) {
        if name == PASSTHROUGH {
            // Where it goes is certain; what it is called there is only the caller's word.
            let address = self.admitted.facts.destination.ip().to_canonical().to_string();
            return self.add(&address);
        }
        let is_external = self.index.cluster(name).is_some_and(|cluster| cluster.cluster().is_external);
        let Some(host) = name.splitn(4, '|').nth(3).filter(|_| is_external) else { return };
        match host.strip_prefix('*') {
            // A wildcard stands for the very host that was asked for.
            Some(suffix) => match self.requested {
                Some(requested) if requested.to_ascii_lowercase().ends_with(suffix) => self.add(requested),
                Some(_) | None => {
                    let address = self.admitted.facts.destination.ip().to_canonical().to_string();
                    self.add(&address);
                }
            },
            None => self.add(host),
        }
    }
}
