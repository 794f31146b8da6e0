//! What a proxy keeps across its own restarts, so that it goes on while the control plane is away: its configuration, its
//! subscriptions, its certificate (architecture rule 6; docs/decisions).
//!
//! Both files may hold private keys. They are written only to a folder that is this user's alone, with mode 0600, whole or not
//! at all. What is damaged, foreign or too large is ignored with a warning: the proxy then starts as if for the first time.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use palisade_model::{hash::ContentHash, resource::Feature, trust::Trust};
use palisade_wire::{
    proto::v1::SavedIdentity,
    saved::{Saved, decode_saved, encode_saved},
};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::identity::IssuedIdentity;

/// Largest file that is written or read.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The first change is written at once; those that follow at most this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// What each file begins with; another number is another format.
const MAGIC: &[u8] = b"palisade saved 1\n";

const CONFIGURATION: &str = "configuration";
const IDENTITY: &str = "identity";

/// A folder for what is kept, this user's alone.
#[derive(Debug, Clone)]
pub struct StateFolder(PathBuf);

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateFolderError {
    /// It cannot be made or looked at.
    #[error("state folder `{path}`: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Others could read or replace what is in it.
    #[error("state folder `{path}` must be a folder of the user that runs the proxy, with mode 0700: {problem}")]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

impl StateFolder {
    /// The folder, made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or is not this user's alone.
    pub fn open(path: &Path) -> Result<Self, StateFolderError> {
        let failed = |source| StateFolderError::Io { path: path.to_owned(), source };
        let wrong = |problem| StateFolderError::NotPrivate { path: path.to_owned(), problem };
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        if !meta.is_dir() {
            return Err(wrong("it is not a folder"));
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(wrong("it is another user's"));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(wrong("others have access"));
        }
        Ok(Self(path.to_owned()))
    }

    /// The configuration of this pod from before a restart; nothing where there is none, or none that is usable.
    pub fn configuration(&self, pod: (&str, &str), features: &BTreeSet<Feature>) -> Saved {
        let none = || Saved { namespace: pod.0.into(), name: pod.1.into(), ..Saved::default() };
        let read = self.read(CONFIGURATION).and_then(|bytes| {
            let saved = bytes.map(|bytes| decode_saved(&bytes, features)).transpose();
            saved.map_err(|error| error.to_string())
        });
        match read {
            Ok(Some(saved)) if (&*saved.namespace, &*saved.name) == pod => saved,
            Ok(Some(_)) => {
                tracing::warn!(folder = %self.0.display(), "the saved configuration is another pod's and is ignored");
                none()
            }
            Ok(None) => none(),
            Err(error) => {
                tracing::warn!(folder = %self.0.display(), %error, "the saved configuration is ignored");
                none()
            }
        }
    }

    /// The certificate of this pod from before a restart, if it is still valid, and what was revoked.
    pub fn identity(&self, pod: (&str, &str)) -> Option<(Arc<IssuedIdentity>, Option<Trust>)> {
        let read = self.read(IDENTITY).and_then(|bytes| {
            let Some(bytes) = bytes else { return Ok(None) };
            let SavedIdentity { namespace, name, chain, private_key, bundle, revoked, refusal } =
                SavedIdentity::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
            if (namespace.as_str(), name.as_str()) != pod {
                return Err("it is another pod's".to_owned());
            }
            let trust = (!revoked.is_empty() || refusal.is_some()).then(|| Trust {
                roots: bundle.as_str().into(),
                signing: None,
                revoked: revoked.into(),
                refusal: refusal.map(Into::into),
            });
            let identity = IssuedIdentity::new(chain, private_key, bundle).map_err(|error| error.to_string())?;
            Ok(Some((identity, trust)))
        });
        match read {
            Ok(identity) => identity
                .filter(|(identity, _)| identity.is_valid_now())
                .map(|(identity, trust)| (Arc::new(identity), trust)),
            Err(error) => {
                tracing::warn!(folder = %self.0.display(), %error, "the saved certificate is ignored");
                None
            }
        }
    }

    /// Keeps a certificate with its key, and what is trusted with it.
    ///
    /// # Errors
    /// When it cannot be written; what was there before stays.
    pub fn keep_identity(&self, pod: (&str, &str), identity: &IssuedIdentity, trust: Option<&Trust>) -> io::Result<()> {
        let message = SavedIdentity {
            namespace: pod.0.to_owned(),
            name: pod.1.to_owned(),
            chain: identity.chain_pem().to_owned(),
            private_key: identity.key_pem().to_owned(),
            bundle: trust.map_or_else(|| identity.bundle_pem(), |trust| &trust.roots).to_owned(),
            revoked: trust.map(|trust| trust.revoked.to_string()).unwrap_or_default(),
            refusal: trust.and_then(|trust| trust.refusal.as_deref().map(str::to_owned)),
        };
        self.write(IDENTITY, &message.encode_to_vec())
    }

    /// Keeps a configuration. One that is too large is kept without its content: what is subscribed to is known again.
    ///
    /// # Errors
    /// When it cannot be written; what was there before stays.
    pub fn keep_configuration(&self, saved: &Saved) -> io::Result<()> {
        let bytes = encode_saved(saved);
        if bytes.len() <= MAX_BYTES {
            return self.write(CONFIGURATION, &bytes);
        }
        tracing::warn!(bytes = bytes.len(), limit = MAX_BYTES, "the configuration is too large to be kept");
        self.write(CONFIGURATION, &encode_saved(&Saved { held: None, ..saved.clone() }))
    }

    /// Writes what is offered, the newest first, until `stop`; then once more, if something is left.
    pub async fn keep(self, mut newest: watch::Receiver<Option<Arc<Saved>>>, stop: CancellationToken) {
        loop {
            let is_changed = tokio::select! {
                biased;
                () = stop.cancelled() => false,
                changed = newest.changed() => changed.is_ok(),
            };
            // Nobody waits for the disk: what changes meanwhile is written once, and not while it is being put in force.
            let is_last = !is_changed
                || tokio::select! {
                    biased;
                    () = stop.cancelled() => true,
                    () = tokio::time::sleep(INTERVAL) => false,
                };
            if !is_changed && !newest.has_changed().unwrap_or(false) {
                return;
            }
            let saved = newest.borrow_and_update().clone();
            if let Some(saved) = saved {
                let folder = self.clone();
                let written = tokio::task::spawn_blocking(move || folder.keep_configuration(&saved)).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!(folder = %self.0.display(), %error, "the configuration is not kept");
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// A file's content; `None` = there is none.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        let path = self.0.join(name);
        let text = |error: io::Error| error.to_string();
        let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let meta = file.metadata().map_err(text)?;
        if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            return Err("it is not a file of this user alone".to_owned());
        }
        let limit = u64::try_from(MAX_BYTES + MAGIC.len() + 32).unwrap_or(u64::MAX);
        if meta.len() > limit {
            return Err(format!("it has {} bytes, more than {limit}", meta.len()));
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(text)?;
        let rest = bytes.strip_prefix(MAGIC).ok_or("it is of another format")?;
        let (digest, content) = rest.split_at_checked(32).ok_or("it ends early")?;
        if ContentHash::of_bytes(content).as_bytes() != digest {
            return Err("it is damaged".to_owned());
        }
        Ok(Some(content.to_vec()))
    }

    /// Replaces a file at once: after a crash there is the old content or the new.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = self.0.join(format!("{name}.new"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(MAGIC)?;
        file.write_all(ContentHash::of_bytes(content).as_bytes())?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }
}

#[cfg(test)]
mod tests;
