//! What the workload names or dials: known, known not to exist, or not yet known; asked for once, waited for together.

use std::{sync::Arc, time::Duration};

use palisade_model::{service::Query, snapshot::Snapshot};
use palisade_wire::delta::client::{Knowledge, knowledge};
use tokio::sync::{mpsc, watch};

use super::client::{Command, ConfigState};

/// How long a request waits for an answer of control.
const WAIT: Duration = Duration::from_secs(3);

/// The three states of architecture rule 6. They are never mixed up.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// Its services are in this snapshot, which is swapped in.
    Known(Arc<Snapshot>),
    /// There is no such thing, says this snapshot.
    Absent(Arc<Snapshot>),
    /// Nobody can say: the request is answered 503 `config-unavailable`, never passed through.
    Unavailable,
}

/// Asks for what is not yet known. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscriptions {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<ConfigState>,
    wait: Duration,
}

impl Subscriptions {
    pub(super) fn new(commands: mpsc::Sender<Command>, state: watch::Receiver<ConfigState>) -> Self {
        Self { commands, state, wait: WAIT }
    }

    /// The same with another patience, in place of 3 s.
    #[must_use]
    pub fn with_wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// What is known of a query. Waits when it is not known yet and control is there; any number of requests may wait for
    /// one query, it is asked for once. Without control the answer comes at once.
    pub async fn resolve(&self, query: &Query) -> Resolution {
        let mut state = self.state.clone();
        if let Some(resolution) = look_up(&state.borrow_and_update(), query) {
            return resolution;
        }
        // When full, the requests before this one are still being asked for, and this one would not be in time.
        if self.commands.try_send(Command::Subscribe(query.clone())).is_err() {
            return Resolution::Unavailable;
        }
        let answered = async {
            loop {
                {
                    let state = state.borrow_and_update();
                    if let Some(resolution) = look_up(&state, query) {
                        return resolution;
                    }
                    if !state.is_connected {
                        return Resolution::Unavailable;
                    }
                }
                if state.changed().await.is_err() {
                    return Resolution::Unavailable;
                }
            }
        };
        tokio::time::timeout(self.wait, answered).await.unwrap_or(Resolution::Unavailable)
    }

    /// Follows connection and snapshot.
    pub fn state(&self) -> watch::Receiver<ConfigState> {
        self.state.clone()
    }
}

fn look_up(state: &ConfigState, query: &Query) -> Option<Resolution> {
    let snapshot = state.snapshot.as_ref()?;
    match knowledge(snapshot, query) {
        Knowledge::Known => Some(Resolution::Known(Arc::clone(snapshot))),
        Knowledge::Absent => Some(Resolution::Absent(Arc::clone(snapshot))),
        Knowledge::Unknown => None,
    }
}
