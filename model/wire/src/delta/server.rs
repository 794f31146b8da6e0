//! Control's side of one proxy's stream.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use palisade_model::{
    feature::TRUST,
    hash::ContentHash,
    origin::Origin,
    resource::{Feature, ResourceKey},
    service::Query,
    snapshot::Snapshot,
    trust::{Standing, Trust},
};
use prost::Message;

use super::{
    MAX_EXPLANATION_BYTES, MAX_ROOTS, MAX_SUBSCRIPTIONS, PROTOCOL, Unbound, Violation,
    assembly::chunks,
    offer::Offer,
    withhold::{Unofferable, withhold},
};
use crate::{
    field::{InvalidField, Wire, items, mapping},
    proto::v1::{self, control_message, proxy_message},
    service::decode_query,
    transaction::encode_transaction,
};

/// How long a proxy may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the stream's start to its hello.
    pub hello: Duration,
    /// From an offer's last chunk to its ack or nack: building the index of a large mesh included.
    pub ack: Duration,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Server {
    patience: Patience,
    phase: Phase,
    received: u64,
    sent: u64,
    features: BTreeSet<Feature>,
    subscriptions: BTreeSet<Query>,
    /// What the proxy says it holds.
    held: Option<ContentHash>,
    /// The content of `held`, if it was offered on this stream or equals the target.
    base: Option<Offer>,
    /// What it should hold.
    target: Option<Arc<Snapshot>>,
    in_flight: Option<(Offer, Instant)>,
    rejected: Option<ContentHash>,
    owes_in_sync: bool,
    hears_surplus: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting { deadline: Instant },
    Open,
    Closed,
}

/// What control is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send this.
    Send(v1::ControlMessage),
    /// The proxy has said hello: check who it believes to be, then give it a target.
    Greeted(Greeting),
    /// The proxy is now subscribed to exactly these: give it a new target.
    Subscribed(BTreeSet<Query>),
    /// The offer is swapped in on all workers.
    Acked {
        /// The offer.
        offer: Offer,
        /// Listeners of it that do not listen; empty where all do.
        unbound: Vec<Unbound>,
    },
    /// The proxy is subscribed to as much as one may be, and not to these; it is told, if it understands.
    Surplus(Vec<Query>),
    /// The offer was refused; the proxy stays on what it had.
    Nacked(Rejection),
    /// Nothing can be offered; the proxy stays on what it had.
    Unofferable(Unofferable),
    /// The proxy's answer to [`Server::explain`].
    Explained {
        /// The request's number.
        request: u64,
        /// JSON; `None` = the proxy does not know the decision.
        json: Option<Bytes>,
    },
    /// What the proxy has in force of what [`Server::trust`] told.
    Standing(Standing),
    /// End the stream.
    Close(Violation),
}

/// A proxy's hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Namespace that the proxy believes to be in.
    pub namespace: Arc<str>,
    /// Name that it believes to have.
    pub name: Arc<str>,
    /// Its build.
    pub build: Arc<str>,
    /// Features that it understands.
    pub features: BTreeSet<Feature>,
    /// Offer that it holds.
    pub held: Option<ContentHash>,
    /// What it is subscribed to.
    pub subscriptions: BTreeSet<Query>,
    /// Short id that the ids of its decisions begin with; empty = unknown.
    pub short_id: Arc<str>,
}

/// A refused offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The offer.
    pub offer: ContentHash,
    /// The resource at fault, if it is known.
    pub key: Option<ResourceKey>,
    /// The user's objects that it was made from.
    pub origins: Arc<[Origin]>,
    /// Why.
    pub message: Arc<str>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { hello: Duration::from_secs(10), ack: Duration::from_secs(60) }
    }
}

impl Server {
    /// A stream that begins now.
    pub fn new(now: Instant, patience: Patience) -> Self {
        Self {
            patience,
            phase: Phase::Greeting { deadline: now + patience.hello },
            received: 0,
            sent: 0,
            features: BTreeSet::new(),
            subscriptions: BTreeSet::new(),
            held: None,
            base: None,
            target: None,
            in_flight: None,
            rejected: None,
            owes_in_sync: false,
            hears_surplus: false,
        }
    }

    /// Features of the proxy's hello; empty before it.
    pub fn features(&self) -> &BTreeSet<Feature> {
        &self.features
    }

