//! What one replica sees of the mesh's roots: which proxies trust and use which, and who would break by a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use palisade_model::{
    settings::WorkloadRef,
    trust::{Fingerprint, Standing},
};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::check::{Change, Obstacle, Roots};
use crate::{ca::Phase, fleet::Fleet, slices::Slices};

/// Obstacles that are named; more are counted.
pub(super) const NAMED: usize = 50;

/// How proxies stand, by root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Census {
    /// Connected proxies.
    pub(super) proxies: usize,
    /// Those that do not say what they trust.
    pub(super) unknown: usize,
    /// Certificates in use, by root.
    pub(super) leaves: BTreeMap<Fingerprint, usize>,
    /// Proxies that trust a root, by root.
    pub(super) trusting: BTreeMap<Fingerprint, usize>,
}

/// One replica's answer about a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    /// What is in force here.
    pub(super) in_force: Roots,
    /// Where the replacement of the root is here.
    pub(super) phase: Option<Phase>,
    /// Who would break, as far as this replica knows.
    pub(super) obstacles: Vec<Obstacle>,
    /// How many more than those.
    pub(super) more: usize,
    /// Pods whose proxies are connected here, each as a short hash: there may be thousands.
    pub(super) connected: BTreeSet<String>,
}

/// Counts.
pub(super) fn census(fleet: &Fleet) -> Census {
    let mut census = Census::default();
    for (_, standing) in fleet.standings() {
        census.proxies += 1;
        let Some(Standing { roots, leaf_roots, .. }) = standing else {
            census.unknown += 1;
            continue;
        };
        for root in roots {
            *census.trusting.entry(root).or_default() += 1;
        }
        for root in leaf_roots {
            *census.leaves.entry(root).or_default() += 1;
        }
    }
    census
}

impl Census {
    /// With another replica's.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { proxies, unknown, leaves, trusting } = other;
        self.proxies += proxies;
        self.unknown += unknown;
        for (mine, theirs) in [(&mut self.leaves, leaves), (&mut self.trusting, trusting)] {
            for (root, count) in theirs {
                *mine.entry(*root).or_default() += count;
            }
        }
    }
}

/// Proxies here that would break by a change, and those that were here and may live on.
///
/// `is_cluster`: whether the mesh knows which pods there are; with documents from files only those that were seen count.
pub(super) fn obstacles(
    change: &Change,
    fleet: &Fleet,
    mesh: &dyn Slices,
    lifetime: Duration,
    now: SystemTime,
) -> Vec<(WorkloadRef, String)> {
    let mut found: Vec<(WorkloadRef, String)> = fleet
        .standings()
        .into_iter()
        .filter_map(|(pod, standing)| Some((pod, change.against(standing.as_ref())?)))
        .collect();
    let departed = fleet.departed(|pod, departed| {
        let ends = match &departed.standing {
            Some(standing) => UNIX_EPOCH + Duration::from_secs(standing.not_after),
            None => departed.left + lifetime,
        };
        // Gone with its pod, or with its certificate: it has to come here before it can speak to anybody again.
        mesh.workload(pod).is_none() || ends.min(departed.left + lifetime) <= now
    });
    for (pod, departed) in departed {
        if let Some(why) = change.against(departed.standing.as_ref()) {
            found.push((pod, format!("it is not connected; {why}")));
        }
    }
    found
}

/// `NAMESPACE/NAME`.
pub(super) fn name(pod: &WorkloadRef) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// Few bytes that stand for a pod.
pub(super) fn mark(pod: &WorkloadRef) -> String {
    let digest = digest(&SHA256, name(pod).as_bytes());
    digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
