//! PeerAuthentication after inheritance: which connections each workload takes on each port, and what clients assume.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::istio::{MutualTls, MutualTlsMode, PeerAuthentication, PortLevelMtls};
use palisade_model::{listener::MtlsMode, origin::Origin};

use crate::object::{self, Head, Object};

/// One policy, as far as it counts.
#[derive(Debug, Clone)]
pub(crate) struct PeerPolicy {
    /// Metadata.
    pub(crate) head: Head,
    /// Workloads; empty = the namespace, or the mesh.
    pub(crate) selector: BTreeMap<String, String>,
    /// `None` inherits.
    pub(crate) mode: Option<MtlsMode>,
    /// By port of the workload; `None` = the workload's mode.
    pub(crate) ports: BTreeMap<u16, Option<MtlsMode>>,
}

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    root: Arc<str>,
    mesh: Option<PeerPolicy>,
    namespaces: BTreeMap<Arc<str>, PeerPolicy>,
    workloads: BTreeMap<Arc<str>, Vec<PeerPolicy>>,
}

/// What a workload's connections need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadPeers {
    /// Ports without a mode of their own.
    pub(crate) mode: MtlsMode,
    /// Ports with one.
    pub(crate) ports: BTreeMap<u16, MtlsMode>,
    /// The documents that shaped it.
    pub(crate) origins: Vec<Origin>,
}

impl PeerPolicy {
    /// A policy as its document says.
    pub(crate) fn new(document: &Object<PeerAuthentication>) -> Self {
        let PeerAuthentication { selector, mtls, port_level_mtls } = &document.spec;
        let selector = selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default();
        let ports = match port_level_mtls {
            Some(PortLevelMtls(ports)) => ports.iter().map(|(port, mtls)| (*port, mode(Some(mtls)))).collect(),
            None => BTreeMap::new(),
        };
        Self { head: document.head.clone(), selector, mode: mode(mtls.as_ref()), ports }
    }

    /// A policy that cannot be read: STRICT for what it selects.
    pub(crate) fn broken(head: Head, selector: BTreeMap<String, String>) -> Self {
        Self { head, selector, mode: Some(MtlsMode::Strict), ports: BTreeMap::new() }
    }
}

fn mode(mtls: Option<&MutualTls>) -> Option<MtlsMode> {
    match mtls?.mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MtlsMode::Disable),
        MutualTlsMode::Permissive => Some(MtlsMode::Permissive),
        MutualTlsMode::Strict => Some(MtlsMode::Strict),
    }
}

impl Peers {
    /// Sorts policies into levels; the oldest of each level counts. A selector in the root namespace counts nowhere.
    pub(crate) fn new(root: Arc<str>, policies: impl IntoIterator<Item = PeerPolicy>) -> Self {
        let mut policies: Vec<PeerPolicy> = policies.into_iter().collect();
        policies.sort_by(|a, b| object::cmp_age(&a.head, &b.head));
        let mut peers = Self { root: Arc::clone(&root), ..Self::default() };
        for policy in policies {
            let namespace = Arc::clone(&policy.head.key.namespace);
            match (policy.selector.is_empty(), namespace == root) {
                (true, true) => {
                    peers.mesh.get_or_insert(policy);
                }
                (true, false) => {
                    peers.namespaces.entry(namespace).or_insert(policy);
                }
                (false, false) => peers.workloads.entry(namespace).or_default().push(policy),
                (false, true) => {}
            }
        }
        peers
    }

