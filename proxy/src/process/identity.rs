//! The workload's certificate in the data plane: installed for the trust, the trust domains and within the bounds that are in force.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::{
    identity::TrustDomain,
    listener::TlsLimits,
    settings::ProxySettings,
    trust::{Fingerprint, Standing, Trust},
};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use tokio::sync::watch;

use crate::{
    config::{Credentials, IssuedIdentity, Trusting},
    tls::{IdentityMaterial, IdentityStore, PeerCertificate, Revoked},
};

/// Installs certificates as they are issued, and again when trust, trust domains or bounds change.
pub(super) struct IdentityKeeper {
    store: Arc<IdentityStore>,
    /// Where connections to control take their trust from.
    credentials: Option<Arc<Credentials>>,
    held: Mutex<Held>,
    standing: watch::Sender<Standing>,
    /// The certificate is of another root than the one that signs now, or it is revoked.
    is_renewal_due: watch::Sender<bool>,
}

#[derive(Default)]
struct Held {
    issued: Option<Arc<IssuedIdentity>>,
    mesh: MeshTerms,
    /// What control told last.
    told: Option<Trust>,
    /// What was told is from before a restart, but for what is revoked: roots come with the next certificate.
    is_restored: bool,
    /// What is in force of that; without it, the roots that came with the certificate.
    trust: Option<Trust>,
    problem: Option<Arc<str>>,
}

/// What a configuration says about the mesh's TLS.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct MeshTerms {
    domains: BTreeSet<TrustDomain>,
    limits: TlsLimits,
}

impl IdentityKeeper {
    /// Over the store that the data plane reads.
    pub(super) fn new(store: Arc<IdentityStore>, credentials: Option<Arc<Credentials>>) -> Self {
        let (standing, is_renewal_due) = (watch::Sender::default(), watch::Sender::default());
        Self { store, credentials, held: Mutex::default(), standing, is_renewal_due }
    }

    /// Installs a certificate.
    ///
    /// # Errors
    /// When it cannot be used; what is installed stays.
    pub(super) fn install(&self, issued: Arc<IssuedIdentity>) -> Result<(), String> {
        let mut held = self.held.lock();
        if held.is_restored
            && let Some(told) = &mut held.told
        {
            told.roots = issued.bundle_pem().into();
        }
        let told = held.told.clone();
        let installed = self.put(&issued, &held.mesh, told.as_ref());
        match installed {
            Ok(()) => (held.trust, held.problem) = (told, None),
            // Of another root than what was told last: what is in force is asked instead.
            Err(_) if held.trust.is_some() && held.trust != told => {
                self.put(&issued, &held.mesh, held.trust.as_ref())?
            }
            Err(error) => return Err(error),
        }
        held.issued = Some(issued);
        self.tell(&held);
        Ok(())
    }

    /// What was in force before a restart.
    pub(super) fn restore(&self, issued: Arc<IssuedIdentity>, trust: Option<Trust>) -> Result<(), String> {
        {
            let mut held = self.held.lock();
            (held.is_restored, held.told) = (trust.is_some(), trust);
        }
        self.install(issued)
    }

    /// Notes the trust domains of a configuration, and its bounds of TLS.
    ///
    /// # Errors
    /// When the certificate cannot be installed for them.
    pub(super) fn set_terms(&self, settings: &ProxySettings) -> Result<(), String> {
        let mut domains = settings.trust_domain_aliases.clone();
        domains.insert(settings.trust_domain.clone());
        let mesh = MeshTerms { domains, limits: settings.mesh_tls.clone() };
        let mut held = self.held.lock();
        if held.mesh == mesh {
            return Ok(());
        }
        if let Some(issued) = &held.issued {
            self.put(issued, &mesh, held.trust.as_ref())?;
        }
        held.mesh = mesh;
        Ok(())
    }

    /// The certificate with what is trusted beside it, to be kept across restarts.
    pub(super) fn to_keep(&self) -> Option<(Arc<IssuedIdentity>, Option<Trust>)> {
        let held = self.held.lock();
        Some((Arc::clone(held.issued.as_ref()?), held.trust.clone()))
    }

    /// Whether another certificate is to be asked for before time.
    pub(super) fn renewal_due(&self) -> watch::Receiver<bool> {
        self.is_renewal_due.subscribe()
    }

