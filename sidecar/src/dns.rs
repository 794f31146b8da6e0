//! The pod's DNS: names of the mesh are answered here, all others by the resolvers that the pod came with.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

mod answer;
mod resolv_conf;
mod search;
mod serve;
mod upstream;

pub use resolv_conf::ResolvConf;
pub use serve::DnsServer;

/// How long a client may keep an answer (Istio's value): short, since services come and go.
pub const TTL: Duration = Duration::from_secs(30);

/// Longest wait for an answer, of [`Names`] or of a resolver; then the client gets SERVFAIL.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What the mesh knows about host names.
pub trait Names: Send + Sync + 'static {
    /// Looks up a fully qualified name, lower-case and without the last dot. May wait until the answer is known; the
    /// server gives up after [`PATIENCE`].
    fn resolve(&self, name: &str) -> impl Future<Output = Answer> + Send;

    /// The name of an address, fully qualified; `None` where the mesh knows of none, and the resolvers are asked.
    fn name_of(&self, address: IpAddr) -> Option<String>;
}

/// What there is under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name exists. A query for a type of which there is no address is answered empty, without error.
    Addresses(Vec<IpAddr>),
    /// The name stands for another one, which may be the mesh's or not.
    Alias(String),
    /// The mesh has no such name: the resolvers are asked, and without any the name does not exist.
    Unknown,
    /// Nobody can tell yet: SERVFAIL, so that the client asks again.
    Unavailable,
}

/// What a DNS server needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// Addresses to answer on, UDP and TCP each. Redirected queries need loopback addresses: an answer has to come from
    /// the address that the kernel sent the query to.
    pub listen: Vec<SocketAddr>,
    /// The pod's search domains, in order: short names are completed with them, and names that a client completed
    /// needlessly are recognised.
    pub search: Vec<String>,
    /// Resolvers for names that are not the mesh's, asked in order. Empty: such names do not exist.
    pub resolvers: Vec<SocketAddr>,
    /// Mark of the sockets that ask resolvers, where the proxy's traffic is recognised by a mark.
    pub socket_mark: Option<u32>,
}

impl<N: Names> Names for Arc<N> {
    fn resolve(&self, name: &str) -> impl Future<Output = Answer> + Send {
        (**self).resolve(name)
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        (**self).name_of(address)
    }
}

#[cfg(test)]
mod tests;
