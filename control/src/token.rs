//! Tokens bound to a pod: what a proxy proves itself with outside Kubernetes, in the shape of a projected service account
//! token (which [`crate::identity::TokenReviews`] are for).

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

/// The audience of tokens for this control plane, as in Istio.
pub const AUDIENCE: &str = "istio-ca";

/// Who issues the tokens of this module.
const ISSUER: &str = "palisade";

/// Bytes of a signing key.
const KEY_BYTES: usize = 32;

/// Longest token that is looked at.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPod {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Pod name.
    pub name: Arc<str>,
    /// Pod uid.
    pub uid: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
}

/// Signs and verifies tokens (HS256).
#[derive(Clone)]
pub struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// Reading or writing failed.
    #[error("token key `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a key.
    #[error("token key `{0}` is not {KEY_BYTES} bytes in base64")]
    Malformed(PathBuf),
    /// Others may read the file.
    #[error("token key `{0}` is readable by others; it must have mode 0600")]
    Exposed(PathBuf),
    /// The system has no random numbers.
    #[error("no random numbers for a token key")]
    Random,
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("the token cannot be signed: {0}")]
pub struct MintError(#[from] jsonwebtoken::errors::Error);

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Not a token of this control plane.
    #[error("the token was not issued here")]
    Signature,
    /// Its time is over.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// It is meant for someone else.
    #[error("the token is for another audience than `{AUDIENCE}`")]
    Audience,
    /// It is meant for someone else than those.
    #[error("the token is for another audience than `{0}`")]
    OtherAudience(String),
    /// The API server refuses it.
    #[error("the API server refuses the token: {0}")]
    Refused(String),
    /// It does not say what it must.
    #[error("the token is malformed: {0}")]
    Malformed(String),
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    iat: u64,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    bound: Bound,
}

#[derive(Serialize, Deserialize)]
struct Bound {
    namespace: String,
    pod: BoundObject,
    serviceaccount: BoundName,
}

#[derive(Serialize, Deserialize)]
struct BoundObject {
    name: String,
    uid: String,
}

#[derive(Serialize, Deserialize)]
struct BoundName {
    name: String,
}

impl TokenKey {
    /// A key from its bytes.
    pub fn from_bytes(secret: &[u8; KEY_BYTES]) -> Self {
        Self { encoding: EncodingKey::from_secret(secret), decoding: DecodingKey::from_secret(secret) }
    }

