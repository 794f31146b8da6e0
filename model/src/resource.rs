//! Resources: everything that a snapshot may hold, with identity, provenance and hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    authentication::Authentication,
    cluster::Cluster,
    endpoint::Endpoints,
    external_authorization::ExternalAuthorization,
    hash::{ContentHash, HashError},
    listener::{InboundPort, Listener},
    membership::{self, Membership},
    origin::Origin,
    policy::{Policy, PolicySet},
    route::{RouteRule, VirtualHost},
    secret::Secret,
    service::{L4Route, Lookup, Query, Service},
    settings::ProxySettings,
};

/// One thing that a proxy is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Proxy-wide settings.
    Settings(ProxySettings),
    /// A gateway's listener.
    Listener(Listener),
    /// A pod's inbound port.
    Inbound(InboundPort),
    /// An outbound destination.
    Service(Service),
    /// The answer to a query.
    Lookup(Lookup),
    /// Hosts of a route table.
    VirtualHost(VirtualHost),
    /// A route rule.
    Route(RouteRule),
    /// A route for opaque bytes.
    L4Route(L4Route),
    /// An upstream.
    Cluster(Cluster),
    /// Its endpoints.
    Endpoints(Endpoints),
    /// The policies of one target.
    PolicySet(PolicySet),
    /// One policy.
    Policy(Policy),
    /// A certificate.
    Secret(Secret),
    /// The tokens that one target accepts.
    Authentication(Authentication),
    /// The providers that one target's requests are put before.
    ExternalAuthorization(ExternalAuthorization),
    /// Which names and addresses the mesh has at all.
    Membership(Membership),
}

/// The kinds of [`Resource`], in the order in which snapshots list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// [`Resource::Settings`].
    Settings,
    /// [`Resource::Listener`].
    Listener,
    /// [`Resource::Inbound`].
    Inbound,
    /// [`Resource::Service`].
    Service,
    /// [`Resource::Lookup`].
    Lookup,
    /// [`Resource::VirtualHost`].
    VirtualHost,
    /// [`Resource::Route`].
    Route,
    /// [`Resource::L4Route`].
    L4Route,
    /// [`Resource::Cluster`].
    Cluster,
    /// [`Resource::Endpoints`].
    Endpoints,
    /// [`Resource::PolicySet`].
    PolicySet,
    /// [`Resource::Policy`].
    Policy,
    /// [`Resource::Secret`].
    Secret,
    /// [`Resource::Authentication`].
    Authentication,
    /// [`Resource::ExternalAuthorization`].
    ExternalAuthorization,
    /// [`Resource::Membership`].
    Membership,
}

/// A resource's identity: kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// Kind.
    pub kind: ResourceKind,
    /// Name, unique inside the kind.
    pub name: Arc<str>,
}

/// A capability that a proxy must have to be sent a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Feature(pub Arc<str>);

/// Provenance and requirements of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// The user's objects that it was made from, sorted, the one that shaped it first among equals.
    pub origins: Arc<[Origin]>,
    /// Features that a proxy must understand; empty = the base protocol.
    pub requires: BTreeSet<Feature>,
}

/// A resource with its provenance and hash; immutable, shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    key: ResourceKey,
    hash: ContentHash,
    meta: Meta,
    resource: Resource,
}

/// Resources by key.
pub type Entries = BTreeMap<ResourceKey, Arc<Entry>>;

impl Entry {
    /// Computes key and hash.
    ///
    /// # Errors
    /// Never for values that serde can encode, which all of the model's are.
    pub fn new(resource: Resource, meta: Meta) -> Result<Self, HashError> {
        let hash = ContentHash::of(&(&meta, &resource))?;
        Ok(Self { key: resource.key(), hash, meta, resource })
    }

    /// The resource's identity.
    pub fn key(&self) -> &ResourceKey {
        &self.key
    }

    /// Hash over provenance and content.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Provenance and requirements.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The content.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }
}

impl Resource {
    /// The resource's kind.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Settings(_) => ResourceKind::Settings,
            Self::Listener(_) => ResourceKind::Listener,
            Self::Inbound(_) => ResourceKind::Inbound,
            Self::Service(_) => ResourceKind::Service,
            Self::Lookup(_) => ResourceKind::Lookup,
            Self::VirtualHost(_) => ResourceKind::VirtualHost,
            Self::Route(_) => ResourceKind::Route,
            Self::L4Route(_) => ResourceKind::L4Route,
            Self::Cluster(_) => ResourceKind::Cluster,
            Self::Endpoints(_) => ResourceKind::Endpoints,
            Self::PolicySet(_) => ResourceKind::PolicySet,
            Self::Policy(_) => ResourceKind::Policy,
            Self::Secret(_) => ResourceKind::Secret,
            Self::Authentication(_) => ResourceKind::Authentication,
            Self::ExternalAuthorization(_) => ResourceKind::ExternalAuthorization,
            Self::Membership(_) => ResourceKind::Membership,
        }
    }

    /// The resource's identity.
    pub fn key(&self) -> ResourceKey {
        let name: Arc<str> = match self {
            Self::Settings(_) => "proxy".into(),
            Self::Listener(listener) => Arc::clone(&listener.key),
            Self::Inbound(inbound) => match inbound.port {
                Some(port) => port.to_string().into(),
                None => "*".into(),
            },
            Self::Service(service) => Arc::clone(&service.host),
            Self::Lookup(lookup) => lookup.query.to_string().into(),
            Self::VirtualHost(host) => VirtualHost::key(&host.table, &host.name),
            Self::Route(rule) => Arc::clone(&rule.key),
            Self::L4Route(route) => Arc::clone(&route.key),
            Self::Cluster(cluster) => Arc::clone(&cluster.name),
            Self::Endpoints(endpoints) => Arc::clone(&endpoints.key),
            Self::PolicySet(set) => Arc::clone(&set.key),
            Self::Policy(policy) => Arc::clone(&policy.id.0),
            Self::Secret(secret) => Arc::clone(&secret.key),
            Self::Authentication(authentication) => Arc::clone(&authentication.key),
            Self::ExternalAuthorization(authorization) => Arc::clone(&authorization.key),
            Self::Membership(_) => membership::KEY.into(),
        };
        ResourceKey { kind: self.kind(), name }
    }
}

impl VirtualHost {
    /// The resource name of a virtual host.
    pub fn key(table: &str, name: &str) -> Arc<str> {
        format!("{table} {name}").into()
    }
}

impl ResourceKey {
    /// A key from its parts.
    pub fn new(kind: ResourceKind, name: impl Into<Arc<str>>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl ResourceKind {
    /// The kind's name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Listener => "listener",
            Self::Inbound => "inbound",
            Self::Service => "service",
            Self::Lookup => "lookup",
            Self::VirtualHost => "virtual_host",
            Self::Route => "route",
            Self::L4Route => "l4_route",
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::PolicySet => "policy_set",
            Self::Policy => "policy",
            Self::Secret => "secret",
            Self::Authentication => "authentication",
            Self::ExternalAuthorization => "external_authorization",
            Self::Membership => "membership",
        }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind.as_str(), self.name)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host:{host}"),
            Self::Address(address) => write!(f, "address:{address}"),
        }
    }
}
