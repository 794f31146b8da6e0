//! `palisade policy test`: unit tests of policies, judged by the very pipeline that proxies run.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, bail};
use serde_json::json;

use super::junit;
use crate::{
    eval::World,
    inputs::{self, SettingOptions},
    options::{DocumentOptions, OutputFormat},
};

mod cases;
mod coverage;
mod verdict;

use cases::TestCase;
use coverage::Touched;

/// Run policy tests: each case says what a request is and what should become of it.
///
/// TESTS are files or folders with documents of kind PolicyTest; none: the PolicyTests among the documents. Exit code 1 when a case
/// fails, 2 when one cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    /// Files and folders of PolicyTest documents.
    #[arg(value_name = "TESTS")]
    tests: Vec<PathBuf>,
    #[command(flatten)]
    documents: DocumentOptions,
    #[command(flatten)]
    settings: SettingOptions,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Also say which rules no case matched, and which clauses never held or never failed.
    #[arg(long)]
    coverage: bool,
    /// `text` for people; `json`: one object; `jsonl`: one case a line.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// One case that was run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The PolicyTest, `NAMESPACE/NAME`.
    pub(super) suite: String,
    /// The case.
    pub(super) name: String,
    /// What differs from what was expected; empty = passed.
    pub(super) differences: Vec<String>,
    /// The case could not be judged.
    pub(super) error: Option<String>,
    /// Seconds that it took.
    pub(super) seconds: f64,
}

impl Test {
    /// Runs all cases.
    ///
    /// # Errors
    /// When documents or tests cannot be read, or the results cannot be written.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let inputs = inputs::read(&self.documents, &self.settings)?;
        let paths = if self.tests.is_empty() { &self.documents.files } else { &self.tests };
        let cases = cases::read(paths, &self.documents.namespace)?;
        if cases.is_empty() {
            bail!(
                "there is no case in {}",
                paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
            );
        }
        let mut world = World::new(&inputs, &self.documents.namespace);
        let mut touched = self.coverage.then(|| Touched::of(world.mesh()));
        let began = Instant::now();
        let outcomes: Vec<Outcome> = cases.iter().map(|case| run(&mut world, case, touched.as_mut())).collect();
        let elapsed = began.elapsed().as_secs_f64();
        if let Some(path) = &self.junit {
            let xml = junit::render(&outcomes, elapsed);
            fs::write(path, xml).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        self.print(&outcomes, touched.as_ref(), elapsed)?;
        let exit = if outcomes.iter().any(|outcome| outcome.error.is_some()) {
            2
        } else {
            u8::from(outcomes.iter().any(|outcome| !outcome.differences.is_empty()))
        };
        Ok(ExitCode::from(exit))
    }

    fn print(&self, outcomes: &[Outcome], touched: Option<&Touched>, elapsed: f64) -> anyhow::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let failed = outcomes.iter().filter(|outcome| !outcome.is_passed()).count();
        let passed = outcomes.len() - failed;
        let line = |outcome: &Outcome| {
            json!({
                "test": outcome.suite, "case": outcome.name, "passed": outcome.is_passed(),
                "differences": outcome.differences, "error": outcome.error,
            })
        };
        match self.output {
            OutputFormat::Text | OutputFormat::Wide => {
                for outcome in outcomes {
                    let is_shown = self.output == OutputFormat::Wide || !outcome.is_passed();
                    if is_shown {
                        let word = if outcome.is_passed() { "ok  " } else { "FAIL" };
                        writeln!(out, "{word} {} / {}", outcome.suite, outcome.name)?;
                    }
                    for what in outcome.differences.iter().chain(&outcome.error) {
                        writeln!(out, "       {what}")?;
                    }
                }
                if let Some(touched) = touched {
                    touched.write(&mut out)?;
                }
                writeln!(out, "{passed} passed, {failed} failed, {} cases in {elapsed:.3} s", outcomes.len())?;
            }
            OutputFormat::Jsonl => {
                for outcome in outcomes {
                    writeln!(out, "{}", line(outcome))?;
                }
                if let Some(touched) = touched {
                    writeln!(out, "{}", json!({ "coverage": touched.report() }))?;
                }
            }
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => {
                let report = json!({
                    "passed": passed, "failed": failed, "seconds": elapsed,
                    "cases": outcomes.iter().map(line).collect::<Vec<_>>(),
                    "coverage": touched.map(Touched::report),
                });
                serde_json::to_writer_pretty(&mut out, &report)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(out.flush()?)
    }
}

impl Outcome {
    pub(super) fn is_passed(&self) -> bool {
        self.differences.is_empty() && self.error.is_none()
    }
}

fn run(world: &mut World, case: &TestCase, touched: Option<&mut Touched>) -> Outcome {
    let began = Instant::now();
    let TestCase { suite, name, case, expect } = case;
    let judged = case.as_ref().map_err(Clone::clone).and_then(|case| verdict::judge(world, case, touched));
    let (differences, error) = match judged {
        Ok(found) => (found.differences(expect), None),
        Err(error) => (Vec::new(), Some(error)),
    };
    Outcome { suite: suite.clone(), name: name.clone(), differences, error, seconds: began.elapsed().as_secs_f64() }
}
