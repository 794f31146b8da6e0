//! Conditions as the Gateway API's conformance tests and Istio's users expect them.

use serde_json::Value;

use crate::support;

mod edges;

const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: palisade}
spec: {controllerName: palisade.dev/gateway-controller}
";

/// Statuses of documents, each with its class beside it.
fn statuses(documents: &str) -> Value {
    let all = support::documents("in.yaml", &format!("{CLASS}---{documents}"));
    serde_json::from_str(&support::statuses(&support::compile_all(all))).unwrap()
}

fn gateway(listeners: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: a}}
spec: {{gatewayClassName: palisade, listeners: [{listeners}]}}
---"
    )
}

fn route(parent: &str, rest: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: a}}
spec: {{parentRefs: [{parent}], {rest}}}
---"
    )
}

/// `STATUS REASON` of a condition in a list.
fn condition(list: &Value, kind: &str) -> String {
    let found = list["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    found.map_or_else(
        || "none".to_owned(),
        |c| format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()),
    )
}

fn listener<'a>(statuses: &'a Value, name: &str) -> &'a Value {
    let listeners = statuses["Gateway a/edge"]["listeners"].as_array().unwrap();
    listeners.iter().find(|listener| listener["name"] == name).unwrap()
}

fn kinds(listener: &Value) -> Vec<&str> {
    listener["supportedKinds"].as_array().unwrap().iter().map(|kind| kind["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_listener_that_can_be_served_is_programmed() {
    let told = statuses(&gateway("{name: http, port: 80, protocol: HTTP}"));
    let http = listener(&told, "http");
    assert_eq!(condition(http, "Accepted"), "True Accepted");
    assert_eq!(condition(http, "Conflicted"), "False NoConflicts");
    assert_eq!(condition(http, "ResolvedRefs"), "True ResolvedRefs");
    assert_eq!(condition(http, "Programmed"), "True Programmed");
    assert_eq!(kinds(http), ["HTTPRoute", "GRPCRoute"]);
    let edge = &told["Gateway a/edge"];
    assert_eq!(condition(edge, "Accepted"), "True Accepted");
    assert_eq!(condition(edge, "Programmed"), "True Programmed");
    assert_eq!(edge["addresses"].as_array().unwrap().len(), 1, "{edge}");
}

#[test]
fn an_unsupported_protocol_takes_down_its_listener_alone() {
    let one = gateway("{name: http, port: 80, protocol: HTTP}, {name: odd, port: 81, protocol: example.com/odd}");
    let told = statuses(&one);
    assert_eq!(condition(&told["Gateway a/edge"], "Accepted"), "True ListenersNotValid");
    assert_eq!(condition(listener(&told, "http"), "Accepted"), "True Accepted");
    let odd = listener(&told, "odd");
    assert_eq!(condition(odd, "Accepted"), "False UnsupportedProtocol");
    assert_eq!(condition(odd, "Programmed"), "False Invalid");
    assert!(kinds(odd).is_empty());
    let told = statuses(&gateway("{name: odd, port: 81, protocol: example.com/odd}"));
    assert_eq!(condition(&told["Gateway a/edge"], "Accepted"), "False ListenersNotValid");
    assert_eq!(condition(&told["Gateway a/edge"], "Programmed"), "False Invalid");
    assert_eq!(condition(listener(&told, "odd"), "Accepted"), "False UnsupportedProtocol");
}

#[test]
fn kinds_of_routes_that_are_not_known_are_left_out() {
    let told = statuses(&gateway(
        "{name: wrong, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: Odd}]}},
         {name: mixed, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: Odd}]}},
         {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: TLSRoute}, {kind: TCPRoute}]}}",
    ));
    for (name, expected) in [("wrong", vec![]), ("mixed", vec!["HTTPRoute"]), ("tls", vec!["TLSRoute"])] {
        assert_eq!(condition(listener(&told, name), "ResolvedRefs"), "False InvalidRouteKinds", "{name}");
        assert_eq!(kinds(listener(&told, name)), expected);
    }
    assert_eq!(condition(&told["Gateway a/edge"], "ResolvedRefs"), "False ListenersNotResolved");
}

