//! Claims of istio-semantics.md about Gateways, each against compiled documents.

use palisade_compile::ProxyRef;
use palisade_model::{
    listener::ChainHandler,
    resource::{Resource, ResourceKind},
};

use crate::support::{HTTP, compile_text, istio, names, of, resource, rules_at, service, snapshot};

#[test]
fn catch_all_routes_of_a_gateway_come_last() {
    let gateway =
        "{selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]}";
    let text = service("s", "a", HTTP)
        + &istio("Gateway", "gw", "a", gateway)
        + &istio(
            "VirtualService",
            "a-all",
            "a",
            "{hosts: [\"*\"], gateways: [gw], http: [{route: [{destination: {host: s}}]}]}",
        )
        + &istio(
            "VirtualService",
            "b-some",
            "a",
            "{hosts: [\"*\"], gateways: [gw], http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: s}}]}]}",
        );
    let held = of(&text, &ProxyRef::gateway("istio-system", "edge"), &[]);
    assert_eq!(
        rules_at(&held, "gateway:http.80", "*"),
        ["VirtualService/a/b-some/http/0@a/gw:80", "VirtualService/a/a-all/http/0@a/gw:80"]
    );
}

#[test]
fn a_gateways_host_may_be_narrowed_by_namespace() {
    let gateway =
        "{selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"b/*\"]}]}";
    let rule = "{hosts: [x.com], gateways: [a/gw], http: [{route: [{destination: {host: s.a.svc.cluster.local}}]}]}";
    let text =
        service("s", "a", HTTP) + &istio("Gateway", "gw", "a", gateway) + &istio("VirtualService", "v", "a", rule);
    assert!(names(&of(&text, &ProxyRef::gateway("istio-system", "edge"), &[]), ResourceKind::VirtualHost).is_empty());
    let text = text + &istio("VirtualService", "v", "b", rule);
    assert_eq!(
        names(&of(&text, &ProxyRef::gateway("istio-system", "edge"), &[]), ResourceKind::VirtualHost),
        ["gateway:http.80 x.com"]
    );
}

#[test]
fn a_gateways_port_is_the_target_port_of_the_service_that_carries_its_pod() {
    let gateway =
        "{selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]}";
    let carrier =
        service("edge", "istio-system", "{name: http, port: 80, targetPort: 8080}").replace("app: edge", "istio: edge");
    let held = of(&(carrier + &istio("Gateway", "gw", "a", gateway)), &ProxyRef::gateway("istio-system", "edge"), &[]);
    let Some(Resource::Listener(listener)) = resource(&held, ResourceKind::Listener, "0.0.0.0:8080") else { panic!() };
    assert_eq!((listener.port, listener.declared_port), (8080, 80));
}

#[test]
fn a_later_server_of_another_protocol_or_with_a_taken_name_does_not_count() {
    let tls = "tls: {mode: SIMPLE, credentialName: c}";
    let gateway = format!(
        "{{selector: {{istio: edge}}, servers: [\
         {{port: {{number: 443, name: a, protocol: HTTPS}}, hosts: [x.com], {tls}}}, \
         {{port: {{number: 443, name: b, protocol: HTTPS}}, hosts: [y.com, x.com], {tls}}}]}}"
    );
    let compiled = compile_text(&istio("Gateway", "gw", "a", &gateway));
    let held = snapshot(&compiled, &ProxyRef::gateway("istio-system", "edge"), &[]);
    let Some(Resource::Listener(listener)) = resource(&held, ResourceKind::Listener, "0.0.0.0:443") else { panic!() };
    assert_eq!(listener.chains.len(), 1);
    assert!(compiled.reports.diagnostics().iter().any(|d| d.code == "PLS0206"));
}

#[test]
fn an_unservable_tls_setting_refuses_the_server() {
    let gateway = "{selector: {istio: edge}, servers: [{port: {number: 443, name: a, protocol: HTTPS}, hosts: [x.com], \
        tls: {mode: MUTUAL, credentialName: c, verifyCertificateHash: [abc]}}]}";
    let held = of(&istio("Gateway", "gw", "a", gateway), &ProxyRef::gateway("istio-system", "edge"), &[]);
    let Some(Resource::Listener(listener)) = resource(&held, ResourceKind::Listener, "0.0.0.0:443") else { panic!() };
    assert!(matches!(listener.chains[0].handler, ChainHandler::Refuse { message: _ }));
}