    fn put(&self, issued: &IssuedIdentity, mesh: &MeshTerms, trust: Option<&Trust>) -> Result<(), String> {
        let (chain, key) = (issued.chain_pem(), issued.key_pem());
        let bundle = trust.map_or_else(|| issued.bundle_pem(), |trust| &trust.roots);
        let MeshTerms { mut domains, limits } = mesh.clone();
        if domains.is_empty() {
            // Before the first configuration: our own domain. Nothing is served then.
            domains.extend(own_domain(chain));
        }
        let material = IdentityMaterial::from_pem(chain.as_bytes(), key.as_bytes(), bundle.as_bytes(), domains);
        let material = material.map_err(|error| error.to_string())?.limited(limits).revoking(revoked(trust));
        self.store.install(material, UnixTime::now()).map(drop).map_err(|error| error.to_string())
    }

    /// Tells those who follow what is in force now.
    fn tell(&self, held: &Held) {
        if let (Some(credentials), Some(trust)) = (&self.credentials, &held.trust) {
            credentials.set_trust(trust.clone());
        }
        let now = UnixTime::now();
        let identity = self.store.current();
        let leaf_roots = identity.as_ref().map(|identity| identity.leaf_roots(now)).unwrap_or_default();
        let roots = match (&identity, &held.trust) {
            (Some(identity), _) => identity.bundle().iter().map(|root| Fingerprint::of_bytes(root)).collect(),
            (None, Some(trust)) => fingerprints(&trust.roots),
            (None, None) => BTreeSet::new(),
        };
        let not_after = identity.as_ref().map_or(0, |identity| u64::try_from(identity.period().1).unwrap_or(0));
        let signing = held.told.as_ref().and_then(|told| told.signing);
        let is_of_another = signing.is_some_and(|signing| !leaf_roots.contains(&signing));
        let is_due = identity.as_ref().is_some_and(|identity| is_of_another || identity.is_revoked(now));
        let trust = held.trust.as_ref().and_then(|trust| trust.version().ok());
        let problem = held.problem.clone().or_else(|| {
            let refusal = identity.as_ref().and_then(|identity| identity.revoked().refusal().cloned());
            refusal.map(|refusal| format!("nobody is trusted: {refusal}").into())
        });
        self.standing.send_replace(Standing { trust, roots, leaf_roots, not_after, problem });
        self.is_renewal_due.send_replace(is_due);
    }
}

impl Trusting for IdentityKeeper {
    fn trust(&self, told: Trust) -> Standing {
        let mut held = self.held.lock();
        held.is_restored = false;
        let is_new = held.told.as_ref() != Some(&told) || held.trust.as_ref() != Some(&told);
        if is_new {
            let put = held.issued.as_ref().map(|issued| self.put(issued, &held.mesh, Some(&told)));
            match put.unwrap_or(Ok(())) {
                Ok(()) => (held.trust, held.problem) = (Some(told.clone()), None),
                Err(error) => {
                    tracing::warn!(%error, "what control says to trust is not in force yet");
                    held.problem = Some(error.into());
                }
            }
            held.told = Some(told);
            self.tell(&held);
        }
        self.standing.borrow().clone()
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

/// What is revoked. What cannot be read trusts nobody: control, which reads it first, would have said so.
fn revoked(trust: Option<&Trust>) -> Arc<Revoked> {
    let Some(trust) = trust else { return Arc::default() };
    if let Some(refusal) = &trust.refusal {
        return Arc::new(Revoked::unknown(Arc::clone(refusal)));
    }
    Arc::new(Revoked::from_pem(&trust.revoked).unwrap_or_else(|error| {
        tracing::error!(%error, "what is revoked cannot be read: nobody is trusted");
        Revoked::unknown(error.to_string().into())
    }))
}

fn fingerprints(pem: &str) -> BTreeSet<Fingerprint> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    certificates.unwrap_or_default().iter().map(|root| Fingerprint::of_bytes(root)).collect()
}

fn own_domain(chain: &str) -> Option<TrustDomain> {
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let id = PeerCertificate::from_chain(&[leaf]).ok()?.spiffe_id()?;
    Some(id.trust_domain().clone())
}

#[cfg(test)]
mod tests;
