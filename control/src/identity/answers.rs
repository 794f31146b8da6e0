//! Answers about tokens: kept for a while, asked for once however many ask, and only so many at a time.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use super::{Proven, TokenError};
use crate::token::InvalidToken;

/// SHA-256 of a token: what is kept does not give tokens away.
pub(super) type Key = [u8; 32];

/// How much is kept and asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Good tokens that are known.
    pub(super) good: usize,
    /// Bad tokens that are known. They have room of their own, so that a flood of them drives no good one out.
    pub(super) bad: usize,
    /// How long a bad token is known as such.
    pub(super) bad_life: Duration,
    /// Questions at a time.
    pub(super) asked: usize,
    /// Tokens that are asked about or wait for it; with more, callers are told to come back.
    pub(super) waiting: usize,
    /// How long one may take, waiting included.
    pub(super) patience: Duration,
}

type Flight = BoxFuture<'static, Result<Proven, TokenError>>;

/// What is known.
#[derive(Clone)]
pub(super) struct Answers {
    limits: Limits,
    permits: Arc<Semaphore>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    good: HashMap<Key, (Proven, Instant)>,
    bad: HashMap<Key, (InvalidToken, Instant)>,
    /// Questions under way. One that all callers have left is dropped, and dead here.
    flights: HashMap<Key, WeakShared<Flight>>,
}

impl Answers {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, permits: Arc::new(Semaphore::new(limits.asked)), known: Arc::default() }
    }

    /// The answer that is known, else that of `ask`, which also says how long a good one holds.
    pub(super) async fn answer<F>(&self, key: Key, ask: impl FnOnce() -> F) -> Result<Proven, TokenError>
    where
        F: Future<Output = Result<(Proven, Duration), TokenError>> + Send + 'static,
    {
        let flight = {
            let mut known = self.known.lock();
            if let Some(answer) = known.answer(&key, Instant::now()) {
                return answer.map_err(TokenError::Invalid);
            }
            match known.flights.get(&key).and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None => {
                    if known.flights.len() >= self.limits.waiting {
                        known.flights.retain(|_, flight| flight.upgrade().is_some());
                    }
                    if known.flights.len() >= self.limits.waiting {
                        return Err(TokenError::Unavailable("too many tokens wait for their review".to_owned()));
                    }
                    let flight = self.clone().fly(key, ask()).boxed().shared();
                    if let Some(weak) = flight.downgrade() {
                        known.flights.insert(key, weak);
                    }
                    flight
                }
            }
        };
        flight.await
    }

    async fn fly(
        self,
        key: Key,
        ask: impl Future<Output = Result<(Proven, Duration), TokenError>> + Send + 'static,
    ) -> Result<Proven, TokenError> {
        let asked = async {
            let _permit = self.permits.acquire().await.map_err(|error| TokenError::Unavailable(error.to_string()))?;
            ask.await
        };
        let answer = match tokio::time::timeout(self.limits.patience, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(TokenError::Unavailable(format!("no answer within {:?}", self.limits.patience))),
        };
        let mut known = self.known.lock();
        known.flights.remove(&key);
        let now = Instant::now();
        match &answer {
            Ok((proven, life)) => {
                keep(&mut known.good, self.limits.good, key, (proven.clone(), now + *life), now);
            }
            Err(TokenError::Invalid(why)) => {
                keep(&mut known.bad, self.limits.bad, key, (why.clone(), now + self.limits.bad_life), now);
            }
            // Nobody has said anything.
            Err(TokenError::Unavailable(_)) => {}
        }
        answer.map(|(proven, _)| proven)
    }
}

impl Known {
    fn answer(&self, key: &Key, now: Instant) -> Option<Result<Proven, InvalidToken>> {
        if let Some((proven, until)) = self.good.get(key)
            && now < *until
        {
            return Some(Ok(proven.clone()));
        }
        match self.bad.get(key) {
            Some((why, until)) if now < *until => Some(Err(why.clone())),
            Some(_) | None => None,
        }
    }
}

/// Where there is no room but for what still holds, a new answer is given and forgotten.
fn keep<T>(map: &mut HashMap<Key, (T, Instant)>, room: usize, key: Key, value: (T, Instant), now: Instant) {
    if map.len() >= room {
        map.retain(|_, (_, until)| now < *until);
    }
    if map.len() < room {
        map.insert(key, value);
    }
}

#[cfg(test)]
mod tests;
