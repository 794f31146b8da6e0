//! Connections to control: TLS verified against the mesh root, with the pod's token and, once there is one, its
//! certificate.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use palisade_model::trust::Trust;
use rustls::{ClientConfig, RootCertStore, client::WebPkiServerVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

use super::{identity::IssuedIdentity, pipe::Pipe};
use crate::tls::Revoked;

/// TCP connect and TLS handshake together.
const CONNECT: Duration = Duration::from_secs(5);

/// Largest root or token file that is read.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// How control is reached.
#[derive(Clone)]
pub enum Dialer {
    /// Over the network.
    Tls(Arc<TlsDialer>),
    /// In this process.
    Pipe(Pipe),
}

/// How control is reached over the network.
pub struct TlsDialer {
    /// `HOST:PORT`, resolved anew each time.
    pub address: String,
    /// DNS name that control's certificate must carry.
    pub server_name: ServerName<'static>,
    /// PEM file of the mesh roots, read anew each time.
    pub roots: PathBuf,
    /// Where the workload's own certificate appears; shown once there is one.
    pub credentials: Arc<Credentials>,
}

/// The newest certificate of the workload, for connections to control.
#[derive(Default)]
pub struct Credentials {
    identity: ArcSwapOption<IssuedIdentity>,
    /// Whose certificates count besides those of the file: what control told over a connection that was verified.
    trust: ArcSwapOption<Trust>,
}

/// Where the pod's token comes from.
#[derive(Clone)]
pub enum TokenSource {
    /// A file, read anew for each call: it is replaced before it expires.
    File(PathBuf),
    /// A fixed token, for a control plane in the same process.
    Fixed(Arc<str>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A file cannot be read.
    #[error("`{path}`: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("`{path}`: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// rustls does not take roots or certificate.
    #[error("TLS to the control plane: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection itself.
    #[error("connecting to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// HTTP/2 did not come about.
    #[error("control plane: {0}")]
    Channel(#[from] tonic::transport::Error),
}

/// A connection of either kind.
pub(super) enum ControlIo {
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Pipe(tokio::io::DuplexStream),
}

struct Connector(Dialer);

impl Credentials {
    /// Shows this certificate from now on.
    pub fn set(&self, identity: Arc<IssuedIdentity>) {
        self.identity.store(Some(identity));
    }

    /// Trusts these roots as well as those of the file, which may be older, and nothing that is revoked.
    pub fn set_trust(&self, trust: Trust) {
        self.trust.store(Some(Arc::new(trust)));
    }
}

impl Dialer {
    /// Over the network.
    pub fn tls(dialer: TlsDialer) -> Self {
        Self::Tls(Arc::new(dialer))
    }

    /// A connected channel. It does not reconnect by itself in any way that matters: callers drop it when it fails.
    pub(super) async fn channel(&self) -> Result<Channel, DialError> {
        let endpoint = Endpoint::from_static("http://palisade-control")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_with_connector(Connector(self.clone())).await?)
    }

    async fn dial(self) -> Result<ControlIo, DialError> {
        match self {
            Self::Pipe(pipe) => match pipe.dial().await {
                Ok(io) => Ok(ControlIo::Pipe(io)),
                Err(source) => Err(DialError::Connect { address: "pipe".to_owned(), source }),
            },
            Self::Tls(dialer) => dialer.dial().await,
        }
    }
}

impl TlsDialer {
    async fn dial(&self) -> Result<ControlIo, DialError> {
        let config = self.client_config().await?;
        let failed = |source| DialError::Connect { address: self.address.clone(), source };
        let connect = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(Arc::new(config)).connect(self.server_name.clone(), stream).await
        };
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        Ok(ControlIo::Tls(Box::new(stream)))
    }

    async fn client_config(&self) -> Result<ClientConfig, DialError> {
        let text = read(&self.roots).await?;
        let malformed = |problem: String| DialError::Malformed { path: self.roots.clone(), problem };
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(text.as_bytes()) {
            roots.add(root.map_err(|error| malformed(error.to_string()))?)?;
        }
        if roots.is_empty() {
            return Err(malformed("no certificate in PEM".to_owned()));
        }
        let trust = self.credentials.trust.load_full();
        let told = |error: &dyn fmt::Display| malformed(format!("what the control plane told besides: {error}"));
        for root in CertificateDer::pem_slice_iter(trust.as_ref().map_or(&[][..], |trust| trust.roots.as_bytes())) {
            roots.add(root.map_err(|error| told(&error))?)?;
        }
        // A list that cannot be read is cured over this very connection: here it does not count.
        let revoked = trust.as_ref().and_then(|trust| Revoked::from_pem(&trust.revoked).ok()).unwrap_or_default();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .with_crls(revoked.lists().iter().cloned())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| told(&error))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_webpki_verifier(verifier);
        let mut config = match self.credentials.identity.load_full().filter(|identity| identity.is_valid_now()) {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.chain_pem().as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| malformed(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes())
                    .map_err(|error| malformed(error.to_string()))?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

impl TokenSource {
    /// The `authorization` value.
    pub(super) async fn bearer(&self) -> Result<MetadataValue<Ascii>, DialError> {
        let (path, token) = match self {
            Self::File(path) => (path.clone(), read(path).await?),
            Self::Fixed(token) => (PathBuf::from("token"), token.to_string()),
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| DialError::Malformed { path, problem: "not a token".to_owned() })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

async fn read(path: &Path) -> Result<String, DialError> {
    let text =
        tokio::fs::read_to_string(path).await.map_err(|source| DialError::File { path: path.to_owned(), source })?;
    if text.len() > MAX_FILE_BYTES {
        return Err(DialError::Malformed { path: path.to_owned(), problem: "too large".to_owned() });
    }
    Ok(text)
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<ControlIo>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move { dialer.dial().await.map(TokioIo::new) })
    }
}

impl AsyncRead for ControlIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tls(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Pipe(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ControlIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Pipe(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Pipe(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Pipe(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Fixed(_) => f.write_str("Fixed(..)"),
        }
    }
}
