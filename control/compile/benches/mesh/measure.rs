//! Clocks and counters. Other work on the machine makes times longer, never shorter: the least of many says most.

use std::{fmt, fs, sync::LazyLock, time::Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the start. (CPU time of a thread is told in steps of 4 ms on some kernels.)
pub(crate) fn ms() -> f64 {
    START.elapsed().as_secs_f64() * 1e3
}

/// Memory of the process that is not backed by files, in KiB.
pub(crate) fn anonymous_kib() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Measured values.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |value: Option<&f64>| value.copied().unwrap_or_default();
        write!(f, "{:.2} ({:.2} to {:.2})", self.median(), end(self.0.first()), end(self.0.last()))
    }
}
