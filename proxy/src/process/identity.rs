//! The workload's certificate in the data plane: installed for the trust domains and within the bounds of the configuration in force.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::{identity::TrustDomain, listener::TlsLimits, settings::ProxySettings};
use parking_lot::Mutex;
use rustls_pki_types::UnixTime;

use crate::{
    config::IssuedIdentity,
    tls::{IdentityMaterial, IdentityStore, PeerCertificate},
};

/// Installs certificates as they are issued, and again when the trust domains or the bounds change.
pub(super) struct IdentityKeeper {
    store: Arc<IdentityStore>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    issued: Option<Arc<IssuedIdentity>>,
    mesh: MeshTerms,
}

/// What a configuration says about the mesh's TLS.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct MeshTerms {
    domains: BTreeSet<TrustDomain>,
    limits: TlsLimits,
}

impl IdentityKeeper {
    /// Over the store that the data plane reads.
    pub(super) fn new(store: Arc<IdentityStore>) -> Self {
        Self { store, held: Mutex::default() }
    }

    /// Installs a certificate.
    ///
    /// # Errors
    /// When it cannot be used; what is installed stays.
    pub(super) fn install(&self, issued: Arc<IssuedIdentity>) -> Result<(), String> {
        let mut held = self.held.lock();
        self.put(&issued, &held.mesh)?;
        held.issued = Some(issued);
        Ok(())
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
            self.put(issued, &mesh)?;
        }
        held.mesh = mesh;
        Ok(())
    }

    fn put(&self, issued: &IssuedIdentity, mesh: &MeshTerms) -> Result<(), String> {
        let (chain, key, bundle) = (issued.chain_pem(), issued.key_pem(), issued.bundle_pem());
        let MeshTerms { mut domains, limits } = mesh.clone();
        if domains.is_empty() {
            // Before the first configuration: our own domain. Nothing is served then.
            domains.extend(own_domain(chain));
        }
        let material = IdentityMaterial::from_pem(chain.as_bytes(), key.as_bytes(), bundle.as_bytes(), domains);
        let material = material.map_err(|error| error.to_string())?.limited(limits);
        self.store.install(material, UnixTime::now()).map(drop).map_err(|error| error.to_string())
    }
}

fn own_domain(chain: &str) -> Option<TrustDomain> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let id = PeerCertificate::from_chain(&[leaf]).ok()?.spiffe_id()?;
    Some(id.trust_domain().clone())
}
