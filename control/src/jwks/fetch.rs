//! One fetch: resolved, checked, connected and read by hand, so that every address of every redirect is looked at.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use palisade_compile::{KeySource, public_keys};
use palisade_model::reserved::is_reserved;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// A whole fetch, discovery and redirects included (Istio).
const LIMIT: Duration = Duration::from_secs(5);
/// Redirects of one request (Go's default, which Istio has).
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Fetches key sets.
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    limit: Duration,
    /// Whether an address may be called.
    refuses: fn(IpAddr) -> bool,
}

/// Why keys could not be fetched. Never says what an answer contained.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not an URL that can be called.
    #[error("`{0}` is not an http or https URL")]
    Url(String),
    /// The name does not resolve.
    #[error("`{host}` does not resolve: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The address is one that is never called.
    #[error("`{0}` has an address that is never called: link-local or metadata")]
    Refused(String),
    /// No connection, or no TLS.
    #[error("cannot connect to `{host}`: {source}")]
    Connect {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The exchange failed.
    #[error("`{host}`: {message}")]
    Http {
        /// The name.
        host: String,
        /// Why.
        message: String,
    },
    /// Another status than 200.
    #[error("`{host}` answered {status}")]
    Status {
        /// The name.
        host: String,
        /// The status.
        status: StatusCode,
    },
    /// Redirected too often, or led to a weaker scheme.
    #[error("`{0}` redirects too often or leads away from https")]
    Redirect(String),
    /// Not the document that it should be.
    #[error("`{host}`: {message}")]
    Content {
        /// The name.
        host: String,
        /// What is wrong.
        message: &'static str,
    },
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Fetcher {
    /// A fetcher that trusts the CA certificates of a PEM file. Without the file nothing is trusted over TLS.
    pub fn new(roots: &Path) -> Self {
        let mut store = RootCertStore::empty();
        match CertificateDer::pem_file_iter(roots) {
            Ok(certificates) => {
                let (added, ignored) = store.add_parsable_certificates(certificates.filter_map(Result::ok));
                tracing::debug!(roots = %roots.display(), added, ignored, "CA certificates for key sets");
            }
            Err(error) => tracing::warn!(roots = %roots.display(), %error, "no CA certificates for key sets"),
        }
        Self::trusting(store)
    }

    /// A fetcher that trusts these CA certificates.
    pub fn trusting(roots: RootCertStore) -> Self {
        let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|_| ClientConfig::builder())
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: Arc::new(tls), limit: LIMIT, refuses: is_reserved }
    }

    #[cfg(test)]
    pub(super) fn limited(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The public keys of a source.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, source: &KeySource) -> Result<String, FetchError> {
        match tokio::time::timeout(self.limit, self.fetch_whole(source)).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout(self.limit)),
        }
    }

    async fn fetch_whole(&self, source: &KeySource) -> Result<String, FetchError> {
        let uri = match source {
            KeySource::Uri(uri) => uri.to_string(),
            KeySource::Issuer(issuer) => {
                let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                let (host, body) = self.get(&document).await?;
                let fields: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let uri = fields.get("jwks_uri").and_then(|uri| uri.as_str());
                let message = "its OpenID configuration names no `jwks_uri`";
                let uri = uri.ok_or(FetchError::Content { host: host.clone(), message })?.to_owned();
                // What TLS vouches for names no keys that nobody vouches for.
                if has_scheme(issuer, "https") && !has_scheme(&uri, "https") {
                    return Err(FetchError::Redirect(host));
                }
                uri
            }
        };
        let (host, body) = self.get(&uri).await?;
        let keys = std::str::from_utf8(&body).ok().and_then(public_keys);
        keys.ok_or(FetchError::Content { host, message: "the answer is no set of public keys" })
    }

    /// A document, with the host that gave it.
    async fn get(&self, url: &str) -> Result<(String, Bytes), FetchError> {
        let mut url: Uri = url.parse().map_err(|_| FetchError::Url(url.to_owned()))?;
        for _ in 0..=MAX_REDIRECTS {
            let (host, response) = self.get_once(&url).await?;
            let status = response.status();
            if status.is_redirection() {
                let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                let next = location.and_then(|location| redirected(&url, location));
                let next = next.ok_or_else(|| FetchError::Redirect(host.clone()))?;
                if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                    return Err(FetchError::Redirect(host));
                }
                url = next;
                continue;
            }
            if status != StatusCode::OK {
                return Err(FetchError::Status { host, status });
            }
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
            let body = body.map_err(|error| FetchError::Http { host: host.clone(), message: error.to_string() })?;
            return Ok((host, body.to_bytes()));
        }
        Err(FetchError::Redirect(url.to_string()))
    }

    async fn get_once(&self, url: &Uri) -> Result<(String, http::Response<hyper::body::Incoming>), FetchError> {
        let unusable = || FetchError::Url(url.to_string());
        let host = url.host().ok_or_else(unusable)?.to_owned();
        let is_tls = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(unusable()),
        };
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let addresses = self.resolve(&host, port).await?;
        let failed = |source| FetchError::Connect { host: host.clone(), source };
        let stream = self.connect(&addresses).await.map_err(failed)?;
        let response = if is_tls {
            let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(name).map_err(|_| unusable())?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            let stream = connector.connect(name, stream).await.map_err(failed)?;
            exchange(stream, url).await
        } else {
            exchange(stream, url).await
        };
        let response = response.map_err(|message| FetchError::Http { host: host.clone(), message })?;
        Ok((host, response))
    }

    /// A connection to the first address that answers; one that does not leaves time for the others.
    async fn connect(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let share = self.limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no addresses");
        for address in addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }

    /// The addresses of a name. One refused address refuses the name: which one an attacker's server would give next is not known.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, FetchError> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((name, port)).await;
        let found = found.map_err(|source| FetchError::Resolve { host: host.to_owned(), source })?;
        let addresses: Vec<SocketAddr> = found.collect();
        if addresses.iter().any(|address| (self.refuses)(address.ip())) {
            return Err(FetchError::Refused(host.to_owned()));
        }
        Ok(addresses)
    }
}

/// Whether an URL has this scheme, however it is written.
fn has_scheme(url: &str, scheme: &str) -> bool {
    url.split_once(':').is_some_and(|(written, _)| written.eq_ignore_ascii_case(scheme))
}

/// Where a redirect leads: an URL of its own, or a path on the same host.
fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') && !location.starts_with("//") {
        let authority = from.authority()?.clone();
        return Uri::builder().scheme(from.scheme_str()?).authority(authority).path_and_query(location).build().ok();
    }
    location.parse().ok().filter(|uri: &Uri| uri.host().is_some())
}

async fn exchange<S>(stream: S, url: &Uri) -> Result<http::Response<hyper::body::Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with the exchange: the body's reader, or its drop, closes the connection.
    tokio::spawn(async move { drop(connection.await) });
    let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    // No user information is ever sent.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "palisade")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    sender.send_request(request).await.map_err(|error| error.to_string())
}
