//! The documents of a command line as the compiler's inputs.

use std::sync::Arc;

use anyhow::Context;
use palisade_compile::{ControlSettings, Inputs, SourceOptions};
use palisade_control::{
    cluster,
    source::{files, read_cluster},
};
use palisade_crds::Documents;

use crate::options::{ClusterOptions, DocumentOptions};

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

/// Reads the documents as a file source does, which stands in for an API server; without files those of a cluster.
///
/// # Errors
/// When a path or the cluster cannot be read, or a setting is malformed. What is wrong inside the documents is in the inputs'
/// reports.
pub(crate) fn read(documents: &DocumentOptions, settings: &SettingOptions) -> anyhow::Result<Arc<Inputs>> {
    let is_files = !documents.files.is_empty();
    let options = SourceOptions { control: settings.control(is_files)?, is_files };
    let texts = if is_files { files::read(&documents.files)? } else { of_cluster(&documents.cluster, &options)? };
    Ok(Arc::new(Inputs::from_texts(texts, &documents.namespace, &options)))
}

fn of_cluster(which: &ClusterOptions, options: &SourceOptions) -> anyhow::Result<Documents> {
    let ClusterOptions { context, kubeconfig } = which;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = cluster::client(kubeconfig.as_deref(), context.as_deref()).await?;
        Ok(read_cluster(&client, options).await?)
    })
}

impl SettingOptions {
    /// The settings of the control plane. In a cluster the class `istio` is served only when that is asked for.
    ///
    /// # Errors
    /// When one is malformed.
    pub(crate) fn control(&self, is_files: bool) -> anyhow::Result<ControlSettings> {
        let mut control = ControlSettings { istio_classes: is_files, ..ControlSettings::default() };
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
