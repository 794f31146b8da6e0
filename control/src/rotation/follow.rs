//! Follows the authority where it is kept: what this or another replica has written, and what an operator plugs in.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    HeldBack, Holding, Place, Rotation, Verdict,
    check::{Change, Roots, short},
    replicas::{Answer, BEAT, Record, Replicas, now},
    view::census,
};
use crate::{
    ca::{CertificateAuthority, stamp},
    identity::root::{OWN, PLUGGED_IN},
};

/// How often a folder is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a change that is held back is judged again.
const AGAIN: Duration = Duration::from_secs(5);
/// Changes that are seen at about the same time are one.
const SETTLE: Duration = Duration::from_millis(50);

impl Rotation {
    /// Follows the kept authority and answers other replicas, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (seen, mut changes) = mpsc::channel(1);
        let watching = async {
            match &self.place {
                Place::Folder(folder) => watch_folder(folder.clone(), seen).await,
                Place::Cluster { client, namespace } => watch_secrets(client.clone(), namespace, seen).await,
            }
        };
        let following = async {
            let mut is_held = false;
            loop {
                let changed = if is_held {
                    tokio::time::timeout(AGAIN, changes.recv()).await.unwrap_or(Some(()))
                } else {
                    changes.recv().await
                };
                if changed.is_none() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                is_held = self.reload().await;
            }
        };
        let attending = async {
            match &self.replicas {
                Some(replicas) => self.attend(replicas).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = async { tokio::join!(watching, following, attending); } => {}
        }
        if let Some(replicas) = &self.replicas
            && let Ok(Err(error)) = tokio::time::timeout(AGAIN, replicas.leave()).await
        {
            tracing::debug!(%error, "other replicas are not told that this one leaves");
        }
    }

    /// Puts in force what is kept; whether something is held back, to be judged again.
    async fn reload(&self) -> bool {
        let _turn = self.turn.lock().await;
        let read = match self.read().await {
            Ok(holding) => holding.authority(holding.material().clone(), SystemTime::now()).map(|new| (holding, new)),
            Err(error) => {
                tracing::warn!(%error, "the kept authority cannot be read; the one in force stays");
                return true;
            }
        };
        let (holding, new) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "the kept authority cannot be used; the one in force stays");
                return false;
            }
        };
        let present = self.live.current();
        let change = Change { from: Roots::of(&present), to: Roots::of(&new) };
        // What a replica has stepped to, it has judged.
        let is_judged = matches!(&holding, Holding::Secret(kept) if !kept.is_plugged_in);
        let is_same = new.trust() == present.trust() && new.phase() == present.phase();
        if is_same && self.held_back.lock().is_none() && is_same_authority(&new, &present) {
            return false;
        }
        let Verdict { obstacles, more } =
            if is_judged || change.is_none() { Verdict::default() } else { self.judge(&change).await };
        if obstacles.is_empty() {
            let signing = new.trust().signing.as_ref().map(short).unwrap_or_default();
            tracing::info!(place = %holding.place(), roots = new.trusted().len(), %signing, "another authority is in force");
            self.live.replace(new);
            *self.held_back.lock() = None;
            return false;
        }
        let held = HeldBack { obstacles, more };
        if self.held_back.lock().as_ref() != Some(&held) {
            tracing::warn!(
                place = %holding.place(), obstacles = held.obstacles.len() + held.more, first = ?held.obstacles.first(),
                "another authority is plugged in and held back: it would break the mesh"
            );
        }
        *self.held_back.lock() = Some(held);
        true
    }

    /// Says that this replica lives, and answers what others ask.
    async fn attend(&self, replicas: &Replicas) {
        let mut questions = std::pin::pin!(replicas.questions());
        let mut changes = self.live.follow();
        let mut beat = tokio::time::interval(BEAT);
        loop {
            let question = tokio::select! {
                biased;
                question = questions.next() => match question {
                    Some(question) => Some(question),
                    None => return,
                },
                Ok(()) = changes.changed() => None,
                _ = beat.tick() => None,
            };
            let answer = question.map(|question| Answer::new(&question, self.view(&question.change)));
            let present = self.live.current();
            let held_back = self.held_back.lock().as_ref().map(|held| {
                let first = held.obstacles.first().map(|obstacle| format!("{}: {}", obstacle.who, obstacle.why));
                format!("{} ({} in all)", first.unwrap_or_default(), held.obstacles.len() + held.more)
            });
            let record = Record {
                at: now(),
                in_force: Roots::of(&present),
                phase: present.phase(),
                census: census(&self.shared.fleet),
                held_back,
                answer,
            };
            if let Err(error) = replicas.tell(&record).await {
                tracing::warn!(%error, "other replicas do not hear of this one");
            }
        }
    }
}

/// Whether both sign with the same key under the same certificates.
fn is_same_authority(a: &CertificateAuthority, b: &CertificateAuthority) -> bool {
    a.own_chain() == b.own_chain()
}

async fn watch_folder(folder: PathBuf, seen: mpsc::Sender<()>) {
    let look = |folder: &Path| stamp(folder);
    let mut last = look(&folder);
    let mut pause = tokio::time::interval(LOOK);
    loop {
        pause.tick().await;
        let now = look(&folder);
        if now != last {
            last = now;
            // Full: one is enough.
            if let Err(mpsc::error::TrySendError::Closed(())) = seen.try_send(()) {
                return;
            }
        }
    }
}

async fn watch_secrets(client: Client, namespace: &str, seen: mpsc::Sender<()>) {
    let secrets = Api::<Secret>::namespaced(client, namespace);
    let watch = |name: &str| {
        let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
        watcher(secrets.clone(), named).default_backoff().boxed()
    };
    let mut events = stream::select_all([watch(PLUGGED_IN), watch(OWN)]);
    let mut failed = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                failed.clear();
                if let Err(mpsc::error::TrySendError::Closed(())) = seen.try_send(()) {
                    return;
                }
            }
            Err(error) => {
                let error = error.to_string();
                if failed.insert(error.clone()) {
                    tracing::warn!(%error, "the mesh's root is not followed");
                }
            }
        }
    }
}
