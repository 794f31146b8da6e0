//! Who calls whom: calls of one interval by pair, with rates, latencies, denials and failures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::line::Call;

#[derive(Debug, Default)]
pub(super) struct Table {
    pairs: BTreeMap<(String, String), Pair>,
}

#[derive(Debug, Default)]
struct Pair {
    durations: Vec<Duration>,
    denied: usize,
    failed: usize,
}

impl Table {
    pub(super) fn add(&mut self, call: &Call) {
        let pair = self.pairs.entry((call.from.clone(), call.to.clone())).or_default();
        pair.durations.push(call.duration);
        pair.denied += usize::from(call.is_denied());
        pair.failed += usize::from(call.is_failed());
    }

    /// `elapsed`: how long the calls took to come together.
    pub(super) fn text(&mut self, elapsed: Duration) -> String {
        let mut rows = vec![["FROM", "TO", "PER SECOND", "P50 MS", "P90 MS", "DENIED", "FAILED"].map(str::to_owned)];
        for ((from, to), pair) in &mut self.pairs {
            let [median, high] = pair.quantiles();
            rows.push([
                from.clone(),
                to.clone(),
                format!("{:.1}", pair.rate(elapsed)),
                format!("{:.1}", milliseconds(median)),
                format!("{:.1}", milliseconds(high)),
                pair.denied.to_string(),
                pair.failed.to_string(),
            ]);
        }
        let mut widths = [0; 7];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &rows {
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Names to the left, numbers to the right.
                let cell = if column < 2 { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
                text.push_str(&cell);
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// One object a line.
    pub(super) fn json(&mut self, elapsed: Duration) -> anyhow::Result<String> {
        let mut text = String::new();
        for ((from, to), pair) in &mut self.pairs {
            let [median, high] = pair.quantiles();
            let row = json!({
                "from": from, "to": to, "calls": pair.durations.len(), "per_second": pair.rate(elapsed),
                "p50_ms": milliseconds(median), "p90_ms": milliseconds(high),
                "denied": pair.denied, "failed": pair.failed,
            });
            text.push_str(&serde_json::to_string(&row)?);
            text.push('\n');
        }
        Ok(text)
    }
}

impl Pair {
    /// The 50th and the 90th percentile.
    fn quantiles(&mut self) -> [Duration; 2] {
        self.durations.sort_unstable();
        [50, 90].map(|percent| {
            let index = (self.durations.len() * percent).div_ceil(100).saturating_sub(1);
            self.durations.get(index).copied().unwrap_or_default()
        })
    }

    fn rate(&self, elapsed: Duration) -> f64 {
        let calls = u32::try_from(self.durations.len()).unwrap_or(u32::MAX);
        f64::from(calls) / elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(milliseconds: u64, reason: &str, status: &str) -> Call {
        Call {
            time: String::new(),
            from: "shop/web-0".to_owned(),
            to: "shop/cart-0".to_owned(),
            what: "GET /".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            duration: Duration::from_millis(milliseconds),
            decision: None,
        }
    }

    #[test]
    fn a_pair_is_one_row_with_its_rate_latencies_and_refusals() {
        let mut table = Table::default();
        (1..=8).for_each(|milliseconds| table.add(&call(milliseconds, "ok", "200")));
        table.add(&call(9, "authz-denied", "403"));
        table.add(&call(10, "upstream-connect", "503"));
        let text = table.text(Duration::from_secs(2));
        let expected = "\
FROM        TO           PER SECOND  P50 MS  P90 MS  DENIED  FAILED
shop/web-0  shop/cart-0         5.0     5.0     9.0       1       1
";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_is_a_heading() {
        assert_eq!(Table::default().text(Duration::from_secs(1)).lines().count(), 1);
        assert_eq!(Table::default().json(Duration::from_secs(1)).unwrap(), "");
    }
}
