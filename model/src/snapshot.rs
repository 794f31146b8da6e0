//! Snapshots: what one proxy needs, closed under reference.

use std::sync::Arc;

use crate::{
    cluster::{Discovery, UpstreamTls},
    hash::{ContentHash, HashError},
    listener::{ChainHandler, ServerTlsMode},
    resource::{Entries, Entry, Resource, ResourceKey, ResourceKind},
    route::RouteAction,
    settings::ProxySettings,
};

/// Everything that one proxy is told, immutable. No resource in it refers to one that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    version: ContentHash,
    entries: Entries,
}

/// Why a set of resources is not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSnapshot {
    /// A reference to nothing.
    #[error("{from} refers to {to}, which is not in the snapshot")]
    Dangling {
        /// The resource that refers.
        from: ResourceKey,
        /// What it refers to.
        to: ResourceKey,
    },
    /// There is no [`ProxySettings`].
    #[error("there are no proxy settings in the snapshot")]
    NoSettings,
    /// Two virtual hosts of one table take the same pattern.
    #[error("{first} and {second} both take host `{domain}`")]
    DuplicateDomain {
        /// The pattern.
        domain: String,
        /// One of them.
        first: ResourceKey,
        /// The other.
        second: ResourceKey,
    },
    /// A resource could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

impl Snapshot {
    /// A snapshot of these resources. Costs one pass over them.
    ///
    /// # Errors
    /// When a reference dangles, settings are missing, or hosts of a table overlap.
    pub fn new(entries: Entries) -> Result<Self, InvalidSnapshot> {
        check_closed(&entries)?;
        let version = version_of(&entries)?;
        Ok(Self { version, entries })
    }

    /// A snapshot from resources in any order; later ones of equal key replace earlier ones.
    ///
    /// # Errors
    /// As [`Snapshot::new`].
    pub fn from_entries(entries: impl IntoIterator<Item = Arc<Entry>>) -> Result<Self, InvalidSnapshot> {
        Self::new(entries.into_iter().map(|entry| (entry.key().clone(), entry)).collect())
    }

    /// Hash over all keys and hashes: equal exactly when the contents are.
    pub fn version(&self) -> ContentHash {
        self.version
    }

    /// All resources by key.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Resources of one kind in key order.
    pub fn of_kind(&self, kind: ResourceKind) -> impl Iterator<Item = &Arc<Entry>> {
        let start = ResourceKey::new(kind, "");
        self.entries.range(start..).take_while(move |(key, _)| key.kind == kind).map(|(_, entry)| entry)
    }

    /// One resource.
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(&ResourceKey::new(kind, name))
    }

    /// The proxy's settings.
    ///
    /// # Errors
    /// Never: the constructor saw them. The error keeps callers free of panics.
    pub fn settings(&self) -> Result<&ProxySettings, InvalidSnapshot> {
        match self.get(ResourceKind::Settings, "proxy").map(|entry| entry.resource()) {
            Some(Resource::Settings(settings)) => Ok(settings),
            _ => Err(InvalidSnapshot::NoSettings),
        }
    }
}

