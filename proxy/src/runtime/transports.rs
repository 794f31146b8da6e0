//! Upstream transports: one registration per way of reaching endpoints, so that connections are shared exactly where
//! identity, accepted peers and trust are equal.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use palisade_model::{cluster::Originate, listener::TlsLimits};
use parking_lot::Mutex;

use crate::{
    index::RuntimeIndex,
    request::upstream::PlannedTls,
    runtime::files::Files,
    serve::l4::DialTls,
    tls::{
        AllowedPeers, AlpnOffer, ClientCertificate, IdentityStore, NameCheck, Origination, OriginationSettings,
        TrustAnchors, server_name as tls_server_name,
    },
    transport::{ConnectionOptions, MeshConnector, TlsTransport, Transport, TransportRef},
};

/// How long the system's roots count before their file is read again.
const ROOTS_LIFETIME: Duration = Duration::from_secs(600);
/// Ways of TLS origination that are remembered: with wildcard hosts it is clients that choose the names.
const MAX_ORIGINATIONS: usize = 1024;

/// Transports in use, found without a lock.
pub struct Transports {
    connector: MeshConnector,
    identities: Arc<IdentityStore>,
    system_roots: PathBuf,
    mark: Option<u32>,
    known: ArcSwap<AHashMap<Key, TransportRef>>,
    /// TLS origination of opaque connections.
    originations: Mutex<AHashMap<TlsKey, Origination>>,
    roots: Mutex<Option<(Instant, TrustAnchors)>>,
    files: Files,
}

/// Everything that tells two transports apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tls: TlsKey,
    source: Option<IpAddr>,
    options: Option<Arc<ConnectionOptions>>,
}

/// What TLS to an endpoint depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TlsKey {
    /// Plaintext.
    Off,
    /// Mesh mutual TLS.
    Mesh {
        /// Of the workload's identity.
        generation: u64,
        /// Server name.
        sni: Arc<str>,
        /// Accepted names.
        sans: Arc<[Arc<str>]>,
    },
    /// The settings' canonical hash covers names and keys of secrets; the second hash their contents.
    Originate {
        /// Of the settings.
        settings: [u8; 32],
        /// Of the secrets.
        secrets: [u8; 32],
        /// Name that is verified.
        host: Arc<str>,
    },
}

/// Why an endpoint cannot be reached as its cluster says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableTransport {
    /// No workload certificate is there yet.
    #[error("no workload identity is installed")]
    NoIdentity,
    /// The document asks for TLS that cannot be built.
    #[error("{0}")]
    Refused(Arc<str>),
    /// Certificates, keys, CAs or names.
    #[error("{0}")]
    Tls(String),
}

impl Transports {
    /// No transports yet. `system_roots` is read where a document names no CA; `mark` is set on every socket.
    pub fn new(
        connector: MeshConnector,
        identities: Arc<IdentityStore>,
        system_roots: PathBuf,
        mark: Option<u32>,
    ) -> Self {
        Self {
            connector,
            identities,
            system_roots,
            mark,
            known: ArcSwap::default(),
            originations: Mutex::default(),
            roots: Mutex::default(),
            files: Files::default(),
        }
    }

    /// The connector that they belong to.
    pub fn connector(&self) -> &MeshConnector {
        &self.connector
    }

