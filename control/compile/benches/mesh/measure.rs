//! Clocks and counters: CPU time of the thread, so that other work on the machine does not count.

use std::{fmt, fs};

/// Milliseconds that this thread has run.
pub(crate) fn cpu_ms() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default();
    ns / 1e6
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
