//! One proxy's slice of the mesh, kept with what it was made from: the next mesh's slice is mostly the same one.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::{service::Query, snapshot::Snapshot};

use crate::{
    lower,
    memo::{self, Basis, Trace},
    mesh::{Mesh, ProxyRef, ScopeError},
};

/// A slice. Cheap to hold: what proxies have in common is shared.
#[derive(Debug)]
pub struct Slice {
    snapshot: Arc<Snapshot>,
    /// `None` = made by hand.
    made: Option<Made>,
}

/// What a slice was made from.
#[derive(Debug)]
struct Made {
    proxy: ProxyRef,
    queries: BTreeSet<Query>,
    basis: Arc<Basis>,
    trace: Trace,
}

impl Slice {
    /// What the proxy is told.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Whether it is what [`scope`](crate::scope) would cut out of a mesh, as far as a few comparisons tell.
    pub fn is_of(&self, mesh: &Mesh, asked: &ProxyRef, queries: &BTreeSet<Query>) -> bool {
        let resolved = mesh.resolved();
        self.made.as_ref().is_some_and(|made| {
            Arc::ptr_eq(&made.basis, &resolved.basis)
                && made.proxy == *asked
                && made.queries == *queries
                && mesh.proxy(asked).is_ok_and(|proxy| made.trace.holds(resolved, &proxy))
        })
    }
}

impl From<Snapshot> for Slice {
    fn from(snapshot: Snapshot) -> Self {
        Self { snapshot: Arc::new(snapshot), made: None }
    }
}

/// One proxy's slice of the mesh, as [`scope`](crate::scope) cuts it. It is `previous` itself where nothing that this was made from has
/// changed, which is found out at the cost of a few comparisons; else one that takes over what it can. `queries` are the hosts and
/// addresses that the proxy has subscribed to.
///
/// # Errors
/// When the proxy has no identity, or the slice would not be closed.
pub fn scope_after(
    previous: Option<&Arc<Slice>>,
    mesh: &Mesh,
    asked: &ProxyRef,
    queries: &BTreeSet<Query>,
) -> Result<Arc<Slice>, ScopeError> {
    if let Some(slice) = previous.filter(|slice| slice.is_of(mesh, asked, queries)) {
        return Ok(Arc::clone(slice));
    }
    let proxy = mesh.proxy(asked)?;
    let resolved = mesh.resolved();
    let (entries, notes) = memo::noting(|| lower::lower(resolved, &proxy, queries));
    let name = || format!("{}/{}", proxy.namespace, proxy.name);
    let snapshot = Snapshot::new(entries?).map_err(|source| ScopeError::Snapshot { proxy: name(), source })?;
    let snapshot = match previous.filter(|held| held.snapshot.version() == snapshot.version()) {
        Some(held) => Arc::clone(&held.snapshot),
        None => Arc::new(snapshot),
    };
    let made = Made {
        proxy: asked.clone(),
        queries: queries.clone(),
        basis: Arc::clone(&resolved.basis),
        trace: Trace::new(notes, resolved, &proxy),
    };
    Ok(Arc::new(Slice { snapshot, made: Some(made) }))
}
