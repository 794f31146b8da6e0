//! Documents that refer to each other in a circle: compiling ends, and everything else is as without them.

use palisade_model::resource::ResourceKind;

use crate::support::{HTTP, client, istio, names, of, pod, rules_at, service};

/// A name of another service.
fn alias(name: &str, of: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: a}}
spec: {{type: ExternalName, externalName: {of}.a.svc.cluster.local, ports: [{{name: http, port: 80}}]}}
---
"
    )
}

#[test]
fn circles_of_references_end() {
    let text = pod("client", "a", "")
        + &service("fine", "a", HTTP)
        + &alias("one", "two")
        + &alias("two", "one")
        + &alias("self", "self")
        + &istio(
            "VirtualService",
            "first",
            "a",
            "{hosts: [fine], http: [{match: [{uri: {prefix: /d}}], delegate: {name: second}}, {route: [{destination: {host: fine}}]}]}",
        )
        + &istio("VirtualService", "second", "a", "{http: [{delegate: {name: third}}]}")
        + &istio("VirtualService", "third", "a", "{http: [{delegate: {name: second}}]}");
    let held = of(&text, &client(), &["one.a", "two.a", "self.a"]);
    let services = format!("{:?}", names(&held, ResourceKind::Service));
    assert!(services.contains("fine.a.svc.cluster.local"), "{services}");
    let rules = format!("{:?}", rules_at(&held, "outbound:80", "fine.a.svc.cluster.local:80"));
    assert!(rules.contains("VirtualService/a/first/http/1"), "{rules}");
}
