//! What a request carries from its first byte to its log line.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use palisade_model::{endpoint::Address, reason::Reason};
use pingora_core::upstreams::peer::HttpPeer;

use super::{
    copies::Tee,
    limits::Current,
    stream::{OwnedRequest, StreamSubject},
};
use crate::{
    answer::Told,
    index::{InFlight, Retrying, Running, Slot},
    request::{facts::Direction, upstream::PlannedProtocol, verdict::Verdict},
    runtime::connection::{ConnectionContext, Standing},
    serve::Registration,
    telemetry::Record,
    transport::TransportRef,
};

/// One request. Pins one configuration through its standing.
#[derive(Debug)]
pub struct RequestCtx {
    /// When it began.
    pub started: Instant,
    /// Its log line in the making.
    pub record: Record,
    /// Its connection.
    pub connection: Option<Arc<ConnectionContext>>,
    /// The connection's standing under the pinned configuration.
    pub standing: Option<Arc<Standing>>,
    /// Its head as received.
    pub head: Option<Arc<OwnedRequest>>,
    /// The verdict.
    pub verdict: Option<Verdict>,
    /// What its caller is told of its denial.
    pub told: Option<Told>,
    /// What the registry judges it by.
    pub subject: Option<Arc<StreamSubject>>,
    /// Its place in the registry.
    pub registration: Option<Registration>,
    /// The tries so far.
    pub tries: Tries,
    /// Copies of it whose bodies are being teed.
    pub tee: Tee,
    /// Body bytes that may still come. `None`: any number.
    pub body_left: Option<u64>,
    /// Whether its answers are gRPC's.
    pub is_grpc: bool,
    /// Whether it asks to switch protocols.
    pub is_upgrade: bool,
    /// The connection must be closed without an answer.
    pub is_closed: bool,
}

/// The tries of one request.
#[derive(Debug, Default)]
pub struct Tries {
    /// The first try's peer, picked before Pingora asks for it.
    pub ready: Option<Box<HttpPeer>>,
    /// Tries begun.
    pub begun: u32,
    /// Retries that the policy granted.
    pub retries: u32,
    /// Tries repeated because a pooled connection proved stale; they are nobody's policy.
    pub stale: u32,
    /// Addresses tried.
    pub tried: Vec<Address>,
    /// The next try must use a connection of its own.
    pub fresh: bool,
    /// A pause before the next try.
    pub pause: Option<Duration>,
    /// When the request must be done.
    pub deadline: Option<Instant>,
    /// Why the last try failed, where the proxy knows better than the error says.
    pub failure: Option<Reason>,
    /// Counts the request at its endpoint.
    pub in_flight: Option<InFlight>,
    /// The endpoint that the try's outcome is held against.
    pub current: Option<Current>,
    /// Counts the request at its cluster.
    pub running: Option<Running>,
    /// Counts the connection that the try uses.
    pub slot: Option<Slot>,
    /// Counts the retry.
    pub retrying: Option<Retrying>,
    /// The try's connection takes no request after this one.
    pub is_last_on_connection: bool,
    /// Keeps the transport registered while the try runs.
    pub transport: Option<TransportRef>,
    /// What is spoken on this try.
    pub protocol: Option<PlannedProtocol>,
}

impl Tries {
    /// Gives back what the try holds: its endpoint and its connection.
    pub(super) fn end_try(&mut self) {
        self.in_flight = None;
        self.slot = None;
        self.current = None;
        self.is_last_on_connection = false;
    }

    /// Gives back what the request holds.
    pub(super) fn end(&mut self) {
        self.end_try();
        self.running = None;
        self.retrying = None;
    }
}

impl RequestCtx {
    /// A request that begins now.
    pub fn new(proxy: Arc<str>) -> Self {
        Self {
            started: Instant::now(),
            record: Record::new(Timestamp::now(), proxy, Direction::Inbound),
            connection: None,
            standing: None,
            head: None,
            verdict: None,
            told: None,
            subject: None,
            registration: None,
            tries: Tries::default(),
            tee: Tee::default(),
            body_left: None,
            is_grpc: false,
            is_upgrade: false,
            is_closed: false,
        }
    }
}
