//! Which control plane is asked.

use anyhow::Context;

use crate::dev;

/// The control plane to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct ControlOptions {
    /// The control plane's admin URL. Default: the running `palisade dev`.
    #[arg(long, env = "PALISADE_CONTROL", value_name = "URL")]
    control: Option<String>,
    #[command(flatten)]
    instance: dev::Instance,
}

impl ControlOptions {
    /// Its admin URL.
    ///
    /// # Errors
    /// When none is named and no mesh runs here.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        match self.control.as_deref().filter(|control| !control.is_empty()) {
            Some(control) => Ok(control.trim_end_matches('/').to_owned()),
            None => dev::running_control(&self.instance).context("name the control plane's admin URL with --control"),
        }
    }
}
