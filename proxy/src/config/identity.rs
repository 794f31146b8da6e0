//! The workload's certificate: obtained with the pod's token, renewed at half-life with a new key each time.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use palisade_wire::{
    certificates::IDENTITY_METADATA,
    proto::istio_auth::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_client::IstioCertificateServiceClient,
    },
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    backoff::Backoff,
    dial::{DialError, Dialer, TokenSource},
};

/// One request for a certificate, connecting included.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A first replacement before time comes within this time.
const EARLY: Duration = Duration::from_secs(3);

/// Share of the half-life by which renewals of many proxies are spread, either way.
const JITTER: f64 = 0.05;

/// A certificate that control signed, with its key and the mesh's roots.
pub struct IssuedIdentity {
    chain: String,
    key: String,
    bundle: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Obtains and renews the workload's certificate.
pub struct IdentityClient {
    /// How control is reached.
    pub dialer: Dialer,
    /// What proves the pod.
    pub token: TokenSource,
    /// Lifetime to ask for; `None` = what control gives.
    pub lifetime: Option<Duration>,
}

/// Why there is no new certificate; the one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum IdentityRequestError {
    /// Control is not reached, or token or roots cannot be read.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Control refused.
    #[error("the control plane signs nothing: {} ({})", .0.message(), .0.code())]
    Refused(Box<Status>),
    /// No answer in time.
    #[error("the control plane does not answer")]
    Timeout,
    /// A key or request could not be made.
    #[error("a new key: {0}")]
    Key(#[from] rcgen::Error),
    /// What came back is not a certificate chain.
    #[error("the control plane sent no usable certificate: {0}")]
    Answer(String),
    /// The data plane does not take it.
    #[error("the new certificate is not installed: {0}")]
    Install(String),
}

impl IssuedIdentity {
    /// A certificate from its parts, all PEM: the chain without the root, the key, every trusted root.
    ///
    /// # Errors
    /// When the chain does not begin with a certificate.
    pub fn new(chain: String, key: String, bundle: String) -> Result<Self, IdentityRequestError> {
        let der = CertificateDer::from_pem_slice(chain.as_bytes())
            .map_err(|error| IdentityRequestError::Answer(error.to_string()))?;
        let (_, leaf) =
            X509Certificate::from_der(&der).map_err(|error| IdentityRequestError::Answer(error.to_string()))?;
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let (not_before, not_after) =
            (time(leaf.validity().not_before.timestamp()), time(leaf.validity().not_after.timestamp()));
        Ok(Self { chain, key, bundle, not_before, not_after })
    }

    /// PEM, leaf first, without the root.
    pub fn chain_pem(&self) -> &str {
        &self.chain
    }

    /// PEM (PKCS#8).
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// PEM, every trusted root.
    pub fn bundle_pem(&self) -> &str {
        &self.bundle
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it may be shown now.
    pub fn is_valid_now(&self) -> bool {
        let now = SystemTime::now();
        self.not_before <= now && now < self.not_after
    }
}

impl IdentityClient {
    /// One certificate with a new key.
    ///
    /// # Errors
    /// When control cannot be reached, refuses, or answers with something else.
    pub async fn request(&self) -> Result<IssuedIdentity, IdentityRequestError> {
        tokio::time::timeout(ATTEMPT, self.attempt()).await.unwrap_or(Err(IdentityRequestError::Timeout))
    }

    async fn attempt(&self) -> Result<IssuedIdentity, IdentityRequestError> {
        let key = KeyPair::generate()?;
        let mut client = IdentityRequest::new(self).await?;
        let answer = match client.ask(&request_of(&key, None)?).await {
            // Somebody signs who takes names from the request: it is to carry the one that control has proven, and says.
            Err(status) if status.code() == Code::FailedPrecondition => {
                let told = status.metadata().get(IDENTITY_METADATA).and_then(|name| name.to_str().ok());
                match told.map(str::to_owned) {
                    Some(identity) => client.ask(&request_of(&key, Some(&identity))?).await,
                    None => Err(status),
                }
            }
            answer => answer,
        };
        let answer = answer.map_err(|status| IdentityRequestError::Refused(Box::new(status)))?;
        let mut chain = answer.cert_chain;
        let bundle = chain.pop().unwrap_or_default();
        let chain = chain.concat();
        IssuedIdentity::new(chain, key.serialize_pem(), bundle)
    }

    /// Obtains a certificate, hands it to `install`, and renews it at half of what remains, until `stop`.
    ///
    /// A failure is tried again with backoff, sooner the less time remains; what is installed stays.
    pub async fn keep<E: fmt::Display>(
        &self,
        install: impl Fn(Arc<IssuedIdentity>) -> Result<(), E>,
        stop: CancellationToken,
    ) {
        let (never, due) = watch::channel(false);
        self.keep_until(install, due, stop).await;
        drop(never);
    }

