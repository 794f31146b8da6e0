//! A proxy's side of the stream to control. It outlives streams: what is held is kept while control is away.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use palisade_model::{
    hash::ContentHash,
    membership,
    origin::Origin,
    resource::{Entry, Feature, Resource, ResourceKey, ResourceKind},
    service::Query,
    snapshot::Snapshot,
    transaction::diff,
    trust::{Standing, Trust},
};
use prost::Message;

pub use super::subscribed::KEPT_SUBSCRIPTIONS;
use super::{
    MAX_EXPLANATION_BYTES, MAX_TRANSACTION_BYTES, PROTOCOL, Unbound, Violation,
    assembly::Assembly,
    offer::{Offer, Update},
    subscribed::{Change, Subscribed},
    withhold::retain,
};
use crate::{
    field::{Wire, mapping},
    proto::v1::{self, control_message, proxy_message},
    service::decode_query,
    transaction::decode_transaction,
};

/// A transaction that has begun must end within this time.
const ARRIVAL: Duration = Duration::from_secs(60);

/// Who a proxy is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Namespace that it believes to be in.
    pub namespace: Arc<str>,
    /// Pod name that it believes to have.
    pub name: Arc<str>,
    /// Its build, for status.
    pub build: Arc<str>,
    /// Features that it understands beyond the base protocol.
    pub features: BTreeSet<Feature>,
    /// Short id that the ids of its decisions begin with.
    pub short_id: Arc<str>,
}

/// What a proxy knows of configuration, across streams.
#[derive(Debug)]
pub struct Client {
    profile: Profile,
    held: Option<Held>,
    rejected: Option<ContentHash>,
    subscriptions: Subscribed,
    applying: Option<Applying>,
    stream: Stream,
    received: u64,
    sent: u64,
    assembly: Option<(Assembly, Instant)>,
    /// Control has told on this stream whom to trust, so it understands the answer.
    is_told: bool,
}

#[derive(Debug)]
struct Held {
    offer: Offer,
    snapshot: Arc<Snapshot>,
}

#[derive(Debug)]
struct Applying {
    offer: Offer,
    snapshot: Arc<Snapshot>,
    /// The stream that it came by is still the current one: its answer is awaited there.
    is_awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Absent,
    /// Open, and the hello waits until what is being applied is decided.
    Waiting,
    Open,
}

/// What the proxy is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send this.
    Send(v1::ProxyMessage),
    /// Build this snapshot and swap it in on all workers, then call [`Client::applied`] or [`Client::refused`].
    Apply(Apply),
    /// The proxy holds what it should hold, says control.
    InSync,
    /// Control does not answer these: there are too many others.
    Surplus(Vec<Query>),
    /// Trust these from now on, then call [`Client::standing`].
    Trust(Trust),
    /// Look the decision up, then call [`Client::explained`] on this stream.
    Explain {
        /// Number to repeat.
        request: u64,
        /// The decision's id.
        decision: String,
    },
    /// End the stream and open a new one.
    Reconnect(Violation),
}

/// A snapshot to swap in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    /// All of it.
    pub snapshot: Arc<Snapshot>,
    /// Keys that are new, different or gone since the one before, in key order.
    pub changed: Vec<ResourceKey>,
}

/// What is known about a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// Its services are in the snapshot.
    Known,
    /// There is no such thing.
    Absent,
    /// Not yet known.
    Unknown,
}

