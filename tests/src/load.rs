//! Steady load in the background, counted answer by answer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::http::{Client, text};

/// Load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: JoinSet<Count>,
}

/// What came back.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Count {
    /// Requests sent.
    pub total: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, and the first few errors.
    pub failed: u64,
    /// Texts of the first errors and of the first answers that are not 200.
    pub examples: Vec<String>,
}

/// Examples that are kept.
const EXAMPLES: usize = 5;

impl Load {
    /// `clients` connections, each asking `GET path` of `HOST:PORT` one request after the other.
    pub fn start(address: &str, path: &str, headers: &[(&str, &str)], clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut set = JoinSet::new();
        for _ in 0..clients {
            let (address, path, headers) = (address.to_owned(), path.to_owned(), headers.clone());
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            set.spawn(async move {
                let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let mut client = Client::new(&address);
                let mut count = Count::default();
                while !stop.load(Ordering::Relaxed) {
                    sent.fetch_add(1, Ordering::Relaxed);
                    count.add(client.get(&path, &headers).await);
                }
                count
            });
        }
        Self { stop, sent, clients: set }
    }

    /// Requests begun so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the load and counts.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn stop(mut self) -> anyhow::Result<Count> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Count::default();
        while let Some(count) = self.clients.join_next().await {
            sum.merge(count.context("a load client failed")?);
        }
        Ok(sum)
    }
}

impl Count {
    /// Adds one exchange.
    pub fn add(&mut self, result: anyhow::Result<crate::http::Answer>) {
        self.total += 1;
        let example = match result {
            Ok(answer) => {
                let status = answer.status().as_u16();
                *self.statuses.entry(status).or_default() += 1;
                (status != 200).then(|| format!("{status}: {:.200}", text(&answer)))
            }
            Err(error) => {
                self.failed += 1;
                Some(format!("{error:#}"))
            }
        };
        if let Some(example) = example
            && self.examples.len() < EXAMPLES
        {
            self.examples.push(example);
        }
    }

    /// Requests that were not answered 200.
    pub fn not_ok(&self) -> u64 {
        self.total - self.statuses.get(&200).copied().unwrap_or(0)
    }

    /// Adds another count.
    pub fn merge(&mut self, other: Self) {
        self.total += other.total;
        self.failed += other.failed;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }
}
