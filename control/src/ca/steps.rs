//! A root is replaced in steps: the new one is trusted beside the old, then signs, then stands alone. Each can be taken back but the last.

use std::{fmt, time::SystemTime};

use palisade_model::identity::TrustDomain;

use super::{
    CaError,
    material::{Material, certificates},
};

/// Where a replacement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The new root is trusted, the old one signs.
    Distributing,
    /// Both are trusted, the new one signs.
    Signing,
}

/// The authority that does not sign: the new one before it does, the old one afterwards.
#[derive(Clone)]
pub(crate) struct Other {
    pub(crate) phase: Phase,
    /// Its certificate.
    pub(crate) certificate: String,
    /// The key of that.
    pub(crate) key: String,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the next phase.
    Forward,
    /// To the one before.
    Back,
}

/// Why there is no step.
#[derive(Debug, thiserror::Error)]
pub enum NoStep {
    /// Somebody else holds the root.
    #[error(
        "the authority is signed by another one: whoever plugged it in replaces it (docs/operations/identity.md, \
         \"A root that is plugged in\")"
    )]
    PluggedIn,
    /// Nothing is under way.
    #[error("no replacement of the root is under way: there is nothing to take back")]
    NothingToTakeBack,
    /// What is kept does not fit together.
    #[error("the kept authority cannot be read: {0}")]
    Unreadable(String),
    /// No new root.
    #[error(transparent)]
    Create(#[from] CaError),
}

impl Phase {
    /// As it is kept.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "distributing" => Some(Self::Distributing),
            "signing" => Some(Self::Signing),
            _ => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distributing => "distributing",
            Self::Signing => "signing",
        })
    }
}

impl Material {
    /// What comes next, or came before.
    ///
    /// # Errors
    /// When there is no such step.
    pub(crate) fn step(self, way: Direction, domain: &TrustDomain, now: SystemTime) -> Result<Self, NoStep> {
        match (self.other.as_ref().map(|other| other.phase), way) {
            (None, Direction::Forward) => self.distribute(domain, now),
            (None, Direction::Back) => Err(NoStep::NothingToTakeBack),
            (Some(Phase::Distributing), Direction::Forward) => self.exchange(Phase::Signing),
            (Some(Phase::Signing), Direction::Back) => self.exchange(Phase::Distributing),
            // What does not sign goes: the new one that is not wanted, or the old one.
            (Some(Phase::Distributing), Direction::Back) | (Some(Phase::Signing), Direction::Forward) => self.retire(),
        }
    }

    /// A new root beside the old one, which goes on signing.
    fn distribute(self, domain: &TrustDomain, now: SystemTime) -> Result<Self, NoStep> {
        let roots = certificates(&self.roots).map_err(NoStep::Unreadable)?;
        let own = certificates(&self.certificate).map_err(NoStep::Unreadable)?;
        if !own.first().is_some_and(|own| roots.contains(own)) {
            return Err(NoStep::PluggedIn);
        }
        let new = Self::generate(domain, now)?;
        let roots = join(&self.roots, &new.roots);
        let other = Other { phase: Phase::Distributing, certificate: new.certificate, key: new.key };
        Ok(Self { roots, other: Some(other), ..self })
    }

    /// The other one signs from now on.
    fn exchange(self, phase: Phase) -> Result<Self, NoStep> {
        let Some(other) = self.other else { return Err(NoStep::NothingToTakeBack) };
        let chain = Some(other.certificate.clone());
        let previous = Other { phase, certificate: self.certificate, key: self.key };
        Ok(Self { certificate: other.certificate, key: other.key, chain, other: Some(previous), ..self })
    }

    /// The one that does not sign is trusted no more.
    fn retire(self) -> Result<Self, NoStep> {
        let Some(other) = &self.other else { return Err(NoStep::NothingToTakeBack) };
        let gone = certificates(&other.certificate).map_err(NoStep::Unreadable)?;
        let kept = certificates(&self.roots).map_err(NoStep::Unreadable)?;
        let roots = kept.iter().filter(|root| !gone.contains(root)).map(super::material::pem).collect();
        Ok(Self { roots, other: None, ..self })
    }
}

/// One PEM text after the other.
fn join(first: &str, second: &str) -> String {
    let mut text = first.trim_end().to_owned();
    text.push('\n');
    text.push_str(second);
    text
}
