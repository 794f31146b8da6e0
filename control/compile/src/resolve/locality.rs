//! Where pods are: region, zone and subzone, and the labels that say so.

use std::{collections::BTreeMap, fmt, sync::Arc};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const NETWORK: &str = "topology.istio.io/network";
/// The label of a workload's node.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";

/// A region, zone and subzone; empty = unknown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Locality {
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) subzone: String,
}

/// `spec.trafficDistribution` of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrafficDistribution {
    /// `PreferClose`, `PreferSameZone`.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

impl TrafficDistribution {
    /// As written in a Service's spec or annotation; `None` = no preference.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "PreferClose" | "PreferSameZone" => Some(Self::SameZone),
            "PreferSameNode" => Some(Self::SameNode),
            _ => None,
        }
    }

    /// Labels in which endpoints are to agree with the client, the weightiest first.
    pub(crate) const fn labels(self) -> &'static [&'static str] {
        match self {
            Self::SameZone => &[NETWORK, REGION, ZONE],
            Self::SameNode => &[NETWORK, REGION, ZONE, SUBZONE, HOSTNAME],
        }
    }
}

impl Locality {
    /// From `REGION/ZONE/SUBZONE`, parts from the end may be missing.
    pub(crate) fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }

    /// Whether nothing is known.
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.zone, self.subzone)
    }
}

/// Labels of a workload with what its place adds (Istio's `AugmentLabels`).
pub(crate) fn augmented(
    labels: &BTreeMap<String, String>,
    locality: &Locality,
    node: &str,
    network: &str,
) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut all: BTreeMap<Arc<str>, Arc<str>> =
        labels.iter().map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str()))).collect();
    let place =
        [(REGION, locality.region.as_str()), (ZONE, &locality.zone), (SUBZONE, &locality.subzone), (HOSTNAME, node)];
    for (label, value) in place.into_iter().filter(|(_, value)| !value.is_empty()) {
        all.insert(label.into(), value.into());
    }
    if !network.is_empty() {
        all.entry(NETWORK.into()).or_insert_with(|| network.into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_adds_its_labels() {
        let own = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        let all = augmented(&own, &Locality::parse("r/z"), "n1", "");
        let all: Vec<String> = all.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            all,
            ["app=a", "kubernetes.io/hostname=n1", "topology.kubernetes.io/region=r", "topology.kubernetes.io/zone=z"]
        );
    }
}
