//! For whom something is lowered: the proxy whose labels and namespace decide what it sees.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use palisade_model::{identity::SpiffeId, settings::ProxyKind};

use crate::{object::ObjectKey, resolve::Resolved};

/// A proxy with all that lowering reads of it.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Gateway or sidecar.
    pub(crate) kind: ProxyKind,
    /// Its pod's namespace.
    pub(crate) namespace: Arc<str>,
    /// Its pod's name.
    pub(crate) name: Arc<str>,
    /// Its pod's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its identity.
    pub(crate) identity: SpiffeId,
    /// Its pod's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The Gateway API Gateway that it serves.
    pub(crate) gateway: Option<ObjectKey>,
}

/// A client of services: a proxy as far as outbound lowering depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client<'a> {
    /// What everything is looked up in.
    pub(crate) resolved: &'a Resolved,
    /// The proxy.
    pub(crate) proxy: &'a Proxy,
}

impl<'a> Client<'a> {
    /// The client's namespace.
    pub(crate) fn namespace(&self) -> &'a str {
        &self.proxy.namespace
    }

    /// Whether it is a sidecar.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.proxy.kind == ProxyKind::Sidecar
    }
}