#[test]
fn certificates_must_be_there_readable_and_permitted() {
    let tls = |reference: &str| {
        gateway(&format!("{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{reference}]}}}}"))
    };
    let secret = "
apiVersion: v1
kind: Secret
metadata: {name: bad, namespace: a}
type: kubernetes.io/tls
stringData: {tls.crt: Hello world, tls.key: Hello world}
";
    let cases = [
        ("{name: none}", "False InvalidCertificateRef"),
        ("{name: bad}", "False InvalidCertificateRef"),
        ("{group: example.com, kind: Secret, name: bad}", "False InvalidCertificateRef"),
        ("{kind: ConfigMap, name: bad}", "False InvalidCertificateRef"),
        ("{name: other, namespace: b}", "False RefNotPermitted"),
    ];
    for (reference, expected) in cases {
        let told = statuses(&format!("{}{secret}", tls(reference)));
        let https = listener(&told, "https");
        assert_eq!(condition(https, "ResolvedRefs"), expected, "{reference}");
        assert_eq!(condition(https, "Programmed"), "False Invalid", "{reference}");
        assert_eq!(condition(https, "Accepted"), "True Accepted", "{reference}");
    }
}

#[test]
fn roots_of_clients_must_be_there_known_and_permitted() {
    let cases = [
        ("{kind: ConfigMap, group: \"\", name: none}", "False InvalidCACertificateRef"),
        ("{kind: Service, group: \"\", name: none}", "False InvalidCACertificateKind"),
        ("{kind: ConfigMap, group: \"\", name: none, namespace: b}", "False RefNotPermitted"),
    ];
    for (reference, expected) in cases {
        let told = statuses(&format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: a}}
spec:
  gatewayClassName: palisade
  tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{reference}]}}}}}}}}
  listeners:
  - {{name: https, port: 443, protocol: HTTPS, tls: {{options: {{gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL}}}}}}
  - {{name: http, port: 80, protocol: HTTP}}
"
        ));
        let https = listener(&told, "https");
        assert_eq!(condition(https, "ResolvedRefs"), expected, "{reference}");
        assert_eq!(condition(https, "Accepted"), "False NoValidCACertificate", "{reference}");
        assert_eq!(condition(https, "Programmed"), "False Invalid", "{reference}");
        assert_eq!(condition(listener(&told, "http"), "Programmed"), "True Programmed", "{reference}");
    }
}

#[test]
fn listeners_in_each_others_way_are_conflicted() {
    let told = statuses(&gateway(
        "{name: a, port: 80, protocol: HTTPS, hostname: x.com, tls: {certificateRefs: [{name: c}]}},
         {name: b, port: 80, protocol: TLS, hostname: x.com, tls: {mode: Passthrough}},
         {name: c, port: 81, protocol: HTTP}, {name: d, port: 81, protocol: TCP}, {name: e, port: 82, protocol: HTTP}",
    ));
    for (name, reason) in
        [("a", "HostnameConflict"), ("b", "HostnameConflict"), ("c", "ProtocolConflict"), ("d", "ProtocolConflict")]
    {
        assert_eq!(condition(listener(&told, name), "Conflicted"), format!("True {reason}"));
        assert_eq!(condition(listener(&told, name), "Accepted"), format!("False {reason}"));
    }
    assert_eq!(condition(listener(&told, "e"), "Conflicted"), "False NoConflicts");
}

#[test]
fn listeners_whose_hosts_overlap_under_tls_say_so() {
    let tls = |name: &str, host: &str| {
        format!(
            "{{name: {name}, port: 443, protocol: HTTPS, hostname: \"{host}\", tls: {{certificateRefs: [{{name: c}}]}}}}"
        )
    };
    let listeners = [tls("a", "foo.example.com"), tls("b", "foo.example.org"), tls("c", "*.example.com")];
    let told = statuses(&gateway(&listeners.join(", ")));
    assert_eq!(condition(listener(&told, "a"), "OverlappingTLSConfig"), "True OverlappingHostnames");
    assert_eq!(condition(listener(&told, "b"), "OverlappingTLSConfig"), "none");
    assert_eq!(condition(listener(&told, "c"), "OverlappingTLSConfig"), "True OverlappingHostnames");
}