impl Client {
    /// A proxy that knows nothing yet.
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            held: None,
            rejected: None,
            subscriptions: Subscribed::default(),
            applying: None,
            stream: Stream::Absent,
            received: 0,
            sent: 0,
            assembly: None,
            is_told: false,
        }
    }

    /// What was held before a restart, and is swapped in again. Before the first stream only.
    pub fn restore(&mut self, offer: Offer, snapshot: Arc<Snapshot>) {
        if self.held.is_none() && self.stream == Stream::Absent {
            self.held = Some(Held { offer, snapshot });
        }
    }

    /// The snapshot that is swapped in.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.held.as_ref().map(|held| &held.snapshot)
    }

    /// The offer that it came from.
    pub fn offer(&self) -> Option<&Offer> {
        self.held.as_ref().map(|held| &held.offer)
    }

    /// Everything that the proxy is subscribed to.
    pub fn subscriptions(&self) -> &BTreeSet<Query> {
        self.subscriptions.queries()
    }

    /// These are in use: they are kept when others must go.
    pub fn touch(&mut self, queries: impl IntoIterator<Item = Query>) {
        self.subscriptions.touch(queries);
    }

    /// What the snapshot says about a query.
    pub fn knowledge(&self, query: &Query) -> Knowledge {
        self.snapshot().map_or(Knowledge::Unknown, |snapshot| knowledge(snapshot, query))
    }

    /// A stream is open.
    pub fn connected(&mut self) -> Vec<Action> {
        (self.received, self.sent, self.assembly, self.is_told) = (0, 0, None, false);
        if let Some(applying) = &mut self.applying {
            applying.is_awaited = false;
            self.stream = Stream::Waiting;
            return Vec::new();
        }
        self.greet()
    }

    /// The stream is gone.
    pub fn disconnected(&mut self) {
        self.stream = Stream::Absent;
        self.assembly = None;
        if let Some(applying) = &mut self.applying {
            applying.is_awaited = false;
        }
    }

    /// When [`Client::tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.assembly.as_ref().map(|(_, deadline)| *deadline)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        match self.deadline() {
            Some(deadline) if now >= deadline => self.reconnect(Violation::Timeout("the rest of a transaction")),
            Some(_) | None => Vec::new(),
        }
    }

    /// The proxy wants to know these. Beyond [`KEPT_SUBSCRIPTIONS`] it gives up what it has not used for longest.
    pub fn subscribe(&mut self, queries: impl IntoIterator<Item = Query>) -> Vec<Action> {
        let Change { added, removed } = self.subscriptions.add(queries);
        let encoded = |queries: &[Query]| queries.iter().map(Wire::encode).collect();
        self.send_subscribe(v1::Subscribe { add: encoded(&added), remove: encoded(&removed) })
    }

    /// The proxy has not used these for long.
    pub fn unsubscribe(&mut self, queries: impl IntoIterator<Item = Query>) -> Vec<Action> {
        let remove = self.subscriptions.remove(queries).iter().map(Wire::encode).collect();
        self.send_subscribe(v1::Subscribe { add: Vec::new(), remove })
    }

    /// A message arrived.
    pub fn message(&mut self, now: Instant, message: v1::ControlMessage) -> Vec<Action> {
        if self.stream != Stream::Open {
            return if self.stream == Stream::Waiting {
                self.reconnect(Violation::OutOfTurn("a message before the hello"))
            } else {
                Vec::new()
            };
        }
        self.read(now, message).unwrap_or_else(|violation| self.reconnect(violation))
    }

    /// The answer to [`Action::Explain`]: JSON, or `None` when the decision is not known. What is too long is not sent.
    pub fn explained(&mut self, request: u64, json: Option<Bytes>) -> Vec<Action> {
        if self.stream != Stream::Open {
            return Vec::new();
        }
        let json = json.filter(|json| json.len() <= MAX_EXPLANATION_BYTES);
        let found = json.is_some();
        let explanation = v1::Explanation { request, found, json: json.unwrap_or_default() };
        vec![self.send(proxy_message::Kind::Explanation(explanation))]
    }

    /// What is in force of what control told last; nothing, where it has told nothing on this stream.
    pub fn standing(&mut self, standing: &Standing) -> Vec<Action> {
        if self.stream != Stream::Open || !self.is_told {
            return Vec::new();
        }
        vec![self.send(proxy_message::Kind::Standing(standing.encode()))]
    }

    /// What [`Action::Apply`] asked for is swapped in on all workers; of its listeners, these cannot listen.
    pub fn applied(&mut self, unbound: &[Unbound]) -> Vec<Action> {
        let Some(Applying { offer, snapshot, is_awaited }) = self.applying.take() else { return Vec::new() };
        let unbound = unbound.iter().map(|Unbound { listener, message }| v1::Unbound {
            listener: listener.encode(),
            message: bounded(message).to_owned(),
        });
        let ack = proxy_message::Kind::Ack(v1::Ack { offer: offer.version().encode(), unbound: unbound.collect() });
        self.rejected = None;
        self.held = Some(Held { offer, snapshot });
        self.decided(is_awaited, ack)
    }

    /// What [`Action::Apply`] asked for cannot be built; everything is as before.
    pub fn refused(&mut self, key: Option<&ResourceKey>, message: &str) -> Vec<Action> {
        let Some(Applying { offer, snapshot, is_awaited }) = self.applying.take() else { return Vec::new() };
        self.rejected = Some(offer.version());
        let origins = key.and_then(|key| snapshot.entries().get(key)).map(|entry| Arc::clone(&entry.meta().origins));
        let nack = nack(offer.version(), key, origins, message);
        self.decided(is_awaited, nack)
    }

    fn decided(&mut self, is_awaited: bool, answer: proxy_message::Kind) -> Vec<Action> {
        match self.stream {
            Stream::Open if is_awaited => vec![self.send(answer)],
            Stream::Waiting => self.greet(),
            Stream::Open | Stream::Absent => Vec::new(),
        }
    }

    fn greet(&mut self) -> Vec<Action> {
        self.stream = Stream::Open;
        let Profile { namespace, name, build, features, short_id } = &self.profile;
        let hello = v1::Hello {
            protocol: PROTOCOL,
            features: mapping::set().0(features),
            held: self.held.as_ref().map(|held| held.offer.version().encode()),
            rejected: self.rejected.map(|version| version.encode()),
            namespace: namespace.encode(),
            name: name.encode(),
            build: build.encode(),
            subscriptions: self.subscriptions.queries().iter().map(Wire::encode).collect(),
            short_id: short_id.encode(),
            hears_surplus: true,
        };
        vec![self.send(proxy_message::Kind::Hello(hello))]
    }

    fn read(&mut self, now: Instant, message: v1::ControlMessage) -> Result<Vec<Action>, Violation> {
        let v1::ControlMessage { sequence, kind } = message;
        let expected = self.received + 1;
        if sequence != expected {
            return Err(Violation::Sequence { expected, received: sequence });
        }
        self.received = sequence;
        let kind = kind.ok_or(Violation::UnknownMessage)?;
        let is_of_no_offer = matches!(
            kind,
            control_message::Kind::Explain(_) | control_message::Kind::Surplus(_) | control_message::Kind::Trust(_)
        );
        if self.applying.is_some() && !is_of_no_offer {
            return Err(Violation::OutOfTurn("a message while a transaction is applied"));
        }
        match kind {
            control_message::Kind::Explain(v1::Explain { request, decision }) => {
                Ok(vec![Action::Explain { request, decision }])
            }
            control_message::Kind::Surplus(v1::Surplus { queries }) => {
                let refused: Vec<Query> = queries.into_iter().map(decode_query).collect::<Result<_, _>>()?;
                // Not said again in the next hello; whoever needs one of them asks again.
                self.subscriptions.remove(refused.iter().cloned());
                Ok(vec![Action::Surplus(refused)])
            }
            control_message::Kind::Trust(trust) => {
                self.is_told = true;
                Ok(vec![Action::Trust(Trust::decode(trust).map_err(|error| error.inside("trust"))?)])
            }
            control_message::Kind::InSync(v1::InSync { offer }) => {
                let offer = ContentHash::decode(offer).map_err(|error| error.inside("in_sync.offer"))?;
                if self.held.as_ref().map(|held| held.offer.version()) != Some(offer) {
                    return Err(Violation::WrongBase);
                }
                Ok(vec![Action::InSync])
            }
            control_message::Kind::Chunk(chunk) => self.chunk(now, chunk),
        }
    }

    fn chunk(&mut self, now: Instant, chunk: v1::Chunk) -> Result<Vec<Action>, Violation> {
        let offer = ContentHash::decode(chunk.offer.clone()).map_err(|error| error.inside("chunk.offer"))?;
        let (assembly, deadline) = match self.assembly.take() {
            None => (Assembly::begin(offer, chunk, MAX_TRANSACTION_BYTES)?, now + ARRIVAL),
            Some((mut assembly, deadline)) => {
                assembly.push(offer, chunk)?;
                (assembly, deadline)
            }
        };
        if !assembly.is_complete() {
            self.assembly = Some((assembly, deadline));
            return Ok(Vec::new());
        }
        let announced = assembly.offer();
        let update = match self.decode(assembly.into_bytes()) {
            Ok(update) => update,
            Err((key, message)) => return Ok(vec![self.refuse(announced, key.as_ref(), &message)]),
        };
        if update.from.is_some() && update.from != self.held.as_ref().map(|held| held.offer.version()) {
            return Err(Violation::WrongBase);
        }
        if update.to != announced {
            return Err(Violation::Pieces);
        }
        Ok(vec![self.prepare(announced, update)])
    }

    fn decode(&self, bytes: Bytes) -> Result<Update, (Option<ResourceKey>, String)> {
        let message = v1::Transaction::decode(bytes).map_err(|error| (None, error.to_string()))?;
        decode_transaction(message, &self.profile.features).map_err(|e| (e.key().cloned(), e.to_string()))
    }

    fn prepare(&mut self, announced: ContentHash, update: Update) -> Action {
        let held = self.held.as_ref();
        let offer = match Offer::updated(held.map(|held| &held.offer), update) {
            Ok(offer) => offer,
            Err(error) => return self.refuse(announced, error.key(), &error.to_string()),
        };
        let before = held.map(|held| &*held.snapshot);
        let snapshot = match retain(before, &offer) {
            Ok(snapshot) => snapshot,
            Err(error) => return self.refuse(announced, None, &error.to_string()),
        };
        let difference = diff(before, &snapshot);
        let mut changed: Vec<ResourceKey> =
            difference.upserts.iter().map(|entry: &Arc<Entry>| entry.key().clone()).collect();
        changed.extend(difference.removals);
        changed.sort();
        self.applying = Some(Applying { offer, snapshot: Arc::clone(&snapshot), is_awaited: true });
        Action::Apply(Apply { snapshot, changed })
    }

    fn refuse(&mut self, offer: ContentHash, key: Option<&ResourceKey>, message: &str) -> Action {
        self.rejected = Some(offer);
        self.send(nack(offer, key, None, message))
    }

    fn send_subscribe(&mut self, subscribe: v1::Subscribe) -> Vec<Action> {
        if self.stream != Stream::Open || (subscribe.add.is_empty() && subscribe.remove.is_empty()) {
            return Vec::new();
        }
        vec![self.send(proxy_message::Kind::Subscribe(subscribe))]
    }

    fn send(&mut self, kind: proxy_message::Kind) -> Action {
        self.sent += 1;
        Action::Send(v1::ProxyMessage { sequence: self.sent, kind: Some(kind) })
    }

    fn reconnect(&mut self, violation: Violation) -> Vec<Action> {
        self.disconnected();
        vec![Action::Reconnect(violation)]
    }
}

