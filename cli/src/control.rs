//! Which control plane is asked, and the way to it.

use std::path::Path;

use anyhow::Context;
use palisade_control::cluster;

use crate::{dev, options::ClusterOptions};

/// Port of the admin pages, which a control plane in a cluster answers on its own loopback only.
const ADMIN: u16 = 15014;

/// The control plane to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct ControlOptions {
    /// The control plane's admin URL. Default: the running `palisade dev`, else a port-forward to a ready pod of the control
    /// plane in the cluster of the kubeconfig.
    #[arg(long, env = "PALISADE_CONTROL", value_name = "URL")]
    control: Option<String>,
    /// In a cluster: namespace of the control plane.
    #[arg(long, env = "PALISADE_CONTROL_NAMESPACE", default_value = cluster::CONTROL_NAMESPACE, value_name = "NAME")]
    control_namespace: String,
    /// In a cluster: Service of the control plane.
    #[arg(long, env = "PALISADE_CONTROL_SERVICE", default_value = "palisade-control", value_name = "NAME")]
    control_service: String,
    #[command(flatten)]
    instance: dev::Instance,
}

/// A control plane that can be asked, as long as the value lives.
#[derive(Debug)]
pub(crate) struct Reached {
    /// Its admin URL.
    pub(crate) url: String,
    _forward: Option<cluster::Forward>,
}

/// Which way leads to it.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Url(String),
    Cluster,
}

impl ControlOptions {
    /// The way to it: `--control`, else `$PALISADE_CONTROL`, else the running `dev`, else a port-forward by kubeconfig. A
    /// cluster that is named outright is not passed over for a `dev` that happens to run.
    ///
    /// # Errors
    /// When none can be reached: with what was tried.
    pub(crate) async fn reach(&self, cluster: &ClusterOptions) -> anyhow::Result<Reached> {
        match way(self.control.as_deref(), cluster, || dev::find_control(&self.instance))? {
            Way::Url(url) => Ok(Reached { url, _forward: None }),
            Way::Cluster => self.forward(cluster).await.context(
                "no control plane is found: name its admin URL with --control, run `palisade dev`, or name a cluster",
            ),
        }
    }

    async fn forward(&self, cluster: &ClusterOptions) -> anyhow::Result<Reached> {
        let ClusterOptions { context, kubeconfig } = cluster;
        let kubeconfig: Option<&Path> = kubeconfig.as_deref();
        let client = cluster::client(kubeconfig, context.as_deref()).await?;
        let forward = cluster::forward(client, &self.control_namespace, &self.control_service, ADMIN).await?;
        Ok(Reached { url: format!("http://{}", forward.address), _forward: Some(forward) })
    }
}

fn way(
    control: Option<&str>,
    cluster: &ClusterOptions,
    running: impl FnOnce() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<Way> {
    let ClusterOptions { context, kubeconfig } = cluster;
    if let Some(url) = control.filter(|url| !url.is_empty()) {
        return Ok(Way::Url(url.trim_end_matches('/').to_owned()));
    }
    if context.is_some() || kubeconfig.is_some() {
        return Ok(Way::Cluster);
    }
    Ok(running()?.map_or(Way::Cluster, Way::Url))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::bail;

    use super::*;

    #[test]
    fn a_url_wins_then_a_cluster_that_is_named_then_dev_then_the_kubeconfig() {
        let none = ClusterOptions::default();
        let named = ClusterOptions { context: Some("c".to_owned()), kubeconfig: None };
        let file = ClusterOptions { context: None, kubeconfig: Some(PathBuf::from("k")) };
        let dev = || Ok(Some("http://dev".to_owned()));
        let url = |text: &str| Way::Url(text.to_owned());
        assert_eq!(way(Some("http://a:1/"), &named, dev).unwrap(), url("http://a:1"));
        assert_eq!(way(None, &named, dev).unwrap(), Way::Cluster);
        assert_eq!(way(None, &file, dev).unwrap(), Way::Cluster);
        assert_eq!(way(None, &none, dev).unwrap(), url("http://dev"));
        assert_eq!(way(Some(""), &none, dev).unwrap(), url("http://dev"));
        assert_eq!(way(None, &none, || Ok(None)).unwrap(), Way::Cluster);
        assert!(way(None, &none, || bail!("several run")).is_err(), "which one is meant is not guessed");
    }
}
