//! The workload's own identity, swapped as a whole, and the configurations derived from it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use palisade_model::{listener::TlsVersion, trust::Fingerprint};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::{Resumption, verify_server_cert_signed_by_trust_anchor},
    server::{NoServerSessionStorage, ParsedCertificate, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use super::{
    algorithms,
    alpn::{self, AlpnOffer, HTTP_ANSWERS, TCP_ANSWERS},
    material::{IdentityMaterial, InvalidMaterial},
    peer::{InvalidPeer, PeerCertificate},
    provider,
    revoked::Revoked,
    verifier::{AllowedPeers, CallerAuth, MeshClientVerifier, MeshServerVerifier},
};

/// Sessions that a client configuration keeps for resumption: 8 tickets for each of 16 server names.
const CLIENT_SESSIONS: usize = 128;
/// Client configurations kept at most before those that nobody holds any more are dropped.
const CLIENT_CONFIGS_SOFT_LIMIT: usize = 1024;

/// Holds the current [`MeshIdentity`]. Reading costs one atomic load.
#[derive(Debug)]
pub struct IdentityStore {
    current: ArcSwapOption<MeshIdentity>,
    /// The last generation given out. The lock serialises installations, so that generations only ever rise.
    installed: Mutex<u64>,
    generation: watch::Sender<u64>,
}

/// One generation of the workload's identity with all that is derived from it.
///
/// A connection or a pool that holds one keeps working with it after a rotation; new connections take the current one.
pub struct MeshIdentity {
    generation: u64,
    material: IdentityMaterial,
    uri: Arc<str>,
    period: (i64, i64),
    callers: Arc<MeshClientVerifier>,
    required: ServerVariants,
    offered: ServerVariants,
    client: ClientConfig,
    clients: Mutex<HashMap<AllowedPeers, ClientVariants>>,
    handshakes: AtomicU64,
}

/// What a mesh port carries, which decides the ALPN answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MeshProtocol {
    /// `h2,http/1.1`.
    Http,
    /// `istio-peer-exchange,h2,http/1.1`.
    Tcp,
}

