//! The documents of a command line as the compiler's inputs.

use std::sync::Arc;

use anyhow::{Context, bail};
use palisade_compile::{ControlSettings, Inputs, SourceOptions};
use palisade_control::source::files;

use crate::options::DocumentOptions;

/// Settings of the control plane that are not in documents.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SettingOptions {
    /// A setting of the control plane, as KEY=VALUE; Istio's environment names are understood. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Namespace of mesh-wide policy. Default: the mesh configuration's, else `istio-system`.
    #[arg(long, value_name = "NS")]
    root_namespace: Option<String>,
}

/// Reads the documents as a file source does, which stands in for an API server.
///
/// # Errors
/// When no file is given, a path cannot be read, or a setting is malformed. What is wrong inside the documents is in the
/// inputs' reports.
pub(crate) fn read(documents: &DocumentOptions, settings: &SettingOptions) -> anyhow::Result<Arc<Inputs>> {
    if documents.files.is_empty() {
        bail!("no documents: name files or folders with -f (reading a cluster is not there yet)");
    }
    let control = settings.control()?;
    let texts = files::read(&documents.files)?;
    let options = SourceOptions { control, is_files: true };
    Ok(Arc::new(Inputs::from_texts(texts, &documents.namespace, &options)))
}

impl SettingOptions {
    /// The settings of the control plane.
    ///
    /// # Errors
    /// When one is malformed.
    pub(crate) fn control(&self) -> anyhow::Result<ControlSettings> {
        let mut control = ControlSettings::default();
        for setting in &self.settings {
            control.set(setting).with_context(|| format!("--set {setting}"))?;
        }
        for name in &control.ineffective {
            eprintln!("warning: --set {name} has no effect");
        }
        if let Some(root) = &self.root_namespace {
            control.root_namespace = Some(root.as_str().into());
        }
        Ok(control)
    }
}
