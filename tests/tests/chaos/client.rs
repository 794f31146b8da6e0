//! A client of the chaos run: one request after the other, each with a token of its own, every answer judged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use palisade_tests::http::{Answer, Client};
use serde_json::Value;

/// Violations that are kept.
const EXAMPLES: usize = 10;

/// What a client saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Whole answers of the right service.
    pub(crate) answered: u64,
    /// Refused by policy.
    pub(crate) denied: u64,
    /// Ended in an error that trouble explains.
    pub(crate) failed: u64,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// What must never happen.
    pub(crate) violations: Vec<String>,
}

/// Numbers that a seed decides (SplitMix64).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides.max(1)
    }
}

pub(crate) async fn run(edge: String, number: u64, seed: u64, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> Tally {
    let mut dice = Dice::new(seed ^ (number + 1) << 32);
    let mut tally = Tally::default();
    let mut client = Client::new(&edge);
    let mut request = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        request += 1;
        sent.fetch_add(1, Ordering::Relaxed);
        let service = if dice.roll(2) == 0 { "left" } else { "right" };
        let place = match dice.roll(3) {
            0 => "always",
            1 => "sometimes",
            _ => "never",
        };
        let path = format!("/{service}/{place}");
        let token = format!("{number}-{request}");
        match client.get(&path, &[("x-chaos-token", &token)]).await {
            Ok(answer) => tally.judge(service, place, &token, &answer),
            // The connection broke in the middle of an answer; one answer at most was lost with it.
            Err(_) => tally.failed += 1,
        }
    }
    tally
}

impl Tally {
    fn judge(&mut self, service: &str, place: &str, token: &str, answer: &Answer) {
        let status = answer.status().as_u16();
        *self.statuses.entry(status).or_default() += 1;
        let body: Option<Value> = serde_json::from_slice(answer.body()).ok();
        let said = |key: &str| body.as_ref().and_then(|body| body.get(key)).and_then(Value::as_str).map(str::to_owned);
        match (status, said("service"), said("token")) {
            (403, None, _) if place == "always" => self.violation(format!("{token}: /{service}/always was denied")),
            (403, None, _) => self.denied += 1,
            // The service itself answered, well or not.
            (200 | 503, Some(by), echoed) => {
                if place == "never" {
                    self.violation(format!("{token}: /{service}/never reached {by}"));
                } else if by != service {
                    self.violation(format!("{token}: {service} was asked, {by} answered"));
                } else if echoed.as_deref() != Some(token) {
                    self.violation(format!("{token}: got the answer of {echoed:?}"));
                } else if status == 200 {
                    self.answered += 1;
                } else {
                    self.failed += 1;
                }
            }
            // Trouble on the way; while a sidecar starts again, nobody refuses `never` in its place either.
            (502..=504, None, _) => self.failed += 1,
            (status, ..) => self.violation(format!("{token}: {status} to /{service}/{place}: {body:?}")),
        }
    }

    fn violation(&mut self, what: String) {
        if self.violations.len() < EXAMPLES {
            self.violations.push(what);
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        let Self { answered, denied, failed, statuses, violations } = other;
        self.answered += answered;
        self.denied += denied;
        self.failed += failed;
        for (status, count) in statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        violations.into_iter().for_each(|violation| self.violation(violation));
    }
}
