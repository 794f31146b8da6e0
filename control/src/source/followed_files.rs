//! Documents of files, kept current: only what changed is read again, and a file that became unreadable keeps what was
//! good in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use palisade_compile::{Inputs, SourceDocument, SourceOptions};
use palisade_crds::{
    Document, Documents,
    document::{self, UnreadableText},
};

use super::{
    files::{ReadError, files_of, is_document},
    live::{Live, Source},
    watch::{Changed, Changes, WatchError},
};
use crate::{jwks::KeyFeed, metrics::Metrics, slices::MeshWatch};

/// A file that is gone may be between an editor's two renames: it counts as removed only after this long.
const GRACE: Duration = Duration::from_millis(250);

/// All files are looked at this often, for file systems that tell nothing.
const SWEEP: Duration = Duration::from_secs(10);

/// Files and folders, followed.
pub(crate) struct FollowedFiles {
    paths: Vec<PathBuf>,
    namespace: String,
    changes: Changes,
    next_sweep: Instant,
    files: BTreeMap<PathBuf, FileState>,
    /// Standard input, read once.
    input: Option<FileState>,
    missing: BTreeMap<PathBuf, Instant>,
}

struct FileState {
    text: Vec<u8>,
    /// In force: of the text, and what is kept from an earlier one.
    documents: Vec<SourceDocument>,
    /// What of the text cannot be read.
    unreadable: Vec<UnreadableText>,
}

/// Why files are not followed.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A path is not there or not readable.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A path cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// Reads and compiles once; [`Live::follow`] follows changes. Compiles anew when fetched keys change, if there is a feed of
/// them.
///
/// # Errors
/// When a path cannot be read or watched. What stands in the files is reported, and no error.
pub(crate) fn follow_files(
    paths: Vec<PathBuf>,
    namespace: &str,
    options: SourceOptions,
    metrics: Metrics,
    keys: Option<KeyFeed>,
) -> Result<(Live<FollowedFiles>, MeshWatch), LiveError> {
    // Watching begins before reading: no change falls between.
    let changes = Changes::of(&paths)?;
    let input = if paths.iter().any(|path| path.as_os_str() == "-") {
        let Documents { documents, unreadable } = super::files::read(&[PathBuf::from("-")])?;
        let documents = documents.into_iter().map(|document| SourceDocument::parse(document, namespace)).collect();
        Some(FileState { text: Vec::new(), documents, unreadable })
    } else {
        None
    };
    let mut files = FollowedFiles {
        paths,
        namespace: namespace.to_owned(),
        changes,
        next_sweep: Instant::now() + SWEEP,
        files: BTreeMap::new(),
        input,
        missing: BTreeMap::new(),
    };
    for file in files.list()? {
        files.read(&file).map_err(|source| ReadError { path: file.display().to_string(), source })?;
    }
    let (mut live, mesh) = Live::new(files, options, metrics, keys);
    live.compile();
    Ok((live, mesh))
}

impl Source for FollowedFiles {
    type Change = Changed;

