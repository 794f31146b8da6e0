//! A proxy that starts again while control is away goes on with what it had.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use palisade_model::{
    membership::{Member, Membership},
    resource::{Resource, ResourceKey},
    service::{Lookup, Query},
    settings::ProxyKind,
    snapshot::Snapshot,
};
use palisade_wire::{
    delta::{Offer, client::Profile},
    saved::Saved,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Applied, Applier, ApplyRejection, ConfigClient, Dialer, Pipe, Resolution, Subscriptions, TokenSource};
use crate::request::testing::{settings, snapshot};

/// Takes every snapshot, or none.
struct Recorder {
    applied: Mutex<Vec<Arc<Snapshot>>>,
    refuses: bool,
}

#[async_trait]
impl Applier for Recorder {
    async fn apply(&self, snapshot: Arc<Snapshot>, _: Vec<ResourceKey>) -> Result<Applied, ApplyRejection> {
        if self.refuses {
            return Err(ApplyRejection { key: None, message: "not any more".into() });
        }
        self.applied.lock().push(snapshot);
        Ok(Applied::default())
    }
}

fn host(name: &str) -> Query {
    Query::Host(name.into())
}

/// A configuration in which `b.bar` was asked about, and the mesh has `c.bar` besides.
fn held() -> Arc<Snapshot> {
    let filter = ["b.bar.svc.cluster.local", "c.bar.svc.cluster.local"].map(Member::Host);
    snapshot(vec![
        Resource::Settings(settings(ProxyKind::Sidecar)),
        Resource::Membership(Membership::of(filter)),
        Resource::Lookup(Lookup { query: host("asked.bar"), services: [].into() }),
    ])
}

/// A client whose control plane is away, from what was kept.
fn restarted(refuses: bool) -> (Arc<Recorder>, Subscriptions, watch::Receiver<Option<Arc<Saved>>>, CancellationToken) {
    let profile = Profile {
        namespace: "foo".into(),
        name: "a".into(),
        build: "test".into(),
        features: BTreeSet::new(),
        short_id: "abcd".into(),
    };
    let (nobody, _) = mpsc::channel(1);
    let recorder = Arc::new(Recorder { applied: Mutex::default(), refuses });
    let (dialer, token) = (Dialer::Pipe(Pipe::new(nobody)), TokenSource::Fixed("token".into()));
    let (client, subscriptions) =
        ConfigClient::new(profile, dialer, token, Arc::clone(&recorder) as _, BTreeSet::new());
    let saved = Saved {
        namespace: "foo".into(),
        name: "a".into(),
        subscriptions: [host("asked.bar")].into(),
        held: Some((Offer::whole(held()), held())),
    };
    let (newest, kept) = watch::channel(None);
    let stop = CancellationToken::new();
    tokio::spawn(client.with_saved(saved, newest).run(stop.clone()));
    (recorder, subscriptions, kept, stop)
}

#[tokio::test(start_paused = true)]
async fn what_was_in_force_is_in_force_again_without_control() {
    let (recorder, subscriptions, mut kept, stop) = restarted(false);
    let mut state = subscriptions.state();
    state.wait_for(|state| state.snapshot.is_some()).await.unwrap();
    assert_eq!(recorder.applied.lock().clone(), [held()]);
    assert!(!state.borrow().is_connected);
    // The three states: what was asked about and what the mesh does not have is known not to exist; the rest is not known.
    for name in ["asked.bar", "www.example.com"] {
        assert!(matches!(subscriptions.resolve(&host(name)).await, Resolution::Absent(_)), "{name}");
    }
    let patience = subscriptions.with_wait(Duration::from_secs(3600));
    assert!(matches!(patience.resolve(&host("c.bar")).await, Resolution::Unavailable), "answered at once");
    // What was asked for meanwhile is kept with the rest.
    let is_kept = |saved: &Option<Arc<Saved>>| {
        let held = saved.as_ref().map(|saved| (saved.subscriptions.contains(&host("c.bar")), saved.held.is_some()));
        held == Some((true, true))
    };
    kept.wait_for(is_kept).await.unwrap();
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_any_more_is_forgotten_and_its_subscriptions_stay() {
    let (recorder, subscriptions, mut kept, stop) = restarted(true);
    let mut state = subscriptions.state();
    state.wait_for(|state| state.last_error.is_some()).await.unwrap();
    assert!(state.borrow().snapshot.is_none() && recorder.applied.lock().is_empty());
    assert!(matches!(subscriptions.resolve(&host("www.example.com")).await, Resolution::Unavailable));
    let both = [host("asked.bar"), host("www.example.com")];
    let is_kept =
        |saved: &Option<Arc<Saved>>| saved.as_ref().is_some_and(|s| s.subscriptions == BTreeSet::from(both.clone()));
    kept.wait_for(is_kept).await.unwrap();
    stop.cancel();
}
