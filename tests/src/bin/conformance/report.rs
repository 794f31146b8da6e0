//! What the suite found: read off its output while it runs, and written as the Gateway API project publishes it.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::Context;

/// The name of the report: channel, version and mode, as the project's pages ask for it.
const NAME: &str = concat!("standard-", env!("CARGO_PKG_VERSION"), "-default-report.yaml");

/// Results of the suite's tests, by short name.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Tests that passed.
    pub(super) passed: Vec<String>,
    /// Tests that were not run: a feature that they need is not served.
    pub(super) skipped: Vec<String>,
    /// Tests that failed, with the first thing that went wrong.
    pub(super) failed: BTreeMap<String, String>,
    /// The first complaint of each test so far.
    complaints: BTreeMap<String, String>,
    /// The test whose output is read.
    current: String,
}

/// Flags that say whose report it is.
pub(super) fn implementation() -> [String; 5] {
    [
        "-organization=palisade".to_owned(),
        "-project=palisade".to_owned(),
        "-url=https://palisade.dev".to_owned(),
        format!("-version={}", env!("CARGO_PKG_VERSION")),
        "-contact=https://palisade.dev/contact".to_owned(),
    ]
}

impl Outcome {
    /// Takes a line of the suite's; gives what there is to show of it.
    pub(super) fn hear(&mut self, line: &str) -> Option<String> {
        let text = line.trim_start();
        for (mark, is_nested) in [("=== RUN   ", true), ("=== CONT  ", true), ("=== NAME  ", true)] {
            if let Some(name) = text.strip_prefix(mark)
                && is_nested
            {
                self.current = short(name).to_owned();
                return None;
            }
        }
        let result = text.strip_prefix("--- ").and_then(|rest| rest.split_once(": "));
        let Some((result, rest)) = result else {
            self.complain(text);
            return None;
        };
        let full = rest.split(' ').next().unwrap_or_default();
        // `TestConformance/NAME`: subtests are part of their test.
        if full.split('/').count() != 2 {
            return None;
        }
        let name = short(full).to_owned();
        match result {
            "PASS" => self.passed.push(name),
            "SKIP" => {
                self.skipped.push(name);
                return None;
            }
            _ => {
                let why = self.complaints.get(&name).cloned().unwrap_or_default();
                self.failed.insert(name, why);
            }
        }
        Some(format!("{result} {rest}"))
    }

    fn complain(&mut self, text: &str) {
        let is_complaint = text.contains("Error:") || text.contains("timed out") || text.contains("Messages:");
        if is_complaint && !self.current.is_empty() {
            self.complaints.entry(self.current.clone()).or_insert_with(|| text.to_owned());
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, skipped, failed, complaints: _, current: _ } = self;
        writeln!(f, "{} passed, {} failed, {} skipped", passed.len(), failed.len(), skipped.len())?;
        for (name, why) in failed {
            writeln!(f, "  failed {name}: {why}")?;
        }
        Ok(())
    }
}

fn short(full: &str) -> &str {
    full.split('/').nth(1).unwrap_or_default()
}

/// Puts the suite's own report, as it wrote it, beside the page.
pub(super) fn write(folder: &Path, written: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    let text = fs::read_to_string(written).with_context(|| format!("no report at {}", written.display()))?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(folder.join(NAME), text)?;
    let mut found = String::from("# What the last run of `make conformance` found. Written by it.\n");
    found.push_str(&format!("passed: {}\nfailed:\n", outcome.passed.len()));
    for (name, why) in &outcome.failed {
        found.push_str(&format!("- {name}: {}\n", serde_json::to_string(why)?));
    }
    found.push_str("skipped:\n");
    for name in &outcome.skipped {
        found.push_str(&format!("- {name}\n"));
    }
    fs::write(folder.join("found.yaml"), found)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_those_of_whole_tests_with_their_first_complaint() {
        let mut outcome = Outcome::default();
        for line in [
            "=== RUN   TestConformance/One",
            "    --- PASS: TestConformance/One (1.00s)",
            "=== RUN   TestConformance/Two/part",
            "        Error:      Received unexpected error:",
            "        Error:      another",
            "        --- FAIL: TestConformance/Two/part (1.00s)",
            "    --- FAIL: TestConformance/Two (2.00s)",
            "    --- SKIP: TestConformance/Three (0.00s)",
            "--- FAIL: TestConformance (3.00s)",
        ] {
            outcome.hear(line);
        }
        assert_eq!((outcome.passed, outcome.skipped), (vec!["One".to_owned()], vec!["Three".to_owned()]));
        assert_eq!(outcome.failed.len(), 1);
        assert_eq!(outcome.failed["Two"], "Error:      Received unexpected error:");
    }
}
