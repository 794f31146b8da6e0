//! Decisions by labels, and what a pod must not have.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn pod(labels: &Value, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    })
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceOf {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    NamespaceOf { name: name.to_owned(), labels }
}

fn revision(revision: &str) -> InjectionSettings {
    InjectionSettings { revision: revision.to_owned(), ..InjectionSettings::default() }
}

fn reason(pod: &Value, namespace: &NamespaceOf, settings: &InjectionSettings) -> (bool, Reason) {
    let Decision { injects, template: _, reason } =
        inject(pod, namespace, None, Asked::ByLabels, settings).unwrap().decision;
    (injects, reason)
}

#[test]
fn each_revision_injects_what_names_it() {
    let plain = pod(&json!({}), &json!({}));
    let wants = pod(&json!({"sidecar.istio.io/inject": "true"}), &json!({}));
    let canary = pod(&json!({"istio.io/rev": "canary"}), &json!({}));
    let enabled = namespace("a", &[("istio-injection", "enabled"), ("istio.io/rev", "canary")]);
    let of_canary = namespace("a", &[("istio.io/rev", "canary")]);
    let silent = namespace("a", &[]);
    let rows = [
        (&plain, &enabled, "default", (true, Reason::NamespaceLabel)),
        (&plain, &enabled, "canary", (false, Reason::OtherRevision)),
        (&plain, &of_canary, "default", (false, Reason::OtherRevision)),
        (&plain, &of_canary, "canary", (true, Reason::NamespaceRevision)),
        (&wants, &of_canary, "default", (false, Reason::OtherRevision)),
        (&wants, &silent, "default", (true, Reason::PodLabel)),
        (&wants, &silent, "canary", (false, Reason::NotAsked)),
        (&canary, &silent, "default", (false, Reason::OtherRevision)),
        (&canary, &silent, "canary", (true, Reason::PodRevision)),
        // What the namespace says by revision is not the pod's to change.
        (&canary, &namespace("a", &[("istio.io/rev", "default")]), "canary", (false, Reason::OtherRevision)),
    ];
    for (pod, namespace, of, expected) in rows {
        assert_eq!(reason(pod, namespace, &revision(of)), expected, "{pod} {namespace:?} {of}");
    }
}

#[test]
fn a_mark_without_a_sidecar_is_no_sidecar() {
    let enabled = namespace("a", &[("istio-injection", "enabled")]);
    let marked = pod(&json!({}), &json!({"sidecar.istio.io/status": "{\"initContainers\":[\"palisade-proxy\"]}"}));
    assert_eq!(reason(&marked, &enabled, &revision("default")), (true, Reason::NamespaceLabel));
}

#[test]
fn a_label_that_says_the_sidecar_is_there_is_set_by_injection_alone() {
    let lying = pod(&json!({"palisade.dev/proxy": "none", "security.istio.io/tlsMode": "disabled"}), &json!({}));
    let injected =
        inject(&lying, &namespace("a", &[]), None, Asked::Already, &InjectionSettings::default()).unwrap().pod.unwrap();
    assert_eq!(injected["metadata"]["labels"]["palisade.dev/proxy"], "sidecar");
    // Whether it takes mesh TLS may be the user's to say, as in Istio.
    assert_eq!(injected["metadata"]["labels"]["security.istio.io/tlsMode"], "disabled");
}

#[test]
fn what_is_no_pod_is_an_error_and_never_a_panic() {
    let settings = InjectionSettings::default();
    for broken in [
        json!(1),
        json!({}),
        json!({"spec": 1}),
        json!({"spec": {"containers": 1}}),
        json!({"spec": {"containers": [1]}}),
        json!({"spec": {"containers": []}}),
        json!({"metadata": {"labels": {"a": 1}}, "spec": {"containers": [{"name": "a"}]}}),
        json!({"metadata": 1, "spec": {"containers": [{"name": "a"}]}}),
        json!({"spec": {"containers": [{"name": "a"}], "volumes": {}}}),
    ] {
        assert!(inject(&broken, &NamespaceOf::default(), None, Asked::Already, &settings).is_err(), "{broken}");
    }
    for odd in [
        json!({"spec": {"containers": [{"name": "a", "livenessProbe": 1, "ports": 1, "lifecycle": []}]}}),
        json!({"spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": {}}}}]}}),
        json!({"metadata": null, "spec": {"containers": [{}], "initContainers": null, "securityContext": 1}}),
    ] {
        assert!(inject(&odd, &NamespaceOf::default(), None, Asked::Already, &settings).is_ok(), "{odd}");
    }
}

#[test]
fn patches_are_small() {
    let old = json!({"a": [1, 2, 3], "b": {"c/d": 1, "e~f": 2}, "g": [{"x": 1}]});
    let new = json!({"a": [0, 1, 2, 3], "b": {"c/d": 2}, "g": [{"x": 1, "y": 2}], "h": null});
    let expected = json!([
        {"op": "add", "path": "/a/0", "value": 0},
        {"op": "remove", "path": "/b/e~0f"},
        {"op": "replace", "path": "/b/c~1d", "value": 2},
        {"op": "add", "path": "/g/0/y", "value": 2},
        {"op": "add", "path": "/h", "value": null},
    ]);
    assert_eq!(json_patch(&old, &new), expected);
    assert_eq!(json_patch(&old, &old), json!([]));
}

#[test]
fn namespaces_and_their_labels_are_read_from_lists_too() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {x: v}}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
    let found = documents::namespaces(text);
    let labels: BTreeMap<String, String> = [("x".to_owned(), "v".to_owned())].into();
    assert_eq!(found, [("a".to_owned(), labels), ("b".to_owned(), BTreeMap::new())].into());
}