    /// The transport for an endpoint. `host` is what TLS origination without SNI names.
    ///
    /// # Errors
    /// When it cannot be built; nothing weaker is tried.
    pub fn find(
        &self,
        index: &RuntimeIndex,
        tls: &PlannedTls,
        source: Option<IpAddr>,
        host: &str,
        options: Option<&Arc<ConnectionOptions>>,
    ) -> Result<TransportRef, UnusableTransport> {
        let key = Key { tls: self.key(index, tls, host)?, source, options: options.cloned() };
        if let Some(known) = self.known.load().get(&key) {
            return Ok(known.clone());
        }
        let tls = match tls {
            PlannedTls::Off => None,
            PlannedTls::Mesh { sni, sans } => {
                let identity = self.identities.current().ok_or(UnusableTransport::NoIdentity)?;
                let allowed = allowed_peers(sans);
                Some(TlsTransport {
                    h1: identity.client_config(&allowed, AlpnOffer::Http1),
                    h2: identity.client_config(&allowed, AlpnOffer::Http2),
                    server_name: server_name(sni)?,
                    h2_alpn: Arc::new([b"istio-h2".to_vec()]),
                })
            }
            PlannedTls::Originate(originate) => {
                let build = |alpn: &[&[u8]]| self.originate(index, originate, alpn);
                let (h1, h2) = (build(&[b"http/1.1"])?, build(&[b"h2"])?);
                let server_name = h1.server_name(host).map_err(|e| UnusableTransport::Tls(e.to_string()))?;
                let (h1, h2) = (Arc::clone(h1.config()), Arc::clone(h2.config()));
                Some(TlsTransport { h1, h2, server_name, h2_alpn: Arc::new([]) })
            }
            PlannedTls::Refuse(message) => return Err(UnusableTransport::Refused(Arc::clone(message))),
        };
        let options = options.cloned().unwrap_or_default();
        // What is for one client's connection alone is shared and remembered by nobody.
        let is_shared = options.preamble.is_empty();
        let made = self.connector.intern(Transport { tls, source, mark: self.mark, options });
        if !is_shared {
            return Ok(made);
        }
        let generation = self.generation();
        self.known.rcu(|known| {
            // Transports of former identities go: what still uses one holds it.
            let originations = known.keys().filter(|key| matches!(key.tls, TlsKey::Originate { .. })).count();
            let is_current = |key: &Key| match &key.tls {
                TlsKey::Mesh { generation: of, sni: _, sans: _ } => *of == generation,
                TlsKey::Originate { .. } => originations < MAX_ORIGINATIONS,
                TlsKey::Off => true,
            };
            let mut next: AHashMap<Key, TransportRef> =
                known.iter().filter(|(key, _)| is_current(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
            next.insert(key.clone(), made.clone());
            next
        });
        Ok(made)
    }

    /// TLS for a call of the proxy's own; `None` = plaintext. The key tells apart what may not share connections.
    ///
    /// # Errors
    /// As [`Transports::find`].
    pub fn for_call(
        &self,
        index: &RuntimeIndex,
        tls: &PlannedTls,
        host: &str,
        is_http2: bool,
    ) -> Result<(TlsKey, Option<DialTls>), UnusableTransport> {
        let key = self.key(index, tls, host)?;
        let dial = match tls {
            PlannedTls::Off => None,
            PlannedTls::Mesh { sni, sans } => {
                let identity = self.identities.current().ok_or(UnusableTransport::NoIdentity)?;
                let offer = if is_http2 { AlpnOffer::Http2 } else { AlpnOffer::Http1 };
                let config = identity.client_config(&allowed_peers(sans), offer);
                Some(DialTls { config, server_name: server_name(sni)? })
            }
            PlannedTls::Originate(originate) => {
                let alpn: &[u8] = if is_http2 { b"h2" } else { b"http/1.1" };
                let made = self.originate(index, originate, &[alpn])?;
                let server_name = made.server_name(host).map_err(|e| UnusableTransport::Tls(e.to_string()))?;
                Some(DialTls { config: Arc::clone(made.config()), server_name })
            }
            PlannedTls::Refuse(message) => return Err(UnusableTransport::Refused(Arc::clone(message))),
        };
        Ok((key, dial))
    }

    /// TLS for an opaque connection; `None` = plaintext.
    ///
    /// # Errors
    /// As [`Transports::find`].
    pub fn for_bytes(
        &self,
        index: &RuntimeIndex,
        tls: &PlannedTls,
        host: &str,
    ) -> Result<Option<DialTls>, UnusableTransport> {
        match tls {
            PlannedTls::Off => Ok(None),
            PlannedTls::Mesh { sni, sans } => {
                let identity = self.identities.current().ok_or(UnusableTransport::NoIdentity)?;
                let config = identity.client_config(&allowed_peers(sans), AlpnOffer::Tcp);
                Ok(Some(DialTls { config, server_name: server_name(sni)? }))
            }
            PlannedTls::Originate(originate) => {
                let made = self.origination(index, tls, originate)?;
                let server_name = made.server_name(host).map_err(|e| UnusableTransport::Tls(e.to_string()))?;
                Ok(Some(DialTls { config: Arc::clone(made.config()), server_name }))
            }
            PlannedTls::Refuse(message) => Err(UnusableTransport::Refused(Arc::clone(message))),
        }
    }

    /// The origination of opaque connections, made once.
    fn origination(
        &self,
        index: &RuntimeIndex,
        tls: &PlannedTls,
        originate: &Originate,
    ) -> Result<Origination, UnusableTransport> {
        // The server name is given with each connection.
        let key = self.key(index, tls, "")?;
        if let Some(held) = self.originations.lock().get(&key) {
            return Ok(held.clone());
        }
        let made = self.originate(index, originate, &[])?;
        let mut held = self.originations.lock();
        if held.len() >= MAX_ORIGINATIONS {
            held.clear();
        }
        held.insert(key, made.clone());
        Ok(made)
    }

    fn system_roots(&self) -> Result<TrustAnchors, UnusableTransport> {
        let mut held = self.roots.lock();
        if let Some((read, anchors)) = &*held
            && read.elapsed() < ROOTS_LIFETIME
        {
            return Ok(anchors.clone());
        }
        let anchors =
            TrustAnchors::system(&self.system_roots).map_err(|error| UnusableTransport::Tls(error.to_string()))?;
        *held = Some((Instant::now(), anchors.clone()));
        Ok(anchors)
    }

    fn secret_of(&self, index: &RuntimeIndex, key: &Option<Arc<str>>) -> Option<Arc<palisade_model::secret::Secret>> {
        let key = key.as_ref()?;
        index.secret(key).map(Arc::clone).or_else(|| self.files.get(key))
    }

    fn generation(&self) -> u64 {
        self.identities.current().map_or(0, |identity| identity.generation())
    }

    fn key(&self, index: &RuntimeIndex, tls: &PlannedTls, host: &str) -> Result<TlsKey, UnusableTransport> {
        Ok(match tls {
            PlannedTls::Off => TlsKey::Off,
            PlannedTls::Mesh { sni, sans } => {
                TlsKey::Mesh { generation: self.generation(), sni: Arc::clone(sni), sans: Arc::clone(sans) }
            }
            PlannedTls::Originate(originate) => {
                let failed = |e: palisade_model::hash::HashError| UnusableTransport::Tls(e.to_string());
                let secrets: Vec<_> =
                    [&originate.ca, &originate.client_certificate].map(|key| self.secret_of(index, key)).to_vec();
                TlsKey::Originate {
                    settings: *palisade_model::hash::ContentHash::of(&**originate).map_err(failed)?.as_bytes(),
                    secrets: *palisade_model::hash::ContentHash::of(&secrets).map_err(failed)?.as_bytes(),
                    host: host.into(),
                }
            }
            PlannedTls::Refuse(message) => return Err(UnusableTransport::Refused(Arc::clone(message))),
        })
    }

    fn originate(
        &self,
        index: &RuntimeIndex,
        originate: &Originate,
        alpn: &[&[u8]],
    ) -> Result<Origination, UnusableTransport> {
        let failed = |e: &dyn std::fmt::Display| UnusableTransport::Tls(e.to_string());
        let Originate { sni, subject_alt_names, ca, client_certificate, skip_verify, min_version, algorithms } =
            originate;
        let missing = |what: &str, key: &str| UnusableTransport::Tls(format!("{what} `{key}` is missing"));
        let anchors = match ca {
            _ if *skip_verify => TrustAnchors::Unverified,
            Some(key) => {
                let secret = self.secret_of(index, ca);
                let pem = secret.as_ref().and_then(|secret| secret.ca.as_ref()).ok_or_else(|| missing("CA", key))?;
                TrustAnchors::from_pem(pem.as_bytes()).map_err(|e| failed(&e))?
            }
            None => self.system_roots()?,
        };
        let certificate = match client_certificate {
            Some(key) => {
                let secret = self.secret_of(index, client_certificate);
                let secret = secret.ok_or_else(|| missing("client certificate", key))?;
                let (Some(chain), Some(private)) = (&secret.certificate, &secret.private_key) else {
                    return Err(missing("client certificate", key));
                };
                let pair = ClientCertificate::from_pem(chain.as_bytes(), private.expose().as_bytes());
                Some(pair.map_err(|e| failed(&e))?)
            }
            None => None,
        };
        let names = match (sni, subject_alt_names.is_empty()) {
            (_, false) => NameCheck::OneOf(subject_alt_names.to_vec()),
            (None, true) => NameCheck::DialledName,
            (Some(_), true) => NameCheck::Unchecked,
        };
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        let limits = TlsLimits { min_version: *min_version, algorithms: algorithms.clone() };
        let settings = OriginationSettings { anchors, names, sni: sni.clone(), certificate, alpn, limits };
        Origination::new(settings).map_err(|e| failed(&e))
    }
}

impl std::fmt::Debug for Transports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transports").field("known", &self.known.load().len()).finish_non_exhaustive()
    }
}

/// No name known: only the chain is checked (Istio).
fn allowed_peers(sans: &Arc<[Arc<str>]>) -> AllowedPeers {
    if sans.is_empty() { AllowedPeers::AnyInMesh } else { AllowedPeers::only(sans.iter().map(Arc::clone)) }
}

fn server_name(sni: &str) -> Result<rustls_pki_types::ServerName<'static>, UnusableTransport> {
    tls_server_name(sni).map_err(|e| UnusableTransport::Tls(e.to_string()))
}
