//! Verdicts about single objects, without a server.

use std::sync::Arc;

use palisade_compile::{Inputs, Mesh, SourceOptions, compile};
use palisade_crds::document;
use serde_json::{Value, json};

use super::{
    inject_pod, policies, register,
    review::{InvalidReview, Request},
    validate,
};
use crate::injection::InjectionSettings;

const MESH: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: web, image: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {serviceAccountName: cart, containers: [{name: cart, image: cart}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web, cluster.local/ns/shop/sa/old]}}]}]
";

fn mesh() -> Mesh {
    let texts = document::read("mesh.yaml", MESH.as_bytes());
    compile(&Arc::new(Inputs::from_texts(
        texts,
        "default",
        &SourceOptions { is_files: true, ..SourceOptions::default() },
    )))
    .mesh
}

fn object(yaml: &str) -> Value {
    document::read("object.yaml", yaml.as_bytes()).documents.remove(0).value
}

fn request(operation: &str, object: Option<Value>, old: Option<Value>) -> Request {
    let kind =
        object.as_ref().or(old.as_ref()).and_then(|object| object["kind"].as_str()).unwrap_or_default().to_owned();
    Request {
        uid: "1".to_owned(),
        kind: super::review::Kind { kind, ..super::review::Kind::default() },
        namespace: "shop".to_owned(),
        operation: operation.to_owned(),
        object,
        old_object: old,
        ..Request::default()
    }
}

fn refusal(yaml: &str) -> String {
    validate(&request("CREATE", Some(object(yaml)), None), None, &"default".into()).refusal.unwrap_or_default()
}

fn policy(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {rest}\n"
    )
}

#[test]
fn a_refusal_says_field_reason_and_cure() {
    let refused = refusal(&policy("a", "{action: DENY, rules: [{from: [{source: {}}]}]}"));
    assert!(
        refused.contains("spec.rules[0].from[0].source: `source` must not be empty (PLS0138); correct the rule"),
        "{refused}"
    );
    let refused = refusal(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: [{port: {number: 80, name: h, protocol: NONE}, hosts: ['*']}]}\n",
    );
    assert!(refused.contains("spec.servers[0].port.protocol"), "{refused}");
    let cedar = |text: &str| {
        format!(
            "apiVersion: palisade.dev/v1alpha1\nkind: CedarPolicy\nmetadata: {{name: c}}\nspec: {{policies: '{text}'}}\n"
        )
    };
    assert!(refusal(&cedar("permit(principal, action")).contains("PLS0404"));
    assert_eq!(refusal(&cedar("permit(principal, action, resource);")), "");
}

#[test]
fn what_is_written_by_generated_name_has_a_name() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {generateName: g-}\nspec: {servers: []}\n";
    assert!(!refusal(yaml).contains("name"), "{}", refusal(yaml));
}

#[test]
fn only_new_content_is_checked() {
    let bad = object(&policy("a", "{action: DENY}"));
    let good = object(&policy("a", "{action: DENY, rules: [{}]}"));
    let verdict = |new: &Value, old: &Value| {
        validate(&request("UPDATE", Some(new.clone()), Some(old.clone())), None, &"default".into()).refusal.is_some()
    };
    assert!(verdict(&bad, &good));
    assert!(!verdict(&good, &bad));
    // Stored by an older version: its finalizers and owners can still change.
    let mut owned = bad.clone();
    owned["metadata"]["finalizers"] = json!(["a/b"]);
    assert!(!verdict(&owned, &bad));
    // On its way out.
    let mut going = bad.clone();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(!verdict(&going, &good));
    let status = Request { sub_resource: "status".to_owned(), ..request("UPDATE", Some(bad.clone()), Some(good)) };
    assert_eq!(validate(&status, None, &"default".into()).refusal, None);
    let removal = request("DELETE", None, Some(bad));
    assert_eq!(validate(&removal, None, &"default".into()).refusal, None);
}

#[test]
fn each_revision_looks_at_its_own() {
    let mut bad = object(&policy("a", "{action: DENY}"));
    let refuses = |object: &Value, revision: &str| {
        validate(&request("CREATE", Some(object.clone()), None), None, &revision.into()).refusal.is_some()
    };
    assert!(refuses(&bad, "default") && !refuses(&bad, "canary"));
    bad["metadata"]["labels"] = json!({"istio.io/rev": "canary"});
    assert!(!refuses(&bad, "default") && refuses(&bad, "canary"));
}

#[test]
fn policies_say_who_gains_and_who_loses() {
    let mesh = mesh();
    let warnings = |operation: &str, yaml: &str| {
        let object = object(yaml);
        let (new, old) = if operation == "DELETE" { (None, Some(object)) } else { (Some(object), None) };
        let verdict = validate(&request(operation, new, old), Some(&mesh), &"default".into());
        assert_eq!(verdict.refusal, None);
        verdict.warnings.join("\n")
    };
    let first = warnings(
        "CREATE",
        &policy("web", "{selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [front]}}]}]}"),
    );
    assert!(first.contains("1 pod (shop/web-1) took every request that no policy denies"), "{first}");
    assert!(first.contains("gains access to 1 pod (shop/web-1): namespace front"), "{first}");
    let changed = policy(
        "cart",
        "{selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}",
    );
    let changed = warnings("CREATE", &changed);
    assert_eq!(changed, "loses access to 1 pod (shop/cart-1): cluster.local/ns/shop/sa/old");
    let removed = warnings("DELETE", &policy("cart", "{selector: {matchLabels: {app: cart}}, rules: []}"));
    assert!(removed.contains("1 pod (shop/cart-1) will take every request"), "{removed}");
    let nobody = warnings("CREATE", &policy("n", "{selector: {matchLabels: {app: none}}, rules: [{}]}"));
    assert!(nobody.contains("selects no pod that runs now"), "{nobody}");
    let deny = warnings(
        "CREATE",
        &policy(
            "d",
            "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{from: [{source: {ipBlocks: [192.0.2.0/24]}}]}]}",
        ),
    );
    assert_eq!(deny, "loses access to 1 pod (shop/cart-1): 192.0.2.0/24");
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: s, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
    assert!(warnings("CREATE", strict).contains("every client without a mesh identity"));
}

