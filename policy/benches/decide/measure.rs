//! Clocks and counters: CPU time of the thread, so that other work on the machine does not count; allocations and instructions exactly.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

/// Nanoseconds that this thread has run.
pub(crate) fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Memory of the process that is not backed by files, in KiB.
pub(crate) fn anonymous_kib() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// How long a batch lasts. The kernel adds up a running thread's time at its ticks, a few milliseconds apart.
const BATCH: Duration = Duration::from_millis(100);

/// CPU nanoseconds per call: least and median of 11 batches.
pub(crate) fn nanoseconds(mut call: impl FnMut()) -> (f64, f64) {
    let mut calls = 16_u32;
    loop {
        let begun = Instant::now();
        (0..calls).for_each(|_| call());
        if begun.elapsed() >= BATCH || calls > u32::MAX / 2 {
            break;
        }
        calls *= 2;
    }
    let mut batches: Vec<f64> = (0..11)
        .map(|_| {
            let start = cpu();
            for _ in 0..calls {
                call();
            }
            (cpu() - start) / f64::from(calls)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches.first().copied().unwrap_or_default(), batches.get(5).copied().unwrap_or_default())
}

pub(crate) fn allocations(mut call: impl FnMut()) -> u64 {
    allocation_counter::measure(&mut call).count_total
}

/// Argument by which this program runs one row a number of times and says nothing: what valgrind counts.
pub(crate) const COUNT: &str = "--count";

/// Instructions of one decision of a row: what this program executes for 2,000 of them less what it executes for 1,000. Virtual machines
/// mostly hide the processor's counters, so valgrind counts; `None` without it.
pub(crate) fn instructions(row: usize) -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let count = |calls: u32| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&program)
            .args([COUNT, &row.to_string(), &calls.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().to_owned();
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some((count(2_000)? - count(1_000)?) / 1_000.0)
}
