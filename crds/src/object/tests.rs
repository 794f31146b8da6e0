//! Tests of reading documents into objects.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::codes::Code;
use crate::document::{self, Document};
use crate::istio::{Action, MutualTlsMode, RuleEntry};

fn parsed(text: &str) -> (Document, Parsed) {
    let mut read = document::read("f.yaml", text.as_bytes());
    assert_eq!(read.unreadable, [], "{text}");
    assert_eq!(read.documents.len(), 1, "{text}");
    let document = read.documents.remove(0);
    let parsed = parse(&document, "default");
    (document, parsed)
}

fn object(api_version: &str, kind: &str, spec: &str) -> Parsed {
    parsed(&format!("{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: x}}, spec: {spec}}}")).1
}

fn policy(spec: &str) -> Parsed {
    object("security.istio.io/v1", "AuthorizationPolicy", spec)
}

/// Codes and paths of all findings that are more than a remark.
fn findings(parsed: &Parsed) -> Vec<(Code, String)> {
    parsed
        .issues
        .iter()
        .filter(|issue| issue.code != Code::KindNotServed)
        .map(|issue| (issue.code, issue.path.to_string()))
        .collect()
}

#[test]
fn findings_name_line_and_path() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\nspec:\n  hosts:\n  - reviews\n  http:\n  - route:\n    - destination:\n        host: reviews\n        subst: v1\n      weight: much\n    timeout: 5\n";
    let (document, parsed) = parsed(text);
    let rows: Vec<(String, String, Option<u32>)> = parsed
        .issues
        .iter()
        .map(|issue| (issue.code.to_string(), issue.path.to_string(), document.line_of_issue(issue)))
        .collect();
    assert_eq!(
        rows,
        [
            ("PLS0104".to_owned(), "spec.http[0].route[0].destination.subst".to_owned(), Some(12)),
            ("PLS0103".to_owned(), "spec.http[0].route[0].weight".to_owned(), Some(13)),
            ("PLS0103".to_owned(), "spec.http[0].timeout".to_owned(), Some(14)),
        ]
    );
    assert!(parsed.issues[0].message.contains("did you mean `subset`"), "{}", parsed.issues[0].message);
    assert!(matches!(&parsed.object, Object::Broken(broken) if broken.kind.kind == "VirtualService"));
}

#[test]
fn wrong_types_spoil_no_neighbour() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: 5\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 80}]}\n";
    let read = document::read("f.yaml", text.as_bytes());
    let parsed: Vec<Parsed> = read.documents.iter().map(|document| parse(document, "default")).collect();
    assert!(parsed[0].is_rejected());
    assert!(matches!(parsed[1].object, Object::Service(_)) && parsed[1].issues.is_empty());
}

#[test]
fn documents_that_are_no_objects_are_findings() {
    for text in ["[1]", "5", "a: 1", "apiVersion: v1", "{apiVersion: 1, kind: Service}", "{apiVersion: v1, kind: ''}"] {
        assert_eq!(findings(&parsed(text).1), [(Code::NotAnObject, String::new())], "{text}");
    }
}

#[test]
fn kinds_that_are_not_served_are_named() {
    assert_eq!(findings(&object("batch/v1", "Job", "{}")), [(Code::ForeignKind, "kind".to_owned())]);
    let envoy_filter = object("networking.istio.io/v1alpha3", "EnvoyFilter", "{}");
    assert_eq!(envoy_filter.issues.iter().map(|issue| issue.code).collect::<Vec<_>>(), [Code::KindNotServed]);
    assert!(matches!(object("security.istio.io/v2", "AuthorizationPolicy", "{}").object, Object::Broken(_)));
    assert!(
        object("networking.istio.io/v7", "Gateway", "{}")
            .issues
            .iter()
            .any(|issue| issue.code == Code::VersionNotServed)
    );
    for known in KNOWN_KINDS {
        let api_version =
            if known.group.is_empty() { "v1".to_owned() } else { format!("{}/{}", known.group, known.versions[0]) };
        assert!(!matches!(object(&api_version, known.kind, "7").object, Object::PolicyTest(_)), "{}", known.kind);
    }
}