    /// A key that nobody else has.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, TokenKeyError> {
        Ok(Self::from_bytes(&random()?))
    }

    /// Reads the key file, or creates it with mode 0600.
    ///
    /// # Errors
    /// When it cannot be read or written, is malformed, or others may read it.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenKeyError> {
        let failed = |source| TokenKeyError::Io { path: path.to_owned(), source };
        loop {
            match fs::File::open(path) {
                Ok(file) => return Self::read(path, file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
            let text = STANDARD.encode(random()?);
            let staged = path.with_extension(format!("new-{}", std::process::id()));
            let written = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&staged)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
                // A link does not replace: of two that start at once, one creates the key and both read it.
                .and_then(|()| match fs::hard_link(&staged, path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    result => result,
                });
            let removed = fs::remove_file(&staged);
            written.and(removed).map_err(failed)?;
        }
    }

    fn read(path: &Path, file: fs::File) -> Result<Self, TokenKeyError> {
        let failed = |source| TokenKeyError::Io { path: path.to_owned(), source };
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(TokenKeyError::Exposed(path.to_owned()));
        }
        let mut text = String::new();
        file.take(1024).read_to_string(&mut text).map_err(failed)?;
        let malformed = || TokenKeyError::Malformed(path.to_owned());
        let secret = STANDARD.decode(text.trim()).map_err(|_| malformed())?;
        Ok(Self::from_bytes(&<[u8; KEY_BYTES]>::try_from(secret).map_err(|_| malformed())?))
    }

    /// A token for a pod.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn mint(&self, pod: &BoundPod, now: SystemTime, lifetime: Duration) -> Result<String, MintError> {
        self.mint_for(AUDIENCE, pod, now, lifetime)
    }

    /// A token for a pod and another audience than this control plane's.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn mint_for(
        &self,
        audience: &str,
        pod: &BoundPod,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, MintError> {
        let BoundPod { namespace, name, uid, service_account } = pod;
        let iat = unix(now);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{service_account}"),
            aud: vec![audience.to_owned()],
            iat,
            exp: iat.saturating_add(lifetime.as_secs()),
            bound: Bound {
                namespace: namespace.to_string(),
                pod: BoundObject { name: name.to_string(), uid: uid.to_string() },
                serviceaccount: BoundName { name: service_account.to_string() },
            },
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)?)
    }

    /// The pod that a token proves.
    ///
    /// # Errors
    /// When it was not issued here, is over, is for someone else, or malformed.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<BoundPod, InvalidToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::Malformed(format!("longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // Against the time given, below.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidIssuer => {
                    InvalidToken::Signature
                }
                ErrorKind::InvalidAudience => InvalidToken::Audience,
                _ => InvalidToken::Malformed(error.to_string()),
            })?
            .claims;
        let Claims { iss: _, sub, aud: _, iat: _, exp, bound } = claims;
        let now = unix(now);
        if exp <= now {
            return Err(InvalidToken::Expired(now - exp));
        }
        let Bound { namespace, pod: BoundObject { name, uid }, serviceaccount: BoundName { name: account } } = bound;
        if sub != format!("system:serviceaccount:{namespace}:{account}") {
            return Err(InvalidToken::Malformed("subject and service account differ".to_owned()));
        }
        Ok(BoundPod {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            service_account: account.into(),
        })
    }
}

fn random() -> Result<[u8; KEY_BYTES], TokenKeyError> {
    let mut secret = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut secret).map_err(|_| TokenKeyError::Random)?;
    Ok(secret)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> BoundPod {
        BoundPod { namespace: "foo".into(), name: "a-1".into(), uid: "u1".into(), service_account: "a".into() }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_proves_its_pod() {
        let key = TokenKey::generate().unwrap();
        let now = SystemTime::now();
        assert_eq!(key.verify(&key.mint(&pod(), now, HOUR).unwrap(), now), Ok(pod()));
    }

    #[test]
    fn foreign_expired_misdirected_and_malformed_tokens_are_refused() {
        let (key, other) = (TokenKey::generate().unwrap(), TokenKey::generate().unwrap());
        let now = SystemTime::now();
        let token = key.mint(&pod(), now, HOUR).unwrap();
        assert_eq!(other.verify(&token, now), Err(InvalidToken::Signature));
        assert_eq!(key.verify(&token, now + HOUR), Err(InvalidToken::Expired(0)));
        let elsewhere = key.mint_for("vault", &pod(), now, HOUR).unwrap();
        assert_eq!(key.verify(&elsewhere, now), Err(InvalidToken::Audience));
        for text in ["", "a.b.c", "x", &"a".repeat(100_000)] {
            assert!(matches!(key.verify(text, now), Err(InvalidToken::Malformed(_))), "{text:.10}");
        }
    }

    #[test]
    fn a_token_without_a_signature_is_refused() {
        let key = TokenKey::generate().unwrap();
        let token = key.mint(&pod(), SystemTime::now(), HOUR).unwrap();
        let payload = token.split('.').nth(1).unwrap();
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        assert!(key.verify(&unsigned, SystemTime::now()).is_err());
    }

    #[test]
    fn the_key_file_is_created_once_and_must_be_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        let token = TokenKey::load_or_create(&path).unwrap().mint(&pod(), SystemTime::now(), HOUR).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(TokenKey::load_or_create(&path).unwrap().verify(&token, SystemTime::now()).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(TokenKey::load_or_create(&path), Err(TokenKeyError::Exposed(_))));
    }
}
