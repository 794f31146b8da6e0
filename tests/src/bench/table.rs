//! Medians with spread, and ratios between peers of the same run.

use std::fmt::Write;

/// Values of one measurement, one per run.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a run's value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The value below which `share` of the runs lie, between 0 and 1; NaN without runs.
    pub fn quantile(&self, share: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let position = share * last as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the list")]
        let below = position as usize;
        let at = |index: usize| self.0.get(index.min(last)).copied().unwrap_or(f64::NAN);
        at(below) + (at(below + 1) - at(below)) * position.fract()
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// One measurement of several peers. The first peer is ours, the second the one that it is compared with.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What is measured, with its unit.
    pub what: String,
    /// Peers in the order of the columns, with their values run by run.
    pub peers: Vec<(String, Samples)>,
    /// Ratio ours / second peer of each run.
    pub ratios: Samples,
    /// Digits after the point.
    pub digits: usize,
}

impl Comparison {
    /// A comparison without runs.
    pub fn new(what: impl Into<String>, peers: &[&str], digits: usize) -> Self {
        let peers = peers.iter().map(|peer| ((*peer).to_owned(), Samples::default())).collect();
        Self { what: what.into(), peers, ratios: Samples::default(), digits }
    }

    /// Adds one interleaved run: a value per peer.
    pub fn push(&mut self, values: &[f64]) {
        for ((_, samples), value) in self.peers.iter_mut().zip(values) {
            samples.push(*value);
        }
        if let [ours, other, ..] = values {
            self.ratios.push(ours / other);
        }
    }
}

/// The table of several comparisons between the same peers.
pub fn render(rows: &[Comparison]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let names: Vec<&str> = first.peers.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!("| median (lowest to highest) | {} |", names.join(" | "));
    let is_compared = names.len() > 1;
    if is_compared {
        text.push_str(" ratio |");
    }
    text.push('\n');
    text.push_str(&"|---".repeat(names.len() + if is_compared { 2 } else { 1 }));
    text.push_str("|\n");
    for row in rows {
        let digits = row.digits;
        let _ = write!(text, "| {} |", row.what);
        for (_, samples) in &row.peers {
            let (low, middle, high) = (samples.quantile(0.0), samples.median(), samples.quantile(1.0));
            let _ = write!(text, " {middle:.digits$} ({low:.digits$} to {high:.digits$}) |");
        }
        if is_compared {
            let ratios = &row.ratios;
            let (low, middle, high) = (ratios.quantile(0.25), ratios.median(), ratios.quantile(0.75));
            let _ = write!(text, " **{middle:.2}** (quartiles {low:.2} to {high:.2}) |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_show_median_spread_and_the_ratio_run_by_run() {
        let mut row = Comparison::new("us", &["ours", "envoy"], 1);
        for values in [[1.0, 2.0], [3.0, 4.0], [2.0, 8.0]] {
            row.push(&values);
        }
        let text = render(&[row]);
        assert!(
            text.contains("| us | 2.0 (1.0 to 3.0) | 4.0 (2.0 to 8.0) | **0.50** (quartiles 0.38 to 0.62) |"),
            "{text}"
        );
    }
}