#[test]
fn fields_beside_spec_are_refused_by_istio_alone() {
    let (_, istio) = parsed(
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: x}, spec: {host: a}, specs: {}}",
    );
    assert_eq!(findings(&istio), [(Code::UnknownTopLevelField, "specs".to_owned())]);
    let (_, other) = parsed(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: x}, spec: {from: [{group: '', kind: A, namespace: b}], to: [{group: '', kind: Secret}]}, specs: {}}",
    );
    assert_eq!(findings(&other), [(Code::UnknownField, "specs".to_owned())]);
    assert!(matches!(other.object, Object::ReferenceGrant(_)));
}

#[test]
fn metadata_is_checked_and_namespaces_are_filled_in() {
    let (_, own) = parsed("{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}");
    assert_eq!((own.meta.namespace.as_str(), own.issues.len()), ("", 0));
    let (_, filled) = parsed(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z, generation: 3, uid: u}}",
    );
    assert_eq!(filled.meta.namespace, "default");
    assert_eq!(filled.meta.creation_timestamp.map(|time| time.to_string()).as_deref(), Some("2026-01-01T00:00:00Z"));
    assert_eq!((filled.meta.generation, filled.meta.uid.as_deref()), (3, Some("u")));
    let rows = [
        ("{}", "metadata.name"),
        ("{name: A_b}", "metadata.name"),
        ("{name: a, namespace: A}", "metadata.namespace"),
        ("{name: a, labels: {a b: c}}", "metadata.labels[a b]"),
        ("{name: a, labels: {a: b c}}", "metadata.labels.a"),
        ("{name: a, labels: {a: yes}}", "metadata.labels.a"),
        ("{name: a, creationTimestamp: now}", "metadata.creationTimestamp"),
        ("{name: 5}", "metadata.name"),
        ("{name: a, finalizers: b}", "metadata.finalizers"),
        ("{name: a, finalizers: [5]}", "metadata.finalizers[0]"),
        ("{name: a, ownerReferences: [b]}", "metadata.ownerReferences[0]"),
        ("{name: a, generation: b}", "metadata.generation"),
        ("{name: a, resourceVersion: 5}", "metadata.resourceVersion"),
        ("{name: a, deletionTimestamp: soon}", "metadata.deletionTimestamp"),
    ];
    for (metadata, path) in rows {
        let (_, parsed) = parsed(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {metadata}, spec: {{host: a}}}}"
        ));
        assert!(
            parsed.issues.iter().any(|issue| issue.is_error() && issue.path.to_string() == path),
            "{metadata}: {:?}",
            parsed.issues
        );
        assert!(matches!(parsed.object, Object::Broken(_)), "{metadata}");
    }
}

#[test]
fn empty_forms_of_policies_are_told_apart() {
    let rules = |spec: &str| match policy(spec).object {
        Object::AuthorizationPolicy(policy) => policy.rules.map(|rules| rules.0),
        other => panic!("{spec}: {other:?}"),
    };
    assert_eq!(rules("{}"), None);
    assert_eq!(rules("{rules: null}"), None);
    assert_eq!(rules("{rules: []}"), Some(vec![]));
    assert!(
        matches!(rules("{rules: [{}]}").as_deref(), Some([RuleEntry::Rule(rule)]) if rule.from.is_none() && rule.to.is_none())
    );
    assert!(matches!(rules("{rules: [null]}").as_deref(), Some([RuleEntry::Null])));
    assert!(matches!(rules("{rules: [{from: []}]}").as_deref(), Some([RuleEntry::Invalid(_)])));
    assert!(matches!(rules("{rules: [{from: [{source: {}}]}]}").as_deref(), Some([RuleEntry::Invalid(_)])));
    assert!(matches!(rules("{rules: [{from: [{}]}]}").as_deref(), Some([RuleEntry::Invalid(_)])));
    assert!(matches!(rules("{rules: [{to: [{operation: {}}]}]}").as_deref(), Some([RuleEntry::Invalid(_)])));
    assert!(matches!(
        rules("{rules: [{to: [{operation: {method: [GET]}}]}]}").as_deref(),
        Some([RuleEntry::Invalid(_)])
    ));
}

