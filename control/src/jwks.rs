//! Keys of tokens: fetched from their issuers, refreshed, kept when an issuer fails, and handed to compiling.
//!
//! Each source is fetched by itself: one that hangs or fails delays no other. Without keys a rule refuses every token.

mod fetch;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use palisade_compile::{FetchedKeys, KeySource, Keys};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::store::Stored;
use crate::metrics::Metrics;

pub use fetch::{FetchError, Fetcher};

/// Good keys are fetched again after this long (Istio).
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After a failure the next try comes after this long (Istio).
const RETRY: Duration = Duration::from_secs(60);
/// Good keys outlive failures for this long (Istio).
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Sources that no document names any more and whose keys are remembered: one that leaves the documents for a moment loses nothing.
const REMEMBERED: usize = 256;
/// Sources fetched at once; others wait for their turn, at most for some fetches' time limits.
const CONCURRENT: usize = 16;

/// What compiling is told, and what it tells which sources its documents name.
#[derive(Debug)]
pub struct KeyFeed {
    pub(crate) wanted: watch::Sender<BTreeSet<KeySource>>,
    pub(crate) keys: watch::Receiver<Arc<Keys>>,
}

/// A source's state, for status.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyStatus {
    /// Where the keys come from.
    pub source: String,
    /// When they were last fetched; `None` = never, or too long ago.
    pub fetched: Option<jiff::Timestamp>,
    /// Why the last fetch failed; `None` = it did not.
    pub error: Option<Arc<str>>,
}

/// Keeps the keys of all sources that documents name, and for as long as failures are outlived those of sources that they named.
pub struct KeyKeeper {
    fetcher: Arc<Fetcher>,
    path: Option<PathBuf>,
    metrics: Metrics,
    sources: BTreeMap<KeySource, Source>,
    wanted: watch::Receiver<BTreeSet<KeySource>>,
    publish: watch::Sender<Arc<Keys>>,
    status: watch::Sender<Arc<[KeyStatus]>>,
}

#[derive(Debug, Clone)]
struct Source {
    stored: Option<Stored>,
    error: Option<Arc<str>>,
    due: Instant,
    is_fetching: bool,
    /// A document names it.
    is_wanted: bool,
}

impl Source {
    /// Nothing but what was kept of it, which is to be fetched at once when it is wanted.
    fn new(stored: Option<Stored>) -> Self {
        Self { stored, error: None, due: Instant::now(), is_fetching: false, is_wanted: false }
    }
}

impl KeyKeeper {
    /// A keeper that begins with what is kept in `folder` (beside the authority); `None` = nothing is kept on disk.
    pub fn new(fetcher: Fetcher, folder: Option<&Path>, metrics: Metrics) -> (Self, KeyFeed) {
        let path = folder.map(|folder| folder.join("jwks.json"));
        let now = SystemTime::now();
        let kept = path.as_deref().map(store::load).unwrap_or_default();
        let sources: BTreeMap<KeySource, Source> = kept
            .into_iter()
            .filter(|(_, stored)| stored.age(now) <= KEPT)
            .map(|(source, stored)| (source, Source::new(Some(stored))))
            .collect();
        let (publish, keys) = watch::channel(Arc::new(keys_of(&sources)));
        let (wanted, wishes) = watch::channel(BTreeSet::new());
        let status = watch::Sender::new(Arc::from([]));
        let fetcher = Arc::new(fetcher);
        (Self { fetcher, path, metrics, sources, wanted: wishes, publish, status }, KeyFeed { wanted, keys })
    }

    /// The state of all sources, as it changes.
    pub fn status(&self) -> watch::Receiver<Arc<[KeyStatus]>> {
        self.status.subscribe()
    }

