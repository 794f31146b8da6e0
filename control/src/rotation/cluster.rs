//! What a change of roots would break in a cluster besides connected proxies: pods without a connection, pods that are to start, and
//! the workloads of an istiod that shares the root.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, Client, ResourceExt, api::ListParams};
use palisade_model::{settings::WorkloadRef, trust::Fingerprint};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{
    check::{Change, Obstacle, short},
    view::{mark, name},
};
use crate::{ca::ROOTS, identity::bundle};

/// Where an istiod publishes its roots, in each namespace.
const OF_ISTIOD: &str = "istio-ca-root-cert";

/// Pods of the mesh that have a proxy which no replica knows.
pub(super) fn unconnected(change: &Change, pods: &[WorkloadRef], connected: &BTreeSet<String>) -> Vec<Obstacle> {
    // Whoever would break if nothing is known of him.
    let Some(_) = change.against(None) else { return Vec::new() };
    let missing = pods.iter().filter(|pod| !connected.contains(&mark(pod)));
    let why = "its proxy is connected to no replica, so it is not known what it trusts (one of Istio's never is)";
    missing.map(|pod| Obstacle { who: format!("pod {}", name(pod)), why: why.to_owned() }).collect()
}

/// Namespaces whose pods could not start: what they are to verify the control plane by lacks the root that would sign. And those where an
/// istiod tells its workloads to trust other roots.
pub(super) async fn published(client: &Client, change: &Change) -> Result<Vec<Obstacle>, kube::Error> {
    let mut obstacles = Vec::new();
    let named = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
    let maps = Api::<ConfigMap>::all(client.clone());
    if let Some(signing) = change.to.signing.filter(|_| change.signs_anew()) {
        let ours = maps.list(&named(bundle::NAME)).await?;
        let has: BTreeSet<String> =
            ours.iter().filter(|map| roots(map).contains(&signing)).filter_map(ResourceExt::namespace).collect();
        for namespace in Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await? {
            if namespace.metadata.deletion_timestamp.is_none() && !has.contains(&namespace.name_any()) {
                let why =
                    format!("ConfigMap {} there lacks the root {} that would sign", bundle::NAME, short(&signing));
                obstacles.push(Obstacle { who: format!("namespace {}", namespace.name_any()), why });
            }
        }
    }
    if change.against(None).is_some() {
        for map in maps.list(&named(OF_ISTIOD)).await? {
            if let Some(why) = against_istiod(change, &roots(&map)) {
                obstacles.push(Obstacle { who: format!("namespace {}", map.namespace().unwrap_or_default()), why });
            }
        }
    }
    Ok(obstacles)
}

/// Why workloads that an istiod tells to trust these roots would break.
fn against_istiod(change: &Change, theirs: &BTreeSet<Fingerprint>) -> Option<String> {
    if theirs.is_disjoint(&change.from.trusted) {
        // A mesh of its own, which never trusted ours.
        return None;
    }
    let lacks = change.to.signing.filter(|signing| change.signs_anew() && !theirs.contains(signing));
    if let Some(signing) = lacks {
        let signing = short(&signing);
        return Some(format!(
            "an istiod shares the root, and its ConfigMap {OF_ISTIOD} lacks the root {signing} that would sign"
        ));
    }
    theirs
        .is_disjoint(&change.to.trusted)
        .then(|| format!("an istiod shares the root, and its ConfigMap {OF_ISTIOD} holds none that would be trusted"))
}

/// Fingerprints of a ConfigMap's roots; what cannot be read holds none.
fn roots(map: &ConfigMap) -> BTreeSet<Fingerprint> {
    let text = map.data.as_ref().and_then(|data| data.get(ROOTS)).map(String::as_str).unwrap_or_default();
    let roots = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    roots.iter().map(|root| Fingerprint::of_bytes(root)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::check::Roots;

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of_bytes(text.as_bytes())
    }

    fn set(names: &[&str]) -> BTreeSet<Fingerprint> {
        names.iter().map(|name| print(name)).collect()
    }

    fn change(from: (&str, &[&str]), to: (&str, &[&str])) -> Change {
        let roots =
            |(signing, trusted): (&str, &[&str])| Roots { signing: Some(print(signing)), trusted: set(trusted) };
        Change { from: roots(from), to: roots(to) }
    }

    #[test]
    fn an_istiod_that_shares_the_root_is_heard_and_another_is_not() {
        let sign = change(("a", &["a", "b"]), ("b", &["a", "b"]));
        let retire = change(("b", &["a", "b"]), ("b", &["b"]));
        for (change, theirs, expected) in [
            (&sign, &["a"][..], Some("lacks the root")),
            (&sign, &["a", "b"], None),
            (&sign, &["c"], None),
            (&retire, &["a"], Some("holds none")),
            (&retire, &["a", "b"], None),
            (&retire, &["c"], None),
        ] {
            let found = against_istiod(change, &set(theirs));
            assert_eq!(found.is_some(), expected.is_some(), "{theirs:?}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }

    #[test]
    fn a_pod_that_nobody_knows_is_in_the_way_of_what_it_could_break_on() {
        let pod = |name: &str| WorkloadRef { namespace: "foo".into(), name: name.into() };
        let pods = [pod("a"), pod("b")];
        let connected = BTreeSet::from([mark(&pod("a"))]);
        let sign = change(("a", &["a", "b"]), ("b", &["a", "b"]));
        let found = unconnected(&sign, &pods, &connected);
        assert_eq!(found.iter().map(|obstacle| &*obstacle.who).collect::<Vec<_>>(), ["pod foo/b"]);
        let distribute = change(("a", &["a"]), ("a", &["a", "b"]));
        assert!(unconnected(&distribute, &pods, &connected).is_empty());
    }
}
