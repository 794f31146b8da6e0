//! A snapshot in the making: resources with their provenance, and what they still need.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::{
    cluster::{Discovery, UpstreamTls},
    hash::HashError,
    host::HostPattern,
    origin::Origin,
    resource::{Entries, Entry, Meta, Resource, ResourceKey, ResourceKind},
};

use crate::{
    lower::{
        client::Client,
        clusters::{self, Destination},
        ports::{self, Ports},
    },
    memo::{self, Part, PartValue, What},
    resolve::gateway_api::Route,
};

/// Resources collected for one proxy.
#[derive(Debug)]
pub(crate) struct Assembly<'a> {
    /// For whom.
    pub(crate) client: Client<'a>,
    /// Hosts that take bytes at addresses that no service has, by port.
    pub(crate) any_address: Arc<BTreeMap<u16, Arc<str>>>,
    entries: Entries,
    domains: BTreeMap<Arc<str>, BTreeSet<HostPattern>>,
}

impl<'a> Assembly<'a> {
    /// Nothing yet.
    pub(crate) fn new(client: Client<'a>) -> Self {
        Self { client, any_address: Arc::default(), entries: Entries::new(), domains: BTreeMap::new() }
    }

    /// Adds a resource made from these objects, the one that shaped it first.
    pub(crate) fn add(
        &mut self,
        resource: Resource,
        origins: impl IntoIterator<Item = Origin>,
    ) -> Result<(), HashError> {
        let mut origins = origins.into_iter();
        // The one that shaped the resource first; the others sorted. A host of a gateway may have thousands.
        let mut unique: Vec<Origin> = origins.next().into_iter().collect();
        let mut rest: Vec<Origin> = origins.filter(|origin| unique.first() != Some(origin)).collect();
        rest.sort();
        rest.dedup();
        unique.append(&mut rest);
        let requires = resource.features();
        let entry = self.client.resolved.shared.entry(resource, Meta { origins: unique.into(), requires })?;
        self.add_entry(entry);
        Ok(())
    }

    /// Adds an entry that many proxies share.
    pub(crate) fn add_entry(&mut self, entry: Arc<Entry>) {
        self.entries.insert(entry.key().clone(), entry);
    }

    /// Notes in the policy set of a target what stands before it: no proxy may have the one without the other.
    pub(crate) fn precede(&mut self, target: &Arc<str>, before: &Resource) -> Result<(), HashError> {
        let key = ResourceKey::new(ResourceKind::PolicySet, Arc::clone(target));
        if let Some(entry) = self.entries.get(&key)
            && let Resource::PolicySet(set) = entry.resource()
        {
            let mut set = set.clone();
            match before.key().kind {
                ResourceKind::Authentication => set.has_authentication = true,
                ResourceKind::ExternalAuthorization => set.has_external_authorization = true,
                _ => {}
            }
            let mut meta = entry.meta().clone();
            meta.requires.extend(before.features());
            let entry = Entry::new(Resource::PolicySet(set), meta)?;
            self.entries.insert(key, Arc::new(entry));
        }
        Ok(())
    }

    /// Adds a part: one that somebody else's slice has, if it is what `lower` would add, else what it adds. `route` is the route that
    /// the part is made from; what else it is made from, `lower` looks at.
    pub(crate) fn part(
        &mut self,
        what: What,
        route: Option<&Arc<Route>>,
        lower: impl Fn(&mut Self) -> Result<PartValue, HashError>,
    ) -> Result<Arc<Part>, HashError> {
        let client = self.client;
        let key = client.part(what);
        let found = client.resolved.parts.find(&key, client, route, &self.any_address);
        let part = match found {
            Some(part) => part,
            None => {
                let mut own = Self::new(client);
                own.any_address = Arc::clone(&self.any_address);
                let (value, notes) = memo::noting(|| lower(&mut own));
                let part = Arc::new(Part {
                    basis: Arc::clone(&client.resolved.basis),
                    route: route.cloned(),
                    any_address: own.any_address,
                    entries: own.entries.into_values().collect(),
                    domains: own.domains,
                    value: value?,
                    trace: client.trace(notes),
                });
                client.resolved.parts.remember(key, &part);
                part
            }
        };
        memo::note_part(&part);
        if self.is_taken(&part.domains) {
            // What is left of its domains depends on what came before.
            lower(self)?;
            return Ok(part);
        }
        for (table, domains) in &part.domains {
            self.domains.entry(Arc::clone(table)).or_default().extend(domains.iter().cloned());
        }
        for entry in &part.entries {
            self.entries.entry(entry.key().clone()).or_insert_with(|| Arc::clone(entry));
        }
        Ok(part)
    }

