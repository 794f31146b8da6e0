//! What files mean: addresses, pods, injection, gateways, duplicates.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{Inputs, Plan, SourceOptions, plan};

use crate::support;

fn planned(text: &str) -> Plan {
    let options = SourceOptions { is_files: true, ..SourceOptions::default() };
    plan(&Inputs::new(support::documents("in.yaml", text), &options))
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n\
    spec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    \
    spec: {containers: [{name: web, image: web}]}\n---\n";

#[test]
fn a_deployment_without_pods_yields_replicas() {
    let names: Vec<String> =
        planned(DEPLOYMENT).pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
    assert_eq!(names, ["default/web-0", "default/web-1"]);
    let with_pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: own, labels: {app: web}}\nspec: {containers: [{name: c, image: i}]}\n---\n";
    let names: Vec<String> =
        planned(&format!("{DEPLOYMENT}{with_pod}")).pods.iter().map(|pod| pod.name.to_string()).collect();
    assert_eq!(names, ["own"]);
}

#[test]
fn every_pod_has_an_address_of_its_own() {
    let plan = planned(DEPLOYMENT);
    let ips: BTreeSet<_> = plan.pods.iter().map(|pod| pod.ip.unwrap()).collect();
    assert_eq!(ips.len(), 2);
    assert_eq!(plan, planned(DEPLOYMENT));
}

#[test]
fn every_pod_counts_as_injected_unless_it_opts_out() {
    let pod = |name: &str, metadata: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{metadata}}}\nspec: {{{spec}containers: [{{name: c, image: i}}]}}\n---\n"
        )
    };
    let text = pod("a", "", "")
        + &pod("b", ", labels: {sidecar.istio.io/inject: \"false\"}", "")
        + &pod("c", ", annotations: {sidecar.istio.io/inject: \"false\"}", "")
        + &pod("d", "", "hostNetwork: true, ")
        + &pod("e", ", namespace: off", "")
        + "apiVersion: v1\nkind: Namespace\nmetadata: {name: off, labels: {istio-injection: disabled}}\n";
    let injected: Vec<String> =
        planned(&text).pods.iter().filter(|pod| pod.is_injected).map(|pod| pod.name.to_string()).collect();
    assert_eq!(injected, ["a"]);
}

#[test]
fn gateways_that_nothing_runs_get_a_pod() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n\
        spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: foreign, namespace: shop}\n\
        spec: {gatewayClassName: nginx, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n\
        apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: shop}\n\
        spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: in, namespace: istio-system}\n\
        spec: {selector: {istio: ingressgateway}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
    let plan = planned(text);
    assert!(plan.pods.is_empty());
    let gateways: Vec<String> = plan
        .gateways
        .iter()
        .map(|g| format!("{} {}/{} {} {:?}", g.key, g.namespace, g.name, g.service_account, g.ports))
        .collect();
    assert_eq!(
        gateways,
        [
            "istio-system/ingressgateway istio-system/ingressgateway ingressgateway {80: {8080}}",
            "shop/edge shop/edge-istio edge-istio {80: {80}}"
        ]
    );
}

#[test]
fn the_last_document_of_an_object_counts_with_a_warning() {
    let service = |port: u16| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
    };
    let options = SourceOptions { is_files: true, ..SourceOptions::default() };
    let mut documents = support::documents("in.yaml", &(service(1) + &service(2)));
    documents.reverse();
    let inputs = Arc::new(Inputs::new(documents, &options));
    assert_eq!(inputs.services.values().next().unwrap().spec.ports[0].port, 2);
    assert!(inputs.reports.diagnostics().iter().any(|d| d.code == "PLS0201" && d.line == 1));
}
