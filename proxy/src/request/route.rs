//! Which route and which backend a permitted request takes. Pure look-ups; nothing here answers anybody.

use std::sync::Arc;

use palisade_model::{
    listener::{Chain, ChainHandler, Listener},
    reason::Reason,
    route::{Backend, Forward},
    service::{L4Route, Query},
    settings::OutboundPolicy,
};

use super::{
    authority::Authority,
    balance::first_exceeding,
    connection::{Admitted, Entry},
    facts::Chance,
};
use crate::index::{HostTable, IndexedEntry, IndexedHost, Known, MatchFacts, RuntimeIndex};

/// Where a request leads.
#[derive(Debug, Clone)]
pub enum Found {
    /// A virtual host that redirects plaintext to https.
    HttpsRedirect,
    /// A rule.
    Rule(IndexedEntry),
    /// A cluster without any rule: a pod's own port, or a passthrough.
    Cluster(Arc<str>),
    /// Nothing.
    Nothing(Reason),
    /// Nothing yet: the control plane must be asked first.
    Ask(Query),
}

/// Names of the clusters that no document makes.
pub(crate) const PASSTHROUGH: &str = "PassthroughCluster";
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";

/// Finds the route of an HTTP request.
pub fn find(index: &RuntimeIndex, admitted: &Admitted, authority: &Authority<'_>, facts: &MatchFacts<'_>) -> Found {
    match &admitted.entry {
        Entry::Inbound(port) => Found::Cluster(Arc::clone(&port.cluster)),
        Entry::Gateway(listener, chain) => {
            let Some(ChainHandler::Http { tables }) = listener.chains.get(*chain).map(|chain| &chain.handler) else {
                return Found::Nothing(Reason::NoRoute);
            };
            if is_misdirected(listener, *chain, &authority.host) {
                return Found::Nothing(Reason::Misdirected);
            }
            let table = tables.iter().find(|(pattern, _)| pattern.matches(&authority.host));
            let host = table.and_then(|(_, table)| index.table(table)).and_then(|table| table.find(&authority.host));
            match host {
                Some(host) if host.host().https_redirect && facts.scheme == "http" => Found::HttpsRedirect,
                Some(host) => rule_of(host, facts),
                None => Found::Nothing(Reason::NoRoute),
            }
        }
        Entry::Outbound(outbound) => {
            let port = admitted.facts.destination.port();
            let declared = outbound.service.as_ref().and_then(|(_, port)| port.table.as_deref());
            let shared = format!("outbound:{port}");
            let table = declared.unwrap_or(&shared);
            let host = index.table(table).and_then(|table| outbound_host(table, &authority.host));
            match host {
                Some(host) => rule_of(host, facts),
                None => unnamed(index, authority, outbound.unknown.as_ref()),
            }
        }
    }
}

/// Whether a chain of the same socket that the handshake did not choose takes the host more closely than the chosen one
/// (Gateway API, GEP-3567). A host that no chain takes is no route's.
fn is_misdirected(listener: &Listener, chosen: usize, host: &str) -> bool {
    if !listener.detects_misdirected {
        return false;
    }
    let takes = |chain: &Chain| match &chain.handler {
        ChainHandler::Http { tables } if chain.tls.is_some() => tables.iter().any(|(pattern, _)| pattern.matches(host)),
        // What it would serve is nobody else's.
        ChainHandler::Refuse { message: _ } => {
            chain.sni.is_empty() || chain.sni.iter().any(|pattern| pattern.matches(host))
        }
        ChainHandler::Http { .. } | ChainHandler::Tcp { .. } | ChainHandler::AutoPassthrough => false,
    };
    // INVARIANT: most specific first.
    listener.chains.iter().position(takes).is_some_and(|closest| closest != chosen)
}

/// The virtual host of a name that an application uses; a final dot makes no other name (RFC 1034 section 3.1).
fn outbound_host<'a>(table: &'a HostTable, host: &str) -> Option<&'a Arc<IndexedHost>> {
    table.find(host).or_else(|| table.find(host.strip_suffix('.')?))
}

fn rule_of(host: &IndexedHost, facts: &MatchFacts<'_>) -> Found {
    host.routes().find(facts).map_or(Found::Nothing(Reason::NoRoute), |entry| Found::Rule(entry.clone()))
}

/// A host that no table of this port names.
fn unnamed(index: &RuntimeIndex, authority: &Authority<'_>, unknown_address: Option<&Query>) -> Found {
    let host = authority.host.strip_suffix('.').unwrap_or(&authority.host);
    if host.parse::<std::net::IpAddr>().is_err() && index.services().by_host(host) == Known::Unknown {
        return Found::Ask(Query::Host(host.into()));
    }
    if let Some(query) = unknown_address {
        return Found::Ask(query.clone());
    }
    elsewhere(index)
}

/// Where traffic to a destination that no registry knows goes.
pub fn elsewhere(index: &RuntimeIndex) -> Found {
    match index.settings().outbound {
        OutboundPolicy::AllowAny => Found::Cluster(PASSTHROUGH.into()),
        OutboundPolicy::RegistryOnly => Found::Nothing(Reason::EgressUnknownHost),
    }
}

