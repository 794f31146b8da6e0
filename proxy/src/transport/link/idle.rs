//! A timer for a request on which nothing moves.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

pub(super) struct Idle {
    /// Steps of any kind so far.
    activity: AtomicU64,
    expired: AtomicBool,
    timer: Mutex<Timer>,
}

struct Timer {
    limit: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The activity at the begin of the period.
    seen: u64,
}

impl Idle {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        let timer = Mutex::new(Timer { limit, sleep: None, seen: 0 });
        Self { activity: AtomicU64::new(0), expired: AtomicBool::new(false), timer }
    }

    pub(super) fn touch(&self) {
        self.activity.fetch_add(1, SeqCst);
    }

    pub(super) fn has_expired(&self) -> bool {
        self.expired.load(SeqCst)
    }

    /// Applies from now on.
    pub(super) fn set_limit(&self, limit: Option<Duration>) {
        let mut timer = self.timer.lock();
        timer.limit = limit;
        timer.sleep = None;
    }

    /// Ready when a period has passed without a step. Polled by both sides of one request, which are one task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut timer = self.timer.lock();
        let Timer { limit, sleep, seen } = &mut *timer;
        let Some(limit) = *limit else { return Poll::Pending };
        let sleep = sleep.get_or_insert_with(|| {
            *seen = self.activity.load(SeqCst);
            Box::pin(tokio::time::sleep(limit))
        });
        while sleep.as_mut().poll(cx).is_ready() {
            let activity = self.activity.load(SeqCst);
            if activity == *seen {
                self.expired.store(true, SeqCst);
                return Poll::Ready(());
            }
            *seen = activity;
            sleep.as_mut().reset(Instant::now() + limit);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn expired(idle: &Idle) {
        std::future::poll_fn(|cx| idle.poll(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_in_each_period_keeps_a_request_alive() {
        let idle = Idle::new(Some(Duration::from_secs(10)));
        let begin = Instant::now();
        let steps = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                idle.touch();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = expired(&idle) => {}
            () = steps => {}
        }
        assert!((100..=110).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
        assert!(idle.has_expired());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_request_may_rest() {
        let idle = Idle::new(None);
        let week = Duration::from_secs(7 * 86_400);
        assert!(tokio::time::timeout(week, expired(&idle)).await.is_err());
        idle.set_limit(Some(Duration::from_secs(1)));
        expired(&idle).await;
    }
}
