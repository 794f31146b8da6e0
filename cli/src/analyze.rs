//! `palisade analyze`: what is wrong with documents, one diagnostic a line.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use palisade_compile::{Diagnostic, compile};
use palisade_crds::Severity;

use crate::{
    inputs::{self, SettingOptions},
    options::{DocumentOptions, OutputFormat},
};

/// Say what is wrong with documents: errors that admission rejects, warnings, and notes, each with file, line and field.
///
/// Exit code 1 when there is any error.
#[derive(Debug, clap::Args)]
pub(crate) struct Analyze {
    #[command(flatten)]
    documents: DocumentOptions,
    #[command(flatten)]
    settings: SettingOptions,
    /// `text` for people; `jsonl`: one JSON object a line; `json` or `yaml`: one list.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Analyze {
    /// Prints the diagnostics.
    ///
    /// # Errors
    /// When documents cannot be read or the answer cannot be written.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let inputs = inputs::read(&self.documents, &self.settings)?;
        let reports = compile(&inputs).reports;
        let diagnostics = reports.diagnostics();
        let mut output = io::BufWriter::new(io::stdout().lock());
        match self.output {
            OutputFormat::Text | OutputFormat::Wide => write_text(&mut output, &diagnostics)?,
            OutputFormat::Jsonl => {
                for diagnostic in &diagnostics {
                    serde_json::to_writer(&mut output, diagnostic)?;
                    output.write_all(b"\n")?;
                }
            }
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => {
                serde_json::to_writer_pretty(&mut output, &diagnostics)?;
                output.write_all(b"\n")?;
            }
        }
        output.flush()?;
        Ok(if reports.has_errors() { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

fn write_text(output: &mut impl Write, diagnostics: &[&Diagnostic]) -> io::Result<()> {
    for diagnostic in diagnostics {
        writeln!(output, "{}", line(diagnostic))?;
    }
    let count = |wanted: Severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == wanted).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Info));
    let counted = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    writeln!(output, "{}, {}, {}", counted(errors, "error"), counted(warnings, "warning"), counted(notes, "note"))
}

/// A diagnostic for people: place, severity, code, object, field, message.
pub(crate) fn line(diagnostic: &Diagnostic) -> String {
    let Diagnostic { code, severity, object, path, message, file, line } = diagnostic;
    let place = if *line > 0 {
        format!("{file}:{line}: ")
    } else if file.is_empty() {
        String::new()
    } else {
        format!("{file}: ")
    };
    let object = match (&*object.kind, &*object.namespace) {
        ("", _) => String::new(),
        (kind, "") => format!(" {kind} {}", object.name),
        (kind, namespace) => format!(" {kind} {namespace}/{}", object.name),
    };
    let path = if path.is_empty() { String::new() } else { format!(" {path}") };
    format!("{place}{} {code}{object}{path}: {message}", severity.as_str())
}