#[test]
fn one_bad_rule_leaves_the_others() {
    let parsed = policy(
        "{rules: [{to: [{operation: {ports: ['80']}}]}, {when: [{key: source.nope, values: [a]}]}, 5, {to: [{operation: {paths: [/a]}}]}]}",
    );
    assert!(parsed.is_rejected());
    let Object::AuthorizationPolicy(policy) = parsed.object else { panic!("{:?}", parsed.object) };
    let kinds: Vec<bool> = policy.rules().map(|(_, entry)| matches!(entry, RuleEntry::Rule(_))).collect();
    assert_eq!(kinds, [true, false, false, true]);
}

#[test]
fn broken_policies_say_what_they_select() {
    let broken = |parsed: Parsed| match parsed.object {
        Object::Broken(broken) => *broken,
        other => panic!("{other:?}"),
    };
    let unknown_action = broken(policy("{action: REFUSE, selector: {matchLabels: {app: a}}}"));
    assert_eq!(unknown_action.action, None);
    assert!(
        matches!(&unknown_action.target, BrokenTarget::Readable { selector: Some(selector), .. } if selector.match_labels.contains_key("app"))
    );
    let rules_no_list = broken(policy("{action: DENY, rules: 5}"));
    assert_eq!(rules_no_list.action, Some(Action::Deny));
    assert_eq!(rules_no_list.target, BrokenTarget::Readable { selector: None, target_refs: vec![] });
    assert_eq!(broken(policy("7")).target, BrokenTarget::Unreadable);
    assert_eq!(broken(policy("{selector: {matchLabels: 5}}")).target, BrokenTarget::Unreadable);
    assert_eq!(broken(policy("{selector: {matchLabels: {app: 'a*'}}}")).target, BrokenTarget::Unreadable);
    assert_eq!(broken(policy("{selector: {matchLabel: {app: a}}, action: NO}")).target, BrokenTarget::Unreadable);
    let both = broken(policy("{selector: {matchLabels: {app: a}}, targetRefs: [{kind: Service, name: b}]}"));
    assert!(
        matches!(&both.target, BrokenTarget::Readable { selector: Some(_), target_refs } if target_refs.len() == 1)
    );
    let peer = broken(object(
        "security.istio.io/v1",
        "PeerAuthentication",
        "{selector: {matchLabels: {app: a}}, mtls: {mode: MAYBE}}",
    ));
    assert!(matches!(&peer.target, BrokenTarget::Readable { selector: Some(_), .. }));
}

#[test]
fn peer_authentication_ports() {
    let read = |spec: &str| object("security.istio.io/v1", "PeerAuthentication", spec);
    let Object::PeerAuthentication(policy) =
        read("{selector: {matchLabels: {app: a}}, mtls: {}, portLevelMtls: {8080: {mode: DISABLE}}}").object
    else {
        panic!()
    };
    assert_eq!(policy.mtls.map(|mtls| mtls.mode), Some(MutualTlsMode::Unset));
    assert_eq!(
        policy.port_level_mtls.and_then(|ports| ports.0.get(&8080).map(|mtls| mtls.mode)),
        Some(MutualTlsMode::Disable)
    );
    for spec in [
        "{portLevelMtls: {80: {}}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {}}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {x: {}}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {70000: {}}}",
    ] {
        assert!(matches!(read(spec).object, Object::Broken(_)), "{spec}");
    }
}

