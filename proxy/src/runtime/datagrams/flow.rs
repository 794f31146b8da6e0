//! One sender's datagrams: judged like a connection, then relayed to one endpoint until nobody says anything any more.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use jiff::Timestamp;
use palisade_model::{endpoint::Address, reason::Reason};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc};

use super::MAX_DATAGRAM;
use crate::{
    index::{Demand, InFlight, RuntimeIndex, Slot},
    request::{
        self, connection,
        dynamic::{self, Wanted},
        egress::Underway,
        external::Testimony,
        facts::{Chance, Connection, Direction},
        upstream::{PlannedTls, tls_towards},
        verdict::{Action, ForwardPlan, Verdict},
    },
    runtime::{Runtime, connection::Standing, providers::Providers, server::relay},
    serve::{ListenerKey, LiveFacts, LiveKind, Registration},
    telemetry::{Record, metrics::Limit},
};

/// A flow in which nothing moves for this long ends, as in Envoy.
const IDLE: Duration = Duration::from_secs(60);
/// The same while the proxy drains.
const IDLE_DRAINING: Duration = Duration::from_secs(2);
/// How long what a refused sender sends is dropped unseen.
const SWALLOW: Duration = Duration::from_secs(5);

/// A flow at its beginning.
pub(super) struct Flow {
    pub(super) runtime: Arc<Runtime>,
    pub(super) listener: ListenerKey,
    /// Where answers go out.
    pub(super) socket: Arc<UdpSocket>,
    /// As the socket names it.
    pub(super) sender: SocketAddr,
    pub(super) facts: Connection,
}

/// A flow in progress, for being judged again.
#[derive(Debug)]
pub struct FlowSubject {
    facts: Connection,
    testimony: Testimony,
    /// The cluster and the endpoint that it goes to.
    goes_to: (Arc<str>, Address),
}

/// What a flow holds of its cluster and endpoint.
type Held = (Slot, Option<InFlight>);

/// Bytes that went either way.
#[derive(Debug, Default)]
struct Counts {
    received: u64,
    sent: u64,
}

impl FlowSubject {
    /// Whether a configuration still lets this flow live: its policies do, and its endpoint is still there.
    ///
    /// # Errors
    /// The reason for which it ends.
    pub fn still_permitted(&self, index: &RuntimeIndex) -> Result<(), Reason> {
        let admitted = connection::admit_datagrams(index, self.facts.clone()).map_err(|refused| refused.reason)?;
        request::recheck_tcp(index, &admitted, &self.testimony)?;
        let (cluster, address) = &self.goes_to;
        let cluster = index.cluster(cluster).ok_or(Reason::NoEndpoints)?;
        let is_there = cluster.endpoints().iter().any(|endpoint| endpoint.endpoint.address == *address);
        if is_there { Ok(()) } else { Err(Reason::NoEndpoints) }
    }
}

/// The facts of a flow. Where the socket takes every address, the destination is the workload's own.
pub(super) fn facts(source: SocketAddr, local: SocketAddr, runtime: &Runtime) -> Connection {
    let own = || {
        let index = runtime.index()?;
        let is_alike = |address: &&std::net::IpAddr| address.is_ipv4() == source.is_ipv4();
        index.settings().addresses.iter().find(is_alike).copied()
    };
    let ip = if local.ip().is_unspecified() { own().unwrap_or(local.ip()) } else { local.ip() };
    let destination = SocketAddr::new(ip, local.port());
    Connection { direction: Direction::Inbound, source, destination, tls: None }
}