/// The backend that a draw falls on; `None` when a rule has none.
pub fn choose<'a>(entry: &IndexedEntry, forward: &'a Forward, chance: &mut Chance) -> Option<(usize, &'a Backend)> {
    let at = match entry.rule.cumulative_weights() {
        [_] => 0,
        weights => first_exceeding(weights, chance.draw())?,
    };
    Some((at, forward.backends.get(at)?))
}

/// Where an opaque connection leads.
#[derive(Debug, Clone)]
pub enum FoundL4 {
    /// A route and the backend that the draw fell on.
    Route(Arc<L4Route>, usize),
    /// A cluster without any route.
    Cluster(Arc<str>),
    /// Nothing.
    Nothing(Reason),
    /// Nothing yet: the control plane must be asked first.
    Ask(Query),
}

/// Finds the route of an opaque connection.
pub fn find_l4(index: &RuntimeIndex, admitted: &Admitted, chance: &mut Chance) -> FoundL4 {
    let sni = admitted.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    match &admitted.entry {
        Entry::Inbound(port) => FoundL4::Cluster(Arc::clone(&port.cluster)),
        Entry::Gateway(listener, chain) => match listener.chains.get(*chain).map(|chain| &chain.handler) {
            Some(ChainHandler::Tcp { routes }) => {
                first_l4(index, routes, admitted, sni, chance).unwrap_or(FoundL4::Nothing(Reason::NoRoute))
            }
            Some(ChainHandler::AutoPassthrough) => match sni.and_then(cluster_of_sni) {
                Some(cluster) => FoundL4::Cluster(cluster.into()),
                None => FoundL4::Nothing(Reason::NoFilterChain),
            },
            _ => FoundL4::Nothing(Reason::NoFilterChain),
        },
        Entry::Outbound(outbound) => {
            let routes = outbound.service.as_ref().map(|(_, port)| &port.l4_routes);
            if let Some(found) = routes.and_then(|routes| first_l4(index, routes, admitted, sni, chance)) {
                return found;
            }
            if let Some(query) = &outbound.unknown {
                return FoundL4::Ask(query.clone());
            }
            let port = admitted.facts.destination.port();
            // Only where some service is told by its server name: other names are nobody's to know.
            let sni = sni.filter(|_| index.settings().outbound_tls_ports.contains(&port));
            match index.services().anywhere(port, sni) {
                Known::Unknown => return FoundL4::Ask(Query::Host(sni.unwrap_or_default().into())),
                Known::Present((_, own)) => {
                    if let Some(found) = first_l4(index, &own.l4_routes, admitted, sni, chance) {
                        return found;
                    }
                }
                Known::Absent => {}
            }
            match elsewhere(index) {
                Found::Cluster(cluster) => FoundL4::Cluster(cluster),
                Found::Nothing(reason) => FoundL4::Nothing(reason),
                Found::HttpsRedirect | Found::Rule(_) | Found::Ask(_) => FoundL4::Nothing(Reason::EgressUnknownHost),
            }
        }
    }
}

fn first_l4(
    index: &RuntimeIndex,
    routes: &[Arc<str>],
    admitted: &Admitted,
    sni: Option<&str>,
    chance: &mut Chance,
) -> Option<FoundL4> {
    let takes = |route: &L4Route| {
        let named = route.sni.is_empty() || sni.is_some_and(|name| route.sni.iter().any(|p| p.matches(name)));
        let ip = admitted.facts.destination.ip();
        named && (route.destinations.is_empty() || route.destinations.iter().any(|net| net.contains(&ip)))
    };
    let route = routes.iter().filter_map(|key| index.l4_route(key)).find(|route| takes(route))?;
    let mut total = 0;
    let upto: Vec<u64> = route
        .backends
        .iter()
        .map(|backend| {
            total += u64::from(backend.weight);
            total
        })
        .collect();
    let at = if upto.len() == 1 { Some(0) } else { first_exceeding(&upto, chance.draw()) };
    Some(at.map_or(FoundL4::Nothing(Reason::NoCluster), |at| FoundL4::Route(Arc::clone(route), at)))
}

/// `outbound_.PORT_.SUBSET_.HOST` as `outbound|PORT|SUBSET|HOST`.
fn cluster_of_sni(sni: &str) -> Option<String> {
    let (port, rest) = sni.strip_prefix("outbound_.")?.split_once("_.")?;
    let (subset, host) = rest.split_once("_.")?;
    Some(format!("outbound|{port}|{subset}|{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sni_names_its_cluster() {
        for (sni, expected) in [
            ("outbound_.80_._.a.b.svc.cluster.local", Some("outbound|80||a.b.svc.cluster.local")),
            ("outbound_.80_.v1_.a.b", Some("outbound|80|v1|a.b")),
            ("outbound_.80_", None),
            ("a.com", None),
        ] {
            assert_eq!(cluster_of_sni(sni).as_deref(), expected, "{sni}");
        }
    }
}