    async fn next(&mut self) -> Changed {
        let retry = self.missing.values().min().map(|since| *since + GRACE);
        let grace = async {
            match retry {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.changes.next() => changed,
            () = grace => Changed { paths: self.missing.keys().cloned().collect(), is_anything: false },
            () = tokio::time::sleep_until(self.next_sweep.into()) => {
                self.next_sweep = Instant::now() + SWEEP;
                Changed { paths: BTreeSet::new(), is_anything: true }
            }
        }
    }

    /// Reads what changed; whether that makes a difference.
    fn take(&mut self, changed: Changed) -> bool {
        let known = |path: &PathBuf| self.files.contains_key(path);
        let is_elsewhere = changed.paths.iter().any(|path| !known(path) && !is_document(path));
        let mut candidates: BTreeSet<PathBuf> = changed.paths.iter().filter(|path| known(path)).cloned().collect();
        let is_new = changed.paths.iter().any(|path| !known(path) && is_document(path));
        if changed.is_anything || is_elsewhere || is_new {
            // Folders, links and new names: which files there are is found out anew.
            match self.list() {
                Ok(files) => {
                    let listed: BTreeSet<PathBuf> = files.into_iter().collect();
                    let is_all = changed.is_anything || is_elsewhere;
                    candidates.extend(listed.iter().filter(|path| is_all || !known(path)).cloned());
                    candidates.extend(self.files.keys().filter(|path| !listed.contains(*path)).cloned());
                }
                Err(error) => tracing::warn!(%error, "files cannot be listed, what is known stays"),
            }
        }
        let mut is_different = false;
        for path in candidates {
            match self.read(&path) {
                Ok(different) => {
                    self.missing.remove(&path);
                    is_different |= different;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let since = *self.missing.entry(path.clone()).or_insert_with(Instant::now);
                    if since.elapsed() >= GRACE {
                        self.missing.remove(&path);
                        is_different |= self.files.remove(&path).is_some();
                        tracing::info!(file = %path.display(), "file removed");
                    }
                }
                Err(error) => tracing::warn!(file = %path.display(), %error, "unreadable, what was in it stays"),
            }
        }
        is_different
    }

    fn inputs(&mut self, options: &SourceOptions) -> Option<Inputs> {
        let states = || self.input.iter().chain(self.files.values());
        let documents = states().flat_map(|state| state.documents.iter().cloned());
        let unreadable = states().flat_map(|state| state.unreadable.iter().cloned());
        Some(Inputs::from_sources(documents, unreadable, options))
    }
}

impl FollowedFiles {
    fn list(&self) -> Result<Vec<PathBuf>, ReadError> {
        let mut files = Vec::new();
        for path in self.paths.iter().filter(|path| path.as_os_str() != "-") {
            match files_of(path) {
                Ok(found) => files.extend(found),
                // A file that is being replaced.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound && self.files.contains_key(path) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// Reads one file; whether its text is another one.
    fn read(&mut self, path: &Path) -> io::Result<bool> {
        let text = std::fs::read(path)?;
        let before = self.files.get(path);
        if before.is_some_and(|state| state.text == text) {
            return Ok(false);
        }
        let read = document::read(&path.to_string_lossy(), &text);
        let state = keep_good(before, text, read, &self.namespace);
        self.files.insert(path.to_owned(), state);
        Ok(true)
    }
}

/// What a text says; where parts of it cannot be read, with the earlier documents that the readable rest does not replace:
/// an API server would have refused the edit. Documents that are as they were are not parsed again.
fn keep_good(before: Option<&FileState>, text: Vec<u8>, read: Documents, namespace: &str) -> FileState {
    let Documents { documents, unreadable } = read;
    let known: BTreeMap<Name, &SourceDocument> = before
        .iter()
        .flat_map(|state| &state.documents)
        .map(|source| (name_of(&source.document, namespace), source))
        .collect();
    let mut said = BTreeSet::new();
    let mut sources = Vec::new();
    for document in documents {
        let name = name_of(&document, namespace);
        let same = known.get(&name).filter(|held| *held.document == document);
        sources.push(match same {
            Some(held) => (*held).clone(),
            None => SourceDocument::parse(document, namespace),
        });
        said.insert(name);
    }
    if !unreadable.is_empty() {
        let earlier = before.iter().flat_map(|state| &state.documents);
        sources.extend(earlier.filter(|held| !said.contains(&name_of(&held.document, namespace))).cloned());
    }
    FileState { text, documents: sources, unreadable }
}

type Name = (String, String, String, String);

fn name_of(document: &Document, default_namespace: &str) -> Name {
    let text = |value: Option<&serde_json::Value>| value.and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let metadata = document.value.get("metadata");
    let field = |name: &str| text(metadata.and_then(|metadata| metadata.get(name)));
    let group = text(document.value.get("apiVersion"));
    let group = group.rsplit_once('/').map_or_else(String::new, |(group, _)| group.to_owned());
    let namespace = Some(field("namespace")).filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| default_namespace.to_owned());
    (group, text(document.value.get("kind")), namespace, field("name"))
}

#[cfg(test)]
mod tests;