    /// When [`Server::tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.phase, &self.in_flight) {
            (Phase::Greeting { deadline }, _) => Some(deadline),
            (Phase::Open, Some((_, deadline))) => Some(*deadline),
            (Phase::Open, None) | (Phase::Closed, _) => None,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        match self.deadline() {
            Some(deadline) if now >= deadline => {
                let what = if self.phase == Phase::Open { "an ack" } else { "a hello" };
                self.close(Violation::Timeout(what))
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// The proxy's slice of the mesh is now this.
    pub fn target(&mut self, now: Instant, snapshot: Arc<Snapshot>) -> Vec<Action> {
        if self.phase != Phase::Open {
            return Vec::new();
        }
        self.target = Some(snapshot);
        self.offer(now)
    }

    /// Asks the proxy to explain a decision; nothing, when no hello came yet.
    pub fn explain(&mut self, request: u64, decision: &str) -> Vec<Action> {
        if self.phase != Phase::Open {
            return Vec::new();
        }
        let explain = v1::Explain { request, decision: decision.to_owned() };
        vec![self.send(control_message::Kind::Explain(explain))]
    }

    /// Whose certificates count now; nothing, when the proxy does not understand or no hello came yet.
    pub fn trust(&mut self, trust: &Trust) -> Vec<Action> {
        if self.phase != Phase::Open || !self.features.iter().any(|feature| *feature.0 == *TRUST) {
            return Vec::new();
        }
        vec![self.send(control_message::Kind::Trust(trust.encode()))]
    }

    /// A message arrived.
    pub fn message(&mut self, now: Instant, message: v1::ProxyMessage) -> Vec<Action> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        self.read(now, message).unwrap_or_else(|violation| self.close(violation))
    }

    fn read(&mut self, now: Instant, message: v1::ProxyMessage) -> Result<Vec<Action>, Violation> {
        let v1::ProxyMessage { sequence, kind } = message;
        let expected = self.received + 1;
        if sequence != expected {
            return Err(Violation::Sequence { expected, received: sequence });
        }
        self.received = sequence;
        match (kind.ok_or(Violation::UnknownMessage)?, self.phase) {
            (proxy_message::Kind::Hello(hello), Phase::Greeting { .. }) => self.hello(hello),
            (proxy_message::Kind::Hello(_), _) => Err(Violation::OutOfTurn("a second hello")),
            (_, Phase::Greeting { .. } | Phase::Closed) => Err(Violation::OutOfTurn("a message before the hello")),
            (proxy_message::Kind::Subscribe(subscribe), Phase::Open) => self.subscribe(subscribe),
            (proxy_message::Kind::Explanation(v1::Explanation { request, found, json }), Phase::Open) => {
                let amount = json.len() as u64;
                if amount > MAX_EXPLANATION_BYTES as u64 {
                    let limit = MAX_EXPLANATION_BYTES as u64;
                    return Err(Violation::Limit { what: "explanation bytes", amount, limit });
                }
                Ok(vec![Action::Explained { request, json: found.then_some(json) }])
            }
            (proxy_message::Kind::Standing(standing), Phase::Open) => {
                let (amount, limit) = (standing.roots.len() as u64, MAX_ROOTS as u64);
                if amount > limit {
                    return Err(Violation::Limit { what: "trusted roots", amount, limit });
                }
                let standing = Standing::decode(standing).map_err(|error| error.inside("standing"))?;
                Ok(vec![Action::Standing(standing)])
            }
            (proxy_message::Kind::Ack(v1::Ack { offer, unbound }), Phase::Open) => {
                let offer = self.answered(offer)?;
                self.held = Some(offer.version());
                self.base = Some(offer.clone());
                self.owes_in_sync = false;
                let unbound = unbound.into_iter().map(|v1::Unbound { listener, message }| Unbound {
                    listener: listener.into(),
                    message: message.into(),
                });
                let mut actions = vec![Action::Acked { offer, unbound: unbound.collect() }];
                actions.extend(self.offer(now));
                Ok(actions)
            }
            (proxy_message::Kind::Nack(v1::Nack { offer, key, origins, message }), Phase::Open) => {
                let inside = |field: &'static str| move |error: InvalidField| error.inside(field);
                let key = mapping::optional().1(key).map_err(inside("nack.key"))?;
                let origins = items(origins).map_err(inside("nack.origins"))?;
                let offer = self.answered(offer)?.version();
                self.rejected = Some(offer);
                let mut actions = vec![Action::Nacked(Rejection { offer, key, origins, message: message.into() })];
                actions.extend(self.offer(now));
                Ok(actions)
            }
        }
    }

    fn hello(&mut self, hello: v1::Hello) -> Result<Vec<Action>, Violation> {
        let v1::Hello {
            protocol,
            features,
            held,
            rejected,
            namespace,
            name,
            build,
            subscriptions,
            short_id,
            hears_surplus,
        } = hello;
        if protocol != PROTOCOL {
            return Err(Violation::Protocol { received: protocol });
        }
        let inside = |field: &'static str| move |error: InvalidField| error.inside(field);
        self.features = mapping::set().1(features).map_err(inside("hello.features"))?;
        self.held = mapping::optional().1(held).map_err(inside("hello.held"))?;
        self.rejected = mapping::optional().1(rejected).map_err(inside("hello.rejected"))?;
        let surplus = self.add(subscriptions)?;
        self.phase = Phase::Open;
        self.owes_in_sync = true;
        self.hears_surplus = hears_surplus;
        let mut actions = self.refuse(surplus);
        actions.push(Action::Greeted(Greeting {
            namespace: namespace.into(),
            name: name.into(),
            build: build.into(),
            features: self.features.clone(),
            held: self.held,
            subscriptions: self.subscriptions.clone(),
            short_id: short_id.into(),
        }));
        Ok(actions)
    }

    fn subscribe(&mut self, subscribe: v1::Subscribe) -> Result<Vec<Action>, Violation> {
        let v1::Subscribe { add, remove } = subscribe;
        for query in remove {
            self.subscriptions.remove(&decode_query(query)?);
        }
        let surplus = self.add(add)?;
        self.owes_in_sync = true;
        let mut actions = self.refuse(surplus);
        actions.push(Action::Subscribed(self.subscriptions.clone()));
        Ok(actions)
    }

    /// Adds queries as long as there is room; gives those for which there is none.
    fn add(&mut self, queries: Vec<v1::Query>) -> Result<Vec<Query>, Violation> {
        let mut surplus = Vec::new();
        for query in queries {
            let query = decode_query(query)?;
            if self.subscriptions.len() < MAX_SUBSCRIPTIONS || self.subscriptions.contains(&query) {
                self.subscriptions.insert(query);
            } else {
                surplus.push(query);
            }
        }
        Ok(surplus)
    }

    fn refuse(&mut self, surplus: Vec<Query>) -> Vec<Action> {
        if surplus.is_empty() {
            return Vec::new();
        }
        let mut actions = Vec::new();
        if self.hears_surplus {
            let queries = surplus.iter().map(Wire::encode).collect();
            actions.push(self.send(control_message::Kind::Surplus(v1::Surplus { queries })));
        }
        actions.push(Action::Surplus(surplus));
        actions
    }

    /// The offer that an ack or nack speaks of, which must be the one in flight.
    fn answered(&mut self, version: Bytes) -> Result<Offer, Violation> {
        let version = ContentHash::decode(version).map_err(|error| error.inside("offer"))?;
        match self.in_flight.take() {
            Some((offer, _)) if offer.version() == version => Ok(offer),
            Some(_) | None => Err(Violation::OutOfTurn("an answer to an offer that is not in flight")),
        }
    }

    /// Brings the proxy to its target, unless it is there, busy, or has refused just that.
    fn offer(&mut self, now: Instant) -> Vec<Action> {
        let Some(target) = self.target.as_ref().filter(|_| self.in_flight.is_none()) else { return Vec::new() };
        let offer = match withhold(target, &self.features) {
            Ok(offer) => offer,
            Err(error) => return vec![Action::Unofferable(error)],
        };
        if self.held == Some(offer.version()) {
            if self.base.is_none() {
                // Resumed: the proxy holds exactly this from an earlier stream.
                self.base = Some(offer.clone());
                self.owes_in_sync = false;
                let in_sync = self.in_sync(offer.version());
                return vec![Action::Acked { offer, unbound: Vec::new() }, in_sync];
            }
            if std::mem::take(&mut self.owes_in_sync) {
                return vec![self.in_sync(offer.version())];
            }
            return Vec::new();
        }
        if self.rejected == Some(offer.version()) {
            return Vec::new();
        }
        self.rejected = None;
        let update = offer.update_from(self.base.as_ref());
        let encoded = Bytes::from(encode_transaction(&update).encode_to_vec());
        let actions =
            chunks(offer.version(), encoded).map(|chunk| self.send(control_message::Kind::Chunk(chunk))).collect();
        self.in_flight = Some((offer, now + self.patience.ack));
        actions
    }

    fn in_sync(&mut self, offer: ContentHash) -> Action {
        self.send(control_message::Kind::InSync(v1::InSync { offer: offer.encode() }))
    }

    fn send(&mut self, kind: control_message::Kind) -> Action {
        self.sent += 1;
        Action::Send(v1::ControlMessage { sequence: self.sent, kind: Some(kind) })
    }

    fn close(&mut self, violation: Violation) -> Vec<Action> {
        self.phase = Phase::Closed;
        vec![Action::Close(violation)]
    }
}
