//! Tasks without which a process is no proxy: they end with it, and it with them.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// Tasks with their names.
#[derive(Debug, Default)]
pub(super) struct Vital {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Vital {
    /// Starts a task that must not end before the process does.
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// The name of the first that ends, whether it returns or panics. Cancel-safe.
    pub(super) async fn first_end(&mut self) -> &'static str {
        let ended = match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => Some(id),
            Some(Err(error)) => Some(error.id()),
            None => None,
        };
        ended.and_then(|id| self.names.get(&id)).copied().unwrap_or("last task")
    }

    /// Ends all that are left.
    pub(super) async fn shutdown(&mut self) {
        self.running.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first_of(ending: impl Future<Output = ()> + Send + 'static) -> &'static str {
        let mut vital = Vital::default();
        vital.spawn("lasting", std::future::pending());
        vital.spawn("ending", ending);
        let ended = vital.first_end().await;
        vital.shutdown().await;
        ended
    }

    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_named() {
        assert_eq!(first_of(async { panic!("as a bug would") }).await, "ending");
        assert_eq!(first_of(async {}).await, "ending");
    }
}
