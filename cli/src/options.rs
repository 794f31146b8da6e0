//! Options that mean the same in every subcommand.

use std::path::PathBuf;

/// Where documents come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DocumentOptions {
    /// A YAML or JSON file, a folder read recursively, or `-`; may be repeated. Without any, a cluster is read where the
    /// subcommand can.
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Namespace of documents that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Which cluster is read where no file is given.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterOptions {
    /// Context of the kubeconfig; default: the current one.
    #[arg(long)]
    pub context: Option<String>,
    /// Kubeconfig file; default: as kubectl finds it.
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
}

/// How a stream of records is written, one a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum StreamFormat {
    /// For people.
    #[default]
    #[value(alias = "wide")]
    Text,
    /// For programs.
    #[value(alias = "json")]
    Jsonl,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OutputFormat {
    #[default]
    Text,
    Json,
    Jsonl,
    Yaml,
    Wide,
}

impl OutputFormat {
    /// For people.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Wide)
    }
}
