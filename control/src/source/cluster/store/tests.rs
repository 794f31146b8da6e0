//! What the store makes of lists, changes and ends.

use palisade_compile::ObjectKey;
use serde_json::{Value, json};

use super::*;

const NAMESPACES: Kind = Kind { group: "", kind: "Namespace" };
const POLICIES: Kind = Kind { group: "security.istio.io", kind: "AuthorizationPolicy" };

fn policy(name: &str, action: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "foo", "uid": "1"},
        "spec": {"action": action, "rules": [{}]}
    })
}

fn named(name: &str) -> Name {
    ("foo".into(), name.into())
}

fn listed(objects: &[(&str, &str)]) -> Told {
    Told::Listed(objects.iter().map(|(name, action)| (named(name), Text::new(&policy(name, action)))).collect())
}

fn changed(name: &str, action: Option<&str>) -> Told {
    Told::Changed([(named(name), action.map(|action| Text::new(&policy(name, action))))].into())
}

fn told(watched: Watched, told: Told) -> Changes {
    Changes { told: [(watched, told)].into(), served: None }
}

fn new() -> Store {
    Store::new(SourceOptions::default())
}

fn names(store: &mut Store) -> Vec<String> {
    store.inputs().authorization_policies.keys().map(|key| key.name.to_string()).collect()
}

fn uid(store: &mut Store, name: &str) -> String {
    store.inputs().authorization_policies.get(&ObjectKey::new("foo", name)).unwrap().head.uid.to_string()
}

#[test]
fn what_did_not_change_is_not_parsed_again() {
    let mut store = new();
    let policies = || Watched::Kind(POLICIES);
    assert!(store.take(told(policies(), listed(&[("a", "ALLOW"), ("b", "ALLOW")]))));
    let before = store.inputs().authorization_policies;
    assert!(!store.take(told(policies(), listed(&[("a", "ALLOW"), ("b", "ALLOW")]))), "a list anew");
    assert!(!store.take(told(policies(), changed("a", Some("ALLOW")))), "a status was written");
    assert!(store.take(told(policies(), changed("b", Some("DENY")))));
    let after = store.inputs().authorization_policies;
    let is_same = |name| {
        std::ptr::eq(
            before.get(&ObjectKey::new("foo", name)).unwrap(),
            after.get(&ObjectKey::new("foo", name)).unwrap(),
        )
    };
    assert!(is_same("a") && !is_same("b"));
}

#[test]
fn a_list_after_410_removes_what_is_gone() {
    let mut store = new();
    let policies = || Watched::Kind(POLICIES);
    store.take(told(policies(), listed(&[("a", "ALLOW"), ("b", "ALLOW"), ("c", "ALLOW")])));
    assert!(store.take(told(policies(), listed(&[("a", "ALLOW"), ("c", "DENY"), ("d", "ALLOW")]))));
    assert_eq!(names(&mut store), ["a", "c", "d"]);
    assert!(store.take(told(policies(), changed("a", None))));
    assert!(!store.take(told(policies(), changed("a", None))), "it was gone");
    assert_eq!(names(&mut store), ["c", "d"]);
}

#[test]
fn an_object_that_was_deleted_and_made_anew_is_another_one() {
    let mut store = new();
    let policies = || Watched::Kind(POLICIES);
    store.take(told(policies(), listed(&[("a", "ALLOW")])));
    let mut again = policy("a", "ALLOW");
    again["metadata"]["uid"] = json!("2");
    let again = Told::Changed([(named("a"), Some(Text::new(&again)))].into());
    assert!(store.take(told(policies(), again)));
    assert_eq!(uid(&mut store, "a"), "2");
}

#[test]
fn it_is_whole_when_every_kind_that_is_served_was_listed() {
    let mut store = new();
    assert!(!store.is_complete(), "nobody knows what is served");
    store.take(told(Watched::Kind(NAMESPACES), Told::Listed(BTreeMap::new())));
    assert!(!store.is_complete());
    store.take(Changes { told: BTreeMap::new(), served: Some([NAMESPACES, POLICIES].into()) });
    assert!(!store.is_complete(), "a policy may be missing");
    store.take(told(Watched::Kind(POLICIES), changed("a", Some("DENY"))));
    assert!(!store.is_complete(), "one change is no list");
    store.take(told(Watched::Kind(POLICIES), listed(&[])));
    assert!(store.is_complete());
}

#[test]
fn a_kind_whose_crd_is_gone_takes_its_objects_along() {
    let mut store = new();
    let policies = || Watched::Kind(POLICIES);
    store.take(told(policies(), listed(&[("a", "ALLOW")])));
    let gone = Changes { told: [(policies(), Told::Ended)].into(), served: Some(BTreeSet::new()) };
    assert!(store.take(gone));
    assert!(names(&mut store).is_empty());
    assert!(store.is_complete());
    assert!(store.take(told(policies(), listed(&[("b", "ALLOW")]))), "the CRD is back");
}

#[test]
fn a_reference_is_known_when_it_was_looked_for_there_or_not() {
    let mut store = new();
    let reference = Reference { kind: ReferenceKind::Secret, namespace: "foo".into(), name: "tls".into() };
    let wanted = BTreeSet::from([reference.clone()]);
    assert_eq!(store.unknown(&wanted), wanted);
    assert!(store.take(told(Watched::Referenced(reference.clone()), Told::Listed(BTreeMap::new()))));
    assert!(store.unknown(&wanted).is_empty());
    store.take(told(Watched::Referenced(reference.clone()), Told::Ended));
    assert!(store.take(told(Watched::Referenced(reference), Told::Unreadable)), "a permission is missing");
    assert!(store.unknown(&wanted).is_empty());
}
