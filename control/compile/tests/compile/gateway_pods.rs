//! Which pods are gateways in a cluster, what they serve, and whose secrets they get (CVE-2021-34824).

use std::sync::Arc;

use palisade_compile::{Compiled, Inputs, ObjectKey, ProxyRef, SourceOptions, compile};
use palisade_model::{resource::ResourceKind, snapshot::Snapshot};

use crate::support::{self, istio, names, snapshot};

/// Compiles documents as those of a cluster.
fn cluster(text: &str) -> Compiled {
    compile(&Arc::new(Inputs::new(support::documents("in.yaml", text), &SourceOptions::default())))
}

fn pod(namespace: &str, name: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{containers: [{{name: c, image: i}}]}}\n---\n"
    )
}

fn gateway(namespace: &str, name: &str, created: &str, listeners: &str, addresses: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: \"{created}\"}}\n\
         spec: {{gatewayClassName: palisade, listeners: [{listeners}], addresses: [{addresses}]}}\n---\n"
    )
}

fn secret(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         stringData: {{tls.crt: certificate, tls.key: key}}\n---\n"
    )
}

/// A Gateway without a server is rejected.
const SERVER: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}";

const INGRESS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: ingress, namespace: infra}\n\
                       spec: {selector: {app: ingress}, ports: [{name: h, port: 80}, {name: s, port: 443}]}\n---\n";

fn is_gateway(text: &str, namespace: &str, name: &str) -> bool {
    let compiled = cluster(text);
    let key = ObjectKey::new(namespace, name);
    compiled.mesh.is_gateway(compiled.mesh.inputs().pods.get(&key).unwrap())
}

#[test]
fn documents_and_marks_say_which_pods_are_gateways() {
    let istio_gateway = istio("Gateway", "g", "infra", &format!("{{selector: {{istio: edge}}, servers: [{SERVER}]}}"));
    let everybody = istio("Gateway", "g", "infra", &format!("{{selector: {{}}, servers: [{SERVER}]}}"));
    let named = INGRESS.to_owned()
        + &gateway(
            "shop",
            "own",
            "2026-01-01T00:00:00Z",
            "{name: h, port: 80, protocol: HTTP}",
            "{type: Hostname, value: ingress.infra.svc.cluster.local}",
        );
    for (documents, labels, expected) in [
        (&*istio_gateway, "istio: edge", true),
        (&*istio_gateway, "istio: edge, palisade.dev/proxy: sidecar", false),
        (&*istio_gateway, "istio: other", false),
        (&*everybody, "istio: edge", false),
        (&*everybody, "palisade.dev/proxy: gateway", true),
        ("", "gateway.networking.k8s.io/gateway-name: edge", true),
        (&*named, "app: ingress", true),
        (&*named, "app: other", false),
    ] {
        assert_eq!(
            is_gateway(&(documents.to_owned() + &pod("infra", "p", labels)), "infra", "p"),
            expected,
            "{labels}"
        );
    }
}

fn held(text: &str, namespace: &str, name: &str) -> Snapshot {
    snapshot(&cluster(text), &ProxyRef::gateway(namespace, name), &[])
}

#[test]
fn secrets_of_an_istio_gateway_are_those_of_the_pods_own_namespace() {
    let server = |credential: &str| {
        format!(
            "{{selector: {{istio: edge}}, servers: [{{port: {{number: 443, name: s, protocol: HTTPS}}, hosts: [\"*\"], \
             tls: {{mode: SIMPLE, credentialName: \"{credential}\"}}}}]}}"
        )
    };
    let pods = pod("infra", "edge", "istio: edge") + &pod("evil", "edge", "istio: edge");
    let secrets = secret("infra", "tls") + &secret("evil", "other");
    for credential in ["tls", "infra/tls", "kubernetes://infra/tls", "kubernetes-gateway://infra/tls", "../infra/tls"] {
        for gateway_namespace in ["infra", "evil"] {
            let text = istio("Gateway", "g", gateway_namespace, &server(credential)) + &pods + &secrets;
            let stolen = names(&held(&text, "evil", "edge"), ResourceKind::Secret);
            assert!(stolen.iter().all(|name| !name.starts_with("secret/infra/")), "{credential}: {stolen:?}");
        }
    }
    let text = istio("Gateway", "g", "elsewhere", &server("tls")) + &pods + &secrets;
    assert!(names(&held(&text, "infra", "edge"), ResourceKind::Secret).contains(&"secret/infra/tls".to_owned()));
}

