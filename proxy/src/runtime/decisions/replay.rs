//! Sampled decisions made again on Cedar, on a thread of their own.

use std::{
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use palisade_policy::{CapturedRequest, MadeDecision, PolicyEngine, Replay};

/// Decisions that may wait. What does not fit is left out: it is a sample.
const QUEUE: usize = 64;

type Task = (Arc<PolicyEngine>, Box<CapturedRequest>, MadeDecision);

/// The thread, started by the first sample; it ends with its owner.
#[derive(Debug, Default)]
pub(super) struct Replayer(OnceLock<Option<Running>>);

#[derive(Debug)]
struct Running {
    tasks: Option<SyncSender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Replayer {
    /// Queues a decision, if there is room.
    pub(super) fn send(&self, engine: Arc<PolicyEngine>, captured: Box<CapturedRequest>, made: MadeDecision) {
        let running = self.0.get_or_init(|| {
            let (tasks, queue) = sync_channel(QUEUE);
            let started = std::thread::Builder::new().name("policy-replay".into()).spawn(move || replay_all(&queue));
            match started {
                Ok(thread) => Some(Running { tasks: Some(tasks), thread: Some(thread) }),
                Err(error) => {
                    tracing::warn!(%error, "decisions are not replayed");
                    None
                }
            }
        });
        if let Some(tasks) = running.as_ref().and_then(|running| running.tasks.as_ref()) {
            // Full: it is a sample.
            let _left_out = tasks.try_send((engine, captured, made)).is_err();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the replay of decisions panicked");
        }
    }
}

fn replay_all(queue: &Receiver<Task>) {
    while let Ok((engine, captured, made)) = queue.recv() {
        if let Replay::Differs(policies) = engine.replay(&captured, &made) {
            let ids: Vec<&str> = policies.iter().map(|policy| policy.id.as_str()).collect();
            tracing::error!(policies = ?ids, "Cedar decides otherwise than the compiled policies; from now on Cedar decides here");
        }
    }
}
