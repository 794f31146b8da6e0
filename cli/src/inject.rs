//! `palisade inject`: documents with the sidecars that a cluster's webhook would give them.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use palisade_control::injection::{InjectionSettings, documents};

use crate::options::DocumentOptions;

/// Give pods their sidecars: in Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob and lists of these. Other documents
/// pass unchanged.
///
/// Where a pod's namespace is among the documents, its labels decide as in a cluster; where it is not, every pod gets one that does not
/// refuse it. What was decided goes to standard error. Exit code 1 when a pod that should get a sidecar cannot have one.
#[derive(Debug, clap::Args)]
pub(crate) struct Inject {
    #[command(flatten)]
    documents: DocumentOptions,
    #[command(flatten)]
    settings: InjectionSettings,
    /// Say nothing about what was decided.
    #[arg(short, long)]
    quiet: bool,
}

impl Inject {
    /// Prints the documents.
    ///
    /// # Errors
    /// When documents cannot be read or the answer cannot be written.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { documents: DocumentOptions { files, namespace, cluster: _ }, settings, quiet } = self;
        if files.is_empty() {
            bail!("no documents: name them with -f");
        }
        let mut texts = Vec::new();
        for file in &files {
            read(file, &mut texts)?;
        }
        let mut namespaces = BTreeMap::new();
        for (_, text) in &texts {
            namespaces.extend(documents::namespaces(text));
        }
        let mut output = io::BufWriter::new(io::stdout().lock());
        let mut has_errors = false;
        let mut is_first = true;
        for (name, text) in &texts {
            let injected = documents::inject_text(name, text, &namespace, &namespaces, &settings);
            if !is_first && !injected.text.starts_with("---") {
                output.write_all(b"---\n")?;
            }
            is_first = false;
            output.write_all(injected.text.as_bytes())?;
            if !injected.text.ends_with('\n') {
                output.write_all(b"\n")?;
            }
            if !quiet {
                injected.notes.iter().for_each(|note| eprintln!("{note}"));
            }
            injected.errors.iter().for_each(|error| eprintln!("palisade: {error}"));
            has_errors |= !injected.errors.is_empty();
        }
        output.flush()?;
        Ok(if has_errors { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

/// The texts of a path: a file, the documents of a folder and those below it, or standard input.
fn read(path: &Path, texts: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    let name = path.display().to_string();
    if path.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("standard input")?;
        texts.push((name, text));
    } else if path.is_dir() {
        let entries: Result<Vec<PathBuf>, io::Error> =
            std::fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut entries = entries.with_context(|| format!("`{name}`"))?;
        entries.sort();
        for entry in entries {
            let is_document =
                entry.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
            if entry.is_dir() || is_document {
                read(&entry, texts)?;
            }
        }
    } else {
        texts.push((name.clone(), std::fs::read_to_string(path).with_context(|| format!("`{name}`"))?));
    }
    Ok(())
}
