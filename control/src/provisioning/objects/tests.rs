//! What is made for a Gateway.

use std::{collections::BTreeMap, sync::Arc};

use palisade_compile::{Inputs, SourceDocument, SourceOptions, Wanted, compile, infrastructure};

use super::*;

/// What is wanted for the only Gateway of some documents.
fn wanted(documents: &str) -> Wanted {
    let read = palisade_crds::document::read("in.yaml", documents.as_bytes());
    assert!(read.unreadable.is_empty(), "{:?}", read.unreadable);
    let documents = read.documents.into_iter().map(|document| SourceDocument::parse(document, "default"));
    let compiled = compile(&Arc::new(Inputs::new(documents, &SourceOptions::default())));
    let mut all = infrastructure(&compiled.mesh);
    assert_eq!(all.len(), 1);
    all.pop_first().unwrap().1
}

fn gateway(class: &str, rest: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop, uid: 11-22}}
spec:
  gatewayClassName: {class}
  listeners:
  - {{name: http, port: 80, protocol: HTTP}}
  - {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: tls}}]}}}}
{rest}
"
    )
}

fn parameters(data: &str) -> String {
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: own, namespace: shop}}\ndata:\n{data}\n")
}

const REFERENCE: &str = "  infrastructure: {parametersRef: {group: \"\", kind: ConfigMap, name: own}}";

fn made(documents: &str) -> BTreeMap<Kind, Value> {
    try_made(documents).unwrap()
}

fn try_made(documents: &str) -> Result<BTreeMap<Kind, Value>, String> {
    let Wanted::Objects(wanted) = wanted(documents) else { panic!("nothing is wanted") };
    objects(&wanted, &GatewaySettings::default(), &InjectionSettings::default())
}

#[test]
fn a_gateway_gets_five_objects_of_one_name_that_it_owns() {
    let made = made(&gateway("palisade", ""));
    assert_eq!(made.len(), 5);
    for (kind, object) in &made {
        let metadata = &object["metadata"];
        assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!("edge-palisade"), &json!("shop")), "{kind:?}");
        assert_eq!(metadata["ownerReferences"][0]["uid"], "11-22");
        assert_eq!(metadata["labels"][GATEWAY_NAME], "edge");
        assert!(metadata["annotations"][MADE_FROM].is_string());
    }
    let service = &made[&Kind::Service]["spec"];
    assert_eq!(service["type"], "LoadBalancer");
    let ports: Vec<&Value> = service["ports"].as_array().unwrap().iter().map(|port| &port["targetPort"]).collect();
    assert_eq!(ports, [80, 443]);
    assert!(made[&Kind::Deployment]["spec"].get("replicas").is_none(), "it is scaled");
    assert_eq!(made[&Kind::HorizontalPodAutoscaler]["spec"]["minReplicas"], 2);
}

#[test]
fn an_egress_gateway_is_reached_from_inside_alone() {
    assert_eq!(made(&gateway("palisade-egress", ""))[&Kind::Service]["spec"]["type"], "ClusterIP");
}

#[test]
fn pods_fit_the_restricted_profile() {
    let made = made(&gateway("palisade", ""));
    let pod = &made[&Kind::Deployment]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(container["readOnlyRootFilesystem"], true);
}

#[test]
fn a_change_of_listeners_restarts_no_pod() {
    let template = |documents: &str| made(documents)[&Kind::Deployment]["spec"]["template"].clone();
    let more = gateway("palisade", "  - {name: more, port: 8080, protocol: HTTP}");
    assert_eq!(template(&gateway("palisade", "")), template(&more));
    assert_eq!(made(&more)[&Kind::Service]["spec"]["ports"].as_array().unwrap().len(), 3);
}