    /// Whether an earlier virtual host has one of these domains.
    fn is_taken(&self, domains: &BTreeMap<Arc<str>, BTreeSet<HostPattern>>) -> bool {
        domains.iter().any(|(table, domains)| {
            self.domains.get(table).is_some_and(|taken| domains.iter().any(|domain| taken.contains(domain)))
        })
    }

    /// The ports of all services that the client sees.
    pub(crate) fn ports(&mut self) -> Result<Ports, HashError> {
        let client = self.client;
        let part = self.part(What::Ports, None, |_| Ok(PartValue::Ports(ports::of(client))))?;
        Ok(match &part.value {
            PartValue::Ports(ports) => ports.clone(),
            PartValue::Added | PartValue::Present(_) | PartValue::Ranked(_) => ports::of(client),
        })
    }

    /// Whether a resource is there already.
    pub(crate) fn has(&self, kind: ResourceKind, name: &str) -> bool {
        self.entries.contains_key(&ResourceKey::new(kind, name))
    }

    /// Adds the cluster of a destination with its endpoints. `false` when there is no such service, port or subset.
    pub(crate) fn add_destination(&mut self, destination: &Destination) -> Result<bool, HashError> {
        if self.has(ResourceKind::Cluster, &destination.cluster_name()) {
            return Ok(true);
        }
        let part = self.part(What::Destination(destination.clone()), None, |assembly| {
            assembly.lower_destination(destination).map(PartValue::Present)
        })?;
        Ok(matches!(part.value, PartValue::Present(true)))
    }

    fn lower_destination(&mut self, destination: &Destination) -> Result<bool, HashError> {
        let Some((cluster, origins)) = clusters::outbound(self.client, destination) else { return Ok(false) };
        if let Discovery::Endpoints { key, subset: _ } = &cluster.discovery
            && !self.has(ResourceKind::Endpoints, key)
            && let Some(service) = self.client.destination_service(&destination.host)
            && let Some(endpoints) = self.client.resolved.workloads.endpoints(service, destination.port)
        {
            let service = origins.first().cloned();
            self.add(Resource::Endpoints((**endpoints).clone()), service)?;
        }
        if let UpstreamTls::Originate(originate) = &cluster.tls {
            for key in originate.ca.iter().chain(originate.client_certificate.iter()) {
                self.add_secret(key)?;
            }
        }
        self.add(Resource::Cluster(cluster), origins)?;
        Ok(true)
    }

    /// Adds the cluster of a service's UDP port with its endpoints. `false` when there is no such service or port.
    pub(crate) fn add_datagram_destination(&mut self, host: &Arc<str>, port: u16) -> Result<bool, HashError> {
        let client = self.client;
        let Some(service) = client.destination_service(host) else { return Ok(false) };
        let Some(endpoints) = client.resolved.workloads.datagram_endpoints(service, port) else { return Ok(false) };
        let Some((cluster, origins)) = clusters::datagrams(client, service, port, &endpoints.key) else {
            return Ok(false);
        };
        if !self.has(ResourceKind::Cluster, &cluster.name) {
            self.add(Resource::Endpoints((**endpoints).clone()), [service.origin.clone()])?;
            self.add(Resource::Cluster(cluster), origins)?;
        }
        Ok(true)
    }

    /// Adds a secret if it exists and may be seen; without it handshakes fail, as the documents ask.
    pub(crate) fn add_secret(&mut self, key: &Arc<str>) -> Result<(), HashError> {
        if self.has(ResourceKind::Secret, key) {
            return Ok(());
        }
        if let Some((secret, origin)) = self.client.resolved.secrets.get(key) {
            let (secret, origin) = (secret.clone(), origin.clone());
            self.add(Resource::Secret(secret), [origin])?;
        }
        Ok(())
    }

    /// The domains that no earlier virtual host of the table has taken; from now on they are.
    pub(crate) fn claim(
        &mut self,
        table: &Arc<str>,
        domains: impl IntoIterator<Item = HostPattern>,
    ) -> Arc<[HostPattern]> {
        let taken = self.domains.entry(Arc::clone(table)).or_default();
        let mut claimed: Vec<HostPattern> = domains.into_iter().filter(|domain| taken.insert(domain.clone())).collect();
        claimed.sort();
        claimed.into()
    }

    /// Everything collected.
    pub(crate) fn into_entries(self) -> Entries {
        self.entries
    }
}