#[test]
fn a_route_says_why_no_listener_takes_it() {
    let edge = gateway(
        "{name: one, port: 80, protocol: HTTP, hostname: \"*.example.com\"},
         {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}},
         {name: grpc, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}",
    );
    let cases = [
        ("{name: edge}", "hostnames: [web.example.com]", "True Accepted"),
        ("{name: edge, sectionName: none}", "hostnames: [web.example.com]", "False NoMatchingParent"),
        ("{name: edge, port: 8080}", "hostnames: [web.example.com]", "False NoMatchingParent"),
        ("{name: edge, sectionName: one, port: 443}", "hostnames: [web.example.com]", "False NoMatchingParent"),
        ("{name: edge}", "hostnames: [other.org]", "False NoMatchingListenerHostname"),
        ("{name: edge, sectionName: tls}", "hostnames: [web.example.com]", "False NotAllowedByListeners"),
        ("{name: edge, sectionName: grpc}", "hostnames: [web.example.com]", "False NotAllowedByListeners"),
    ];
    for (parent, hosts, expected) in cases {
        let told = statuses(&format!("{edge}{}", route(parent, hosts)));
        let entry = &told["HTTPRoute a/r"]["parents"][0];
        assert_eq!(condition(entry, "Accepted"), expected, "{parent} {hosts}");
        assert_eq!(entry["controllerName"], "palisade.dev/gateway-controller");
        let enforced = if expected.starts_with("True") { "True Enforced" } else { "none" };
        assert_eq!(condition(entry, "palisade.dev/Enforced"), enforced);
        let attached = u64::from(expected.starts_with("True"));
        assert_eq!(listener(&told, "one")["attachedRoutes"], attached, "{parent} {hosts}");
    }
}

#[test]
fn routes_of_other_namespaces_attach_where_they_may() {
    let foreign = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: b}
spec: {parentRefs: [{name: edge, namespace: a}]}
";
    for (from, expected) in [("Same", "False NotAllowedByListeners"), ("All", "True Accepted")] {
        let edge = gateway(&format!(
            "{{name: http, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {{from: {from}}}}}}}"
        ));
        let told = statuses(&format!("{edge}{foreign}"));
        let entry = &told["HTTPRoute b/r"]["parents"][0];
        assert_eq!(condition(entry, "Accepted"), expected);
        assert_eq!(entry["parentRef"]["namespace"], "a");
    }
}

#[test]
fn of_a_gateway_that_is_missing_or_anothers_nothing_is_said() {
    let other = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: a}
spec: {gatewayClassName: other, listeners: [{name: http, port: 80, protocol: HTTP}]}
---";
    for parent in ["{name: none}", "{name: other}"] {
        let told = statuses(&format!("{other}{}", route(parent, "hostnames: [x.com]")));
        assert_eq!(told["HTTPRoute a/r"]["parents"].as_array().unwrap().len(), 0, "{parent}");
        assert!(told.get("Gateway a/other").is_none());
    }
}

#[test]
fn backends_must_be_there_known_and_permitted() {
    let edge = gateway("{name: http, port: 80, protocol: HTTP}");
    let services = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: b}
spec: {ports: [{port: 80}]}
---";
    let cases = [
        ("backendRefs: [{name: web, port: 80}]", "True ResolvedRefs"),
        ("backendRefs: [{name: web, port: 80, weight: 0}, {name: none, port: 80}]", "False BackendNotFound"),
        ("backendRefs: [{group: odd.io, kind: Odd, name: web, port: 80}]", "False InvalidKind"),
        ("backendRefs: [{name: web, namespace: b, port: 80}]", "False RefNotPermitted"),
        ("filters: [{type: ExtensionRef, extensionRef: {group: odd.io, kind: Odd, name: x}}]", "False InvalidKind"),
    ];
    for (rule, expected) in cases {
        let told = statuses(&format!("{edge}{services}{}", route("{name: edge}", &format!("rules: [{{{rule}}}]"))));
        let entry = &told["HTTPRoute a/r"]["parents"][0];
        assert_eq!(condition(entry, "ResolvedRefs"), expected, "{rule}");
        assert_eq!(condition(entry, "Accepted"), "True Accepted", "{rule}");
    }
}

#[test]
fn addresses_that_cannot_be_had_are_told() {
    let edge = |addresses: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: a}}
spec: {{gatewayClassName: palisade, addresses: [{addresses}], listeners: [{{name: http, port: 80, protocol: HTTP}}]}}
"
        )
    };
    let told = statuses(&edge("{type: odd.io/Address, value: x}"));
    assert_eq!(condition(&told["Gateway a/edge"], "Accepted"), "False UnsupportedAddress");
    let told = statuses(&edge("{type: IPAddress, value: 203.0.113.1}"));
    assert_eq!(condition(&told["Gateway a/edge"], "Accepted"), "True Accepted");
    assert_eq!(condition(&told["Gateway a/edge"], "Programmed"), "False AddressNotUsable");
    let told = statuses(&edge("{type: IPAddress}"));
    assert_eq!(condition(&told["Gateway a/edge"], "Programmed"), "True Programmed");
}