impl Flow {
    /// Serves the flow to its end. `waiting` holds the first datagram already.
    pub(super) async fn serve(self, mut waiting: mpsc::Receiver<Bytes>) {
        let began = Instant::now();
        let runtime = &self.runtime;
        let mut record = Record::new(Timestamp::now(), Arc::clone(&runtime.settings().proxy), Direction::Inbound);
        record.source_address = Some(self.facts.source);
        record.destination_address = Some(self.facts.destination);
        record.protocol = "udp";
        runtime.metrics.open_connections.inc();
        let registration = runtime.registry.register(LiveFacts {
            kind: LiveKind::Connection,
            listener: self.listener.clone(),
            peer: self.facts.source,
            destination: self.facts.destination,
            principal: None,
            sni: None,
            subject: None,
        });
        let mut counts = Counts::default();
        record.reason = match self.judge(&mut record).await {
            Ok((standing, plan, testimony, chance)) => {
                self.forward(
                    &standing,
                    plan,
                    testimony,
                    chance,
                    (&mut waiting, &registration),
                    &mut record,
                    &mut counts,
                )
                .await
            }
            Err(reason) => {
                // What is refused stays refused for a while: each datagram would have a log line of its own.
                self.swallow(&mut waiting, &registration).await;
                reason
            }
        };
        record.bytes_received = counts.received;
        record.bytes_sent = counts.sent;
        record.set_duration(began.elapsed());
        runtime.log.write(&record);
        runtime.metrics.count_connection(Direction::Inbound, record.reason);
        runtime.metrics.open_connections.dec();
    }

    /// Asks the policies of the listener, and where the flow goes.
    async fn judge(&self, record: &mut Record) -> Result<(Arc<Standing>, ForwardPlan, Testimony, Chance), Reason> {
        let runtime = &self.runtime;
        let sample = runtime.decisions.sample(SystemTime::now());
        let mut chance = Chance::random(SystemTime::now(), fastrand::Rng::new()).with_depth(sample.depth());
        let mut testimony = Testimony::default();
        let (standing, mut verdict) = loop {
            let index = runtime.index().ok_or(Reason::ConfigUnavailable)?;
            let admitted = connection::admit_datagrams(&index, self.facts.clone()).map_err(|refused| refused.reason)?;
            let standing = Standing::of_datagrams(index, admitted);
            let verdict = request::decide_tcp_with(&standing.index, &standing.admitted, &testimony, &mut chance);
            let Action::Check(question) = &verdict.action else { break (standing, verdict) };
            let answer = Providers::ask(runtime, &standing, question).await;
            testimony.answers.push((Arc::clone(&question.check.check.provider), answer));
        };
        for question in std::mem::take(&mut verdict.external.beside) {
            Providers::ask_beside(runtime, &standing, question);
        }
        relay::note(runtime, record, &standing, &verdict, sample);
        record.protocol = "udp";
        let Verdict { reason, action, .. } = verdict;
        match action {
            Action::Forward(plan) => Ok((standing, *plan, testimony, chance)),
            _ => Err(if reason == Reason::Ok { Reason::NoRoute } else { reason }),
        }
    }

    /// Relays the flow to an endpoint until it is idle, revoked, or the endpoint refuses it.
    #[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
    async fn forward(
        &self,
        standing: &Standing,
        plan: ForwardPlan,
        mut testimony: Testimony,
        mut chance: Chance,
        (waiting, registration): (&mut mpsc::Receiver<Bytes>, &Registration),
        record: &mut Record,
        counts: &mut Counts,
    ) -> Reason {
        let runtime = &self.runtime;
        let (upstream, address, _held) = match self.connect(standing, &plan, &mut chance, record).await {
            Ok(connected) => connected,
            Err(reason) => {
                self.swallow(waiting, registration).await;
                return reason;
            }
        };
        testimony.underway = Some(Underway::of_bytes(&plan, &standing.admitted));
        let goes_to = (Arc::clone(plan.cluster.name()), address);
        let subject = Arc::new(FlowSubject { facts: self.facts.clone(), testimony, goes_to });
        let judged: Arc<FlowSubject> = Arc::clone(&subject);
        let stream = registration.stream(Some(judged));
        // What was put in force since then has judged what lived, perhaps without this.
        if !runtime.is_index(&standing.index)
            && let Some(index) = runtime.index()
            && let Err(reason) = subject.still_permitted(&index)
        {
            return reason;
        }
        runtime.metrics.open_streams.inc();
        let reason = self.relay(&upstream, waiting, &stream, counts).await;
        runtime.metrics.open_streams.dec();
        reason
    }

