//! The ready file: where everything is.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::directory::write_whole;

#[derive(Debug, Default, Serialize)]
pub(super) struct Ready {
    pub(super) gateways: Vec<ReadyGateway>,
    pub(super) pods: Vec<ReadyPod>,
    pub(super) external: Vec<ReadyExternal>,
    pub(super) control: Option<ReadyControl>,
}

/// All URLs and host addresses are reachable from this machine; process ids are as it counts them.
#[derive(Debug, Serialize)]
pub(super) struct ReadyGateway {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) ports: BTreeMap<String, String>,
    pub(super) admin: String,
    pub(super) metrics: String,
    pub(super) pid: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct ReadyPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) ip: String,
    pub(super) netns: String,
    /// Admin URL of the sidecar.
    pub(super) sidecar: Option<String>,
    pub(super) metrics: Option<String>,
    /// Of the sidecar.
    pub(super) pid: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct ReadyExternal {
    pub(super) host: String,
    pub(super) ip: String,
    pub(super) netns: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ReadyControl {
    pub(super) admin: String,
    pub(super) pid: Option<u32>,
}

impl Ready {
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_whole(path, &text)
    }
}
