//! ListenerSets as the Gateway API's conformance tests expect them: who may attach, which listener wins, whose routes and secrets count.

use std::fmt::Write;

use palisade_compile::{ProxyRef, Wanted, infrastructure};
use palisade_model::resource::ResourceKind;
use serde_json::Value;

use crate::support::{self, compile_text, names, service, snapshot};

fn document(kind: &str, namespace: &str, name: &str, created: u8, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: \"2026-01-{created:02}T00:00:00Z\"}}\n\
         spec: {spec}\n---\n"
    )
}

fn gateway(allowed: &str) -> String {
    let spec = format!(
        "{{gatewayClassName: palisade, allowedListeners: {{namespaces: {allowed}}}, listeners: [\
         {{name: own, port: 80, protocol: HTTP, hostname: own.example, allowedRoutes: {{namespaces: {{from: All}}}}}}]}}"
    );
    document("Gateway", "infra", "edge", 1, &spec)
}

fn set(namespace: &str, name: &str, created: u8, listeners: &str) -> String {
    let spec = format!("{{parentRef: {{name: edge, namespace: infra}}, listeners: [{listeners}]}}");
    document("ListenerSet", namespace, name, created, &spec)
}

fn http(name: &str, host: &str) -> String {
    format!("{{name: {name}, port: 80, protocol: HTTP, hostname: {host}}}")
}

fn statuses(text: &str) -> Value {
    serde_json::from_str(&support::statuses(&compile_text(text))).unwrap()
}

/// `STATUS REASON` of a condition.
fn told(object: &Value, kind: &str) -> String {
    let found = object["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    found.map_or_else(
        || format!("no {kind}: {object}"),
        |own| format!("{} {}", own["status"].as_str().unwrap(), own["reason"].as_str().unwrap()),
    )
}

fn listener<'a>(object: &'a Value, name: &str) -> &'a Value {
    object["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] == name).unwrap()
}

