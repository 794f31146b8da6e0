//! Parts of slices that several proxies have: a service, a destination, the rules of a route. Lowered once, kept while somebody has them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use palisade_model::{host::HostPattern, resource::Entry, settings::ProxyKind};
use parking_lot::Mutex;

use super::{Basis, Trace};
use crate::{
    lower::{client::Client, clusters::Destination, http_routes::RankedEntry, ports::Ports},
    object::ObjectKey,
    resolve::{
        gateway_api::{Route, RouteKind},
        services::Registry,
        workloads::HostKey,
    },
};

/// Parts of one name that are looked at: of clients that see different things, of meshes before and after a change.
const VARIANTS: usize = 16;

/// What a part is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// A service as a sidecar sees it.
    Service(Registry, HostKey),
    /// A cluster with its endpoints.
    Destination(Destination),
    /// All rules of a route.
    Route(RouteKind, ObjectKey),
    /// Ports of all services that a client sees.
    Ports,
}

/// What a part is, and of which clients' slices it is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PartKey {
    /// Sidecars or gateways.
    pub(crate) kind: ProxyKind,
    /// In this namespace.
    pub(crate) namespace: Arc<str>,
    /// What it is.
    pub(crate) what: What,
}

/// What lowering a part has given besides its entries.
#[derive(Debug)]
pub(crate) enum PartValue {
    /// Nothing.
    Added,
    /// Whether the destination exists.
    Present(bool),
    /// The alternatives of a route's rules.
    Ranked(Vec<RankedEntry>),
    /// Ports.
    Ports(Ports),
}

/// A part.
#[derive(Debug)]
pub(crate) struct Part {
    /// What it was made on.
    pub(crate) basis: Arc<Basis>,
    /// The route that it is made from.
    pub(crate) route: Option<Arc<Route>>,
    /// Hosts that took bytes at any address when it was made.
    pub(crate) any_address: Arc<BTreeMap<u16, Arc<str>>>,
    /// Its entries.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Domains that its virtual hosts take, by table.
    pub(crate) domains: BTreeMap<Arc<str>, BTreeSet<HostPattern>>,
    /// What else there is.
    pub(crate) value: PartValue,
    /// What it was made from.
    pub(crate) trace: Trace,
}

/// The parts that some slice has.
#[derive(Debug, Default)]
pub(crate) struct Parts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    parts: HashMap<PartKey, Vec<Weak<Part>>>,
    /// Size at which parts that nobody has any more are looked for.
    sweep_at: usize,
}

impl Parts {
    /// A part that is what would be made for this client.
    pub(crate) fn find(
        &self,
        key: &PartKey,
        client: Client<'_>,
        route: Option<&Arc<Route>>,
        any_address: &Arc<BTreeMap<u16, Arc<str>>>,
    ) -> Option<Arc<Part>> {
        let variants: Vec<Arc<Part>> =
            self.0.lock().parts.get(key).into_iter().flatten().filter_map(Weak::upgrade).collect();
        let is_it = |part: &Arc<Part>| {
            Arc::ptr_eq(&part.basis, &client.resolved.basis)
                && match (&part.route, route) {
                    (Some(made), Some(route)) => Arc::ptr_eq(made, route),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                }
                && (Arc::ptr_eq(&part.any_address, any_address) || part.any_address == *any_address)
                && client.holds(&part.trace)
        };
        // The newest first: the others are mostly of meshes that are over.
        variants.into_iter().rev().find(is_it)
    }

    /// Others may find it from now on.
    pub(crate) fn remember(&self, key: PartKey, part: &Arc<Part>) {
        self.0.lock().remember(key, part);
    }
}

impl Table {
    fn remember(&mut self, key: PartKey, part: &Arc<Part>) {
        let variants = self.parts.entry(key).or_default();
        variants.retain(|held| held.strong_count() > 0);
        if variants.len() == VARIANTS {
            variants.remove(0);
        }
        variants.push(Arc::downgrade(part));
        if self.parts.len() > self.sweep_at {
            self.parts.retain(|_, variants| variants.iter().any(|held| held.strong_count() > 0));
            self.sweep_at = (self.parts.len() * 2).max(1024);
        }
    }
}
