//! What becomes of a decision after it was answered: its id, the ring behind `/why/ID`, its record, and the replay on Cedar.

use std::sync::Arc;

use jiff::Timestamp;
use palisade_model::reason::Reason;
use palisade_policy::{DecisionIds, ShortId};

mod record;
mod replay;

pub use record::{DecisionRecord, SCHEMA_VERSION};

use self::{record::Salt, replay::Replayer};
use super::recent::{Denied, RecentDenials};
use crate::{
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

/// What is done with one decision beyond the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    is_recorded: bool,
    is_replayed: bool,
}

/// The memory of decisions of one proxy.
#[derive(Debug)]
pub struct Decisions {
    settings: DecisionSettings,
    ids: DecisionIds,
    /// The last denials and recorded permissions.
    pub recent: RecentDenials,
    log: Option<AccessLog>,
    salt: Salt,
    replayer: Replayer,
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
        if self.is_recorded || self.is_replayed { Depth::Sampled } else { Depth::Usual }
    }
}

impl Decisions {
    /// Of the proxy of this name; records go to `log`, if there is one.
    pub fn new(settings: DecisionSettings, proxy: &str, log: Option<AccessLog>) -> Self {
        Self {
            settings,
            ids: DecisionIds::new(ShortId::of(proxy), fastrand::u64(..)),
            recent: RecentDenials::default(),
            log,
            salt: Salt::random(),
            replayer: Replayer::default(),
        }
    }

    /// Draws what is done with the next decision.
    pub fn sample(&self) -> Sample {
        let one_in = |n: u32| n > 0 && fastrand::u32(..n) == 0;
        let DecisionSettings { record_one_in, replay_one_in } = self.settings;
        Sample { is_recorded: one_in(record_one_in), is_replayed: one_in(replay_one_in) }
    }

    /// Takes note of a decision, and gives its id where it is remembered: every denial, and sampled permissions. Never blocks.
    pub fn note(&self, said: &Authorization, sample: Sample, circumstances: &Circumstances<'_>) -> Option<String> {
        let captured = said.captured.as_ref()?;
        if sample.is_replayed {
            self.replayer.send(Arc::clone(&said.engine), captured.clone());
        }
        let Circumstances { time, reason, .. } = circumstances;
        if said.is_allowed && !sample.is_recorded {
            return None;
        }
        let id = self.ids.next().to_string();
        if let Some(log) = &self.log {
            let shadow = ShadowRecord::of(said);
            log.write_line(&DecisionRecord::of(&id, said, captured, shadow, circumstances, &self.salt));
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
