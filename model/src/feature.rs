//! Features: what a proxy must understand beyond the first protocol to enforce a resource (architecture rule 4).
//!
//! A proxy says in its hello which features it understands; a resource that needs another is withheld from it. What is added to
//! the model later, and would be lost on an older proxy, gets a name here and a line in [`Resource::features`].

use std::collections::BTreeSet;

use crate::{
    cluster::{Cluster, Discovery, LoadBalancer, TrafficPolicy, UpstreamTls},
    listener::{Chain, ServerTlsMode, TlsVersion},
    resource::{Feature, Resource},
    route::{RouteAction, RouteRule},
};

/// Copies of requests.
pub const MIRRORS: &str = "route.mirrors";
/// Cross-origin rules.
pub const CORS: &str = "route.cors";
/// Conditions on claims of tokens.
pub const CLAIM_MATCHES: &str = "route.claims";
/// Path rewrites of single backends.
pub const BACKEND_PATHS: &str = "route.backend-path";
/// Requests of one session at one endpoint.
pub const SESSIONS: &str = "route.sessions";
/// Verification of tokens.
pub const REQUEST_AUTHENTICATION: &str = "request-authentication";
/// External authorizers.
pub const EXTERNAL_AUTHORIZATION: &str = "external-authorization";
/// Answers of external authorizers that count again.
pub const EXTERNAL_AUTHORIZATION_CACHE: &str = "external-authorization.cache";

/// Limits, ejection, warm-up, localities and retry budgets of clusters.
pub const CLUSTER_TRAFFIC: &str = "cluster.traffic";
/// Endpoints chosen by a hash of the request.
pub const CONSISTENT_HASH: &str = "cluster.consistent-hash";

/// Requests that came in by another listener's handshake.
pub const MISDIRECTED: &str = "listener.misdirected";
/// Listeners for datagrams.
pub const DATAGRAMS: &str = "listener.udp";
/// Clients that are served although their certificates are wrong.
pub const CLIENT_FALLBACK: &str = "listener.client-fallback";
/// Settings of clients' connections and paths beside the mesh's own.
pub const CONNECTION_SETTINGS: &str = "settings.connections";
/// Dialled addresses with another port.
pub const ORIGINAL_ADDRESS: &str = "cluster.original-address";

/// The filter of all names and addresses.
pub const MEMBERSHIP: &str = "membership";
/// Policies that denied callers are told the names of.
pub const NAMED_POLICIES: &str = "policy.names";
/// Policies about what leaves the mesh.
pub const EGRESS_POLICIES: &str = "policy.egress";

/// Bounds of TLS: what the mesh's own may speak, and what handshakes may use.
pub const TLS_LIMITS: &str = "tls.limits";

/// Roots and revocation lists that are told beside the configuration. No resource needs it.
pub const TRUST: &str = "identity.trust";

/// Every feature that this version knows: what its proxies say in their hello.
pub const ALL: &[&str] = &[
    MIRRORS,
    CORS,
    CLAIM_MATCHES,
    BACKEND_PATHS,
    SESSIONS,
    CLUSTER_TRAFFIC,
    CONSISTENT_HASH,
    ORIGINAL_ADDRESS,
    REQUEST_AUTHENTICATION,
    EXTERNAL_AUTHORIZATION,
    EXTERNAL_AUTHORIZATION_CACHE,
    MEMBERSHIP,
    EGRESS_POLICIES,
    NAMED_POLICIES,
    TLS_LIMITS,
    MISDIRECTED,
    DATAGRAMS,
    CLIENT_FALLBACK,
    CONNECTION_SETTINGS,
    TRUST,
];

/// [`ALL`] as a set.
pub fn all() -> BTreeSet<Feature> {
    ALL.iter().map(|name| Feature((*name).into())).collect()
}

