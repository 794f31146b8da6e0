//! Self-signed certificates, and TLS connections that trust one of them.

use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate of one name.
pub struct Certificate {
    /// The name.
    pub name: &'static str,
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Certificate {
    /// A new one.
    pub fn new(name: &'static str) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
        Ok(Self { name, certificate: made.cert, key: made.signing_key })
    }

    /// A Secret that holds it.
    pub fn secret(&self, name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: {:?}\n  tls.key: {:?}\n",
            self.certificate.pem(),
            self.key.serialize_pem()
        )
    }

    /// Certificate and key as PEM.
    pub fn pem(&self) -> (String, String) {
        (self.certificate.pem(), self.key.serialize_pem())
    }

    /// A connection to `address` that asks for `name` and trusts this certificate only.
    pub async fn connect(&self, address: &str, name: &str, alpn: &str) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone())?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("handshake")?;
        let agreed = stream.get_ref().1.alpn_protocol();
        ensure!(alpn != "h2" || agreed == Some(b"h2"), "{agreed:?}");
        Ok(stream)
    }
}