#[test]
fn a_label_names_a_gateway_of_the_pods_own_namespace_and_no_other() {
    let tls = "{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}";
    let text = gateway("infra", "edge", "2026-01-01T00:00:00Z", tls, "")
        + &secret("infra", "tls")
        + &pod("evil", "edge", "gateway.networking.k8s.io/gateway-name: edge")
        + &pod("infra", "edge", "gateway.networking.k8s.io/gateway-name: edge");
    assert!(names(&held(&text, "evil", "edge"), ResourceKind::Secret).is_empty());
    assert!(names(&held(&text, "evil", "edge"), ResourceKind::Listener).is_empty());
    assert_eq!(names(&held(&text, "infra", "edge"), ResourceKind::Secret), ["secret/infra/tls"]);
}

#[test]
fn a_gateway_that_names_anothers_service_brings_its_own_secrets_and_gets_none() {
    let own = "{name: s, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: tls}]}}";
    let theirs = "{name: t, port: 443, protocol: HTTPS, hostname: b.example, \
                  tls: {certificateRefs: [{name: private, namespace: infra}]}}";
    let address = "{type: Hostname, value: ingress.infra.svc.cluster.local}";
    let text = INGRESS.to_owned()
        + &gateway("shop", "own", "2026-01-01T00:00:00Z", &format!("{own}, {theirs}"), address)
        + &secret("shop", "tls")
        + &secret("infra", "private")
        + &pod("infra", "ingress-0", "app: ingress")
        + &pod("shop", "ingress-0", "app: ingress");
    assert_eq!(names(&held(&text, "infra", "ingress-0"), ResourceKind::Secret), ["secret/shop/tls"], "no grant");
    assert!(names(&held(&text, "shop", "ingress-0"), ResourceKind::Secret).is_empty(), "the Service is infra's");
    // Where gateways are kept to their namespaces a Service of another one leads nowhere.
    let mut options = SourceOptions::default();
    options.control.set("PILOT_SCOPE_GATEWAY_TO_NAMESPACE=true").unwrap();
    let compiled = compile(&Arc::new(Inputs::new(support::documents("in.yaml", &text), &options)));
    let scoped = snapshot(&compiled, &ProxyRef::gateway("infra", "ingress-0"), &[]);
    assert!(names(&scoped, ResourceKind::Secret).is_empty());
}

#[test]
fn gateways_that_share_pods_share_ports_and_the_older_one_wins() {
    let address = "{type: Hostname, value: ingress.infra}";
    let http = "{name: h, port: 80, protocol: HTTP, hostname: a.example}";
    let more = "{name: h, port: 80, protocol: HTTP, hostname: b.example}, {name: same, port: 80, protocol: HTTP, \
                hostname: a.example}, {name: odd, port: 443, protocol: TCP}";
    let tls = "{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: missing}]}}";
    let text = INGRESS.to_owned()
        + &gateway("shop", "old", "2026-01-01T00:00:00Z", &format!("{http}, {tls}"), address)
        + &gateway("team", "new", "2026-02-01T00:00:00Z", more, address)
        + &pod("infra", "ingress-0", "app: ingress");
    let held = held(&text, "infra", "ingress-0");
    // What is missing at one listener takes down no other.
    assert_eq!(names(&held, ResourceKind::Listener), ["0.0.0.0:443", "0.0.0.0:80"]);
    let told: serde_json::Value = serde_json::from_str(&support::statuses(&cluster(&text))).unwrap();
    let reason = |gateway: &str, listener: &str, kind: &str| {
        let listeners = told[gateway]["listeners"].as_array().unwrap();
        let own = listeners.iter().find(|own| own["name"] == listener).unwrap();
        let conditions = own["conditions"].as_array().unwrap();
        conditions.iter().find(|own| own["type"] == kind).unwrap()["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason("Gateway shop/old", "h", "Accepted"), "Accepted");
    assert_eq!(reason("Gateway shop/old", "s", "ResolvedRefs"), "InvalidCertificateRef");
    assert_eq!(reason("Gateway team/new", "h", "Accepted"), "Accepted");
    assert_eq!(reason("Gateway team/new", "same", "Accepted"), "HostnameConflict");
    assert_eq!(reason("Gateway team/new", "odd", "Conflicted"), "ProtocolConflict");
}