/// Whether the mesh has no such thing at all.
fn is_outside(snapshot: &Snapshot, query: &Query) -> bool {
    let filter = snapshot.get(ResourceKind::Membership, membership::KEY).map(|entry| entry.resource());
    match (filter, snapshot.settings()) {
        (Some(Resource::Membership(filter)), Ok(settings)) => {
            !filter.may_have(query, &settings.workload.namespace, &settings.cluster_domain)
        }
        (Some(_) | None, _) => false,
    }
}

/// What a snapshot says about a query. One look-up, and where it is not among the answers one in the mesh's filter.
pub fn knowledge(snapshot: &Snapshot, query: &Query) -> Knowledge {
    match snapshot.get(ResourceKind::Lookup, &query.to_string()).map(|entry| entry.resource()) {
        Some(Resource::Lookup(lookup)) if lookup.services.is_empty() => Knowledge::Absent,
        Some(Resource::Lookup(_)) => Knowledge::Known,
        Some(_) | None if is_outside(snapshot, query) => Knowledge::Absent,
        Some(_) | None => Knowledge::Unknown,
    }
}

/// Long enough for any real message, short enough for a status field.
fn bounded(message: &str) -> &str {
    const LIMIT: usize = 4096;
    let end = (0..=message.len().min(LIMIT)).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    message.get(..end).unwrap_or_default()
}

fn nack(
    offer: ContentHash,
    key: Option<&ResourceKey>,
    origins: Option<Arc<[Origin]>>,
    message: &str,
) -> proxy_message::Kind {
    proxy_message::Kind::Nack(v1::Nack {
        offer: offer.encode(),
        key: key.map(Wire::encode),
        origins: origins.iter().flat_map(|origins| origins.iter().map(Wire::encode)).collect(),
        message: bounded(message).to_owned(),
    })
}
