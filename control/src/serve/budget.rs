//! What callers may cost: so much for each and so much for all, so that a flood of one is not everybody's.
//!
//! A bucket for each: it holds so many at most and fills up at a steady rate. Pure but for the lock: time is an argument.

use std::{collections::HashMap, hash::Hash, net::IpAddr, time::Instant};

use parking_lot::Mutex;

/// How much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    /// At once.
    pub(crate) burst: f64,
    /// In the long run, a second.
    pub(crate) per_second: f64,
}

/// Proofs from one address that fail: garbage, tokens of others. Whoever has more is not listened to for a while; a node's address may
/// be many pods'.
const FAILURES_OF_ONE: Rate = Rate { burst: 200.0, per_second: 10.0 };
/// Failed proofs of all: each may cost a question to the API server.
const FAILURES_OF_ALL: Rate = Rate { burst: 2_000.0, per_second: 200.0 };
/// Certificates for one pod (or one service account, where no pod is known): renewals come twice in a lifetime.
const CERTIFICATES_OF_ONE: Rate = Rate { burst: 20.0, per_second: 1.0 };
/// Certificates for all: a whole mesh that starts anew has them in seconds.
const CERTIFICATES_OF_ALL: Rate = Rate { burst: 5_000.0, per_second: 1_000.0 };

/// Callers that are told apart; those beyond share one bucket.
const KNOWN: usize = 50_000;

/// All budgets of a server.
pub(crate) struct Budgets {
    failures: Mutex<Budget<IpAddr>>,
    certificates: Mutex<Budget<String>>,
}

/// Who has used up what there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exhausted {
    /// The caller itself.
    #[error("too many from this caller; slow down")]
    One,
    /// All callers together.
    #[error("too many in all; come back later")]
    All,
}

/// One kind of cost.
struct Budget<K> {
    of_one: Rate,
    of_all: Rate,
    known: usize,
    one: HashMap<K, Bucket>,
    /// For callers that there is no room for.
    others: Bucket,
    all: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Budgets {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            failures: Mutex::new(Budget::new(FAILURES_OF_ONE, FAILURES_OF_ALL, KNOWN, now)),
            certificates: Mutex::new(Budget::new(CERTIFICATES_OF_ONE, CERTIFICATES_OF_ALL, KNOWN, now)),
        }
    }

    /// Whether an address may try to prove itself. Without one the caller is in this process.
    pub(crate) fn may_try(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Exhausted> {
        address.map_or(Ok(()), |address| self.failures.lock().look(&address, now))
    }

    /// A proof has failed.
    pub(crate) fn failed(&self, address: Option<IpAddr>, now: Instant) {
        if let Some(address) = address {
            // Whether there was anything left is asked before the next one.
            let _exhausted = self.failures.lock().take(address, now);
        }
    }

    /// A certificate is asked for.
    pub(crate) fn certificate(&self, caller: String, now: Instant) -> Result<(), Exhausted> {
        self.certificates.lock().take(caller, now)
    }
}

impl<K: Eq + Hash> Budget<K> {
    fn new(of_one: Rate, of_all: Rate, known: usize, now: Instant) -> Self {
        let full = |rate: Rate| Bucket { left: rate.burst, at: now };
        Self { of_one, of_all, known, one: HashMap::new(), others: full(of_one), all: full(of_all) }
    }

    /// Whether one may be taken.
    fn look(&mut self, key: &K, now: Instant) -> Result<(), Exhausted> {
        let own = match self.one.get(key) {
            Some(bucket) => bucket.filled(self.of_one, now),
            None if self.one.len() >= self.known => self.others.filled(self.of_one, now),
            None => self.of_one.burst,
        };
        if own < 1.0 {
            Err(Exhausted::One)
        } else if self.all.filled(self.of_all, now) < 1.0 {
            Err(Exhausted::All)
        } else {
            Ok(())
        }
    }

    /// Takes one. Of a caller that has none left nothing is taken from the others.
    fn take(&mut self, key: K, now: Instant) -> Result<(), Exhausted> {
        if self.one.len() >= self.known && !self.one.contains_key(&key) {
            let rate = self.of_one;
            // Those that are full again are as good as unknown.
            self.one.retain(|_, bucket| bucket.filled(rate, now) < rate.burst);
        }
        self.look(&key, now)?;
        let full = Bucket { left: self.of_one.burst, at: now };
        let own = if self.one.len() < self.known || self.one.contains_key(&key) {
            self.one.entry(key).or_insert(full)
        } else {
            &mut self.others
        };
        own.take(self.of_one, now);
        self.all.take(self.of_all, now);
        Ok(())
    }
}

impl Bucket {
    fn filled(&self, rate: Rate, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + since * rate.per_second).min(rate.burst)
    }

    fn take(&mut self, rate: Rate, now: Instant) {
        *self = Self { left: self.filled(rate, now) - 1.0, at: now };
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;

    const ONE: Rate = Rate { burst: 10.0, per_second: 2.0 };
    const ALL: Rate = Rate { burst: 50.0, per_second: 20.0 };

    #[test]
    fn a_flood_of_some_leaves_the_others_their_share() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let began = Instant::now();
            let mut budget = Budget::new(ONE, ALL, 1_000, began);
            let mut now = began;
            let mut taken: BTreeMap<u32, f64> = BTreeMap::new();
            let mut calm = 0;
            for _ in 0..20_000 {
                now += Duration::from_micros(random.u64(0..2_000));
                // Three flood, each far above its share; together they may have less than all.
                let who = random.u32(0..3);
                if budget.take(who, now).is_ok() {
                    *taken.entry(who).or_default() += 1.0;
                }
                if (now - began).as_secs() > calm {
                    calm += 1;
                    assert_eq!(budget.take(7, now), Ok(()), "seed {seed}: one a second is in nobody's way");
                }
            }
            let seconds = (now - began).as_secs_f64();
            for (who, taken) in taken {
                let most = ONE.burst + ONE.per_second * seconds + 1.0;
                assert!(taken <= most, "seed {seed}: {who} took {taken} in {seconds} s");
                assert!(taken >= ONE.per_second * seconds * 0.9, "seed {seed}: {who} got only {taken}");
            }
        }
    }

    #[test]
    fn many_that_ask_little_each_are_bounded_together_and_in_memory() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let began = Instant::now();
            let (mut budget, mut now, mut taken) = (Budget::new(ONE, ALL, 100, began), began, 0.0);
            for _ in 0..20_000 {
                now += Duration::from_micros(random.u64(0..500));
                taken += f64::from(u8::from(budget.take(random.u32(..), now).is_ok()));
                assert!(budget.one.len() <= 100, "seed {seed}");
            }
            let most = ALL.burst + ALL.per_second * (now - began).as_secs_f64() + 1.0;
            assert!(taken <= most, "seed {seed}: {taken} of {most}");
            // Time heals.
            now += Duration::from_secs(60);
            assert_eq!(budget.take(1, now), Ok(()), "seed {seed}");
        }
    }

    #[test]
    fn failures_count_and_successes_do_not() {
        let now = Instant::now();
        let budgets = Budgets::new(now);
        let (evil, good) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        for _ in 0..1_000 {
            budgets.failed(evil, now);
            assert_eq!(budgets.may_try(good, now), Ok(()));
        }
        assert_eq!(budgets.may_try(evil, now), Err(Exhausted::One));
        assert_eq!(budgets.may_try(evil, now + Duration::from_secs(1)), Ok(()));
        assert_eq!(budgets.may_try(None, now), Ok(()), "this process");
    }
}