#[test]
fn a_gateway_says_whose_sets_it_lets() {
    let labelled = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {edge: \"yes\"}}\n---\n";
    for (allowed, namespace, is_allowed) in [
        ("{}", "infra", false),
        ("{from: None}", "infra", false),
        ("{from: Same}", "infra", true),
        ("{from: Same}", "team", false),
        ("{from: All}", "team", true),
        ("{from: Selector, selector: {matchLabels: {edge: \"yes\"}}}", "team", true),
        ("{from: Selector, selector: {matchLabels: {edge: \"yes\"}}}", "other", false),
        ("{from: Selector}", "team", false),
    ] {
        let text = labelled.to_owned() + &gateway(allowed) + &set(namespace, "more", 2, &http("a", "a.example"));
        let all = statuses(&text);
        let own = &all[format!("ListenerSet {namespace}/more")];
        let expected = if is_allowed { "True Accepted" } else { "False NotAllowed" };
        assert_eq!(told(own, "Accepted"), expected, "{allowed} {namespace}");
        let expected = if is_allowed { "True Programmed" } else { "False NotAllowed" };
        assert_eq!(told(own, "Programmed"), expected, "{allowed} {namespace}");
        assert_eq!(all["Gateway infra/edge"]["attachedListenerSets"], u64::from(is_allowed));
        assert_eq!(all["Gateway infra/edge"]["listeners"].as_array().unwrap().len(), 1, "its own alone");
    }
}

#[test]
fn the_gateways_own_listeners_win_then_older_sets() {
    let tcp = "{name: tcp, port: 80, protocol: TCP}";
    let text = gateway("{from: All}")
        + &set(
            "team",
            "old",
            2,
            &[http("fine", "old.example"), http("taken", "own.example"), http("first", "both.example")].join(", "),
        )
        + &set("team", "new", 3, &[http("fine", "new.example"), http("second", "both.example")].join(", "))
        + &set("team", "none", 4, &http("second", "both.example"))
        + &set("team", "odd", 5, tcp);
    let all = statuses(&text);
    let (old, new) = (&all["ListenerSet team/old"], &all["ListenerSet team/new"]);
    assert_eq!(told(listener(&all["Gateway infra/edge"], "own"), "Accepted"), "True Accepted");
    for (set, name) in [(old, "fine"), (old, "first"), (new, "fine")] {
        assert_eq!(told(listener(set, name), "Conflicted"), "False NoConflicts", "{name}");
        assert_eq!(told(listener(set, name), "Programmed"), "True Programmed", "{name}");
    }
    for (set, name) in [(old, "taken"), (new, "second")] {
        let own = listener(set, name);
        assert_eq!(told(own, "Accepted"), "False HostnameConflict", "{name}");
        assert_eq!(told(own, "Programmed"), "False HostnameConflict", "{name}");
        assert_eq!(told(own, "Conflicted"), "True HostnameConflict", "{name}");
    }
    assert!(told(old, "Accepted").starts_with("True") && told(new, "Accepted").starts_with("True"));
    for name in ["none", "odd"] {
        let own = &all[format!("ListenerSet team/{name}")];
        assert_eq!(told(own, "Accepted"), "False ListenersNotValid");
        assert_eq!(told(own, "Programmed"), "False ListenersNotValid");
    }
    assert_eq!(told(listener(&all["ListenerSet team/odd"], "tcp"), "Conflicted"), "True ProtocolConflict");
    assert_eq!(all["Gateway infra/edge"]["attachedListenerSets"], 2);
}

fn route(name: &str, parent: &str, host: &str) -> String {
    let spec =
        format!("{{parentRefs: [{parent}], hostnames: [{host}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}");
    document("HTTPRoute", "team", name, 6, &spec)
}

#[test]
fn routes_attach_to_a_set_by_its_name_and_to_its_namespaces_rules() {
    let web = service("web", "team", support::HTTP);
    let text = gateway("{from: All}")
        + &set("team", "more", 2, &http("a", "a.example"))
        + &web
        + &route("through-set", "{kind: ListenerSet, name: more, sectionName: a}", "a.example")
        + &route("through-gateway", "{name: edge, namespace: infra, sectionName: a}", "a.example")
        + &route("own", "{name: edge, namespace: infra}", "own.example")
        + &route("nowhere", "{kind: ListenerSet, name: gone}", "a.example");
    let all = statuses(&text);
    let accepted = |name: &str| told(&all[format!("HTTPRoute team/{name}")]["parents"][0], "Accepted");
    assert_eq!(accepted("through-set"), "True Accepted");
    assert_eq!(accepted("through-gateway"), "False NoMatchingParent");
    assert_eq!(accepted("own"), "True Accepted");
    assert_eq!(listener(&all["ListenerSet team/more"], "a")["attachedRoutes"], 1);
    assert_eq!(listener(&all["Gateway infra/edge"], "own")["attachedRoutes"], 1);
    let held = snapshot(&compile_text(&text), &ProxyRef::gateway("infra", "edge-palisade"), &[]);
    let hosts = names(&held, ResourceKind::VirtualHost);
    assert_eq!(hosts, ["gateway:infra/edge:own own.example", "gateway:infra/edge:team/more:a a.example"]);
    // Without leave the set's routes are served nowhere.
    let text = text.replace("{from: All}}, listeners", "{from: None}}, listeners");
    let all = statuses(&text);
    assert_eq!(told(&all["HTTPRoute team/through-set"]["parents"][0], "Accepted"), "False NotAllowedByListeners");
    let held = snapshot(&compile_text(&text), &ProxyRef::gateway("infra", "edge-palisade"), &[]);
    assert_eq!(names(&held, ResourceKind::VirtualHost), ["gateway:infra/edge:own own.example"]);
}

#[test]
fn secrets_of_a_set_are_those_of_its_own_namespace_or_granted_to_it() {
    let listener = |namespace: &str| {
        format!(
            "{{name: s, port: 443, protocol: HTTPS, hostname: s.example, \
             tls: {{certificateRefs: [{{name: tls, namespace: {namespace}}}]}}}}"
        )
    };
    let mut secrets = String::new();
    for namespace in ["infra", "team"] {
        write!(
            secrets,
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: tls, namespace: {namespace}}}\n\
             stringData: {{tls.crt: c, tls.key: k}}\n---\n"
        )
        .unwrap();
    }
    let grant = |kind: &str| {
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: infra}\n\
         spec: {from: [{group: gateway.networking.k8s.io, kind: KIND, namespace: team}], to: [{group: '', kind: Secret}]}\n---\n"
            .replace("KIND", kind)
    };
    let held = |text: &str| {
        let held = snapshot(&compile_text(text), &ProxyRef::gateway("infra", "edge-palisade"), &[]);
        names(&held, ResourceKind::Secret)
    };
    let base = gateway("{from: All}") + &secrets;
    assert_eq!(held(&(base.clone() + &set("team", "more", 2, &listener("team")))), ["secret/team/tls"]);
    // The Gateway's own secret is not the set's.
    let stealing = base + &set("team", "more", 2, &listener("infra"));
    assert!(held(&stealing).is_empty());
    let refused = statuses(&stealing);
    assert_eq!(told(&refused["ListenerSet team/more"]["listeners"][0], "ResolvedRefs"), "False RefNotPermitted");
    assert_eq!(told(&refused["ListenerSet team/more"], "Accepted"), "False ListenersNotValid");
    assert!(held(&(stealing.clone() + &grant("Gateway"))).is_empty(), "the grant is another kind's");
    assert_eq!(held(&(stealing + &grant("ListenerSet"))), ["secret/infra/tls"]);
}

#[test]
fn a_sets_ports_are_the_gateways_service() {
    let text = gateway("{from: All}")
        + &set("team", "more", 2, "{name: alt, port: 8443, protocol: TLS, tls: {mode: Passthrough}}");
    let compiled = compile_text(&text);
    let wanted = infrastructure(&compiled.mesh).pop_first().unwrap().1;
    let Wanted::Objects(wanted) = wanted else { panic!("{wanted:?}") };
    let ports: Vec<u16> = wanted.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 8443]);
}