#[test]
fn what_only_all_documents_together_show_is_warned_of() {
    let mesh = mesh();
    let warnings = |yaml: &str, mesh: Option<&Mesh>| {
        let verdict = validate(&request("CREATE", Some(object(yaml)), None), mesh, &"default".into());
        assert_eq!(verdict.refusal, None);
        verdict.warnings.join("\n")
    };
    let route = |backend: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: shop}}\n\
             spec: {{hosts: [web], http: [{{route: [{{destination: {{host: {backend}}}}}]}}]}}\n"
        )
    };
    let dangling = warnings(&route("nobody"), Some(&mesh));
    assert!(dangling.contains("nobody"), "{dangling}");
    assert!(!warnings(&route("nobody"), None).contains("nobody"), "by itself the document is fine");
}

#[test]
fn bodies_that_are_no_reviews_are_refused() {
    let parse = |body: &str| Request::parse(body.as_bytes()).map(|_| ());
    assert!(matches!(parse("{"), Err(InvalidReview::Body(_))));
    assert!(matches!(parse("{}"), Err(InvalidReview::Kind { .. })));
    let review = |rest: &str| format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"{rest}}}"#);
    assert!(matches!(parse(&review("")), Err(InvalidReview::NoRequest)));
    let asked = |rest: &str| {
        review(&format!(
            r#","request":{{"uid":"1","kind":{{"version":"v1","kind":"Pod"}},"operation":"CREATE"{rest}}}"#
        ))
    };
    assert!(matches!(parse(&asked("")), Err(InvalidReview::NoObject(_))));
    assert!(matches!(parse(&asked(r#","object":[]"#)), Err(InvalidReview::NoObject(_))));
    assert!(parse(&asked(r#","object":{}"#)).is_ok());
    assert!(matches!(parse(&review(r#","request":{"uid":1}"#)), Err(InvalidReview::Body(_))));
}

#[test]
fn pods_of_workloads_are_named_after_them() {
    let pod = |owner: Value, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "web-5d4-", "labels": labels, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "web", "image": "web"}]},
        })
    };
    let named = |pod: Value| {
        let response = inject_pod(&request("CREATE", Some(pod), None), &InjectionSettings::default());
        let patch = response.patch.unwrap().to_string();
        patch
            .split("service.istio.io~1canonical-name\",\"value\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    let owner = |kind: &str, name: &str| json!({"kind": kind, "name": name, "controller": true});
    assert_eq!(named(pod(owner("ReplicaSet", "web-5d4"), json!({"pod-template-hash": "5d4"}))), "web");
    assert_eq!(named(pod(owner("Job", "nightly-28921000"), json!({"x": "y"}))), "nightly");
    assert_eq!(named(pod(owner("StatefulSet", "db"), json!({"x": "y"}))), "db");
}

#[test]
fn a_pod_that_cannot_have_its_sidecar_is_refused() {
    let mut pod = object("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}]}\n");
    let answer = |pod: &Value| inject_pod(&request("CREATE", Some(pod.clone()), None), &InjectionSettings::default());
    assert!(answer(&pod).patch.is_some());
    pod["metadata"]["annotations"] = json!({"sidecar.istio.io/interceptionMode": "TPROXY"});
    let refused = answer(&pod).refusal.unwrap();
    assert!(refused.contains("metadata.annotations[sidecar.istio.io/interceptionMode]"), "{refused}");
    pod["metadata"]["annotations"] = json!({"sidecar.istio.io/inject": "false"});
    assert_eq!(answer(&pod), super::review::Response::default());
}

#[test]
fn answers_have_bounded_warnings() {
    let response = super::review::Response { warnings: vec!["ä".repeat(400); 20], ..Default::default() };
    let review = response.to_review("7");
    let warnings = review["response"]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 13);
    assert!(warnings.iter().all(|warning| warning.as_str().unwrap().len() <= 256));
    assert_eq!(review["response"]["uid"], "7");
}

#[test]
fn security_fails_closed_and_traffic_does_not() {
    let configuration = register::validating(&"default".into(), &json!({"url": "https://a"}));
    let policy_of = |group: &str, operation: &str| {
        let webhooks = configuration["webhooks"].as_array().unwrap();
        let has = |list: &Value, item: &str| list.as_array().unwrap().iter().any(|entry| entry == item);
        let found: Vec<&str> = webhooks
            .iter()
            .filter(|webhook| {
                webhook["rules"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|rule| has(&rule["apiGroups"], group) && has(&rule["operations"], operation))
            })
            .map(|webhook| webhook["failurePolicy"].as_str().unwrap())
            .collect();
        assert_eq!(found.len(), 1, "{group} {operation}");
        found[0]
    };
    for (group, expected) in [
        ("security.istio.io", "Fail"),
        ("palisade.dev", "Fail"),
        ("networking.istio.io", "Ignore"),
        ("gateway.networking.k8s.io", "Ignore"),
        ("telemetry.istio.io", "Ignore"),
        ("extensions.istio.io", "Ignore"),
    ] {
        assert_eq!(policy_of(group, "UPDATE"), expected, "{group}");
    }
    assert_eq!(policy_of("security.istio.io", "DELETE"), "Ignore");
    assert_eq!(policies::policies().len(), 4);
}
