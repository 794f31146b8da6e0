//! `palisade check`: whether a cluster can take an installation, and whether the one that is there works.

mod after;
mod before;
mod cluster;
mod proxies;
mod webhooks;

use kube::Client;
use serde::Serialize;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// It cannot be known from here.
    Unknown,
    /// It will bite somebody.
    Warning,
    /// It does not work.
    Error,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word that programs may rely on.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it; empty = nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cure: String,
}

/// What is looked at.
#[derive(Clone)]
pub struct Checkup {
    /// Who looks.
    pub client: Client,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Version of the one who looks.
    pub version: &'static str,
}

impl Finding {
    fn new(check: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self { check, level, message: message.into(), cure: String::new() }
    }

    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, message)
    }

    fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = cure.into();
        self
    }

    /// What could not be looked at.
    fn unseen(check: &'static str, error: &kube::Error) -> Self {
        Self::new(check, Level::Unknown, format!("cannot be looked at: {}", told(error)))
    }
}

/// An error of the API in few words.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

impl Checkup {
    /// Whether an installation can be made.
    ///
    /// # Errors
    /// When the API server does not answer at all.
    pub async fn before(&self) -> Result<Vec<Finding>, kube::Error> {
        let mut findings = self.cluster().await?;
        findings.extend(self.rights().await);
        findings.extend(self.others().await);
        findings.extend(self.pod_security().await);
        findings.extend(self.nodes().await);
        Ok(findings)
    }

    /// Whether an installation works.
    ///
    /// # Errors
    /// When the API server does not answer at all.
    pub async fn after(&self) -> Result<Vec<Finding>, kube::Error> {
        let mut findings = self.cluster().await?;
        findings.extend(self.others().await);
        findings.extend(self.control_plane().await);
        findings.extend(self.webhooks().await);
        findings.extend(self.proxies().await);
        findings.extend(self.gateways().await);
        findings.extend(self.pod_security().await);
        Ok(findings)
    }

    /// Whether there is an installation.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn is_installed(&self) -> Result<bool, kube::Error> {
        Ok(!self.deployments().await?.is_empty())
    }
}
