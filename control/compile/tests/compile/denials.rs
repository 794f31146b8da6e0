//! Which namespaces let denied callers know their policies.

use std::collections::BTreeSet;

use palisade_compile::ProxyRef;

use crate::support::{of, pod};

fn namespace(name: &str, annotations: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\n---\n")
}

#[test]
fn a_proxy_knows_of_its_own_and_the_root_namespace_whether_they_tell() {
    const TELLS: &str = "palisade.dev/name-policies-in-denials: \"true\"";
    for (name, documents, expected) in [
        ("nobody says so", String::new(), &[][..]),
        ("its own", namespace("a", TELLS), &["a"]),
        ("the root's", namespace("istio-system", TELLS), &["istio-system"]),
        ("another's", namespace("b", TELLS), &[]),
        ("another value", namespace("a", "palisade.dev/name-policies-in-denials: \"yes\""), &[]),
    ] {
        let snapshot = of(&(documents + &pod("s", "a", "") + &pod("t", "b", "")), &ProxyRef::sidecar("a", "s"), &[]);
        let settings = snapshot.settings().unwrap();
        let told: BTreeSet<&str> = settings.telling_namespaces.iter().map(|namespace| &**namespace).collect();
        assert_eq!(told, expected.iter().copied().collect(), "{name}");
    }
}