    /// Fetches until `stop`. What is in flight then is dropped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut fetches: JoinSet<(KeySource, Result<String, FetchError>)> = JoinSet::new();
        self.follow_wishes();
        loop {
            self.begin(&mut fetches);
            let due = self.sources.values().filter(|source| source.is_wanted && !source.is_fetching);
            let due = due.map(|source| source.due).min();
            let has_room = fetches.len() < CONCURRENT;
            let timer = async {
                match due {
                    Some(due) if has_room => tokio::time::sleep_until(due).await,
                    Some(_) | None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_wishes();
                }
                // An empty set is never ready here: the branch is then off.
                Some(done) = fetches.join_next() => match done {
                    Ok((source, result)) => self.note(source, result),
                    Err(error) => tracing::error!(%error, "a fetch of keys failed unexpectedly"),
                },
                () = timer => {}
            }
        }
    }

    fn follow_wishes(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        for (source, state) in &mut self.sources {
            let is_wanted = wanted.contains(source);
            if is_wanted && !state.is_wanted {
                // What is remembered counts meanwhile.
                state.due = Instant::now();
            }
            state.is_wanted = is_wanted;
        }
        for source in wanted {
            self.sources.entry(source).or_insert_with(|| Source { is_wanted: true, ..Source::new(None) });
        }
        self.forget(SystemTime::now());
        self.publish();
    }

    /// Drops keys that are too old, and of sources that nobody names those without keys and, if there are too many, the oldest.
    fn forget(&mut self, now: SystemTime) {
        for state in self.sources.values_mut() {
            if state.stored.as_ref().is_some_and(|stored| stored.age(now) > KEPT) && !state.is_wanted {
                state.stored = None;
            }
        }
        self.sources.retain(|_, state| state.is_wanted || state.is_fetching || state.stored.is_some());
        let mut unwanted: Vec<(SystemTime, KeySource)> = self
            .sources
            .iter()
            .filter(|(_, state)| !state.is_wanted)
            .filter_map(|(source, state)| Some((state.stored.as_ref()?.fetched, source.clone())))
            .collect();
        unwanted.sort();
        for (_, source) in unwanted.iter().take(unwanted.len().saturating_sub(REMEMBERED)) {
            self.sources.remove(source);
        }
    }

    fn begin(&mut self, fetches: &mut JoinSet<(KeySource, Result<String, FetchError>)>) {
        let now = Instant::now();
        for (source, state) in &mut self.sources {
            if fetches.len() >= CONCURRENT {
                return;
            }
            if !state.is_wanted || state.is_fetching || state.due > now {
                continue;
            }
            state.is_fetching = true;
            let (fetcher, source) = (Arc::clone(&self.fetcher), source.clone());
            fetches.spawn(async move {
                let result = fetcher.fetch(&source).await;
                (source, result)
            });
        }
    }

    fn note(&mut self, source: KeySource, result: Result<String, FetchError>) {
        let now = SystemTime::now();
        let Some(state) = self.sources.get_mut(&source) else { return };
        state.is_fetching = false;
        self.metrics.count_fetch(&source.to_string(), result.is_ok());
        match result {
            Ok(keys) => {
                let is_new = state.stored.as_ref().is_none_or(|stored| *stored.keys != *keys);
                tracing::info!(%source, is_new, "keys fetched");
                state.stored = Some(Stored { keys: keys.into(), fetched: now });
                state.error = None;
                state.due = Instant::now() + REFRESH;
            }
            Err(error) => {
                tracing::warn!(%source, %error, "keys cannot be fetched");
                state.error = Some(error.to_string().into());
                state.due = Instant::now() + RETRY;
                if state.stored.as_ref().is_some_and(|stored| stored.age(now) > KEPT) {
                    state.stored = None;
                }
            }
        }
        self.forget(now);
        self.keep();
        self.publish();
    }

    /// Tells whoever compiles, if anything changed for it.
    fn publish(&self) {
        let keys = keys_of(&self.sources);
        self.publish.send_if_modified(|held| {
            let is_new = **held != keys;
            if is_new {
                *held = Arc::new(keys);
            }
            is_new
        });
        let status: Arc<[KeyStatus]> = self
            .sources
            .iter()
            .filter(|(_, state)| state.is_wanted)
            .map(|(source, state)| KeyStatus {
                source: source.to_string(),
                fetched: state.stored.as_ref().and_then(|stored| jiff::Timestamp::try_from(stored.fetched).ok()),
                error: state.error.clone(),
            })
            .collect();
        self.metrics.note_keys(status.iter().map(|status| (status.source.clone(), status.fetched)));
        self.status.send_replace(status);
    }

    fn keep(&self) {
        let Some(path) = &self.path else { return };
        let stored = self.sources.iter().filter_map(|(source, state)| Some((source, state.stored.as_ref()?)));
        if let Err(error) = store::save(path, stored) {
            tracing::warn!(path = %path.display(), %error, "keys cannot be kept for the next start");
        }
    }
}

fn keys_of(sources: &BTreeMap<KeySource, Source>) -> Keys {
    sources
        .iter()
        .map(|(source, state)| {
            let keys = state.stored.as_ref().map(|stored| Arc::clone(&stored.keys));
            (source.clone(), FetchedKeys { keys, error: state.error.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests;
