//! Edits through the API server: from the write's begin to each proxy's transaction.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Table,
    documents::{ROUTES, SERVICES, endpoint_slice, mesh_policy, policy, route},
    markers::marker,
    proxies::{Proxies, place},
    stand::{Control, Stand, edit},
};
use crate::bench::process::cpu_time;

/// An edit that has not arrived by then is a failure.
const LIMIT: Duration = Duration::from_secs(30);
/// Pause after an edit has arrived everywhere.
const GAP: Duration = Duration::from_millis(150);
/// Changes per second, and for how many seconds, of the storm.
const STORM: u64 = 100;
const STORM_SECONDS: u64 = 10;

/// What is measured.
pub(super) struct Edits<'a> {
    pub(super) stand: &'a Stand,
    pub(super) control: &'a Control,
    pub(super) proxies: &'a Proxies,
    pub(super) count: usize,
}

/// What is edited.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Route,
    Policy,
    MeshPolicy,
    Endpoint,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Route, "route"),
    (Kind::Policy, "policy of one workload"),
    (Kind::MeshPolicy, "policy of the whole mesh"),
    (Kind::Endpoint, "endpoint"),
];

impl Edits<'_> {
    /// All kinds.
    pub(super) async fn run(&self, table: &mut Table) -> anyhow::Result<()> {
        for (number, (kind, what)) in KINDS.into_iter().enumerate() {
            self.series(kind, what, number as u64 * 100_000, table).await?;
        }
        let compiles = self.control.compiles()?;
        let mut later: Vec<f64> = compiles.into_iter().skip(1).collect();
        later.sort_by(f64::total_cmp);
        let at =
            |share: usize| later.get((later.len() * share / 100).min(later.len() - 1)).copied().unwrap_or_default();
        table.row("one change compiled, ms, p50 / p99", format!("{:.1} / {:.1}", at(50), at(99)));
        Ok(())
    }

    /// Two kinds.
    pub(super) async fn few(&self, table: &mut Table) -> anyhow::Result<()> {
        self.series(Kind::Route, "route", 1_000_000, table).await?;
        self.series(Kind::MeshPolicy, "policy of the whole mesh", 1_100_000, table).await
    }

    fn document(kind: Kind, service: usize, number: u64) -> Value {
        let marker = marker(number);
        match kind {
            Kind::Route => route(service, usize::try_from(number).unwrap_or_default() % ROUTES, &marker),
            Kind::Policy => policy(service, &format!("/{marker}")),
            Kind::MeshPolicy => mesh_policy(&format!("/{marker}")),
            Kind::Endpoint => endpoint_slice(service, Some((&format!("10.126.0.{}", number % 250), &marker))),
        }
    }

    fn concerned(&self, kind: Kind, service: usize) -> Vec<usize> {
        match kind {
            Kind::Route | Kind::Endpoint => self.proxies.using(service),
            Kind::Policy => self.proxies.of(service),
            Kind::MeshPolicy => (0..self.proxies.count).collect(),
        }
    }

    async fn series(&self, kind: Kind, what: &str, from: u64, table: &mut Table) -> anyhow::Result<()> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut cpu = Duration::ZERO;
        for number in from..=from + self.count as u64 {
            let (service, _) = place(usize::try_from(number).unwrap_or_default() * 7 % self.proxies.count);
            let concerned = self.concerned(kind, service);
            let count = concerned.len() as u64;
            let before = (cpu_time(self.control.pid)?, self.proxies.received());
            self.proxies.markers.begin(number, service, concerned);
            edit(&self.stand.client, &Self::document(kind, service, number)).await?;
            let arrived = self.proxies.markers.arrived(number, LIMIT).await?;
            sleep(GAP).await;
            // The first one warms up.
            if number > from {
                taken.extend(arrived);
                cpu += cpu_time(self.control.pid)?.saturating_sub(before.0);
                bytes += (self.proxies.received() - before.1) / count.max(1);
            }
        }
        let proxies = self.proxies.count;
        let edits = self.count.max(1);
        table.row(&format!("{what}, {proxies} proxies: API write to every proxy, ms, p50 / p99"), quantiles(taken));
        let each = cpu.as_secs_f64() * 1e3 / edits as f64;
        table.row(&format!("{what}, {proxies} proxies: CPU per edit, ms"), format!("{each:.1}"));
        table.row(&format!("{what}, {proxies} proxies: bytes to a proxy"), (bytes / edits as u64).to_string());
        Ok(())
    }

    /// Endpoints of the proxies' services change all the time.
    pub(super) async fn storm(&self, table: &mut Table) -> anyhow::Result<()> {
        let mut ticks = interval(Duration::from_millis(1000 / STORM));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut writes = JoinSet::new();
        // Of one service's writes the older must not come last: it would hide the newer one from everybody.
        let turns: Vec<Arc<Mutex<()>>> = (0..SERVICES).map(|_| Arc::default()).collect();
        let before = cpu_time(self.control.pid)?;
        let (begin, from) = (Instant::now(), 2_000_000);
        let numbers = from..from + STORM * STORM_SECONDS;
        for number in numbers.clone() {
            ticks.tick().await;
            let (service, _) = place(usize::try_from(number).unwrap_or_default() % self.proxies.count);
            self.proxies.markers.begin(number, service, self.concerned(Kind::Endpoint, service));
            let (client, document) = (self.stand.client.clone(), Self::document(Kind::Endpoint, service, number));
            let turn = turns.get(service).map(Arc::clone).context("no such service")?;
            writes.spawn(async move {
                let _turn = turn.lock().await;
                edit(&client, &document).await
            });
        }
        while let Some(done) = writes.join_next().await {
            done??;
        }
        let written = begin.elapsed();
        let mut taken = Vec::new();
        for number in numbers {
            taken.extend(self.proxies.markers.arrived(number, LIMIT).await?);
        }
        let cpu = cpu_time(self.control.pid)?.saturating_sub(before);
        let rate = (STORM * STORM_SECONDS) as f64 / written.as_secs_f64();
        let proxies = self.proxies.count;
        let what = format!(
            "endpoint under {rate:.0} changes a second, {proxies} proxies: API write to every proxy, ms, p50 / p99"
        );
        table.row(&what, quantiles(taken));
        let share = cpu.as_secs_f64() / written.as_secs_f64() * 100.0;
        table.row("CPU under these changes, % of a core", format!("{share:.0}"));
        Ok(())
    }
}

fn quantiles(mut taken: Vec<Duration>) -> String {
    taken.sort();
    let at = |share: usize| taken.get((taken.len() * share / 100).min(taken.len().saturating_sub(1)));
    let ms = |share: usize| at(share).map_or(f64::NAN, |taken| taken.as_secs_f64() * 1e3);
    format!("{:.1} / {:.1}", ms(50), ms(99))
}
