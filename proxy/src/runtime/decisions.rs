//! What becomes of a decision after it was answered: its id, the ring behind `/why/ID`, its record, and the replay on Cedar.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use palisade_model::reason::Reason;
use palisade_policy::{DecisionIds, MadeDecision, ShortId};

mod record;
mod replay;

pub use record::{DecisionRecord, SCHEMA_VERSION};

use self::{record::Salt, replay::Replayer};
use super::recent::{Denied, RecentDenials};
use crate::{
    config::Outbox,
    request::{authorize::Depth, verdict::Authorization},
    telemetry::{AccessLog, ShadowRecord},
};

/// How many decisions are looked at closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionSettings {
    /// One permission in this many is recorded like a denial; 0 = none.
    pub record_one_in: u32,
    /// One decision in this many is made again on Cedar itself; 0 = none.
    pub replay_one_in: u32,
}

/// Requests whose answer a dry run would change that are recorded in one second.
const CHANGES_A_SECOND: u64 = 10;
/// The low bits of [`Decisions::changes`] count, the others are the second.
const COUNT_BITS: u32 = 8;

/// What is done with one decision beyond the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    is_recorded: bool,
    is_replayed: bool,
    /// It is recorded if a dry run would change the answer; in which second of the clock.
    changes_in: Option<u64>,
}

/// The memory of decisions of one proxy.
#[derive(Debug)]
pub struct Decisions {
    settings: DecisionSettings,
    ids: DecisionIds,
    /// The last denials and recorded permissions.
    pub recent: RecentDenials,
    log: Option<AccessLog>,
    /// Records for whoever listens at the control plane.
    pub outbox: Arc<Outbox>,
    salt: Salt,
    replayer: Replayer,
    /// How many requests were recorded for a dry run's sake, and in which second.
    changes: AtomicU64,
}

/// What is known of a decision beside what authorization said.
#[derive(Debug)]
pub struct Circumstances<'a> {
    /// When it was made.
    pub time: Timestamp,
    /// The reason that the log gives.
    pub reason: Reason,
    /// `NAMESPACE/POD` of the proxy.
    pub proxy: &'a Arc<str>,
    /// Which way the traffic goes.
    pub direction: crate::telemetry::Direction,
    /// The request's headers as received; `None` for opaque bytes.
    pub headers: Option<&'a http::HeaderMap>,
}

impl Default for DecisionSettings {
    /// Permissions 1 in 1,000; replays 1 in 10,000, which costs about a hundredth of a microsecond a request.
    fn default() -> Self {
        Self { record_one_in: 1_000, replay_one_in: 10_000 }
    }
}

impl Sample {
    /// How deep authorization must look for it.
    pub fn depth(self) -> Depth {
        match self {
            Self { is_recorded: true, .. } | Self { is_replayed: true, .. } => Depth::Sampled,
            Self { changes_in: Some(_), .. } => Depth::Changes,
            Self { changes_in: None, .. } => Depth::Usual,
        }
    }
}

impl Decisions {
    /// Of the proxy of this name; records go to `log`, if there is one, and to `outbox` while somebody listens.
    pub fn new(settings: DecisionSettings, proxy: &str, log: Option<AccessLog>, outbox: Arc<Outbox>) -> Self {
        Self {
            settings,
            ids: DecisionIds::new(ShortId::of(proxy), fastrand::u64(..)),
            recent: RecentDenials::default(),
            log,
            outbox,
            salt: Salt::random(),
            replayer: Replayer::default(),
            changes: AtomicU64::new(0),
        }
    }

    /// Draws what is done with the next decision, which is made at this time.
    pub fn sample(&self, now: SystemTime) -> Sample {
        let one_in = |n: u32| n > 0 && fastrand::u32(..n) == 0;
        let DecisionSettings { record_one_in, replay_one_in } = self.settings;
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let has_room = room_in(self.changes.load(Ordering::Relaxed), second) > 0;
        let changes_in = has_room.then_some(second);
        Sample { is_recorded: one_in(record_one_in), is_replayed: one_in(replay_one_in), changes_in }
    }

    /// Whether a dry run would change the answer, and this second has room to record it.
    fn takes_change(&self, said: &Authorization, sample: Sample) -> bool {
        let Some(second) = sample.changes_in.filter(|_| said.would_change()) else { return false };
        let taken = self.changes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let room = room_in(held, second);
            (room > 0).then(|| (second << COUNT_BITS) | (CHANGES_A_SECOND - room + 1))
        });
        taken.is_ok()
    }

    /// Takes note of a decision, and gives its id where it is remembered: every denial, sampled permissions, and a few of those that a dry
    /// run would turn into denials. Never blocks.
    pub fn note(&self, said: &Authorization, sample: Sample, circumstances: &Circumstances<'_>) -> Option<String> {
        let captured = said.captured.as_ref()?;
        if sample.is_replayed {
            let policy = said.deciding.as_ref().map(|policy| policy.id.clone());
            let made = MadeDecision { is_allowed: said.is_allowed, policy };
            self.replayer.send(Arc::clone(&said.engine), captured.clone(), made);
        }
        let Circumstances { time, reason, .. } = circumstances;
        if said.is_allowed && !sample.is_recorded && !self.takes_change(said, sample) {
            return None;
        }
        let id = self.ids.next().to_string();
        if self.log.is_some() || self.outbox.is_wanted() {
            let shadow = ShadowRecord::of(said);
            let record = DecisionRecord::of(&id, said, captured, shadow, circumstances, &self.salt);
            if let Some(log) = &self.log {
                log.write_line(&record);
            }
            self.outbox.push(&record);
        }
        self.recent.remember(Denied {
            id: id.as_str().into(),
            time: *time,
            reason: *reason,
            captured: captured.clone(),
            engine: Arc::clone(&said.engine),
        });
        Some(id)
    }
}

/// How many changes may still be recorded in a second.
fn room_in(held: u64, second: u64) -> u64 {
    let count = if held >> COUNT_BITS == second { held & ((1 << COUNT_BITS) - 1) } else { 0 };
    CHANGES_A_SECOND.saturating_sub(count)
}

#[cfg(test)]
mod tests;