/// Why an identity was not installed; the one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate names no SPIFFE identity.
    #[error("the workload certificate is no mesh identity: {0}")]
    Names(#[from] InvalidPeer),
    /// The certificate does not hold against the bundle that came with it.
    #[error("the workload certificate does not chain to its own trust bundle at this time: {0}")]
    Chain(#[source] rustls::Error),
    /// The material cannot be turned into configurations.
    #[error(transparent)]
    Material(#[from] InvalidMaterial),
    /// rustls refused a configuration.
    #[error("the TLS configuration cannot be built: {0}")]
    Configuration(#[from] rustls::Error),
}

/// The same server configuration with three ALPN answers. They share the verifier and the ticket keys.
struct ServerVariants {
    http: Arc<ServerConfig>,
    tcp: Arc<ServerConfig>,
    /// For a client that offers none of our names: Envoy goes on without ALPN, rustls would refuse.
    silent: Arc<ServerConfig>,
}

/// The same client configuration with the three offers. They share verifier, credentials and session store.
#[derive(Clone)]
struct ClientVariants {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    tcp: Arc<ClientConfig>,
}

impl IdentityStore {
    /// A store without an identity: mesh handshakes are refused until one is installed.
    pub fn new() -> Self {
        Self { current: ArcSwapOption::empty(), installed: Mutex::new(0), generation: watch::Sender::new(0) }
    }

    /// The identity in force, `None` before the first one.
    pub fn current(&self) -> Option<Arc<MeshIdentity>> {
        self.current.load_full()
    }

    /// The generation of the identity in force; 0 before the first one.
    pub fn generation(&self) -> u64 {
        self.current.load().as_ref().map_or(0, |identity| identity.generation)
    }

    /// Follows the generation: 0 before the first identity, then rising. For pools that replace old connections.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Checks the material, derives everything from it, and puts it in force for connections that begin from now on.
    ///
    /// # Errors
    /// Nothing changes then. An identity that its own bundle does not vouch for is refused, because no peer would
    /// accept it either.
    pub fn install(&self, material: IdentityMaterial, now: UnixTime) -> Result<Arc<MeshIdentity>, IdentityError> {
        let mut installed = self.installed.lock();
        let generation = installed.saturating_add(1);
        let identity = Arc::new(MeshIdentity::build(generation, material, now)?);
        self.current.store(Some(Arc::clone(&identity)));
        *installed = generation;
        drop(installed);
        self.generation.send_replace(generation);
        Ok(identity)
    }
}

impl Default for IdentityStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MeshIdentity {
    fn build(generation: u64, material: IdentityMaterial, now: UnixTime) -> Result<Self, IdentityError> {
        let peer = PeerCertificate::from_chain(&material.certified.cert)?;
        let uri = Arc::clone(peer.spiffe_uri()?);
        check_own_chain(&peer, &material.roots, now).map_err(IdentityError::Chain)?;
        let period = peer.period()?;
        let callers = Arc::new(caller_verifier(&material, CallerAuth::Required)?);
        let required = ServerVariants::build(&material, Arc::clone(&callers))?;
        let offered = ServerVariants::build(&material, Arc::new(caller_verifier(&material, CallerAuth::Offered)?))?;
        let client = client_template(&material)?;
        Ok(Self {
            generation,
            material,
            uri,
            period,
            callers,
            required,
            offered,
            client,
            clients: Mutex::new(HashMap::new()),
            handshakes: AtomicU64::new(0),
        })
    }

    /// Rises with every installed identity of the process; equal generations mean the same key, bundle and domains.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The workload's SPIFFE URI.
    pub fn uri(&self) -> &Arc<str> {
        &self.uri
    }

    /// The leaf's validity period: not before, not after, in seconds since the Unix epoch.
    pub fn period(&self) -> (i64, i64) {
        self.period
    }

    /// The trust anchors.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.material.roots
    }

    /// The trust bundle's certificates.
    pub fn bundle(&self) -> &[CertificateDer<'static>] {
        &self.material.bundle
    }

    /// The workload's own chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.material.certified.cert
    }

    /// The configuration for a mesh connection that arrives, given what the client offers. Always the same `Arc` for
    /// equal input. TLS 1.2 and 1.3 within the bounds of the material, tickets of this generation only.
    pub fn server_config<T: AsRef<[u8]>>(
        &self,
        protocol: MeshProtocol,
        auth: CallerAuth,
        offer: &[T],
    ) -> Arc<ServerConfig> {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        let variants = match auth {
            CallerAuth::Required => &self.required,
            CallerAuth::Offered => &self.offered,
        };
        variants.pick(protocol, offer)
    }

    /// The configuration for dialling a mesh peer. Equal input gives the same `Arc`, so that sessions resume; different
    /// `allowed` never share sessions.
    pub fn client_config(&self, allowed: &AllowedPeers, offer: AlpnOffer) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock();
        if let Some(variants) = clients.get(allowed) {
            return variants.pick(offer);
        }
        if clients.len() >= CLIENT_CONFIGS_SOFT_LIMIT {
            clients.retain(|_, variants| variants.is_in_use());
        }
        let variants = ClientVariants::build(&self.client, &self.material, allowed);
        clients.entry(allowed.clone()).or_insert(variants).pick(offer)
    }

    /// Judges a caller again who was admitted before, perhaps by an earlier generation: chain, period, identity, domain.
    /// Costs what the check in a handshake costs.
    ///
    /// # Errors
    /// Says why the caller would not be admitted now.
    pub fn verify_caller(&self, caller: &PeerCertificate, now: UnixTime) -> Result<(), rustls::Error> {
        let [leaf, intermediates @ ..] = caller.chain() else {
            return Err(InvalidPeer::Missing.into());
        };
        self.callers.verify_client_cert(leaf, intermediates, now).map(|_verified| ())
    }

    /// Which of the trusted roots its own certificate holds against, by fingerprint.
    pub fn leaf_roots(&self, now: UnixTime) -> BTreeSet<Fingerprint> {
        let Ok(own) = PeerCertificate::from_chain(self.chain()) else { return BTreeSet::new() };
        let holds = |root: &&CertificateDer<'static>| {
            let mut alone = RootCertStore::empty();
            alone.add((*root).clone()).is_ok() && check_own_chain(&own, &alone, now).is_ok()
        };
        self.bundle().iter().filter(holds).map(|root| Fingerprint::of_bytes(root)).collect()
    }

    /// Whether its own certificate is revoked, so that nobody takes it.
    pub fn is_revoked(&self, now: UnixTime) -> bool {
        PeerCertificate::from_chain(self.chain())
            .is_ok_and(|own| self.material.revoked.has(&own, &self.material.roots, now))
    }

    /// What is revoked.
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.material.revoked
    }

    /// Mesh handshakes that were begun as a server with this generation.
    pub fn server_handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for MeshIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshIdentity")
            .field("generation", &self.generation)
            .field("uri", &self.uri)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