    async fn relay(
        &self,
        upstream: &UdpSocket,
        waiting: &mut mpsc::Receiver<Bytes>,
        registration: &Registration,
        counts: &mut Counts,
    ) -> Reason {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut draining = self.runtime.drain.watch();
        let closed = registration.closed();
        tokio::pin!(closed);
        loop {
            let idle = if *draining.borrow() { IDLE_DRAINING } else { IDLE };
            // All of them are cancel safe: what is not taken stays queued.
            tokio::select! {
                biased;
                () = &mut closed => return registration.close_reason().unwrap_or(Reason::Draining),
                received = upstream.recv(&mut buffer) => match received {
                    Ok(length) => {
                        let answer = buffer.get(..length).unwrap_or_default();
                        if self.socket.send_to(answer, self.sender).await.is_err() {
                            return Reason::DownstreamClosed;
                        }
                        counts.sent += u64::try_from(length).unwrap_or(u64::MAX);
                    }
                    // Nobody is there any more: the next datagram goes elsewhere.
                    Err(_) => return Reason::UpstreamReset,
                },
                datagram = waiting.recv() => {
                    let Some(datagram) = datagram else { return Reason::Draining };
                    match upstream.send(&datagram).await {
                        Ok(_) => counts.received += u64::try_from(datagram.len()).unwrap_or(u64::MAX),
                        Err(_) => return Reason::UpstreamReset,
                    }
                }
                _ = draining.changed(), if !*draining.borrow() => {}
                () = tokio::time::sleep(idle) => return Reason::Ok,
            }
        }
    }

    /// Takes what a refused sender sends, and drops it, for a while or until the configuration is another.
    async fn swallow(&self, waiting: &mut mpsc::Receiver<Bytes>, registration: &Registration) {
        let mut versions = self.runtime.versions();
        versions.mark_unchanged();
        let over = async {
            tokio::select! {
                () = registration.closed() => {}
                _ = versions.changed() => {}
                () = tokio::time::sleep(SWALLOW) => {}
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = &mut over => return,
                datagram = waiting.recv() => if datagram.is_none() { return },
            }
        }
    }

    /// Picks an endpoint and makes a socket towards it.
    async fn connect(
        &self,
        standing: &Standing,
        plan: &ForwardPlan,
        chance: &mut Chance,
        record: &mut Record,
    ) -> Result<(UdpSocket, Address, Held), Reason> {
        let runtime = &self.runtime;
        let cluster = &plan.cluster;
        let demand =
            Demand { is_shared: false, streams: None, limit: cluster.cluster().traffic.limits.max_connections };
        let Some(slot) = cluster.live().breaker.try_connect(demand, false) else {
            runtime.metrics.upstream.count_overflow(Limit::Connections);
            return Err(Reason::Overflow);
        };
        let wanted = Wanted { dialled: self.facts.destination, host: "", hash: plan.hash };
        let picked = dynamic::pick(&plan.permit, cluster, &wanted, &[], chance)?;
        match tls_towards(cluster, picked.endpoint.as_ref()) {
            PlannedTls::Off => {}
            _ => {
                record.details = Some("datagrams cannot be secured by TLS".into());
                return Err(Reason::UpstreamConnect);
            }
        }
        record.attempts += 1;
        let address = match runtime.names.destination(&picked, standing.index.settings()).await {
            Ok(address) => address,
            Err(error) => {
                record.details = Some(error.to_string().into());
                return Err(Reason::NoEndpoints);
            }
        };
        record.upstream = Some(address);
        let upstream = towards(address, runtime.settings().socket_mark).map_err(|error| {
            record.details = Some(format!("no socket towards {address}: {error}").into());
            Reason::UpstreamConnect
        })?;
        let in_flight = picked.endpoint.map(|endpoint| endpoint.live.begin());
        Ok((upstream, picked.address, (slot, in_flight)))
    }
}

/// A socket that speaks with one endpoint alone: answers of others are dropped by the kernel.
fn towards(address: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}
