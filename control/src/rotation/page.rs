//! What is said about the mesh's roots to people and programs, and what they may ask for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use palisade_model::trust::Fingerprint;
use serde::{Deserialize, Serialize};

use super::check::Obstacle;
use crate::ca::{Direction, Phase};

/// A step that is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepQuestion {
    /// Which way.
    pub direction: Direction,
    /// Only whether it would be refused.
    #[serde(default)]
    pub is_dry_run: bool,
}

/// What became of a step.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepAnswer {
    /// The step is taken.
    pub is_done: bool,
    /// What it does, or would.
    pub step: String,
    /// The phase before.
    pub before: Option<Phase>,
    /// The phase after, or as it would be.
    pub after: Option<Phase>,
    /// Who would break. Empty: nobody.
    pub obstacles: Vec<Obstacle>,
    /// How many more than those.
    pub more: usize,
}

/// How the mesh's identity stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityStatus {
    /// Where the authority is kept.
    pub kept_in: String,
    /// Where the replacement of the root is; none is under way without.
    pub phase: Option<Phase>,
    /// Whether the authority is a root itself, so that it can be replaced by `rotate`.
    pub is_own_root: bool,
    /// Trusted roots.
    pub roots: Vec<RootStatus>,
    /// Connected proxies, of all replicas.
    pub proxies: usize,
    /// Those that do not say what they trust.
    pub unknown: usize,
    /// Replicas, by name: the phase that is in force there.
    pub replicas: BTreeMap<String, String>,
    /// A change that somebody has plugged in and that is not put in force.
    pub held_back: Option<HeldBack>,
    /// What is revoked.
    pub revocation: RevocationStatus,
    /// Why not all of this is known.
    pub problem: Option<String>,
}

/// One root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootStatus {
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// Its subject.
    pub subject: String,
    /// When it ends.
    pub not_after: Option<Timestamp>,
    /// It signs.
    pub is_signing: bool,
    /// Certificates of connected proxies that hold against it.
    pub leaves: usize,
    /// Connected proxies that trust it.
    pub trusted_by: usize,
}

/// A change that is not put in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    /// Who would break.
    pub obstacles: Vec<Obstacle>,
    /// How many more than those.
    pub more: usize,
}

/// What is revoked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationStatus {
    /// Lists.
    pub lists: usize,
    /// Certificates that they take back.
    pub revoked: usize,
    /// When the first list is out of date; its revocations go on to count.
    pub next_update: Option<Timestamp>,
    /// One is out of date.
    pub is_out_of_date: bool,
    /// Why nobody is trusted.
    pub refusal: Option<String>,
}