#[test]
fn a_class_with_parameters_is_not_accepted() {
    let told = statuses(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: tuned}
spec: {controllerName: palisade.dev/gateway-controller, parametersRef: {group: \"\", kind: ConfigMap, name: x, namespace: b}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
",
    );
    assert_eq!(condition(&told["GatewayClass palisade"], "Accepted"), "True Accepted");
    assert_eq!(condition(&told["GatewayClass palisade"], "SupportedVersion"), "True SupportedVersion");
    assert_eq!(condition(&told["GatewayClass tuned"], "Accepted"), "False InvalidParameters");
    assert!(told.get("GatewayClass other").is_none());
}

#[test]
fn policies_of_backend_tls_speak_about_each_gateway() {
    let base = format!(
        "{}{}
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: a}}
spec: {{ports: [{{port: 80}}]}}
---",
        gateway("{name: http, port: 80, protocol: HTTP}"),
        route("{name: edge}", "rules: [{backendRefs: [{name: web, port: 80}]}]"),
    );
    let policy = |name: &str, target: &str, validation: &str, second: u32| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}, namespace: a, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}
spec: {{targetRefs: [{{group: \"\", kind: Service, name: {target}}}], validation: {{hostname: x.com, {validation}}}}}
---"
        )
    };
    let system = "wellKnownCACertificates: System";
    let reference = |kind: &str| format!("caCertificateRefs: [{{group: \"\", kind: {kind}, name: none}}]");
    let told = statuses(&format!("{base}{}{}", policy("one", "web", system, 1), policy("two", "web", system, 2)));
    let entry = &told["BackendTLSPolicy a/one"]["ancestors"][0];
    assert_eq!(entry["ancestorRef"]["kind"], "Gateway");
    assert_eq!(condition(entry, "Accepted"), "True Accepted");
    assert_eq!(condition(entry, "ResolvedRefs"), "True ResolvedRefs");
    assert_eq!(condition(&told["BackendTLSPolicy a/two"]["ancestors"][0], "Accepted"), "False Conflicted");
    for (kind, expected) in [("ConfigMap", "False InvalidCACertificateRef"), ("Service", "False InvalidKind")] {
        let told = statuses(&format!("{base}{}", policy("one", "web", &reference(kind), 1)));
        let entry = &told["BackendTLSPolicy a/one"]["ancestors"][0];
        assert_eq!(condition(entry, "ResolvedRefs"), expected);
        assert_eq!(condition(entry, "Accepted"), "False NoValidCACertificate");
    }
    let told = statuses(&format!("{base}{}", policy("one", "none", system, 1)));
    let entry = &told["BackendTLSPolicy a/one"]["ancestors"][0];
    assert_eq!(
        (condition(entry, "Accepted").as_str(), &entry["ancestorRef"]["kind"]),
        ("False TargetNotFound", &"Service".into())
    );
}

#[test]
fn policies_say_whether_they_are_valid_enforced_or_only_tried() {
    let told = statuses(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: a, generation: 7}
spec: {rules: [{from: [{source: {namespaces: [a]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: bad, namespace: a}
spec: {action: DENY, rules: [{when: [{key: odd}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, namespace: a, annotations: {istio.io/dry-run: \"true\"}}
spec: {rules: [{}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s, namespace: a}
spec: {egress: [{hosts: [\"./*\"]}]}
---
apiVersion: palisade.dev/v1alpha1
kind: CedarPolicy
metadata: {name: cedar, namespace: a}
spec: {policies: \"permit (principal, action, resource\"}
",
    );
    let good = &told["AuthorizationPolicy a/good"];
    assert_eq!(
        (condition(good, "Accepted"), condition(good, "Enforced")),
        ("True Accepted".into(), "True Enforced".into())
    );
    assert_eq!(good["observedGeneration"], 7);
    assert_eq!(good["conditions"][1]["message"], "Enforced 2/2");
    assert!(good.get("validationMessages").is_none());
    let bad = &told["AuthorizationPolicy a/bad"];
    assert_eq!(condition(bad, "Accepted"), "False Invalid");
    assert_eq!(bad["validationMessages"][0]["level"], "ERROR");
    let tried = &told["AuthorizationPolicy a/tried"];
    assert_eq!(condition(tried, "Enforced"), "False DryRun");
    assert_eq!(tried["conditions"][1]["message"], "dry run, changes no answer: evaluated 2/2");
    assert_eq!(condition(&told["Sidecar a/s"], "Enforced"), "none");
    assert_eq!(condition(&told["CedarPolicy a/cedar"], "Accepted"), "False Invalid");
}