impl Resource {
    /// The features that a proxy must understand to enforce this resource as written; empty = the base protocol.
    pub fn features(&self) -> BTreeSet<Feature> {
        let names = match self {
            Self::Route(rule) => of_rule(rule),
            Self::Cluster(cluster) => of_cluster(cluster),
            Self::Authentication(_) => vec![REQUEST_AUTHENTICATION],
            Self::ExternalAuthorization(external) => {
                let cached = external.checks.iter().any(|check| check.cache.is_some());
                let further = cached.then_some(EXTERNAL_AUTHORIZATION_CACHE);
                std::iter::once(EXTERNAL_AUTHORIZATION).chain(further).collect()
            }
            Self::Membership(_) => vec![MEMBERSHIP],
            Self::Settings(settings) => {
                let needs = [
                    (settings.egress_policies.is_some(), EGRESS_POLICIES),
                    (!settings.telling_namespaces.is_empty(), NAMED_POLICIES),
                    (!settings.mesh_tls.is_default(), TLS_LIMITS),
                    (settings.connections.is_some(), CONNECTION_SETTINGS),
                ];
                needs.into_iter().filter(|(is_needed, _)| *is_needed).map(|(_, name)| name).collect()
            }
            Self::Listener(listener) => {
                let limited = |chain: &Chain| chain.tls.as_ref().is_some_and(|tls| !tls.algorithms.is_default());
                let needs = [
                    (listener.chains.iter().any(limited), TLS_LIMITS),
                    (listener.detects_misdirected, MISDIRECTED),
                    (listener.is_udp, DATAGRAMS),
                    (listener.chains.iter().any(tolerates_invalid_clients), CLIENT_FALLBACK),
                ];
                needs.into_iter().filter(|(is_needed, _)| *is_needed).map(|(_, name)| name).collect()
            }
            Self::Inbound(_)
            | Self::Service(_)
            | Self::Lookup(_)
            | Self::VirtualHost(_)
            | Self::L4Route(_)
            | Self::Endpoints(_)
            | Self::PolicySet(_)
            | Self::Policy(_)
            | Self::Secret(_) => Vec::new(),
        };
        names.into_iter().map(|name| Feature(name.into())).collect()
    }
}

fn tolerates_invalid_clients(chain: &Chain) -> bool {
    match chain.tls.as_ref().map(|tls| &tls.mode) {
        Some(ServerTlsMode::Secrets { certificates: _, client: Some(client) }) => client.tolerates_invalid,
        Some(ServerTlsMode::Secrets { certificates: _, client: None } | ServerTlsMode::Mesh) | None => false,
    }
}

fn of_cluster(cluster: &Cluster) -> Vec<&'static str> {
    let has_policy = cluster.traffic != TrafficPolicy::default();
    let is_hashed = matches!(&cluster.load_balancer, LoadBalancer::ConsistentHash { key: _, table: _ });
    let is_limited = match &cluster.tls {
        UpstreamTls::Originate(tls) => tls.min_version != TlsVersion::V1_2 || !tls.algorithms.is_default(),
        UpstreamTls::Off | UpstreamTls::Auto(_) | UpstreamTls::Mesh(_) | UpstreamTls::Refuse { message: _ } => false,
    };
    let has_own_port = matches!(&cluster.discovery, Discovery::OriginalAddress { port: _ });
    [
        (has_policy, CLUSTER_TRAFFIC),
        (is_hashed, CONSISTENT_HASH),
        (is_limited, TLS_LIMITS),
        (has_own_port, ORIGINAL_ADDRESS),
    ]
    .into_iter()
    .filter_map(|(is_needed, name)| is_needed.then_some(name))
    .collect()
}

fn of_rule(rule: &RouteRule) -> Vec<&'static str> {
    let forward = match &rule.action {
        RouteAction::Forward(forward) => Some(forward),
        RouteAction::Redirect(_) | RouteAction::DirectResponse { .. } | RouteAction::Refuse { .. } => None,
    };
    let needs = [
        (forward.is_some_and(|forward| !forward.mirrors.is_empty()), MIRRORS),
        (rule.cors.is_some(), CORS),
        (rule.matches.iter().any(|alternative| !alternative.claims.is_empty()), CLAIM_MATCHES),
        (forward.is_some_and(|forward| forward.backends.iter().any(|b| b.path.is_some())), BACKEND_PATHS),
        (forward.is_some_and(|forward| forward.session.is_some()), SESSIONS),
    ];
    needs.into_iter().filter(|(is_needed, _)| *is_needed).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(all().len(), ALL.len());
    }
}
