//! What watches tell of the events that they get, and what they do about failures.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{
    core::{DynamicObject, Status},
    runtime::watcher::{self, Event},
};
use serde_json::json;

use super::*;
use crate::source::cluster::pending::{Changes, Pending, Told, Watched};

const POLICIES: Kind = Kind { group: "security.istio.io", kind: "AuthorizationPolicy" };

struct Watch {
    pending: Arc<Pending>,
    watching: Watching,
    listing: BTreeMap<Name, Text>,
}

impl Watch {
    async fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a}}], \
                      clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]}";
        std::fs::write(file.path(), config).unwrap();
        let pending = Arc::new(Pending::default());
        let watching = Watching {
            client: crate::cluster::client(Some(file.path()), None).await.unwrap(),
            metrics: Metrics::new(),
            kind: POLICIES,
            resource: POLICIES.resource("v1"),
            only: None,
            teller: pending.begin(Watched::Kind(POLICIES)),
        };
        Self { pending, watching, listing: BTreeMap::new() }
    }

    fn event(&mut self, event: Event<DynamicObject>) {
        let resource = self.watching.resource.clone();
        self.watching.tell(event, &mut self.listing, |object| trim::whole(POLICIES, &resource, object));
    }

    async fn told(&self) -> Told {
        let Changes { mut told, .. } = self.pending.next().await;
        told.remove(&Watched::Kind(POLICIES)).unwrap()
    }
}

fn policy(name: &str, action: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": name, "namespace": "foo", "uid": name, "resourceVersion": "7", "generation": 2,
            "creationTimestamp": "2026-11-30T12:00:00Z",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "istio.io/dry-run": "true"},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"action": action},
        "status": {"conditions": []},
    }))
    .unwrap()
}

fn document(name: &str, action: &str) -> (Name, Value) {
    let value = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "annotations": {"istio.io/dry-run": "true"},
            "creationTimestamp": "2026-11-30T12:00:00Z",
            "generation": 2, "name": name, "namespace": "foo", "uid": name,
        },
        "spec": {"action": action},
    });
    (("foo".into(), name.into()), value)
}

fn values<T>(texts: BTreeMap<Name, T>, value: impl Fn(T) -> Option<Text>) -> BTreeMap<Name, Option<Value>> {
    texts.into_iter().map(|(name, text)| (name, value(text).map(|text| text.value().unwrap()))).collect()
}

#[tokio::test]
async fn a_list_is_told_when_it_is_whole_and_changes_at_once() {
    let mut watch = Watch::new().await;
    watch.event(Event::Init);
    watch.event(Event::InitApply(policy("a", "ALLOW")));
    // A page failed: the list begins anew.
    watch.event(Event::Init);
    watch.event(Event::InitApply(policy("b", "DENY")));
    watch.event(Event::InitDone);
    let Told::Listed(listed) = watch.told().await else { panic!("no list") };
    let (name, value) = document("b", "DENY");
    assert_eq!(values(listed, Some), [(name, Some(value))].into());
    watch.event(Event::Apply(policy("c", "ALLOW")));
    watch.event(Event::Delete(policy("b", "DENY")));
    let Told::Changed(changed) = watch.told().await else { panic!("no changes") };
    let ((c, value), (b, _)) = (document("c", "ALLOW"), document("b", "DENY"));
    assert_eq!(values(changed, |text| text), [(c, Some(value)), (b, None)].into());
}

fn refused(code: u16, message: &str) -> Box<Status> {
    Box::new(Status { code, message: message.to_owned(), ..Status::default() })
}

#[test]
fn failures_are_told_apart() {
    let api = |code, message: &str| Error::Api(refused(code, message));
    for (error, expected) in [
        (watcher::Error::WatchError(refused(410, "too old resource version: 1 (2)")), Cure::Relist),
        (watcher::Error::WatchStartFailed(api(410, "expired")), Cure::Relist),
        (watcher::Error::InitialListFailed(api(404, "the server could not find the requested resource")), Cure::Relist),
        (watcher::Error::WatchStartFailed(api(504, "Too large resource version: 9, current: 5")), Cure::Relist),
        (watcher::Error::WatchStartFailed(api(504, "timeout")), Cure::Resume),
        (watcher::Error::WatchStartFailed(api(503, "apiserver is shutting down")), Cure::Resume),
        (watcher::Error::InitialListFailed(api(500, "etcdserver: leader changed")), Cure::Resume),
        (watcher::Error::InitialListFailed(api(403, "forbidden")), Cure::Permission),
        (watcher::Error::WatchStartFailed(api(401, "Unauthorized")), Cure::Permission),
        (watcher::Error::NoResourceVersion, Cure::Resume),
    ] {
        assert_eq!(cure(&error), expected, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_a_limit_and_start_small_again_after_a_calm() {
    let mut pauses = Pauses::new();
    let mut longest = FIRST_PAUSE;
    for _ in 0..20 {
        let pause = pauses.next();
        assert!(longest.mul_f64(0.5) <= pause && pause <= longest, "{pause:?} of {longest:?}");
        longest = (longest * 2).min(LONGEST_PAUSE);
        tokio::time::advance(pause).await;
    }
    tokio::time::advance(Duration::from_secs(120)).await;
    assert!(pauses.next() <= FIRST_PAUSE);
}