/// The version of a set of resources.
///
/// # Errors
/// Never for keys and hashes of the model.
pub fn version_of(entries: &Entries) -> Result<ContentHash, HashError> {
    // The length before each name keeps one key from ending like another one begins.
    let mut bytes = Vec::with_capacity(entries.len() * 96);
    for (ResourceKey { kind, name }, entry) in entries {
        bytes.extend_from_slice(kind.as_str().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(entry.hash().as_bytes());
    }
    Ok(ContentHash::of_bytes(&bytes))
}

fn check_closed(entries: &Entries) -> Result<(), InvalidSnapshot> {
    if !entries.contains_key(&ResourceKey::new(ResourceKind::Settings, "proxy")) {
        return Err(InvalidSnapshot::NoSettings);
    }
    let mut domains = std::collections::BTreeMap::new();
    for (key, entry) in entries {
        for to in references(entry.resource()) {
            if !entries.contains_key(&to) {
                return Err(InvalidSnapshot::Dangling { from: key.clone(), to });
            }
        }
        if let Resource::VirtualHost(host) = entry.resource() {
            for domain in host.domains.iter() {
                if let Some(first) = domains.insert((&host.table, domain), key) {
                    return Err(InvalidSnapshot::DuplicateDomain {
                        domain: domain.to_string(),
                        first: first.clone(),
                        second: key.clone(),
                    });
                }
            }
        }
    }
    Ok(())
}

/// What a resource refers to and cannot do without. Secrets are not among them: without one the handshake fails, which
/// is what the documents ask for.
pub fn references(resource: &Resource) -> Vec<ResourceKey> {
    let key = ResourceKey::new;
    match resource {
        Resource::Authentication(authentication) => vec![key(ResourceKind::PolicySet, Arc::clone(&authentication.key))],
        Resource::ExternalAuthorization(authorization) => {
            let target = key(ResourceKind::PolicySet, Arc::clone(&authorization.key));
            let of_checks = authorization.checks.iter().flat_map(|check| {
                let cluster =
                    check.asks.service().map(|service| key(ResourceKind::Cluster, Arc::clone(&service.cluster)));
                std::iter::once(key(ResourceKind::PolicySet, Arc::clone(&check.policies))).chain(cluster)
            });
            std::iter::once(target).chain(of_checks).collect()
        }
        Resource::Settings(settings) => {
            settings.egress_policies.iter().map(|set| key(ResourceKind::PolicySet, Arc::clone(set))).collect()
        }
        Resource::Endpoints(_) | Resource::Policy(_) | Resource::Secret(_) | Resource::Membership(_) => Vec::new(),
        Resource::Listener(listener) => {
            let mut to = vec![key(ResourceKind::PolicySet, Arc::clone(&listener.policies))];
            for chain in listener.chains.iter() {
                if let Some(tls) = &chain.tls {
                    match &tls.mode {
                        ServerTlsMode::Secrets { certificates: _, client: _ } | ServerTlsMode::Mesh => {}
                    }
                }
                match &chain.handler {
                    ChainHandler::Tcp { routes } => {
                        to.extend(routes.iter().map(|r| key(ResourceKind::L4Route, Arc::clone(r))));
                    }
                    // A table without virtual hosts answers 404 to everything.
                    ChainHandler::Http { tables: _ }
                    | ChainHandler::AutoPassthrough
                    | ChainHandler::Refuse { message: _ } => {}
                }
            }
            to
        }
        Resource::Inbound(inbound) => vec![
            key(ResourceKind::Cluster, Arc::clone(&inbound.cluster)),
            key(ResourceKind::PolicySet, Arc::clone(&inbound.policies)),
        ],
        Resource::Service(service) => service
            .ports
            .iter()
            .flat_map(|port| port.l4_routes.iter())
            .map(|route| key(ResourceKind::L4Route, Arc::clone(route)))
            .collect(),
        Resource::Lookup(lookup) => {
            lookup.services.iter().map(|host| key(ResourceKind::Service, Arc::clone(host))).collect()
        }
        Resource::VirtualHost(host) => {
            host.entries.iter().map(|entry| key(ResourceKind::Route, Arc::clone(&entry.rule))).collect()
        }
        Resource::Route(rule) => match &rule.action {
            RouteAction::Forward(forward) => forward
                .backends
                .iter()
                .filter(|backend| backend.missing.is_none())
                .map(|backend| key(ResourceKind::Cluster, Arc::clone(&backend.cluster)))
                .collect(),
            RouteAction::Redirect(_)
            | RouteAction::DirectResponse { status: _, body: _, content_type: _ }
            | RouteAction::Refuse { message: _ } => Vec::new(),
        },
        Resource::L4Route(route) => route
            .backends
            .iter()
            .filter(|backend| !backend.is_missing)
            .map(|backend| key(ResourceKind::Cluster, Arc::clone(&backend.cluster)))
            .collect(),
        Resource::Cluster(cluster) => {
            match &cluster.tls {
                UpstreamTls::Off
                | UpstreamTls::Auto(_)
                | UpstreamTls::Mesh(_)
                | UpstreamTls::Originate(_)
                | UpstreamTls::Refuse { message: _ } => {}
            }
            match &cluster.discovery {
                Discovery::Endpoints { key: endpoints, subset: _ } => {
                    vec![key(ResourceKind::Endpoints, Arc::clone(endpoints))]
                }
                Discovery::OriginalDestination
                | Discovery::OriginalAddress { port: _ }
                | Discovery::Workload { port: _ }
                | Discovery::DynamicName { port: _ }
                | Discovery::BlackHole => Vec::new(),
            }
        }
        Resource::PolicySet(set) => {
            let before = [
                (set.has_authentication, ResourceKind::Authentication),
                (set.has_external_authorization, ResourceKind::ExternalAuthorization),
            ];
            let before = before.into_iter().filter(|(has, _)| *has).map(|(_, kind)| key(kind, Arc::clone(&set.key)));
            set.policies.iter().map(|id| key(ResourceKind::Policy, Arc::clone(&id.0))).chain(before).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authentication::Authentication,
        external_authorization::ExternalAuthorization,
        policy::PolicySet,
        resource::Meta,
        settings::{
            ClientAddress, ForwardClientCert, OutboundPolicy, PathNormalization, ProxyKind, ProxySettings, WorkloadRef,
        },
    };

    fn settings() -> Resource {
        Resource::Settings(ProxySettings {
            kind: ProxyKind::Sidecar,
            workload: WorkloadRef { namespace: "a".into(), name: "b".into() },
            identity: "spiffe://cluster.local/ns/a/sa/b".parse().unwrap(),
            addresses: [].into(),
            trust_domain: "cluster.local".parse().unwrap(),
            trust_domain_aliases: Default::default(),
            path_normalization: PathNormalization::Base,
            reject_path_parameters: false,
            client_address: ClientAddress { trusted_hops: 0, proxy_protocol: false },
            forward_client_cert: ForwardClientCert::AppendForward,
            outbound: OutboundPolicy::AllowAny,
            outbound_http_ports: Default::default(),
            outbound_tls_ports: Default::default(),
            cluster_domain: "cluster.local".into(),
            egress_policies: None,
            connections: None,
            telling_namespaces: Default::default(),
            mesh_tls: Default::default(),
        })
    }

    fn snapshot(resources: Vec<Resource>) -> Result<Snapshot, InvalidSnapshot> {
        let entries = resources.into_iter().chain([settings()]);
        Snapshot::from_entries(entries.map(|resource| Arc::new(Entry::new(resource, Meta::default()).unwrap())))
    }

    /// Without what stands before it a policy set would let in what its documents refuse.
    #[test]
    fn a_policy_set_without_its_token_rules_or_checks_is_refused_by_name() {
        let key: Arc<str> = "workload/a/b".into();
        let set = |has_authentication, has_external_authorization| {
            Resource::PolicySet(PolicySet {
                key: Arc::clone(&key),
                has_authentication,
                has_external_authorization,
                ..PolicySet::default()
            })
        };
        let tokens =
            Resource::Authentication(Authentication { key: Arc::clone(&key), rules: [].into(), refuse_tokens: None });
        let checks =
            Resource::ExternalAuthorization(ExternalAuthorization { key: Arc::clone(&key), checks: [].into() });
        assert!(snapshot(vec![set(false, false)]).is_ok());
        assert!(snapshot(vec![set(true, true), tokens.clone(), checks.clone()]).is_ok());
        for (resources, missing) in [
            (vec![set(true, false)], ResourceKind::Authentication),
            (vec![set(false, true), tokens.clone()], ResourceKind::ExternalAuthorization),
            (vec![set(true, true), checks], ResourceKind::Authentication),
        ] {
            let from = ResourceKey::new(ResourceKind::PolicySet, Arc::clone(&key));
            let to = ResourceKey::new(missing, Arc::clone(&key));
            assert_eq!(snapshot(resources), Err(InvalidSnapshot::Dangling { from, to }));
        }
    }
}
