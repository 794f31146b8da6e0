//! Opaque connections: authorized before any upstream is picked, then relayed.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use palisade_model::{endpoint::Address, reason::Reason};

use crate::{
    index::{Demand, IndexedCluster, IndexedEndpoint, Outcome, RuntimeIndex, Slot},
    request::{
        self,
        connection::Mode,
        dynamic::{self, Wanted},
        egress::Underway,
        external::Testimony,
        facts::Chance,
        upstream::{PlannedTls, tls_towards},
        verdict::{Action, ForwardPlan, Route, Verdict},
    },
    runtime::{
        Runtime,
        connection::{ConnectionContext, Standing},
        decisions::{Circumstances, Sample},
        providers::Providers,
    },
    serve::{
        Downstream,
        l4::{self, Dial, DialError, RelayCounts, RelayLimits, Upstream},
    },
    telemetry::{Record, ShadowRecord, metrics::Limit},
};

/// Tries of one connection (Envoy: `max_connect_attempts` is 1; a second endpoint costs nothing, since nothing was sent).
const MAX_DIALS: u32 = 3;
/// How often something else may turn out not to be known yet.
const MAX_ASKS: u32 = 2;

/// An opaque connection in progress, for being judged again.
#[derive(Debug)]
pub struct RelaySubject {
    connection: Arc<ConnectionContext>,
    /// Where it goes, and what providers said of it.
    testimony: Testimony,
}

impl RelaySubject {
    /// Whether a configuration still lets this connection live.
    ///
    /// # Errors
    /// The reason for which it ends.
    pub fn still_permitted(&self, runtime: &Runtime, index: &Arc<RuntimeIndex>) -> Result<(), Reason> {
        let standing = self.connection.standing(runtime, index).map_err(|refused| refused.reason)?;
        request::recheck_tcp(index, &standing.admitted, &self.testimony)
    }
}

/// Serves an opaque connection to its end.
pub(super) async fn serve(
    runtime: &Arc<Runtime>,
    mut downstream: Downstream,
    context: Arc<ConnectionContext>,
    mut standing: Arc<Standing>,
) -> Reason {
    let began = Instant::now();
    let facts = context.facts();
    let mut record = Record::new(Timestamp::now(), Arc::clone(&runtime.settings().proxy), facts.direction);
    let sample = runtime.decisions.sample(SystemTime::now());
    let mut chance = Chance::random(SystemTime::now(), fastrand::Rng::new()).with_depth(sample.depth());
    let mut asked = 0;
    let mut testimony = Testimony::default();
    let mut verdict = loop {
        let verdict = request::decide_tcp_with(&standing.index, &standing.admitted, &testimony, &mut chance);
        if let Action::Check(question) = &verdict.action {
            let answer = Providers::ask(runtime, &standing, question).await;
            testimony.answers.push((Arc::clone(&question.check.check.provider), answer));
        } else {
            let Action::Ask(query) = &verdict.action else { break verdict };
            asked += 1;
            if asked > MAX_ASKS || runtime.ask(query.clone()).await.is_err() {
                break verdict;
            }
        }
        // What was put in force while somebody was asked counts.
        let Some(index) = runtime.index() else { break verdict };
        match context.standing(runtime, &index) {
            Ok(next) => standing = next,
            Err(refused) => break Verdict { reason: refused.reason, ..verdict },
        }
    };
    for question in std::mem::take(&mut verdict.external.beside) {
        Providers::ask_beside(runtime, &standing, question);
    }
    note(runtime, &mut record, &standing, &verdict, sample);
    let counts = RelayCounts::default();
    if let Action::Forward(plan) = &verdict.action {
        match dial(runtime, &standing, plan, &mut chance, &mut record).await {
            Ok((mut upstream, _held)) => {
                testimony.underway = Some(Underway::of_bytes(plan, &standing.admitted));
                let subject = Arc::new(RelaySubject { connection: Arc::clone(&context), testimony });
                let judged: Arc<RelaySubject> = Arc::clone(&subject);
                let registration = downstream.registration.stream(Some(judged));
                // What was put in force since then has judged what lived, perhaps without this.
                let index = runtime.index().filter(|_| !standing.is_in_force(runtime));
                match index.map_or(Ok(()), |index| subject.still_permitted(runtime, &index)) {
                    Ok(()) => {
                        runtime.metrics.open_streams.inc();
                        let limits = limits_of(&plan.cluster, runtime.settings().tcp_idle_timeout);
                        let (client, server) = (&mut downstream.stream, &mut upstream);
                        let end = l4::relay(client, server, limits, &counts, &registration).await;
                        runtime.metrics.open_streams.dec();
                        record.reason = end.reason();
                    }
                    Err(reason) => record.reason = reason,
                }
            }
            Err(reason) => record.reason = reason,
        }
    }
    record.bytes_received = counts.received();
    record.bytes_sent = counts.sent();
    record.set_duration(began.elapsed());
    runtime.log.write(&record);
    record.reason
}

/// Bounds of a relay to a cluster.
/// `usual`: how long a connection may be idle where the cluster does not say.
fn limits_of(cluster: &IndexedCluster, usual: Option<Duration>) -> RelayLimits {
    let connection = &cluster.cluster().traffic.connection;
    let idle = connection.relay_idle.map_or(usual, |idle| (!idle.is_zero()).then_some(idle));
    RelayLimits { idle, life: connection.max_duration, ..RelayLimits::default() }
}

