//! What watches have told since the last look: of each object the newest state, however often it changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use palisade_compile::Reference;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use super::kinds::Kind;

/// What one watch watches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watched {
    /// All objects of a kind.
    Kind(Kind),
    /// One Secret or ConfigMap that a document refers to.
    Referenced(Reference),
}

/// An object as JSON, compact: most of it is never looked at again. Debug output shows none of it, since it may be a Secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Text(Box<[u8]>);

/// An object of a kind: namespace (empty for kinds without) and name.
pub(super) type Name = (Arc<str>, Arc<str>);

/// What became of the objects of one watch.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    /// These are all there are.
    Listed(BTreeMap<Name, Text>),
    /// These changed; `None` = is gone.
    Changed(BTreeMap<Name, Option<Text>>),
    /// They cannot be read: whoever waits for them need not.
    Unreadable,
    /// Nothing is watched any more, and what there was is gone.
    Ended,
}

/// What was told since the last look.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    /// By watch.
    pub(super) told: BTreeMap<Watched, Told>,
    /// All kinds that are served, as soon as that is known: nothing is compiled before each is listed once.
    pub(super) served: Option<BTreeSet<Kind>>,
}

/// Where watches tell and the source looks.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    /// Who may tell about what: the newest watch of each.
    current: BTreeMap<Watched, u64>,
    watches: u64,
}

/// One watch's way to tell. A newer watch of the same silences it.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    pending: Arc<Pending>,
    watched: Watched,
    number: u64,
}

impl Text {
    /// The JSON of an object.
    pub(super) fn new(object: &Value) -> Self {
        Self(object.to_string().into_bytes().into())
    }

    /// The object.
    pub(super) fn value(&self) -> serde_json::Result<Value> {
        serde_json::from_slice(&self.0)
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Pending {
    /// A new watch begins.
    pub(super) fn begin(self: &Arc<Self>, watched: Watched) -> Teller {
        let mut state = self.state.lock();
        state.watches += 1;
        let number = state.watches;
        state.current.insert(watched.clone(), number);
        Teller { pending: Arc::clone(self), watched, number }
    }

    /// A watch ends, and its objects with it.
    pub(super) fn end(&self, watched: &Watched) {
        {
            let mut state = self.state.lock();
            state.current.remove(watched);
            state.changes.told.insert(watched.clone(), Told::Ended);
        }
        self.wake.notify_one();
    }

    /// It is known which kinds are served.
    pub(super) fn serves(&self, kinds: BTreeSet<Kind>) {
        self.state.lock().changes.served = Some(kinds);
        self.wake.notify_one();
    }

    /// What was told since the last look; waits while that is nothing. Cancel-safe.
    pub(super) async fn next(&self) -> Changes {
        loop {
            let woken = self.wake.notified();
            let changes = std::mem::take(&mut self.state.lock().changes);
            if changes != Changes::default() {
                return changes;
            }
            woken.await;
        }
    }
}

impl Teller {
    /// What there is, all of it.
    pub(super) fn listed(&self, objects: BTreeMap<Name, Text>) {
        self.tell(|told| *told = Told::Listed(objects));
    }

    /// The newest state of one object; `None` = it is gone.
    pub(super) fn changed(&self, name: Name, object: Option<Text>) {
        self.tell(|told| match (told, object) {
            (Told::Listed(all), Some(object)) => drop(all.insert(name, object)),
            (Told::Listed(all), None) => drop(all.remove(&name)),
            (Told::Changed(changed), object) => drop(changed.insert(name, object)),
            (told @ (Told::Unreadable | Told::Ended), object) => *told = Told::Changed([(name, object)].into()),
        });
    }

    /// The objects may not be read.
    pub(super) fn unreadable(&self) {
        self.tell(|told| {
            // What was read before stays.
            if *told == Told::Changed(BTreeMap::new()) {
                *told = Told::Unreadable;
            }
        });
    }

    fn tell(&self, tell: impl FnOnce(&mut Told)) {
        {
            let mut state = self.pending.state.lock();
            if state.current.get(&self.watched) != Some(&self.number) {
                return;
            }
            let told = state.changes.told.entry(self.watched.clone());
            tell(told.or_insert_with(|| Told::Changed(BTreeMap::new())));
        }
        self.pending.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Watched = Watched::Kind(Kind { group: "", kind: "Pod" });

    fn name(name: &str) -> Name {
        ("foo".into(), name.into())
    }

    fn text(value: impl Into<Value>) -> Text {
        Text::new(&value.into())
    }

    async fn told(pending: &Pending) -> Option<Told> {
        pending.next().await.told.remove(&PODS)
    }

    #[tokio::test]
    async fn of_each_object_the_newest_state_counts() {
        let pending = Arc::new(Pending::default());
        let pods = pending.begin(PODS);
        pods.changed(name("a"), Some(text(1)));
        pods.changed(name("a"), Some(text(2)));
        pods.changed(name("b"), Some(text(3)));
        pods.changed(name("b"), None);
        let expected = BTreeMap::from([(name("a"), Some(text(2))), (name("b"), None)]);
        assert_eq!(told(&pending).await, Some(Told::Changed(expected)));
        pods.listed([(name("a"), text(1)), (name("c"), text(1))].into());
        pods.changed(name("a"), None);
        pods.changed(name("d"), Some(text(4)));
        let expected = BTreeMap::from([(name("c"), text(1)), (name("d"), text(4))]);
        assert_eq!(told(&pending).await, Some(Told::Listed(expected)), "a list with what came after it");
    }

    #[tokio::test]
    async fn a_watch_that_was_replaced_or_ended_tells_nothing() {
        let pending = Arc::new(Pending::default());
        let old = pending.begin(PODS);
        let new = pending.begin(PODS);
        old.changed(name("a"), Some(text("old")));
        new.changed(name("a"), Some(text("new")));
        assert_eq!(told(&pending).await, Some(Told::Changed([(name("a"), Some(text("new")))].into())));
        pending.end(&PODS);
        new.listed([(name("a"), text("late"))].into());
        assert_eq!(told(&pending).await, Some(Told::Ended));
        let again = pending.begin(PODS);
        again.listed(BTreeMap::new());
        assert_eq!(told(&pending).await, Some(Told::Listed(BTreeMap::new())));
    }
}