    /// As [`IdentityClient::keep`], and before time whenever `is_due` says so: not at once, since it says so to many, and with
    /// backoff where it goes on to.
    pub async fn keep_until<E: fmt::Display>(
        &self,
        install: impl Fn(Arc<IssuedIdentity>) -> Result<(), E>,
        mut is_due: watch::Receiver<bool>,
        stop: CancellationToken,
    ) {
        let mut early = Backoff::new(EARLY, Duration::from_secs(60));
        let patience = || Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
        let mut backoff = patience();
        loop {
            let renewed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = self.request() => result,
            };
            let installed = renewed.and_then(|identity| {
                let identity = Arc::new(identity);
                install(Arc::clone(&identity)).map_err(|error| IdentityRequestError::Install(error.to_string()))?;
                Ok(identity)
            });
            let wait = match installed {
                Ok(identity) => {
                    if let Dialer::Tls(dialer) = &self.dialer {
                        dialer.credentials.set(Arc::clone(&identity));
                    }
                    let remaining = identity.not_after.duration_since(SystemTime::now()).unwrap_or_default();
                    backoff = Backoff::new(
                        Duration::from_millis(100),
                        (remaining / 16).clamp(Duration::from_millis(200), Duration::from_secs(15)),
                    );
                    tracing::info!(remaining_s = remaining.as_secs(), "workload certificate installed");
                    let renewal = Renewal::new(&identity, half_life(remaining, fastrand::f64()));
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = renewal.due() => {
                            early.reset();
                            continue;
                        }
                        () = said(&mut is_due) => {
                            let wait = early.next().min(remaining / 4);
                            tracing::info!(wait_ms = wait.as_millis(), "the certificate is replaced before its time");
                            wait
                        }
                    }
                }
                Err(error) => {
                    let wait = backoff.next();
                    tracing::warn!(%error, wait_ms = wait.as_millis(), "no new workload certificate");
                    wait
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Requests over one connection.
struct IdentityRequest {
    client: IstioCertificateServiceClient<Channel>,
    token: MetadataValue<Ascii>,
    seconds: i64,
}

impl IdentityRequest {
    async fn new(of: &IdentityClient) -> Result<Self, DialError> {
        let seconds = of.lifetime.map_or(0, |lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        let token = of.token.bearer().await?;
        Ok(Self { client: IstioCertificateServiceClient::new(of.dialer.channel().await?), token, seconds })
    }

    async fn ask(&mut self, csr: &str) -> Result<IstioCertificateResponse, Status> {
        let validity_duration = self.seconds;
        let mut request =
            Request::new(IstioCertificateRequest { csr: csr.to_owned(), validity_duration, metadata: None });
        request.metadata_mut().insert("authorization", self.token.clone());
        Ok(self.client.create_certificate(request).await?.into_inner())
    }
}

/// A request for a key; its name, if it must have one.
fn request_of(key: &KeyPair, identity: Option<&str>) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(identity) = identity {
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    }
    params.serialize_request(key)?.pem()
}

/// Once it is said that another certificate is needed.
async fn said(is_due: &mut watch::Receiver<bool>) {
    if is_due.wait_for(|is_due| *is_due).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How often the clock on the wall is looked at.
const LOOK: Duration = Duration::from_secs(15);

/// When a certificate is to be renewed. Time passes in two ways: a wall clock may be set, a machine may sleep.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    passed: Instant,
    wall: SystemTime,
    /// Before this the certificate is void; `None` where it was so already when it came.
    not_before: Option<SystemTime>,
}

impl Renewal {
    fn new(identity: &IssuedIdentity, wait: Duration) -> Self {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let not_before = (identity.not_before <= wall).then_some(identity.not_before);
        Self { passed: now + wait, wall: wall + wait, not_before }
    }

    fn is_due(&self, now: Instant, wall: SystemTime) -> bool {
        now >= self.passed || wall >= self.wall || self.not_before.is_some_and(|begin| wall < begin)
    }

    async fn due(&self) {
        while !self.is_due(Instant::now(), SystemTime::now()) {
            tokio::time::sleep_until(self.passed.min(Instant::now() + LOOK)).await;
        }
    }
}

/// Half of what remains, spread by [`JITTER`] for a draw in `0.0..1.0`; never a busy loop.
fn half_life(remaining: Duration, draw: f64) -> Duration {
    remaining.mul_f64(0.5 * (1.0 + JITTER * (2.0 * draw - 1.0))).max(Duration::from_millis(200))
}

impl fmt::Debug for IssuedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedIdentity").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_forward_or_back_makes_renewal_due() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let hour = Duration::from_secs(3600);
        let renewal = Renewal { passed: now + 12 * hour, wall: wall + 12 * hour, not_before: Some(wall - hour) };
        assert!(!renewal.is_due(now, wall));
        assert!(!renewal.is_due(now + hour, wall + hour));
        assert!(renewal.is_due(now + 12 * hour, wall), "the clock was set back as time passed");
        assert!(renewal.is_due(now, wall + 13 * hour), "set forward");
        assert!(renewal.is_due(now, wall - 2 * hour), "set back behind the certificate's beginning");
        // A certificate from a clock ahead of ours is no reason to ask for the next one at once.
        assert!(!Renewal { not_before: None, ..renewal }.is_due(now, wall - 2 * hour));
    }

    #[test]
    fn renewal_is_due_near_half_of_what_remains() {
        let day = Duration::from_secs(24 * 3600);
        for draw in [0.0, 0.5, 0.999] {
            let wait = half_life(day, draw).as_secs_f64() / day.as_secs_f64();
            assert!((0.475..=0.525).contains(&wait), "{wait}");
        }
        assert!(half_life(Duration::ZERO, 0.5) > Duration::ZERO);
    }
}
