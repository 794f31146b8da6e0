//! Leaving: stop accepting, tell sessions, wait for what lives, end the rest.

use std::{io, time::Duration};

use palisade_model::reason::Reason;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    listener::ListenerSet,
    registry::{LiveCounts, LiveRegistry},
};

/// Becomes true when sessions should end after their current request. The type that Pingora calls `ShutdownWatch`.
pub type ShutdownWatch = watch::Receiver<bool>;

/// The one drain of a process. Keep it as long as sessions may run: dropping it would end them.
#[derive(Debug)]
pub struct Drain {
    draining: watch::Sender<bool>,
    /// Ends the waiting: a second signal.
    hurry: CancellationToken,
}

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    /// Connections are still accepted for this long while sessions are told already, because clients and load
    /// balancers learn late that an endpoint leaves.
    pub lame_duck: Duration,
    /// Sessions may take this long from the beginning; what lives then is closed.
    pub deadline: Duration,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Everything ended by itself.
    Complete,
    /// This was closed at the deadline, or when hurried.
    Forced(LiveCounts),
}

impl Default for DrainPlan {
    /// As Istio's `terminationDrainDuration`: 5 s.
    fn default() -> Self {
        Self { lame_duck: Duration::ZERO, deadline: Duration::from_secs(5) }
    }
}

impl Drain {
    /// Nothing drains yet.
    pub fn new() -> Self {
        Self { draining: watch::Sender::new(false), hurry: CancellationToken::new() }
    }

    /// For a session, to be told.
    pub fn watch(&self) -> ShutdownWatch {
        self.draining.subscribe()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Tells all sessions. Later calls do nothing.
    pub fn begin(&self) {
        self.draining.send_if_modified(|draining| !std::mem::replace(draining, true));
    }

    /// Ends a running drain's waiting.
    pub fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Drains: tells sessions, stops accepting after the lame-duck time, waits for the registry to empty and for the
    /// connection tasks to end, and at the deadline closes what is left.
    pub async fn run(&self, listeners: &mut ListenerSet, registry: &LiveRegistry, plan: DrainPlan) -> DrainOutcome {
        let DrainPlan { lame_duck, deadline } = plan;
        let begin = Instant::now();
        let end = begin + deadline;
        info!(counts = ?registry.counts(), ?deadline, "draining");
        self.begin();
        tokio::select! {
            biased;
            () = self.hurry.cancelled() => {}
            () = tokio::time::sleep_until((begin + lame_duck).min(end)) => {}
        }
        listeners.stop_accepting().await;
        let ended = async {
            registry.empty().await;
            listeners.finished().await;
        };
        let done = tokio::select! {
            biased;
            () = self.hurry.cancelled() => false,
            done = timeout_at(end, ended) => done.is_ok(),
        };
        if done {
            info!(took = ?begin.elapsed(), "drained");
            return DrainOutcome::Complete;
        }
        let left = registry.counts();
        warn!(?left, "closing what did not end in time");
        registry.close_all(Reason::Draining);
        listeners.abort();
        listeners.finished().await;
        DrainOutcome::Forced(left)
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// Completes at the first SIGTERM or SIGINT; from the second on, `drain` is hurried. The future that watches for the
/// second one is given back and must be polled beside the drain.
///
/// # Errors
/// When the process cannot install signal handlers.
pub async fn terminated(drain: &Drain) -> io::Result<impl Future<Output = ()> + use<'_>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        drain.hurry();
    })
}

#[cfg(test)]
mod tests;