    /// What one port of a workload takes.
    pub(crate) fn mode_at<'a>(&self, namespace: &str, label: impl Fn(&str) -> Option<&'a str>, port: u16) -> MtlsMode {
        let is_selected = |policy: &&PeerPolicy| policy.selector.iter().all(|(name, value)| label(name) == Some(value));
        let own = self.workloads.get(namespace).into_iter().flatten().find(is_selected);
        let written = own.and_then(|policy| policy.ports.get(&port).copied().flatten());
        let levels = [self.mesh.as_ref(), self.namespaces.get(namespace), own];
        let inherited = || levels.into_iter().flatten().filter_map(|policy| policy.mode).next_back();
        written.or_else(inherited).unwrap_or(MtlsMode::Permissive)
    }

    /// What a workload takes.
    pub(crate) fn of_workload(&self, namespace: &str, labels: &BTreeMap<String, String>) -> WorkloadPeers {
        let in_namespace = self.namespaces.get(namespace);
        let own = self
            .workloads
            .get(namespace)
            .into_iter()
            .flatten()
            .find(|policy| object::selects(&policy.selector, labels));
        let levels = [self.mesh.as_ref(), in_namespace, own];
        let mode = levels.iter().flatten().filter_map(|policy| policy.mode).next_back().unwrap_or(MtlsMode::Permissive);
        let ports = own
            .map(|policy| policy.ports.iter().map(|(port, written)| (*port, written.unwrap_or(mode))).collect())
            .unwrap_or_default();
        let origins = levels.iter().rev().flatten().map(|policy| policy.head.origin()).collect();
        WorkloadPeers { mode, ports, origins }
    }

    /// Whether clients of a namespace's services use plaintext: its own or the mesh's policy says DISABLE. Policies of
    /// workloads and ports are not asked.
    pub(crate) fn is_disabled_for_clients(&self, namespace: &str) -> bool {
        let own = if *namespace == *self.root { None } else { self.namespaces.get(namespace) };
        let mode = own.and_then(|policy| policy.mode).or_else(|| self.mesh.as_ref().and_then(|policy| policy.mode));
        mode == Some(MtlsMode::Disable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectKey;

    fn policy(namespace: &str, name: &str, selector: &[(&str, &str)], mode: Option<MtlsMode>) -> PeerPolicy {
        PeerPolicy {
            head: Head {
                group: "security.istio.io".into(),
                kind: "PeerAuthentication".into(),
                key: ObjectKey::new(namespace, name),
                uid: "".into(),
                generation: 0,
                created: 0,
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                allocated: None,
            },
            selector: selector.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            mode,
            ports: BTreeMap::new(),
        }
    }

    fn labels() -> BTreeMap<String, String> {
        BTreeMap::from([("app".to_owned(), "a".to_owned())])
    }

    #[test]
    fn nothing_means_permissive() {
        let peers = Peers::new("root".into(), []);
        assert_eq!(peers.of_workload("foo", &labels()).mode, MtlsMode::Permissive);
        assert!(!peers.is_disabled_for_clients("foo"));
    }

    #[test]
    fn the_narrowest_level_that_says_something_wins() {
        let peers = Peers::new(
            "root".into(),
            [
                policy("root", "mesh", &[], Some(MtlsMode::Strict)),
                policy("foo", "ns", &[], None),
                policy("foo", "w", &[("app", "a")], None),
                policy("bar", "ns", &[], Some(MtlsMode::Disable)),
            ],
        );
        assert_eq!(peers.of_workload("foo", &labels()).mode, MtlsMode::Strict);
        assert_eq!(peers.of_workload("bar", &labels()).mode, MtlsMode::Disable);
        assert!(peers.is_disabled_for_clients("bar"));
        assert!(!peers.is_disabled_for_clients("foo"));
    }

    #[test]
    fn a_selector_in_the_root_namespace_counts_nowhere() {
        let peers = Peers::new("root".into(), [policy("root", "w", &[("app", "a")], Some(MtlsMode::Strict))]);
        assert_eq!(peers.of_workload("root", &labels()).mode, MtlsMode::Permissive);
        assert_eq!(peers.of_workload("foo", &labels()).mode, MtlsMode::Permissive);
    }

    #[test]
    fn the_oldest_of_a_level_counts_and_an_unset_port_follows_the_workload() {
        let mut older = policy("foo", "a", &[("app", "a")], Some(MtlsMode::Strict));
        older.ports = BTreeMap::from([(80, None), (81, Some(MtlsMode::Disable))]);
        let peers = Peers::new("root".into(), [policy("foo", "b", &[("app", "a")], Some(MtlsMode::Disable)), older]);
        let found = peers.of_workload("foo", &labels());
        assert_eq!(found.mode, MtlsMode::Strict);
        assert_eq!(found.ports, BTreeMap::from([(80, MtlsMode::Strict), (81, MtlsMode::Disable)]));
    }

    #[test]
    fn workload_policies_turn_the_clients_of_that_workload_alone() {
        let mut own = policy("foo", "w", &[("app", "a")], Some(MtlsMode::Disable));
        own.ports = BTreeMap::from([(81, Some(MtlsMode::Strict)), (82, None)]);
        let peers = Peers::new("root".into(), [own, policy("root", "mesh", &[], Some(MtlsMode::Strict))]);
        assert!(!peers.is_disabled_for_clients("foo"));
        let of = |app: &'static str, port| peers.mode_at("foo", move |name| (name == "app").then_some(app), port);
        assert_eq!([of("a", 80), of("a", 81), of("a", 82)], [MtlsMode::Disable, MtlsMode::Strict, MtlsMode::Disable]);
        assert_eq!(of("b", 80), MtlsMode::Strict);
        assert_eq!(peers.mode_at("bar", |_| None, 80), MtlsMode::Strict);
    }
}
