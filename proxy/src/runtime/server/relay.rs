//! Opaque connections: authorized before any upstream is picked, then relayed.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use jiff::Timestamp;
use palisade_model::{endpoint::Address, reason::Reason};

use crate::{
    index::RuntimeIndex,
    request::{
        self,
        connection::{Entry, Mode},
        dynamic,
        external::Testimony,
        facts::Chance,
        upstream::tls_towards,
        verdict::{Action, ForwardPlan, Route, Verdict},
    },
    runtime::{
        Runtime,
        connection::{ConnectionContext, Standing},
        providers::Providers,
        recent::Denied,
    },
    serve::{
        Downstream,
        l4::{self, Dial, RelayCounts, RelayLimits, Upstream},
    },
    telemetry::Record,
};

/// Tries of one connection (Envoy: `max_connect_attempts` is 1; a second endpoint costs nothing, since nothing was sent).
const MAX_DIALS: u32 = 3;
/// How often something else may turn out not to be known yet.
const MAX_ASKS: u32 = 2;

/// An opaque connection in progress, for being judged again.
#[derive(Debug)]
pub struct RelaySubject {
    connection: Arc<ConnectionContext>,
}

impl RelaySubject {
    /// Whether a configuration still lets this connection live.
    ///
    /// # Errors
    /// The reason for which it ends.
    pub fn still_permitted(&self, index: &Arc<RuntimeIndex>) -> Result<(), Reason> {
        let standing = self.connection.standing(index).map_err(|refused| refused.reason)?;
        let (_, said) = request::authorize::connection(&standing.admitted);
        match (said.is_allowed, &standing.admitted.entry) {
            (true, _) => Ok(()),
            (false, Entry::Outbound(_)) => Err(Reason::EgressDenied),
            (false, Entry::Inbound(_) | Entry::Gateway(_, _)) => Err(Reason::AuthzDenied),
        }
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
    let mut chance = Chance::random(SystemTime::now(), fastrand::Rng::new());
    let mut asked = 0;
    let mut testimony = Testimony::default();
    let mut verdict = loop {
        let verdict = request::decide_tcp_with(&standing.index, &standing.admitted, &testimony, &mut chance);
        if let Action::Check(question) = &verdict.action {
            let answer = runtime.providers.ask(runtime, &standing.index, &standing.admitted, question).await;
            testimony.answers.push((Arc::clone(&question.check.check.provider), answer));
            continue;
        }
        let Action::Ask(query) = &verdict.action else { break verdict };
        asked += 1;
        if asked > MAX_ASKS || runtime.ask(query.clone()).await.is_err() {
            break verdict;
        }
        let Some(index) = runtime.index() else { break verdict };
        match context.standing(&index) {
            Ok(next) => standing = next,
            Err(refused) => break Verdict { reason: refused.reason, ..verdict },
        }
    };
    for question in std::mem::take(&mut verdict.external.beside) {
        Providers::ask_beside(runtime, &standing, question);
    }
    note(runtime, &mut record, &standing, &verdict);
    let counts = RelayCounts::default();
    if let Action::Forward(plan) = &verdict.action {
        match dial(runtime, &standing, plan, &mut chance, &mut record).await {
            Ok((mut upstream, _in_flight)) => {
                let subject = RelaySubject { connection: Arc::clone(&context) };
                let registration = downstream.registration.stream(Some(Arc::new(subject)));
                runtime.metrics.open_streams.inc();
                let limits = RelayLimits::default();
                let end = l4::relay(&mut downstream.stream, &mut upstream, limits, &counts, &registration).await;
                runtime.metrics.open_streams.dec();
                record.reason = end.reason();
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

async fn dial(
    runtime: &Runtime,
    standing: &Standing,
    plan: &ForwardPlan,
    chance: &mut Chance,
    record: &mut Record,
) -> Result<(Upstream, Option<crate::index::InFlight>), Reason> {
    let facts = &standing.admitted.facts;
    let host = facts.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or_default();
    let mut tried: Vec<Address> = Vec::new();
    let mut last = Reason::NoEndpoints;
    for _ in 0..MAX_DIALS {
        let picked = dynamic::pick(&plan.permit, &plan.cluster, facts.destination, host, &tried, chance)?;
        // A name may have more addresses than one.
        if tried.contains(&picked.address) && !matches!(picked.address, Address::Name(_, _)) {
            break;
        }
        let named = match &picked.address {
            Address::Name(name, _) | Address::LogicalName(name, _) if host.is_empty() => name,
            _ => host,
        };
        let tls = tls_towards(&plan.cluster, picked.endpoint.as_ref());
        let tls = runtime.transports.for_bytes(&standing.index, &tls, named).map_err(|error| {
            record.details = Some(error.to_string().into());
            Reason::UpstreamConnect
        })?;
        tried.push(picked.address.clone());
        record.attempts += 1;
        let has_v6 = standing.index.settings().addresses.iter().any(std::net::IpAddr::is_ipv6);
        let Some(address) = runtime.names.locate(&picked.address, has_v6).await else {
            last = Reason::NoEndpoints;
            continue;
        };
        if picked.endpoint.is_none()
            && !matches!(picked.address, Address::Socket(_))
            && !dynamic::is_outside(address.ip())
        {
            return Err(Reason::NoEndpoints);
        }
        last = Reason::UpstreamConnect;
        record.upstream = Some(address);
        let timeout = plan.cluster.cluster().connect_timeout;
        match l4::dial(&Dial { address, source: picked.source, mark: runtime.settings().socket_mark, timeout, tls })
            .await
        {
            Ok(upstream) => return Ok((upstream, picked.endpoint.map(|endpoint| endpoint.live.begin()))),
            Err(error) => record.details = Some(error.to_string().into()),
        }
    }
    Err(last)
}

fn note(runtime: &Runtime, record: &mut Record, standing: &Standing, verdict: &Verdict) {
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
    record.policies = said.deciding.iter().filter(|p| p.source.is_some()).map(|p| Arc::clone(&p.id.0)).collect();
    if let Some(captured) = &said.captured {
        let id = runtime.decisions.next().to_string();
        record.decision = Some(id.as_str().into());
        let engine = Arc::clone(&said.engine);
        let (time, reason) = (record.time, verdict.reason);
        runtime.recent.remember(Denied { id: id.into(), time, reason, captured: captured.clone(), engine });
    }
}
