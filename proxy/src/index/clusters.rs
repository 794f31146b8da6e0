//! Clusters with the endpoints that their subset selects, attached to their live state.

use std::sync::Arc;

use palisade_model::{
    cluster::{Cluster, Discovery},
    endpoint::{Address, Endpoint, EndpointHealth, Endpoints},
    hash::ContentHash,
    identity::SpiffeId,
    resource::{Entry, Resource},
};

use super::live::{ClusterLive, EndpointLive, LiveState};

/// A cluster, ready to pick endpoints from.
#[derive(Debug)]
pub struct IndexedCluster {
    source: ContentHash,
    endpoints_source: Option<ContentHash>,
    cluster: Cluster,
    endpoints: Box<[IndexedEndpoint]>,
    /// Positions of the endpoints of the best priority that has a healthy one, with cumulative weights.
    usable: Box<[(u32, u64)]>,
    has_equal_weights: bool,
    identities: Arc<[SpiffeId]>,
    sans: Arc<[Arc<str>]>,
    live: Arc<ClusterLive>,
}

/// An endpoint with its live state.
#[derive(Debug, Clone)]
pub struct IndexedEndpoint {
    /// The endpoint as the control plane sent it.
    pub endpoint: Endpoint,
    /// Its live state.
    pub live: Arc<EndpointLive>,
}

impl IndexedCluster {
    /// Indexes a cluster; `None` when the entry is not one. `endpoints` finds the resource that it draws from.
    pub(super) fn build<'a>(
        entry: &Entry,
        endpoints: impl Fn(&str) -> Option<&'a Arc<Entry>>,
        previous: Option<&Arc<Self>>,
        live: &LiveState,
    ) -> Option<Arc<Self>> {
        let Resource::Cluster(cluster) = entry.resource() else { return None };
        let source = match &cluster.discovery {
            Discovery::Endpoints { key, subset: _ } => endpoints(key),
            Discovery::OriginalDestination
            | Discovery::Workload { port: _ }
            | Discovery::DynamicName { port: _ }
            | Discovery::BlackHole => None,
        };
        let endpoints_source = source.map(|entry| entry.hash());
        if let Some(held) = previous
            && held.source == entry.hash()
            && held.endpoints_source == endpoints_source
        {
            return Some(Arc::clone(held));
        }
        let live = live.cluster(&cluster.name);
        let none = Endpoints { key: "".into(), endpoints: Arc::new([]), identities: std::collections::BTreeSet::new() };
        let resource = match source.map(|entry| entry.resource()) {
            Some(Resource::Endpoints(endpoints)) => endpoints,
            _ => &none,
        };
        let selected: Box<[IndexedEndpoint]> = resource
            .endpoints
            .iter()
            .filter(|endpoint| is_in_subset(&cluster.discovery, endpoint))
            .map(|endpoint| IndexedEndpoint { endpoint: endpoint.clone(), live: live.endpoint(&endpoint.address) })
            .collect();
        live.retain_used();
        let usable = usable_of(&selected);
        let mut weights = usable.iter().filter_map(|(at, _)| selected.get(usize::try_from(*at).ok()?));
        let first = weights.next().map(|e| e.endpoint.weight);
        let has_equal_weights = weights.all(|e| Some(e.endpoint.weight) == first);
        let identities: Arc<[SpiffeId]> = resource.identities.iter().cloned().collect();
        let sans = identities.iter().map(|id| Arc::from(id.to_string())).collect();
        Some(Arc::new(Self {
            source: entry.hash(),
            endpoints_source,
            cluster: cluster.clone(),
            endpoints: selected,
            usable,
            has_equal_weights,
            identities,
            sans,
            live,
        }))
    }

    /// The cluster as the control plane sent it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.cluster.name
    }

    /// The endpoints of its subset, in canonical order, whatever their health.
    pub fn endpoints(&self) -> &[IndexedEndpoint] {
        &self.endpoints
    }

    /// The endpoint at an address.
    pub fn endpoint_at(&self, address: &Address) -> Option<&IndexedEndpoint> {
        self.endpoints.iter().find(|indexed| indexed.endpoint.address == *address)
    }

    /// The healthy endpoints of the best priority, with their cumulative weights.
    pub fn usable(&self) -> impl ExactSizeIterator<Item = (&IndexedEndpoint, u64)> + Clone {
        // INVARIANT: `usable` holds positions in `endpoints` only; the fallback cannot be reached with an empty list.
        self.usable.iter().map(|(at, upto)| {
            let at = usize::try_from(*at).unwrap_or(0).min(self.endpoints.len().saturating_sub(1));
            #[expect(
                clippy::indexing_slicing,
                reason = "clamped to the length, and `usable` is empty when there are none"
            )]
            (&self.endpoints[at], *upto)
        })
    }

    /// Sum of the usable endpoints' weights.
    pub fn usable_weight(&self) -> u64 {
        self.usable.last().map_or(0, |(_, upto)| *upto)
    }

    /// Whether all usable endpoints weigh the same.
    pub fn has_equal_weights(&self) -> bool {
        self.has_equal_weights
    }

    /// SPIFFE ids of the workloads behind the service.
    pub fn identities(&self) -> &[SpiffeId] {
        &self.identities
    }

    /// The same as texts.
    pub fn sans(&self) -> &Arc<[Arc<str>]> {
        &self.sans
    }

    /// Its live state.
    pub fn live(&self) -> &Arc<ClusterLive> {
        &self.live
    }
}

fn is_in_subset(discovery: &Discovery, endpoint: &Endpoint) -> bool {
    match discovery {
        Discovery::Endpoints { key: _, subset } => {
            subset.iter().all(|(label, value)| endpoint.labels.get(label) == Some(value))
        }
        Discovery::OriginalDestination
        | Discovery::Workload { port: _ }
        | Discovery::DynamicName { port: _ }
        | Discovery::BlackHole => false,
    }
}

fn usable_of(endpoints: &[IndexedEndpoint]) -> Box<[(u32, u64)]> {
    let healthy = || {
        let positions = endpoints.iter().zip(0_u32..);
        positions.filter(|(indexed, _)| indexed.endpoint.health == EndpointHealth::Healthy)
    };
    let Some(best) = healthy().map(|(indexed, _)| indexed.endpoint.priority).min() else { return Box::default() };
    let mut total = 0;
    healthy()
        .filter(|(indexed, _)| indexed.endpoint.priority == best)
        .map(|(indexed, at)| {
            total += u64::from(indexed.endpoint.weight.max(1));
            (at, total)
        })
        .collect()
}
