//! TLS: who the peer is, who we are, and the rustls configurations made from both.
//!
//! - [`IdentityStore`] holds the workload's own certificate, key and trust bundle, swapped as one [`MeshIdentity`] per
//!   generation. Everything derived from an identity (server and client configurations, ticket keys, session caches)
//!   belongs to its generation, so nothing resumes across identities. Established connections keep what they began with.
//! - [`MeshServerVerifier`] and [`MeshClientVerifier`] judge mesh peers: chain to the bundle, exactly one URI SAN, a
//!   SPIFFE id. Names in the SNI sense play no part.
//! - [`Termination`] is one set of user certificates of a gateway listener, [`SniTable`] chooses among several by SNI.
//! - [`Origination`] is TLS towards a service outside the mesh.
//! - [`ClientHello`] is the pure parser behind sniffing.
//!
//! One TLS stack: rustls with ring. Keys never appear in `Debug` output. TLS 1.2 is the least version everywhere.

mod algorithms;
mod alpn;
mod client;
mod identity;
mod material;
mod peer;
mod revoked;
mod server_cert;
mod sni;
mod sni_table;
mod verifier;

#[cfg(test)]
pub(crate) mod testing;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use alpn::{AlpnOffer, HTTP_ANSWERS, MeshTreatment, TCP_ANSWERS, mesh_treatment};
pub use client::{
    ClientCertificate, InvalidOrigination, NameCheck, Origination, OriginationSettings, TrustAnchors, server_name,
};
pub use identity::{IdentityError, IdentityStore, MeshIdentity, MeshProtocol};
pub use material::{IdentityMaterial, InvalidMaterial};
pub use peer::{InvalidPeer, PeerCertificate};
pub use revoked::Revoked;
pub use server_cert::{ClientAuth, ClientTrust, ServerCertificate, Termination, TerminationSettings};
pub use sni::{ClientHello, HelloParse, InvalidHello, MAX_HELLO_BYTES, parse_client_hello};
pub use sni_table::SniTable;
pub use verifier::{AllowedPeers, CallerAuth, MeshClientVerifier, MeshServerVerifier};

/// The cryptography that every configuration of this process uses: ring, which Pingora installs as process default too.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}