#[test]
fn defaults_of_the_gateway_api_are_filled_in() {
    let route = object(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        "{rules: [{backendRefs: [{name: a, port: 80}]}, {matches: [{method: GET}]}]}",
    );
    assert_eq!(findings(&route), []);
    let Object::HttpRoute(route) = route.object else { panic!() };
    assert_eq!(route.rules[0].matches[0].path.value, "/");
    assert_eq!(route.rules[1].matches[0].path.value, "/");
    assert_eq!((route.rules[0].backend_refs[0].weight, route.rules[0].backend_refs[0].kind.as_str()), (1, "Service"));
    let Object::HttpRoute(bare) = object("gateway.networking.k8s.io/v1", "HTTPRoute", "{}").object else { panic!() };
    assert_eq!(bare.rules.len(), 1);
    let Object::Gateway(gateway) = object(
        "gateway.networking.k8s.io/v1",
        "Gateway",
        "{gatewayClassName: a, listeners: [{name: h, port: 80, protocol: HTTP}]}",
    )
    .object
    else {
        panic!()
    };
    assert_eq!(gateway.listeners[0].allowed_routes.namespaces.from.as_str(), "Same");
}

#[test]
fn defaults_of_kubernetes_are_filled_in() {
    let Object::Service(service) = object("v1", "Service", "{ports: [{port: 80}]}").object else { panic!() };
    let port = &service.spec.unwrap().ports.unwrap()[0];
    assert_eq!(serde_json::to_value(port).unwrap(), json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    let (_, secret) =
        parsed("{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {k: aGk=}, stringData: {l: plain}}");
    let Object::Secret(secret) = secret.object else { panic!() };
    assert_eq!(
        (secret.data["k"].as_slice(), secret.data["l"].as_slice(), secret.secret_type.as_str()),
        (&b"hi"[..], &b"plain"[..], "Opaque")
    );
    assert!(!format!("{secret:?}").contains("plain"));
}

#[test]
fn kubernetes_findings_have_paths() {
    let rows = [
        ("{ports: [{port: x}]}", Code::WrongType, "spec.ports[0].port"),
        ("{ports: [{port: 80, prot: TCP}]}", Code::UnknownField, "spec.ports[0].prot"),
        ("{ports: [{port: 80}, {port: 81, name: a}]}", Code::KubernetesRule, "spec.ports[0].name"),
        ("{ports: [{port: 0}]}", Code::KubernetesRule, "spec.ports[0].port"),
        ("{}", Code::KubernetesRule, "spec.ports"),
    ];
    for (spec, code, path) in rows {
        assert_eq!(findings(&object("v1", "Service", spec)), [(code, path.to_owned())], "{spec}");
    }
}

#[test]
fn rules_of_the_gateway_api() {
    let route = |rule: &str| format!("{{rules: [{rule}]}}");
    let rows = [
        (route("{backendRefs: [{name: a}]}"), "spec.rules[0].backendRefs[0].port"),
        (route("{filters: [{type: RequestRedirect}]}"), "spec.rules[0].filters[0].requestRedirect"),
        (
            route("{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}]}"),
            "spec.rules[0].filters",
        ),
        (
            route("{filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]}"),
            "spec.rules[0].filters",
        ),
        (route("{matches: [{path: {value: a}}]}"), "spec.rules[0].matches[0].path.value"),
        (route("{matches: [{path: {value: //a}}]}"), "spec.rules[0].matches[0].path.value"),
        (route("{matches: [{path: {type: Exakt, value: /a}}]}"), "spec.rules[0].matches[0].path.type"),
        (route("{timeouts: {request: 1s, backendRequest: 2s}}"), "spec.rules[0].timeouts.backendRequest"),
        (route("{timeouts: {request: 1.5s}}"), "spec.rules[0].timeouts.request"),
        (
            route(
                "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}}}], matches: [{path: {type: Exact, value: /b}}]}",
            ),
            "spec.rules[0].filters",
        ),
        (route("{backendRefs: [{name: a, port: 80, weight: -1}]}"), "spec.rules[0].backendRefs[0].weight"),
        ("{hostnames: [A.com]}".to_owned(), "spec.hostnames[0]"),
        ("{parentRefs: [{name: a}, {name: a}]}".to_owned(), "spec.parentRefs[1]"),
        ("{rules: []}".to_owned(), "spec.rules"),
        ("{rules: [{name: a}, {name: a}]}".to_owned(), "spec.rules[1].name"),
    ];
    for (spec, path) in rows {
        let parsed = object("gateway.networking.k8s.io/v1", "HTTPRoute", &spec);
        assert!(
            parsed.issues.iter().any(|issue| issue.is_error() && issue.path.to_string() == path),
            "{spec}: {:?}",
            parsed.issues
        );
    }
    let listeners = [
        ("{name: a, port: 80, protocol: HTTP, tls: {certificateRefs: [{name: c}]}}", "spec.listeners[0].tls"),
        ("{name: a, port: 443, protocol: HTTPS, tls: {}}", "spec.listeners[0].tls.certificateRefs"),
        ("{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}", "spec.listeners[0].tls"),
        ("{name: a, port: 443, protocol: TLS}", "spec.listeners[0].tls"),
        ("{name: a, port: 443, protocol: TCP, hostname: a.b}", "spec.listeners[0].hostname"),
        ("{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}", "spec.listeners[1]"),
        ("{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}", "spec.listeners[1]"),
        ("{name: a, port: 0, protocol: HTTP}", "spec.listeners[0].port"),
        ("", "spec.listeners"),
    ];
    for (listeners, path) in listeners {
        let parsed = object(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            &format!("{{gatewayClassName: a, listeners: [{listeners}]}}"),
        );
        assert!(
            parsed.issues.iter().any(|issue| issue.is_error() && issue.path.to_string() == path),
            "{listeners}: {:?}",
            parsed.issues
        );
    }
}

#[test]
fn policy_tests_and_cedar_policies_are_read() {
    let test = object(
        "palisade.dev/v1alpha1",
        "PolicyTest",
        "{defaults: {proxy: {kind: sidecar}}, cases: [{name: a, direction: inbound, expect: {outcome: respond, status: 403}}]}",
    );
    assert_eq!(findings(&test), []);
    let Object::PolicyTest(test) = test.object else { panic!() };
    assert_eq!(test.cases[0].case.0.keys().collect::<Vec<_>>(), ["direction"]);
    let cedar = object("palisade.dev/v1alpha1", "CedarPolicy", "{policies: 'permit(principal, action, resource);'}");
    assert!(matches!(cedar.object, Object::CedarPolicy(_)));
    let Object::Broken(broken) =
        object("palisade.dev/v1alpha1", "CedarPolicy", "{selector: {matchLabels: {a: b}}}").object
    else {
        panic!()
    };
    assert!(matches!(broken.target, BrokenTarget::Readable { selector: Some(_), .. }));
}

/// Values that documents may hold where another is expected.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        "[ -~é]{0,12}".prop_map(|value| json!(value)),
    ];
    let keys = "hosts|http|match|route|destination|host|rules|from|source|to|operation|when|key|values|selector|matchLabels|spec|servers|port|tls|listeners|name|metadata";
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::btree_map(keys, inner, 0..4).prop_map(|fields| json!(fields))
        ]
    })
}

proptest! {
    #[test]
    fn any_content_is_read_or_refused(kind in 0..KNOWN_KINDS.len(), metadata in any_value(), spec in any_value()) {
        let known = &KNOWN_KINDS[kind];
        let api_version = if known.group.is_empty() { "v1".to_owned() } else { format!("{}/{}", known.group, known.versions[0]) };
        let value = json!({"apiVersion": api_version, "kind": known.kind, "metadata": metadata, "spec": spec});
        let parsed = parse(&Document::from_value(value), "default");
        let may_be_typed = !parsed.is_rejected() || known.kind == "AuthorizationPolicy";
        let is_unusable = matches!(parsed.object, Object::Broken(_) | Object::Unknown { .. });
        prop_assert!(may_be_typed || is_unusable);
    }
}
