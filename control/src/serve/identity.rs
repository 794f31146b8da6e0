//! The control plane's own certificate: issued by its authority, renewed at half-life.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::shown::AnyClient;
use crate::ca::{CertificateAuthority, LiveAuthority, SignError};

/// The certificate that proxies see, and the TLS configuration around it.
#[derive(Debug)]
pub struct ServingIdentity {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    request: Request,
}

#[derive(Debug)]
struct Request {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    lifetime: Duration,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingIdentityError {
    /// The authority does not sign.
    #[error("the control plane's own certificate: {0}")]
    Sign(#[from] SignError),
    /// rustls does not take it.
    #[error("the control plane's own certificate: {0}")]
    Tls(#[from] rustls::Error),
}

impl ServingIdentity {
    /// A certificate for these DNS names and addresses. Clients may show a certificate; what it is worth is judged for each call.
    ///
    /// # Errors
    /// When the authority does not sign or rustls does not take the result.
    pub fn issue(
        authority: &CertificateAuthority,
        names: Vec<String>,
        addresses: Vec<IpAddr>,
        lifetime: Duration,
    ) -> Result<Self, ServingIdentityError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let request = Request { names, addresses, lifetime };
        let current = Arc::new(Current(ArcSwap::from_pointee(certified(authority, &request)?)));
        let clients = Arc::new(AnyClient::new(Arc::clone(&provider)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), current, request })
    }

    /// The TLS configuration; it follows renewals by itself.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The same certificate for servers that ask nobody for one, over HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When rustls does not take it.
    pub fn anonymous_config(&self) -> Result<Arc<ServerConfig>, ServingIdentityError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Renews at half-life, and when another root signs, until `stop`. The old certificate stays while renewing fails.
    pub async fn renew(&self, authority: &LiveAuthority, stop: CancellationToken) {
        let mut changes = authority.follow();
        let mut signing = changes.borrow_and_update().trust().signing;
        let half = (self.request.lifetime / 2).max(Duration::from_secs(1));
        let mut wait = half;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = passed(wait) => {}
                changed = changes.wait_for(|authority| authority.trust().signing != signing) => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            let authority = authority.current();
            wait = match certified(&authority, &self.request) {
                Ok(key) => {
                    self.current.0.store(Arc::new(key));
                    signing = authority.trust().signing;
                    half
                }
                Err(error) => {
                    tracing::error!(%error, "the control plane's certificate cannot be renewed");
                    // Tried again by the clock, whoever signs.
                    signing = authority.trust().signing;
                    (half / 10).max(Duration::from_secs(1))
                }
            };
        }
    }
}

/// How often the clock on the wall is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// A clock that goes back by more has been set; what was signed before may lie in its future.
const SET_BACK: Duration = Duration::from_secs(60);

/// Waits until so much time has passed, by whichever clock says so first; also ends when the wall clock was set back.
async fn passed(wait: Duration) {
    let (begin, began) = (Instant::now(), SystemTime::now());
    while !has_passed(begin.elapsed(), began, SystemTime::now(), wait) {
        tokio::time::sleep_until((begin + wait).min(Instant::now() + LOOK)).await;
    }
}

fn has_passed(elapsed: Duration, began: SystemTime, now: SystemTime, wait: Duration) -> bool {
    elapsed >= wait || now >= began + wait || now + SET_BACK < began
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(authority: &CertificateAuthority, request: &Request) -> Result<CertifiedKey, ServingIdentityError> {
    let Request { names, addresses, lifetime } = request;
    let serving = authority.serving(names, addresses, *lifetime, SystemTime::now())?;
    let key = rustls::crypto::ring::sign::any_supported_type(&serving.key)?;
    Ok(CertifiedKey::new(serving.chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_by_either_clock_and_a_clock_that_was_set_back_ends_the_wait() {
        let (began, hour) = (SystemTime::now(), Duration::from_secs(3600));
        assert!(!has_passed(hour, began, began + hour, 2 * hour));
        assert!(has_passed(2 * hour, began, began, 2 * hour));
        assert!(has_passed(Duration::ZERO, began, began + 3 * hour, 2 * hour));
        assert!(has_passed(Duration::ZERO, began, began - hour, 2 * hour));
        assert!(!has_passed(Duration::ZERO, began, began - Duration::from_secs(5), 2 * hour));
    }
}
