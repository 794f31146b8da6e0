//! One watch: a list in pages, then every change, for as long as it takes. What fails is tried again, later and later.

use std::{collections::BTreeMap, fmt::Debug, pin::pin, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, Error, ResourceExt,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    kinds::{Kind, Reading},
    pending::{Name, Teller, Text},
    trim,
};
use crate::metrics::Metrics;

/// Objects per page of a list.
const PAGE: u32 = 500;

/// The first pause after a failure, and the longest one. Each pause is drawn between half of it and all of it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A watch that held for this long starts again with the first pause.
const CALM: Duration = Duration::from_secs(30);

/// Starting a watch from where it was may fail this often; then everything is listed anew.
const MAX_RESUMES: u32 = 8;

/// A watch of one kind, or of one object of it.
#[derive(Clone)]
pub(super) struct Watching {
    pub(super) client: Client,
    pub(super) metrics: Metrics,
    pub(super) kind: Kind,
    pub(super) resource: ApiResource,
    /// Namespace and name; `None` = all of the kind.
    pub(super) only: Option<Name>,
    pub(super) teller: Teller,
}

/// What a failure of a watch asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    /// The watch goes on by itself.
    Resume,
    /// The watch begins anew, with a list.
    Relist,
    /// It is not allowed; somebody may allow it.
    Permission,
}

/// Pauses between attempts.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
    since: Instant,
}

impl Watching {
    /// Watches until it is dropped.
    pub(super) async fn run(self) {
        let config = watcher::Config { page_size: Some(PAGE), ..watcher::Config::default() };
        let config = match (&self.only, self.kind.fields()) {
            (Some((_, name)), _) => config.fields(&format!("metadata.name={name}")),
            (None, Some(fields)) => config.fields(fields),
            (None, None) => config,
        };
        let resource = self.resource.clone();
        match self.kind.reading() {
            Reading::Metadata => {
                let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &resource);
                self.follow(|| watcher(api.clone(), config.clone()), |object| trim::metadata(&resource, object)).await
            }
            Reading::Pods => {
                let api = Api::all(self.client.clone());
                self.follow(|| watcher(api.clone(), config.clone()), |pod| trim::pod(&resource, pod)).await
            }
            Reading::Whole => {
                let api: Api<DynamicObject> = match &self.only {
                    Some((namespace, _)) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                    None => Api::all_with(self.client.clone(), &resource),
                };
                let kind = self.kind;
                self.follow(|| watcher(api.clone(), config.clone()), |object| trim::whole(kind, &resource, object))
                    .await
            }
        }
    }

    async fn follow<K, S>(&self, start: impl Fn() -> S, document: impl Fn(K) -> Value)
    where
        K: ResourceExt + Debug,
        S: Stream<Item = watcher::Result<Event<K>>>,
    {
        let mut pauses = Pauses::new();
        loop {
            let mut events = pin!(start());
            let mut listing = BTreeMap::new();
            let mut resumes = 0;
            while let Some(event) = events.next().await {
                let error = match event {
                    Ok(event) => {
                        resumes = 0;
                        self.tell(event, &mut listing, &document);
                        continue;
                    }
                    Err(error) => error,
                };
                resumes += 1;
                let cure = cure(&error);
                self.failed(&error, cure);
                tokio::time::sleep(pauses.next()).await;
                if cure == Cure::Relist || resumes > MAX_RESUMES {
                    break;
                }
            }
        }
    }

    fn tell<K: ResourceExt>(&self, event: Event<K>, listing: &mut BTreeMap<Name, Text>, document: impl Fn(K) -> Value) {
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(object) => {
                listing.insert(name(&object), Text::new(&document(object)));
            }
            Event::InitDone => self.teller.listed(std::mem::take(listing)),
            Event::Apply(object) => self.teller.changed(name(&object), Some(Text::new(&document(object)))),
            Event::Delete(object) => self.teller.changed(name(&object), None),
        }
    }

    fn failed(&self, error: &watcher::Error, cure: Cure) {
        let Self { resource: ApiResource { group, version, kind, .. }, only, .. } = self;
        let only = only.as_ref().map(|(namespace, name)| format!("{namespace}/{name}"));
        self.metrics.watch_failed(kind);
        match cure {
            Cure::Permission => {
                tracing::warn!(group, version, kind, only, %error, "may not be read in the cluster: permission is missing");
                if self.only.is_some() {
                    self.teller.unreadable();
                }
            }
            Cure::Resume | Cure::Relist => {
                tracing::info!(group, version, kind, only, %error, "a watch failed and is tried again");
            }
        }
    }
}

fn name(object: &impl ResourceExt) -> Name {
    (object.namespace().unwrap_or_default().into(), object.name_any().into())
}

/// Whether a watch that failed so has to be listed anew.
pub(super) fn begins_anew(error: &watcher::Error) -> bool {
    cure(error) == Cure::Relist
}

/// What an error asks for.
fn cure(error: &watcher::Error) -> Cure {
    let status = match error {
        watcher::Error::InitialListFailed(Error::Api(status))
        | watcher::Error::WatchStartFailed(Error::Api(status))
        | watcher::Error::WatchFailed(Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => return Cure::Resume,
    };
    match status.code {
        401 | 403 => Cure::Permission,
        // The version that was seen last is forgotten, or the kind is served anew.
        404 | 410 => Cure::Relist,
        // A version that the server does not know yet, and never will after its store was restored.
        504 if status.message.contains("Too large resource version") => Cure::Relist,
        _ => Cure::Resume,
    }
}

impl Pauses {
    /// None was made yet.
    pub(super) fn new() -> Self {
        Self { next: FIRST_PAUSE, since: Instant::now() }
    }

    /// The next pause, twice as long as the last one; drawn, so that a thousand clients of a server that is back do not come at once.
    pub(super) fn next(&mut self) -> Duration {
        if self.since.elapsed() > CALM + self.next {
            self.next = FIRST_PAUSE;
        }
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        self.since = Instant::now();
        pause
    }
}

/// A watch that runs for as long as this is held.
pub(super) struct Running(tokio::task::JoinHandle<()>);

impl Running {
    /// Starts it.
    pub(super) fn start(watching: Watching) -> Self {
        Self(tokio::spawn(watching.run()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