#[test]
fn labels_and_annotations_of_the_infrastructure_are_on_everything_and_never_take_ours() {
    let made = made(&gateway(
        "palisade",
        "  infrastructure: {labels: {team: a, gateway.networking.k8s.io/gateway-name: other}, annotations: {b: c}}",
    ));
    for object in made.values() {
        let metadata = &object["metadata"];
        assert_eq!((&metadata["labels"]["team"], &metadata["annotations"]["b"]), (&json!("a"), &json!("c")));
        assert_eq!(metadata["labels"][GATEWAY_NAME], "edge");
    }
    let pod = &made[&Kind::Deployment]["spec"]["template"]["metadata"];
    assert_eq!((&pod["labels"]["team"], &pod["labels"][GATEWAY_NAME]), (&json!("a"), &json!("edge")));
}

#[test]
fn owners_lay_their_own_over_the_objects() {
    let overlays = "  deployment: |\n    spec: {replicas: 3, template: {spec: {priorityClassName: high}}}\n  \
                    service: |\n    spec: {externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}\n  \
                    podDisruptionBudget: \"null\"";
    let documents = gateway("palisade", REFERENCE) + &parameters(overlays);
    let made = made(&documents);
    let deployment = &made[&Kind::Deployment]["spec"];
    assert_eq!(
        (&deployment["replicas"], &deployment["template"]["spec"]["priorityClassName"]),
        (&json!(3), &json!("high"))
    );
    assert!(deployment["template"]["spec"]["containers"][0]["image"].is_string());
    assert!(!made.contains_key(&Kind::HorizontalPodAutoscaler), "its owner says how many there are");
    assert!(!made.contains_key(&Kind::PodDisruptionBudget));
    let service = &made[&Kind::Service]["spec"];
    assert_eq!((&service["externalTrafficPolicy"], &service["ports"][0]["nodePort"]), (&json!("Local"), &json!(30080)));
    assert_eq!(service["ports"][1]["port"], 443);
}

#[test]
fn parameters_that_cannot_be_read_leave_what_is_there() {
    assert_eq!(wanted(&gateway("palisade", REFERENCE)), Wanted::Unchanged);
    assert_eq!(wanted(&(gateway("palisade", REFERENCE) + &parameters("  deployment: \"[]\""))), Wanted::Unchanged);
    let bad = parameters("  deployment: |\n    spec: {template: {spec: {volumes: [{emptyDir: {}}]}}}");
    let error = try_made(&(gateway("palisade", REFERENCE) + &bad)).unwrap_err();
    assert!(error.contains("overlay of the Deployment: `spec.template.spec.volumes`"), "{error}");
}

#[test]
fn a_class_has_parameters_too_and_the_gateway_has_the_last_word() {
    let class = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: palisade}
spec:
  controllerName: palisade.dev/gateway-controller
  parametersRef: {group: '', kind: ConfigMap, name: all, namespace: palisade-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: all, namespace: palisade-system}
data:
  horizontalPodAutoscaler: |
    spec: {minReplicas: 4, maxReplicas: 20}
";
    let documents = gateway("palisade", "") + class;
    assert_eq!(made(&documents)[&Kind::HorizontalPodAutoscaler]["spec"]["minReplicas"], 4);
    let own = gateway("palisade", REFERENCE) + &parameters("  horizontalPodAutoscaler: \"{spec: {minReplicas: 1}}\"");
    let spec = made(&(own + class))[&Kind::HorizontalPodAutoscaler]["spec"].clone();
    assert_eq!((&spec["minReplicas"], &spec["maxReplicas"]), (&json!(1), &json!(20)));
}

#[test]
fn a_gateway_that_names_its_service_needs_nothing() {
    let named = "  addresses: [{type: Hostname, value: ingress.infra.svc.cluster.local}]";
    assert_eq!(wanted(&gateway("palisade", named)), Wanted::Nothing);
    assert_eq!(wanted(&gateway("of-another-controller", "")), Wanted::Nothing);
}

#[test]
fn an_address_that_is_asked_for_is_asked_of_the_balancer() {
    let asked = "  addresses: [{type: IPAddress, value: 192.0.2.7}]";
    assert_eq!(made(&gateway("palisade", asked))[&Kind::Service]["spec"]["loadBalancerIP"], "192.0.2.7");
    assert_eq!(made(&gateway("palisade-egress", asked))[&Kind::Service]["spec"]["clusterIP"], "192.0.2.7");
}