impl ServerVariants {
    fn build(material: &IdentityMaterial, verifier: Arc<MeshClientVerifier>) -> Result<Self, IdentityError> {
        let mut config = ServerConfig::builder_with_provider(algorithms::provider_with(&material.limits.algorithms)?)
            .with_protocol_versions(versions(material))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.certified))));
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let with_answers = |answers: &[&[u8]]| {
            let mut variant = config.clone();
            variant.alpn_protocols = alpn::owned(answers);
            Arc::new(variant)
        };
        Ok(Self { http: with_answers(&HTTP_ANSWERS), tcp: with_answers(&TCP_ANSWERS), silent: with_answers(&[]) })
    }

    fn pick<T: AsRef<[u8]>>(&self, protocol: MeshProtocol, offer: &[T]) -> Arc<ServerConfig> {
        let (config, answers): (_, &[&[u8]]) = match protocol {
            MeshProtocol::Http => (&self.http, &HTTP_ANSWERS),
            MeshProtocol::Tcp => (&self.tcp, &TCP_ANSWERS),
        };
        Arc::clone(if alpn::is_negotiable(answers, offer) { config } else { &self.silent })
    }
}

impl ClientVariants {
    fn build(template: &ClientConfig, material: &IdentityMaterial, allowed: &AllowedPeers) -> Self {
        let mut config = template.clone();
        let verifier = MeshServerVerifier::new(Arc::clone(&material.roots), allowed.clone());
        let verifier = verifier.revoking(Arc::clone(&material.revoked));
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        let with_offer = |offer: AlpnOffer| {
            let mut variant = config.clone();
            variant.alpn_protocols = alpn::owned(offer.protocols());
            Arc::new(variant)
        };
        Self {
            http1: with_offer(AlpnOffer::Http1),
            http2: with_offer(AlpnOffer::Http2),
            tcp: with_offer(AlpnOffer::Tcp),
        }
    }

    fn pick(&self, offer: AlpnOffer) -> Arc<ClientConfig> {
        Arc::clone(match offer {
            AlpnOffer::Http1 => &self.http1,
            AlpnOffer::Http2 => &self.http2,
            AlpnOffer::Tcp => &self.tcp,
        })
    }

    fn is_in_use(&self) -> bool {
        [&self.http1, &self.http2, &self.tcp].into_iter().any(|config| Arc::strong_count(config) > 1)
    }
}

fn caller_verifier(material: &IdentityMaterial, auth: CallerAuth) -> Result<MeshClientVerifier, InvalidMaterial> {
    let verifier = MeshClientVerifier::new(Arc::clone(&material.roots), Arc::clone(&material.trust_domains), auth)?;
    Ok(verifier.revoking(Arc::clone(&material.revoked)))
}

fn versions(material: &IdentityMaterial) -> &'static [&'static SupportedProtocolVersion] {
    algorithms::versions(material.limits.min_version, TlsVersion::V1_3)
}

/// A client configuration with everything but the verifier, which accepts nobody until it is replaced.
fn client_template(material: &IdentityMaterial) -> Result<ClientConfig, IdentityError> {
    let nobody = MeshServerVerifier::new(Arc::new(RootCertStore::empty()), AllowedPeers::only::<&str>([]));
    Ok(ClientConfig::builder_with_provider(algorithms::provider_with(&material.limits.algorithms)?)
        .with_protocol_versions(versions(material))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.certified)))))
}

/// The chain of our own certificate, judged as a peer would.
fn check_own_chain(own: &PeerCertificate, roots: &RootCertStore, now: UnixTime) -> Result<(), rustls::Error> {
    let [leaf, intermediates @ ..] = own.chain() else {
        return Err(InvalidPeer::Missing.into());
    };
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

#[cfg(test)]
mod tests;
