//! Certificates that documents name as files of the proxy's own file system (`clientCertificate`, `caCertificates`).

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use palisade_model::secret::{PrivateKey, Secret};
use parking_lot::Mutex;

/// How long what was read counts: a rotated file is in use this much later.
const RECHECK: Duration = Duration::from_secs(10);
/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 20;
/// Prefix of the keys that mean files.
const PREFIX: &str = "file/";

/// When a key's files were read, and what they held.
type Read = (Instant, Option<Arc<Secret>>);

/// Files that were read.
#[derive(Debug, Default)]
pub struct Files {
    held: Mutex<AHashMap<Arc<str>, Read>>,
}

impl Files {
    /// The secret behind a key of the form `file/CA` or `file/CERTIFICATE|KEY`; `None` for any other key and for files that
    /// cannot be read. Reads a few small files at most every ten seconds for each key.
    pub fn get(&self, key: &Arc<str>) -> Option<Arc<Secret>> {
        let paths = key.strip_prefix(PREFIX)?;
        let now = Instant::now();
        if let Some((read, secret)) = self.held.lock().get(key)
            && now.duration_since(*read) < RECHECK
        {
            return secret.clone();
        }
        let secret = read_secret(key, paths).map(Arc::new);
        if secret.is_none() {
            tracing::warn!(%key, "certificate files that a DestinationRule names cannot be read");
        }
        self.held.lock().insert(Arc::clone(key), (now, secret.clone()));
        secret
    }
}

fn read_secret(key: &Arc<str>, paths: &str) -> Option<Secret> {
    let key = Arc::clone(key);
    match paths.split_once('|') {
        None => Some(Secret { key, certificate: None, private_key: None, ca: Some(read(paths)?.into()) }),
        Some((certificate, private)) => Some(Secret {
            key,
            certificate: Some(read(certificate)?.into()),
            private_key: Some(PrivateKey::new(&read(private)?)),
            ca: None,
        }),
    }
}

fn read(path: &str) -> Option<String> {
    let path = Path::new(path);
    let length = std::fs::metadata(path).ok()?.len();
    (length <= MAX_BYTES).then(|| std::fs::read_to_string(path).ok()).flatten()
}
