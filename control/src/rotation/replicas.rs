//! What replicas tell each other about the mesh's roots: one ConfigMap, a key for each, and a question that all answer.
//!
//! A replica writes its own key only. It says that it lives every half minute, which is also what people read with `kubectl`.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    check::{Change, Roots},
    view::{Census, View},
};
use crate::ca::Phase;

/// The ConfigMap, in the control plane's namespace.
pub const NAME: &str = "palisade-identity";

const QUESTION: &str = "question";
const PREFIX: &str = "replica-";

/// How often a replica says that it lives.
pub(super) const BEAT: Duration = Duration::from_secs(30);
/// One that has not done so for this long is gone.
const GONE: Duration = Duration::from_secs(100);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for answers.
const LOOK: Duration = Duration::from_millis(100);

const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;

/// What a replica says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// When.
    pub(super) at: Timestamp,
    /// What is in force there.
    pub(super) in_force: Roots,
    /// Where the replacement of the root is there.
    pub(super) phase: Option<Phase>,
    /// Its proxies.
    pub(super) census: Census,
    /// What it does not put in force, and why.
    pub(super) held_back: Option<String>,
    /// Its answer to a question.
    pub(super) answer: Option<Answer>,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answer {
    nonce: u64,
    view: View,
}

/// What all replicas are asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Question {
    nonce: u64,
    at: Timestamp,
    /// The change that is asked about.
    pub(super) change: Change,
}

/// The ConfigMap, and this replica's key in it.
pub(super) struct Replicas {
    maps: Api<ConfigMap>,
    namespace: String,
    key: String,
}

/// Why replicas could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The API server.
    #[error("ConfigMap `{0}/{NAME}`: {1}")]
    Api(String, Box<kube::Error>),
    /// A replica of another version, most likely.
    #[error("what replica `{0}` says is not understood: {1}")]
    Unreadable(String, serde_json::Error),
    /// A replica does not answer.
    #[error("replica `{0}` does not answer; it was heard of {1} s ago and counts as gone after {limit} s", limit = GONE.as_secs())]
    Silent(String, i64),
}

impl Answer {
    /// To this question.
    pub(super) fn new(question: &Question, view: View) -> Self {
        Self { nonce: question.nonce, view }
    }
}

impl Replicas {
    /// This replica's, under a name that no other has.
    pub(super) fn new(client: Client, namespace: &str, id: &str) -> Self {
        Self { maps: Api::namespaced(client, namespace), namespace: namespace.to_owned(), key: format!("{PREFIX}{id}") }
    }

    /// Says what this replica has to say.
    pub(super) async fn tell(&self, record: &Record) -> Result<(), NoAnswer> {
        self.write(&self.key, Some(json!(record).to_string())).await
    }

    /// This replica is going.
    pub(super) async fn leave(&self) -> Result<(), NoAnswer> {
        self.write(&self.key, None).await
    }

    /// Questions, each once; those from before the start are not asked any more.
    pub(super) fn questions(&self) -> impl Stream<Item = Question> + Send + use<> {
        let named = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let maps = watcher(self.maps.clone(), named).default_backoff().applied_objects();
        let mut last = None;
        maps.filter_map(move |map| {
            let question = match map {
                Ok(map) => question(&map),
                Err(error) => {
                    tracing::debug!(%error, "questions about roots are not heard");
                    None
                }
            };
            let is_new = |question: &Question| {
                let is_old = age(question.at) > i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX);
                last.replace(question.nonce) != Some(question.nonce) && !is_old
            };
            std::future::ready(question.filter(is_new))
        })
    }

    /// What every replica that lives answers about a change.
    ///
    /// # Errors
    /// When one does not answer, or the API server is away: then it is not known who would break.
    pub(super) async fn ask(&self, change: Change) -> Result<BTreeMap<String, View>, NoAnswer> {
        let nonce = fastrand::u64(..);
        let question = Question { nonce, at: now(), change };
        self.write(QUESTION, Some(json!(question).to_string())).await?;
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut views = BTreeMap::new();
            let mut silent = None;
            for (name, record) in self.records().await? {
                match record.answer.filter(|answer| answer.nonce == nonce) {
                    Some(answer) => drop(views.insert(name, answer.view)),
                    None => silent = Some((name, age(record.at))),
                }
            }
            // This replica has written its key before it asks anybody.
            match silent {
                None if !views.is_empty() => return Ok(views),
                Some((name, seconds)) if tokio::time::Instant::now() > until => {
                    return Err(NoAnswer::Silent(name, seconds));
                }
                None if tokio::time::Instant::now() > until => {
                    return Err(NoAnswer::Silent(self.key.clone(), 0));
                }
                Some(_) | None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// What replicas that live say of themselves, by name.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub(super) async fn records(&self) -> Result<BTreeMap<String, Record>, NoAnswer> {
        let map = self.maps.get_opt(NAME).await.map_err(|error| self.failed(error))?;
        let mut records = BTreeMap::new();
        for (key, text) in map.and_then(|map| map.data).unwrap_or_default() {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            match serde_json::from_str::<Record>(&text) {
                Ok(record) if age(record.at) > i64::try_from(GONE.as_secs()).unwrap_or(i64::MAX) => {
                    tracing::info!(replica = name, "a replica is gone and is forgotten");
                    self.write(&key, None).await?;
                }
                Ok(record) => drop(records.insert(name.to_owned(), record)),
                Err(error) => return Err(NoAnswer::Unreadable(name.to_owned(), error)),
            }
        }
        Ok(records)
    }

    /// Writes one key; the others are left alone.
    async fn write(&self, key: &str, text: Option<String>) -> Result<(), NoAnswer> {
        let patch = Patch::Merge(json!({"data": {key: text}}));
        let mut tries = 0;
        loop {
            tries += 1;
            match self.maps.patch(NAME, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == NOT_FOUND && tries < 3 => {
                    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "palisade".to_owned())]);
                    let metadata =
                        ObjectMeta { name: Some(NAME.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
                    let map = ConfigMap { metadata, ..ConfigMap::default() };
                    match self.maps.create(&PostParams::default(), &map).await {
                        Err(kube::Error::Api(status)) if status.code == CONFLICT => {}
                        Err(error) => return Err(self.failed(error)),
                        Ok(_) => {}
                    }
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, error: kube::Error) -> NoAnswer {
        NoAnswer::Api(self.namespace.clone(), Box::new(error))
    }
}

fn question(map: &ConfigMap) -> Option<Question> {
    let text = map.data.as_ref()?.get(QUESTION)?;
    serde_json::from_str(text)
        .inspect_err(|error| tracing::warn!(%error, "a question about roots is not understood"))
        .ok()
}

/// Now, as it is written.
pub(super) fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Seconds since then, by this machine's clock.
fn age(at: Timestamp) -> i64 {
    now().as_second().saturating_sub(at.as_second())
}
