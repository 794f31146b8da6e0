//! A gateway's ports as the accept loop needs them: TLS terminations by server name, made from listeners and secrets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ahash::AHashMap;
use palisade_model::{
    hash::ContentHash,
    listener::{Chain, ChainHandler, ClientValidation, Listener, ServerTls, ServerTlsMode},
};

use crate::{
    index::RuntimeIndex,
    serve::{
        AdmissionTimeouts, Bind, DeclaredProtocol, GatewayPort, GatewayServer, GatewayTls, ListenerKey, ListenerOptions,
    },
    tls::{ClientAuth, ClientTrust, ServerCertificate, SniTable, Termination, TerminationSettings},
};

/// A gateway's ports; immutable, replaced together with the index.
#[derive(Debug, Default)]
pub struct EdgePorts {
    ports: AHashMap<Arc<str>, Arc<EdgePort>>,
    /// Terminations by the hash of all that they are made from: a new index keeps those that did not change, and with
    /// them the session tickets that clients hold.
    terminations: AHashMap<ContentHash, Arc<Termination>>,
}

/// One port.
#[derive(Debug)]
pub struct EdgePort {
    /// For the accept loop.
    pub port: GatewayPort,
    bind: Bind,
    /// It takes datagrams.
    is_udp: bool,
}

impl EdgePorts {
    /// The ports of an index. A certificate that cannot be used leaves its server up, and its handshakes fail.
    pub fn build(
        index: &RuntimeIndex,
        previous: &Self,
        timeouts: AdmissionTimeouts,
        options: &ListenerOptions,
    ) -> Self {
        let mut edge = Self::default();
        for listener in index.listeners() {
            let port = edge.port(index, listener, previous, timeouts, options);
            edge.ports.insert(Arc::clone(&listener.key), Arc::new(port));
        }
        edge
    }

    /// A port by its listener's key.
    pub fn get(&self, listener: &str) -> Option<&Arc<EdgePort>> {
        self.ports.get(listener)
    }

    /// The sockets that should be listening for connections.
    pub fn binds(&self) -> Vec<Bind> {
        self.binds_of(false)
    }

    /// The sockets that should take datagrams.
    pub fn datagram_binds(&self) -> Vec<Bind> {
        self.binds_of(true)
    }

    fn binds_of(&self, is_udp: bool) -> Vec<Bind> {
        let ports = self.ports.values().filter(|port| port.is_udp == is_udp);
        let mut binds: Vec<Bind> = ports.map(|port| port.bind.clone()).collect();
        binds.sort_by(|a, b| a.key.cmp(&b.key));
        binds
    }

    fn port(
        &mut self,
        index: &RuntimeIndex,
        listener: &Listener,
        previous: &Self,
        timeouts: AdmissionTimeouts,
        options: &ListenerOptions,
    ) -> EdgePort {
        let has_tls = listener.chains.iter().any(|chain| chain.tls.is_some() || !chain.sni.is_empty());
        let tls = has_tls.then(|| {
            let mut table = SniTable::new();
            for chain in listener.chains.iter() {
                let server = self.server(index, chain, previous);
                if chain.sni.is_empty() {
                    table.insert("*", server);
                    continue;
                }
                for pattern in chain.sni.iter() {
                    table.insert(&pattern.to_string(), server.clone());
                }
            }
            Arc::new(table)
        });
        let plaintext = listener.chains.first().map_or(DeclaredProtocol::Http, |chain| carries(&chain.handler));
        let proxy_protocol = index.settings().client_address.proxy_protocol;
        // One socket for both families, unless the pod has only one.
        let has_v6 = index.settings().addresses.iter().any(IpAddr::is_ipv6);
        let all = if has_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let address = listener.address.unwrap_or(all);
        let address = SocketAddr::new(address, listener.port);
        let key = ListenerKey::new(Arc::clone(&listener.key));
        EdgePort {
            port: GatewayPort { proxy_protocol, tls, plaintext, timeouts },
            bind: Bind { key, address, options: options.clone() },
            is_udp: listener.is_udp,
        }
    }

