//! `palisade eval`: what would happen to these requests, without sockets.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    inputs::{self, SettingOptions},
    options::{DocumentOptions, OutputFormat},
};

mod answer;
mod case;
mod facts;
mod judge;
mod route;
mod testimony;
mod world;

pub(crate) use answer::Answer;
pub(crate) use case::Case;
pub(crate) use judge::{judge, judge_observed};
pub(crate) use world::World;

/// A longer line is no case.
const LINE_LIMIT_BYTES: usize = 16 << 20;

/// Judge cases by the pipeline of the proxies: the real compiler, the real index, the real policy engine, no sockets.
///
/// One case a line in, one result a line out, in order. A case that cannot be read gives `{"id", "error"}` and exit code
/// 2 at the end; verdicts never change the exit code.
#[derive(Debug, clap::Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    documents: DocumentOptions,
    #[command(flatten)]
    settings: SettingOptions,
    /// Cases, one JSON object a line; `-`: standard input.
    #[arg(long, value_name = "FILE")]
    cases: PathBuf,
    /// `jsonl` (or `text`, which is the same); `json`: indented.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Eval {
    /// Judges all cases.
    ///
    /// # Errors
    /// When documents or cases cannot be read, or the answers cannot be written.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let inputs = inputs::read(&self.documents, &self.settings)?;
        let mut world = World::new(&inputs, &self.documents.namespace);
        let mut cases = open(&self.cases)?;
        let mut output = io::BufWriter::with_capacity(256 * 1024, io::stdout().lock());
        let mut is_complete = true;
        let mut line = Vec::new();
        loop {
            line.clear();
            if cases.read_until(b'\n', &mut line).with_context(|| self.cases.display().to_string())? == 0 {
                break;
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match judge_line(&mut world, &line) {
                Ok(answer) => write(&mut output, &answer, self.output)?,
                Err((id, error)) => {
                    is_complete = false;
                    write(&mut output, &json!({ "id": id, "error": error }), self.output)?;
                }
            }
        }
        output.flush()?;
        Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::with_capacity(256 * 1024, io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(256 * 1024, file)))
}

/// The result of a line, or its id (as far as it can be read) and what is wrong with it.
fn judge_line(world: &mut World, line: &[u8]) -> Result<Answer, (Value, String)> {
    if line.len() > LINE_LIMIT_BYTES {
        return Err((Value::Null, format!("a case of more than {LINE_LIMIT_BYTES} bytes")));
    }
    let case: Case = serde_json::from_slice(line).map_err(|error| {
        let id = serde_json::from_slice::<Value>(line).ok().and_then(|value| value.get("id").cloned());
        (id.unwrap_or_default(), case_error(&error))
    })?;
    judge(world, &case).map_err(|error| (case.id.clone(), error))
}

/// What is wrong with a case; every case is one line, so only the column says where.
pub(crate) fn case_error(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

fn write(output: &mut impl Write, answer: &impl serde::Serialize, format: OutputFormat) -> anyhow::Result<()> {
    match format {
        OutputFormat::Text | OutputFormat::Wide | OutputFormat::Jsonl => serde_json::to_writer(&mut *output, answer)?,
        // JSON is YAML.
        OutputFormat::Json | OutputFormat::Yaml => serde_json::to_writer_pretty(&mut *output, answer)?,
    }
    Ok(output.write_all(b"\n")?)
}
