//! When each object is looked at and written: at once after a calm, ever slower in a storm, hardly at all in a fight. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use palisade_compile::ObjectName;

/// What changes within this time is looked at together: an ack follows a change by some milliseconds.
const TOGETHER: Duration = Duration::from_millis(60);

/// Shortest time between two writes of one object.
const SHORTEST: Duration = Duration::from_millis(250);

/// Longest time between two writes of an object that changes all the time.
const LONGEST: Duration = Duration::from_secs(5);

/// Texts alone are written no more often than this.
pub(super) const TEXTS: Duration = Duration::from_secs(5);

/// Longest pause in a fight over one object.
const TRUCE: Duration = Duration::from_secs(300);

/// After such a calm the pace is as at the beginning, and a fight is over.
const CALM: Duration = Duration::from_secs(600);

/// Writes a second, and at a time after a calm.
const RATE: f64 = 100.0;
const BURST: f64 = 100.0;

/// Plans for all objects.
#[derive(Debug)]
pub(super) struct Pace {
    plans: HashMap<ObjectName, Plan>,
    due: BTreeSet<(Instant, ObjectName)>,
    tokens: f64,
    filled: Instant,
    /// The API server asked for patience.
    resumes: Option<Instant>,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Plan {
    due: Option<Instant>,
    written: Option<Instant>,
    interval: Duration,
    content: u64,
    fights: u32,
    failures: u32,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            plans: HashMap::new(),
            due: BTreeSet::new(),
            tokens: BURST,
            filled: now,
            resumes: None,
            patience: Duration::ZERO,
        }
    }

    /// Something about an object may be different.
    pub(super) fn note(&mut self, name: &ObjectName, now: Instant) {
        let earliest = self.plans.get(name).and_then(|plan| Some(plan.written? + plan.interval));
        self.plan(name, earliest.unwrap_or(now).max(now + TOGETHER));
    }

    /// An object is looked at again, not before a time.
    pub(super) fn plan(&mut self, name: &ObjectName, at: Instant) {
        let plan = self.plans.entry(name.clone()).or_default();
        if plan.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = plan.due.replace(at) {
            self.due.remove(&(due, name.clone()));
        }
        self.due.insert((at, name.clone()));
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        let (first, _) = self.due.first()?;
        Some(self.resumes.map_or(*first, |resumes| resumes.max(*first)))
    }

    /// Objects that are to be looked at now.
    pub(super) fn take(&mut self, now: Instant, limit: usize) -> Vec<ObjectName> {
        let mut taken = Vec::new();
        if self.resumes.is_some_and(|resumes| resumes > now) {
            return taken;
        }
        while taken.len() < limit && self.due.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, name)) = self.due.pop_first() else { break };
            if let Some(plan) = self.plans.get_mut(&name) {
                plan.due = None;
            }
            taken.push(name);
        }
        taken
    }

    /// Whether one more write fits the rate; else when the next one does.
    pub(super) fn spend(&mut self, now: Instant) -> Result<(), Instant> {
        self.affords(now)?;
        self.tokens -= 1.0;
        Ok(())
    }

    /// The same, without spending it: while thousands of objects are due none is rendered in vain.
    pub(super) fn affords(&mut self, now: Instant) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * RATE).min(BURST);
        self.filled = now;
        if self.tokens >= 1.0 { Ok(()) } else { Err(now + Duration::from_secs_f64((1.0 - self.tokens) / RATE)) }
    }

    /// When an object's texts may be written.
    pub(super) fn texts(&self, name: &ObjectName) -> Option<Instant> {
        Some(self.plans.get(name)?.written? + TEXTS)
    }

    /// An object was written. The same content again means that somebody else undoes it.
    pub(super) fn wrote(&mut self, name: &ObjectName, content: u64, now: Instant) {
        self.patience = Duration::ZERO;
        let plan = self.plans.entry(name.clone()).or_default();
        let ago = plan.written.map(|written| now.saturating_duration_since(written));
        let is_again = plan.content == content && ago.is_some_and(|ago| ago < CALM);
        plan.fights = if is_again { plan.fights.saturating_add(1) } else { 0 };
        plan.interval = if is_again {
            Duration::from_secs(1).saturating_mul(1 << plan.fights.min(9)).min(TRUCE)
        } else if ago.is_some_and(|ago| ago < plan.interval * 4) {
            (plan.interval * 2).min(LONGEST)
        } else {
            SHORTEST
        };
        plan.written = Some(now);
        plan.content = content;
        plan.failures = 0;
    }

    /// How often an object was undone in a row.
    pub(super) fn fights(&self, name: &ObjectName) -> u32 {
        self.plans.get(name).map_or(0, |plan| plan.fights)
    }

    /// A write failed; it is tried again, later each time.
    pub(super) fn failed(&mut self, name: &ObjectName, now: Instant, longest: Duration) {
        let plan = self.plans.entry(name.clone()).or_default();
        plan.failures = plan.failures.saturating_add(1);
        let pause = Duration::from_millis(50).saturating_mul(1 << plan.failures.min(12)).min(longest);
        self.plan(name, now + pause);
    }

    /// The API server is overloaded or away: nothing is written for a while, longer each time.
    pub(super) fn pause(&mut self, now: Instant) {
        self.patience = (self.patience * 2).clamp(Duration::from_millis(500), Duration::from_secs(10));
        self.resumes = Some(now + self.patience);
    }

    /// An object is gone.
    pub(super) fn forget(&mut self, name: &ObjectName) {
        if let Some(due) = self.plans.remove(name).and_then(|plan| plan.due) {
            self.due.remove(&(due, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName { group: "g".into(), kind: "K".into(), namespace: "n".into(), name: name.into() }
    }

    /// Writes of one object that somebody notes every millisecond for a time.
    fn writes(seconds: u64, content: impl Fn(u64) -> u64) -> usize {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut count = 0;
        for millisecond in 0..seconds * 1000 {
            let now = start + Duration::from_millis(millisecond);
            pace.note(&name("a"), now);
            for taken in pace.take(now, 8) {
                pace.spend(now).unwrap();
                pace.wrote(&taken, content(millisecond), now);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn an_object_that_changes_all_the_time_is_written_ever_slower() {
        assert!((5..=8).contains(&writes(4, |ms| ms)), "{}", writes(4, |ms| ms));
        assert!(writes(60, |ms| ms) <= 20, "{}", writes(60, |ms| ms));
    }

    #[test]
    fn a_fight_is_no_hot_loop() {
        assert!(writes(600, |_| 7) <= 12, "{}", writes(600, |_| 7));
    }

    #[test]
    fn the_first_change_after_a_calm_is_written_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.note(&name("a"), start);
        assert_eq!(pace.take(start + TOGETHER, 8), [name("a")]);
        pace.wrote(&name("a"), 1, start + TOGETHER);
        let later = start + Duration::from_secs(30);
        pace.note(&name("a"), later);
        assert_eq!(pace.next(), Some(later + TOGETHER));
    }

    #[test]
    fn all_objects_together_are_written_at_a_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let spent = (0..1000).filter(|_| pace.spend(start).is_ok()).count();
        assert_eq!(spent, 100);
        assert!(pace.spend(start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn while_the_server_asks_for_patience_nothing_is_taken() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.note(&name("a"), start);
        pace.pause(start);
        assert!(pace.take(start + Duration::from_millis(400), 8).is_empty());
        assert_eq!(pace.take(start + Duration::from_millis(600), 8).len(), 1);
    }

    #[test]
    fn what_is_gone_is_not_due() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.note(&name("a"), start);
        pace.forget(&name("a"));
        assert_eq!(pace.next(), None);
    }
}