    fn server(&mut self, index: &RuntimeIndex, chain: &Chain, previous: &Self) -> GatewayServer {
        let tls = match (&chain.tls, &chain.handler) {
            (_, ChainHandler::Refuse { message }) => {
                tracing::warn!(server = %chain.name, %message, "this server refuses every connection");
                GatewayTls::Unavailable
            }
            (None, ChainHandler::AutoPassthrough) => GatewayTls::AutoPassthrough,
            (None, ChainHandler::Tcp { .. } | ChainHandler::Http { .. }) => GatewayTls::Passthrough,
            (Some(ServerTls { mode: ServerTlsMode::Mesh, .. }), _) => GatewayTls::Mesh,
            (Some(tls @ ServerTls { mode: ServerTlsMode::Secrets { certificates, client }, .. }), _) => {
                match self.termination(index, tls, certificates, client.as_ref(), previous) {
                    Ok(termination) => GatewayTls::Terminate(termination),
                    Err(error) => {
                        tracing::warn!(server = %chain.name, %error, "handshakes of this server fail");
                        GatewayTls::Unavailable
                    }
                }
            }
        };
        GatewayServer { name: Arc::clone(&chain.name), tls, payload: carries(&chain.handler) }
    }

    fn termination(
        &mut self,
        index: &RuntimeIndex,
        tls: &ServerTls,
        certificates: &[Arc<str>],
        client: Option<&ClientValidation>,
        previous: &Self,
    ) -> Result<Arc<Termination>, String> {
        let secrets: Vec<_> = certificates
            .iter()
            .chain(client.map(|client| &client.ca))
            .map(|key| index.secret(key).map(Arc::clone))
            .collect();
        let hash = ContentHash::of(&(tls, &secrets)).map_err(|e| e.to_string())?;
        if let Some(held) = self.terminations.get(&hash).or_else(|| previous.terminations.get(&hash)) {
            let held = Arc::clone(held);
            self.terminations.insert(hash, Arc::clone(&held));
            return Ok(held);
        }
        let termination = Arc::new(made(index, tls, certificates, client)?);
        self.terminations.insert(hash, Arc::clone(&termination));
        Ok(termination)
    }
}

/// Whether handshakes of a server can succeed: what stands behind the keys of its certificates can be used.
///
/// # Errors
/// Why they fail.
pub fn terminates(index: &RuntimeIndex, chain: &Chain) -> Result<(), String> {
    match &chain.tls {
        Some(tls @ ServerTls { mode: ServerTlsMode::Secrets { certificates, client }, .. }) => {
            made(index, tls, certificates, client.as_ref()).map(drop)
        }
        Some(ServerTls { mode: ServerTlsMode::Mesh, .. }) | None => Ok(()),
    }
}

fn made(
    index: &RuntimeIndex,
    tls: &ServerTls,
    certificates: &[Arc<str>],
    client: Option<&ClientValidation>,
) -> Result<Termination, String> {
    let mut usable = Vec::new();
    for key in certificates {
        let secret = index.secret(key).ok_or_else(|| format!("secret `{key}` is missing"))?;
        let (Some(chain), Some(private)) = (&secret.certificate, &secret.private_key) else {
            return Err(format!("secret `{key}` holds no certificate and key"));
        };
        let pair = ServerCertificate::from_pem(chain.as_bytes(), private.expose().as_bytes());
        usable.push(pair.map_err(|e| format!("secret `{key}`: {e}"))?);
    }
    let client = match client {
        None => ClientAuth::None,
        Some(ClientValidation { ca, is_required, subject_alt_names, tolerates_invalid }) => {
            let secret = index.secret(ca).and_then(|secret| secret.ca.clone());
            let pem = secret.ok_or_else(|| format!("CA `{ca}` is missing"))?;
            let mut trust = ClientTrust::from_pem(pem.as_bytes(), None).map_err(|e| format!("CA `{ca}`: {e}"))?;
            trust.key = Some(Arc::clone(ca));
            trust.subject_alt_names = subject_alt_names.to_vec();
            match (tolerates_invalid, is_required) {
                (true, _) => ClientAuth::Fallback(trust),
                (false, true) => ClientAuth::Required(trust),
                (false, false) => ClientAuth::Optional(trust),
            }
        }
    };
    let termination = Termination::new(TerminationSettings {
        certificates: usable,
        client,
        min_version: tls.min_version,
        max_version: tls.max_version,
        alpn: tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        algorithms: tls.algorithms.clone(),
    });
    termination.map_err(|e| e.to_string())
}

const fn carries(handler: &ChainHandler) -> DeclaredProtocol {
    match handler {
        ChainHandler::Http { tables: _ } => DeclaredProtocol::Http,
        ChainHandler::Tcp { routes: _ } | ChainHandler::AutoPassthrough | ChainHandler::Refuse { message: _ } => {
            DeclaredProtocol::Tcp
        }
    }
}
