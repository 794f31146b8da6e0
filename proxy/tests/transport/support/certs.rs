//! A small certificate authority for mTLS between two proxies.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use palisade_proxy::transport::TlsTransport;

pub const A_ID: &str = "spiffe://cluster.local/ns/default/sa/a";
pub const B_ID: &str = "spiffe://cluster.local/ns/default/sa/b";
pub const B_NAME: &str = "b.mesh.test";

/// Everything both sides need.
#[derive(Clone)]
pub struct Pki {
    pub server: Arc<ServerConfig>,
    pub server_h1: Arc<ServerConfig>,
    /// HTTP/2 for anybody, without a certificate of his own.
    pub server_public: Arc<ServerConfig>,
    pub client: TlsTransport,
}

impl Pki {
    pub fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let leaf = |uri: &str| -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
            let mut params = CertificateParams::new(vec![B_NAME.to_owned()]).unwrap();
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &ca).unwrap();
            (cert.der().clone(), key.serialize_der().try_into().unwrap())
        };
        let server = |alpn: &[&[u8]]| {
            let (cert, key) = leaf(B_ID);
            let verifier = WebPkiClientVerifier::builder(Arc::clone(&roots)).build().unwrap();
            let mut config =
                ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(vec![cert], key).unwrap();
            config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
            config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
            Arc::new(config)
        };
        let (cert, key) = leaf(B_ID);
        let mut public = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key).unwrap();
        public.alpn_protocols = vec![b"h2".to_vec()];
        let (cert, key) = leaf(A_ID);
        let mut h1 = ClientConfig::builder()
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(vec![cert], key)
            .unwrap();
        h1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut h2 = h1.clone();
        h2.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            server: server(&[b"h2", b"http/1.1"]),
            server_h1: server(&[b"http/1.1"]),
            server_public: Arc::new(public),
            client: TlsTransport {
                h1: Arc::new(h1),
                h2: Arc::new(h2),
                server_name: ServerName::try_from(B_NAME).unwrap(),
                h2_alpn: Arc::from([]),
            },
        }
    }
}
