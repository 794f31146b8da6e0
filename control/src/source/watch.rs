//! Changes below paths, as the kernel tells them: a file that was written and closed, renamed, created or removed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// More changed paths than this are not told apart: everything is looked at.
const MAX_PATHS: usize = 4096;

/// Watches until it is dropped.
pub(super) struct Changes {
    _watcher: RecommendedWatcher,
    pending: Arc<Pending>,
}

#[derive(Default)]
struct Pending {
    changed: Mutex<Changed>,
    wake: Notify,
}

/// What has changed since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// These paths.
    pub(super) paths: BTreeSet<PathBuf>,
    /// Anything may have: events were lost, or links moved.
    pub(super) is_anything: bool,
}

/// A path cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch `{path}`: {source}")]
pub struct WatchError {
    path: PathBuf,
    source: notify::Error,
}

impl Changes {
    /// Watches files (through their folders, since editors replace them) and folders with all below.
    pub(super) fn of(paths: &[PathBuf]) -> Result<Self, WatchError> {
        let pending = Arc::new(Pending::default());
        let told = Arc::clone(&pending);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WatchError { path, source }
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| told.tell(event))
            .map_err(failed(Path::new("")))?;
        let mut watched = BTreeSet::new();
        for path in paths.iter().filter(|path| path.as_os_str() != "-") {
            let (folder, mode) = if path.is_dir() {
                (path.clone(), RecursiveMode::Recursive)
            } else {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                (folder.unwrap_or(Path::new(".")).to_owned(), RecursiveMode::NonRecursive)
            };
            if watched.insert(folder.clone()) {
                watcher.watch(&folder, mode).map_err(failed(path))?;
            }
        }
        Ok(Self { _watcher: watcher, pending })
    }

    /// The next changes; those that happened since the last look come at once. Cancel-safe.
    pub(super) async fn next(&self) -> Changed {
        loop {
            let woken = self.pending.wake.notified();
            let changed = std::mem::take(&mut *self.pending.changed.lock());
            if changed != Changed::default() {
                return changed;
            }
            woken.await;
        }
    }
}

impl Pending {
    fn tell(&self, event: notify::Result<Event>) {
        {
            let mut changed = self.changed.lock();
            match event {
                Ok(event) if event.need_rescan() => changed.is_anything = true,
                Ok(Event { kind, paths, .. }) => {
                    if !is_whole(kind) {
                        return;
                    }
                    changed.paths.extend(paths);
                    if changed.paths.len() > MAX_PATHS {
                        *changed = Changed { paths: BTreeSet::new(), is_anything: true };
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "watching files");
                    changed.is_anything = true;
                }
            }
        }
        self.wake.notify_one();
    }
}

/// Whether the event leaves a file as its writer means it: a write that is not closed yet may be half of one.
fn is_whole(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => true,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Create(_) => true,
        EventKind::Access(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => false,
    }
}
