//! What a sidecar does with outbound connections to addresses that it does not know, by port.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::listener::Protocol;

use crate::lower::client::Client;

/// Ports by what is to be looked for there.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ports {
    /// HTTP, by the authority. A port that is detected is told by its address wherever there is one.
    pub(crate) http: BTreeSet<u16>,
    /// TLS, by the server name.
    pub(crate) tls: BTreeSet<u16>,
    /// Other bytes: the host that takes them. Services without any address all stand at every address; of those of one port
    /// only the oldest does (istio-semantics 7).
    pub(crate) any_address: Arc<BTreeMap<u16, Arc<str>>>,
}

/// The ports of all services that a client sees.
pub(super) fn of(client: Client<'_>) -> Ports {
    let mut ports = Ports::default();
    ports.http.extend(client.scope().into_iter().flat_map(|scope| scope.http_ports()));
    let mut oldest: BTreeMap<u16, (i64, &str, &str, &Arc<str>)> = BTreeMap::new();
    for service in client.services() {
        for port in service.ports.iter().filter(|port| client.sees_at(service, port.number)) {
            let is_http = match port.protocol {
                Protocol::Http | Protocol::Http2 => true,
                Protocol::Auto => service.is_unaddressed,
                Protocol::Tcp | Protocol::Tls => false,
            };
            if is_http {
                ports.http.insert(port.number);
            }
            if !service.is_unaddressed {
                continue;
            }
            match port.protocol {
                Protocol::Tls => {
                    ports.tls.insert(port.number);
                }
                Protocol::Tcp | Protocol::Auto => {
                    let age = (service.created, &*service.key.name, &*service.key.namespace, &service.host);
                    let held = oldest.entry(port.number).or_insert(age);
                    *held = age.min(*held);
                }
                Protocol::Http | Protocol::Http2 => {}
            }
        }
    }
    ports.any_address = Arc::new(oldest.into_iter().map(|(port, (.., host))| (port, Arc::clone(host))).collect());
    ports
}
