//! TLS of the load generator. It takes any server certificate: what it measures is on its own machine.

use std::{pin::Pin, sync::Arc};

use anyhow::Context;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Load;

/// A connection, with or without TLS.
pub(super) type ClientStream = Pin<Box<dyn Duplex>>;

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// How to speak TLS, if at all.
#[derive(Debug, Clone)]
pub(super) struct Tls(Option<(Arc<ClientConfig>, ServerName<'static>)>);

impl Tls {
    pub(super) fn of(load: &Load) -> anyhow::Result<Self> {
        let Some(sni) = &load.sni else { return Ok(Self(None)) };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let mut config = match (&load.certificate, &load.key) {
            (Some(certificate), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = load.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        let name = ServerName::try_from(sni.clone()).with_context(|| sni.clone())?;
        Ok(Self(Some((Arc::new(config), name))))
    }

    /// The same with another memory of sessions, `None` for no memory.
    pub(super) fn with_sessions(&self, count: Option<usize>) -> Self {
        let resumption = |count| match count {
            Some(count) => rustls::client::Resumption::in_memory_sessions(count),
            None => rustls::client::Resumption::disabled(),
        };
        Self(self.0.as_ref().map(|(config, name)| {
            let mut config = (**config).clone();
            config.resumption = resumption(count);
            (Arc::new(config), name.clone())
        }))
    }

    pub(super) async fn over(&self, stream: TcpStream) -> anyhow::Result<ClientStream> {
        Ok(match &self.0 {
            None => Box::pin(stream),
            Some(_) => Box::pin(self.handshake(stream).await?),
        })
    }

    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let (config, name) = self.0.as_ref().context("no TLS is asked for")?;
        Ok(TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?)
    }
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
