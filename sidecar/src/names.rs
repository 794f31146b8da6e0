//! Host names as the proxy's configuration knows them, for the pod's DNS.

use std::{net::IpAddr, sync::Arc};

use palisade_model::service::Query;
use palisade_proxy::{index::Known, runtime::Runtime};

use crate::dns::{Answer, Names};

/// The names of the configuration in force; what is not known yet is asked for.
pub struct MeshNames {
    runtime: Arc<Runtime>,
}

impl MeshNames {
    /// Over a running proxy.
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime }
    }

    /// What the configuration in force says; `None` = not known yet.
    fn known(&self, name: &str) -> Option<Answer> {
        let index = self.runtime.index()?;
        match index.services().dns(name) {
            Known::Present(found) => Some(Answer::Addresses(found.addresses.to_vec())),
            Known::Absent => Some(Answer::Unknown),
            Known::Unknown => None,
        }
    }
}

impl Names for MeshNames {
    async fn resolve(&self, name: &str) -> Answer {
        if let Some(answer) = self.known(name) {
            return answer;
        }
        match self.runtime.ask(Query::Host(name.into())).await {
            Ok(()) => self.known(name).unwrap_or(Answer::Unavailable),
            Err(_) => Answer::Unavailable,
        }
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let index = self.runtime.index()?;
        // A headless service's pods have names of their own, and those are the resolvers' to say.
        let Known::Present(services) = index.services().by_address(address) else { return None };
        let named = services.iter().find(|service| service.addresses.contains(&address))?;
        (!named.host.starts_with('*')).then(|| named.host.to_string())
    }
}