/// What an opaque connection holds of its cluster and endpoint.
type Held = (Slot, Option<crate::index::InFlight>);

async fn dial(
    runtime: &Runtime,
    standing: &Standing,
    plan: &ForwardPlan,
    chance: &mut Chance,
    record: &mut Record,
) -> Result<(Upstream, Held), Reason> {
    let facts = &standing.admitted.facts;
    let host = facts.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or_default();
    let cluster = &plan.cluster;
    let limits = &cluster.cluster().traffic.limits;
    // Nobody waits: the client's bytes would have to (Envoy closes as well).
    let demand = Demand { is_shared: false, streams: None, limit: limits.max_connections };
    let Some(slot) = cluster.live().breaker.try_connect(demand, false) else {
        runtime.metrics.upstream.count_overflow(Limit::Connections);
        return Err(Reason::Overflow);
    };
    let options = crate::http::limits::options(cluster, facts);
    let is_avoided = |endpoint: &&IndexedEndpoint| plan.passes_mesh_tls && !endpoint.is_mesh();
    let avoided = cluster.endpoints().iter().filter(is_avoided);
    let mut tried: Vec<Address> = avoided.map(|endpoint| endpoint.endpoint.address.clone()).collect();
    let mut last = Reason::NoEndpoints;
    for _ in 0..MAX_DIALS {
        let wanted = Wanted { dialled: facts.destination, host, hash: plan.hash };
        let picked = dynamic::pick(&plan.permit, cluster, &wanted, &tried, chance)?;
        // A name may have more addresses than one.
        if tried.contains(&picked.address) && !matches!(picked.address, Address::Name(_, _)) {
            break;
        }
        let named = match &picked.address {
            Address::Name(name, _) | Address::LogicalName(name, _) if host.is_empty() => name,
            _ => host,
        };
        let tls = match plan.passes_mesh_tls {
            true => PlannedTls::Off,
            false => tls_towards(cluster, picked.endpoint.as_ref()),
        };
        let tls = runtime.transports.for_bytes(&standing.index, &tls, named).map_err(|error| {
            record.details = Some(error.to_string().into());
            Reason::UpstreamConnect
        })?;
        tried.push(picked.address.clone());
        record.attempts += 1;
        let address = match runtime.names.destination(&picked, standing.index.settings()).await {
            Ok(address) => address,
            Err(error) => {
                record.details = Some(error.to_string().into());
                last = Reason::NoEndpoints;
                continue;
            }
        };
        last = Reason::UpstreamConnect;
        record.upstream = Some(address);
        let dial = Dial {
            address,
            source: picked.source,
            mark: runtime.settings().socket_mark,
            timeout: cluster.cluster().connect_timeout,
            options: options.clone(),
            tls,
        };
        let dialled = l4::dial(&dial).await;
        if let Some(endpoint) = &picked.endpoint {
            let outcome = match &dialled {
                Ok(_) => Outcome::Served,
                Err(DialError::Timeout { .. }) => Outcome::TimedOut,
                Err(_) => Outcome::Failed,
            };
            if let Some(cause) = cluster.report(&endpoint.live, outcome) {
                runtime.metrics.upstream.count_ejection(cause);
                tracing::warn!(cluster = %cluster.name(), upstream = %address, cause = cause.as_str(), "endpoint ejected");
            }
        }
        match dialled {
            Ok(upstream) => {
                let in_flight = picked.endpoint.map(|endpoint| endpoint.live.begin());
                return Ok((upstream, (slot, in_flight)));
            }
            Err(error) => record.details = Some(error.to_string().into()),
        }
    }
    Err(last)
}

/// Writes what was decided about opaque bytes into their record.
pub(in crate::runtime) fn note(
    runtime: &Runtime,
    record: &mut Record,
    standing: &Standing,
    verdict: &Verdict,
    sample: Sample,
) {
    let admitted = &standing.admitted;
    let sni = admitted.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    record.source = Some(admitted.caller());
    record.source_address = Some(admitted.facts.source);
    record.destination_address = Some(admitted.facts.destination);
    record.destination = Some(admitted.facts.destination.to_string().into());
    record.connection = admitted.mode.as_str();
    record.protocol = if admitted.mode == Mode::TlsPassthrough { "tls+tcp" } else { "tcp" };
    record.authority = sni.map(Into::into);
    record.reason = verdict.reason;
    record.cluster = verdict.cluster.clone();
    if let Route::L4(route) = &verdict.route {
        record.route = Some(format!("{}[{}]", route.source, route.rule).into());
    }
    let Some(said) = &verdict.authorization else { return };
    record.shadow = ShadowRecord::of(said).map(Box::new);
    record.policies = said.deciding.iter().filter(|p| p.source.is_some()).map(|p| Arc::clone(&p.id.0)).collect();
    let (time, reason, direction) = (record.time, verdict.reason, record.direction);
    let circumstances = Circumstances { time, reason, proxy: &runtime.settings().proxy, direction, headers: None };
    record.decision = runtime.decisions.note(said, sample, &circumstances).map(Into::into);
}
