//! The last good keys on disk, so that a restart while an issuer is down refuses nobody.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use palisade_compile::KeySource;
use serde::{Deserialize, Serialize};

/// Keys with the time of their fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) keys: Arc<str>,
    pub(super) fetched: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct Line {
    uri: Option<String>,
    issuer: Option<String>,
    keys: String,
    /// Unix seconds.
    fetched: u64,
}

impl Stored {
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.fetched).unwrap_or_default()
    }
}

/// What was kept; a file that cannot be read keeps nothing.
pub(super) fn load(path: &Path) -> BTreeMap<KeySource, Stored> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "kept keys cannot be read");
            return BTreeMap::new();
        }
    };
    let lines: Vec<Line> = serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "kept keys cannot be read");
        Vec::new()
    });
    let mut kept = BTreeMap::new();
    for Line { uri, issuer, keys, fetched } in lines {
        let source = match (uri, issuer) {
            (Some(uri), None) => KeySource::Uri(uri.into()),
            (None, Some(issuer)) => KeySource::Issuer(issuer.into()),
            (Some(_), Some(_)) | (None, None) => continue,
        };
        let fetched = UNIX_EPOCH.checked_add(Duration::from_secs(fetched)).unwrap_or(UNIX_EPOCH);
        kept.insert(source, Stored { keys: keys.into(), fetched });
    }
    kept
}

/// Writes all keys: complete, or not at all.
pub(super) fn save<'a>(path: &Path, keys: impl Iterator<Item = (&'a KeySource, &'a Stored)>) -> io::Result<()> {
    let lines: Vec<Line> = keys
        .map(|(source, stored)| {
            let (uri, issuer) = match source {
                KeySource::Uri(uri) => (Some(uri.to_string()), None),
                KeySource::Issuer(issuer) => (None, Some(issuer.to_string())),
            };
            let fetched = stored.fetched.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            Line { uri, issuer, keys: stored.keys.to_string(), fetched }
        })
        .collect();
    let staged = path.with_extension(format!("json.new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(&serde_json::to_vec(&lines)?)?;
    file.sync_all()?;
    fs::rename(&staged, path)
}
