//! Which rules and services a sidecar's calls meet, as `eval` says: by port, by host, by what a port carries.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use serde_json::{Value, json};

const SERVICES: &str = include_str!("sidecars/services.yaml");

/// The answers to cases over the services and further documents.
fn eval(documents: &str, cases: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, format!("{SERVICES}---\n{documents}")).unwrap();
    command::answers_over(&file, cases, &[])
}

fn virtual_service(name: &str, namespace: &str, created: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}\nspec: {spec}\n---\n"
    )
}

const OLD: &str = "2020-01-01T00:00:00Z";
const NEW: &str = "2021-01-01T00:00:00Z";

/// A request of the client's in a namespace.
fn request(namespace: &str, port: u16, authority: &str) -> Value {
    json!({
        "direction": "outbound", "proxy": {"namespace": namespace, "name": "client"}, "destination": {"port": port},
        "http": {"method": "GET", "authority": authority, "path": "/"}, "random": 0,
    })
}

/// Bytes to a service's address, with a server name.
fn bytes(ip: &str, port: u16, sni: Option<&str>) -> Value {
    let mut case = json!({
        "direction": "outbound", "proxy": {"namespace": "shop", "name": "client"},
        "destination": {"ip": ip, "port": port}, "random": 0,
    });
    if let Some(sni) = sni {
        case["tls"] = json!({"sni": sni});
    }
    case
}

fn clusters(results: &[Value]) -> Vec<&str> {
    results.iter().map(|result| result["route"]["backends"][0]["cluster"].as_str().unwrap_or("none")).collect()
}

#[test]
fn hosts_that_only_a_rule_knows_are_served_on_port_80_and_beside_the_services_of_the_rule() {
    let rule = virtual_service(
        "late",
        "shop",
        OLD,
        "{hosts: [late, outside.example.com], http: [{route: [{destination: {host: web}}]}]}",
    );
    let cases = [
        request("shop", 8080, "late"),
        request("shop", 8080, "outside.example.com"),
        request("shop", 80, "outside.example.com"),
        request("shop", 80, "late.shop.svc.cluster.local"),
        // Nothing speaks HTTP here: nobody looks at the host.
        request("shop", 7000, "outside.example.com"),
    ];
    assert_eq!(
        clusters(&eval(&rule, &cases)),
        [
            "outbound|8080||web.shop.svc.cluster.local",
            "outbound|8080||web.shop.svc.cluster.local",
            "outbound|80||web.shop.svc.cluster.local",
            "outbound|80||web.shop.svc.cluster.local",
            "PassthroughCluster",
        ]
    );
}

#[test]
fn a_detected_port_is_told_by_its_address_alone() {
    let mut at_its_address = request("shop", 9000, "anything");
    at_its_address["destination"]["ip"] = json!("10.96.0.3");
    let mut elsewhere = request("shop", 9000, "any.shop");
    elsewhere["destination"]["ip"] = json!("203.0.113.9");
    let results = eval("", &[at_its_address, elsewhere]);
    assert_eq!(clusters(&results), ["outbound|9000||any.shop.svc.cluster.local", "PassthroughCluster"]);
}

#[test]
fn the_narrowest_rule_has_the_host_even_where_it_says_nothing() {
    let rules = virtual_service(
        "wild",
        "shop",
        OLD,
        "{hosts: ['*.shop.svc.cluster.local'], http: [{name: wild, route: [{destination: {host: late}}]}]}",
    ) + &virtual_service(
        "web",
        "shop",
        NEW,
        "{hosts: [web], http: [{name: exact, match: [{port: 8080}], route: [{destination: {host: web}}]}]}",
    );
    let results =
        eval(&rules, &[request("shop", 8080, "web"), request("shop", 80, "web"), request("shop", 8080, "late")]);
    let names: Vec<&Value> = results.iter().map(|result| &result["route"]["name"]).collect();
    assert_eq!(names, ["exact", "default", "wild"]);
}

#[test]
fn tls_rules_are_for_tls_ports_and_tcp_rules_for_the_others() {
    let rules = virtual_service(
        "db",
        "shop",
        OLD,
        "{hosts: [db.shop.svc.cluster.local], tls: [{match: [{sniHosts: [db.shop.svc.cluster.local]}], route: [{destination: {host: web, port: {number: 80}}}]}], \
         tcp: [{route: [{destination: {host: late, port: {number: 8080}}}]}]}",
    );
    let name = Some("db.shop.svc.cluster.local");
    let results = eval(
        &rules,
        &[
            bytes("10.96.0.4", 5443, name),
            bytes("10.96.0.4", 5443, Some("other.example.com")),
            bytes("10.96.0.4", 5000, name),
            bytes("10.96.0.4", 5000, None),
        ],
    );
    let late = "outbound|8080||late.shop.svc.cluster.local";
    assert_eq!(clusters(&results), ["outbound|80||web.shop.svc.cluster.local", "PassthroughCluster", late, late]);
    assert_eq!(results[0]["connection"]["mode"], "tls-passthrough");
}

#[test]
fn of_rules_for_bytes_the_oldest_counts_however_specific() {
    let to = |host: &str| format!("tcp: [{{route: [{{destination: {{host: {host}, port: {{number: 8080}}}}}}]}}]");
    let rules =
        virtual_service("wild", "shop", OLD, &format!("{{hosts: ['*.shop.svc.cluster.local'], {}}}", to("late")))
            + &virtual_service("db", "shop", NEW, &format!("{{hosts: [db], {}}}", to("web")));
    let results = eval(&rules, &[bytes("10.96.0.4", 5000, None)]);
    assert_eq!(clusters(&results), ["outbound|8080||late.shop.svc.cluster.local"]);
}

#[test]
fn a_rule_for_one_name_below_a_wildcard_service_counts() {
    let documents = virtual_service(
        "en",
        "shop",
        OLD,
        "{hosts: [en.wiki.org], tls: [{match: [{port: 443, sniHosts: [en.wiki.org]}], \
         route: [{destination: {host: db, port: {number: 5443}}}]}]}",
    ) + "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: wiki, namespace: shop}\n\
         spec: {hosts: ['*.wiki.org'], location: MESH_EXTERNAL, resolution: NONE, \
         ports: [{number: 443, name: tls, protocol: TLS}]}\n";
    let results = eval(&documents, &[bytes("203.0.113.7", 443, Some("en.wiki.org"))]);
    assert_eq!(clusters(&results), ["outbound|5443||db.shop.svc.cluster.local"]);
}

#[test]
fn a_clients_own_route_comes_before_an_older_rule_for_everyone() {
    let rule = virtual_service(
        "web",
        "shop",
        OLD,
        "{hosts: [web], http: [{route: [{destination: {host: late, port: {number: 8080}}}]}]}",
    );
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {name: mine, namespace: guest, creationTimestamp: '2021-01-01T00:00:00Z'}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: web, namespace: shop}], \
         rules: [{backendRefs: [{group: networking.istio.io, kind: Hostname, name: web.shop.svc.cluster.local, port: 80}]}]}\n";
    let results = eval(&format!("{rule}{route}"), &[request("guest", 80, "web.shop"), request("shop", 80, "web.shop")]);
    let sources: Vec<&Value> = results.iter().map(|result| &result["route"]["source"]).collect();
    assert_eq!(sources, ["HTTPRoute guest/mine", "VirtualService shop/web"]);
}

#[test]
fn a_service_may_keep_its_calls_on_their_node() {
    let documents = "apiVersion: v1\nkind: Pod\nmetadata: {name: near-1, namespace: shop, labels: {app: near}}\n\
         spec: {nodeName: n1, containers: [{name: c, image: i}]}\nstatus: {podIP: 10.1.1.1}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: near-2, namespace: shop, labels: {app: near}}\n\
         spec: {nodeName: n2, containers: [{name: c, image: i}]}\nstatus: {podIP: 10.1.1.2}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: near, namespace: shop}\n\
         spec: {selector: {app: near}, internalTrafficPolicy: Local, ports: [{name: http, port: 80}]}\n";
    let on = |node: &str| {
        let mut case = request("shop", 80, "near");
        case["proxy"]["node"] = json!(node);
        case
    };
    let results = eval(documents, &[on("n1"), on("n2"), on("n3")]);
    let addresses: Vec<&Value> =
        results.iter().map(|result| &result["route"]["backends"][0]["endpoints"][0]["address"]).collect();
    assert_eq!(addresses, [&json!("10.1.1.1:80"), &json!("10.1.1.2:80"), &Value::Null]);
    assert_eq!(results[2]["reason"], "no-endpoints");
}

#[test]
fn in_a_sidecar_for_the_whole_mesh_a_dot_is_the_clients_namespace() {
    let documents = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: istio-system}\n\
         spec: {egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n";
    let results = eval(documents, &[request("shop", 80, "web.shop"), request("guest", 80, "web.shop")]);
    assert_eq!(clusters(&results)[0], "outbound|80||web.shop.svc.cluster.local");
    assert_eq!(results[1]["reason"], "egress-unknown-host");
}

#[test]
fn the_narrowest_network_has_an_address() {
    let entry = |name: &str, networks: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{hosts: [{name}.example.com], addresses: [{networks}], location: MESH_EXTERNAL, resolution: NONE, \
             ports: [{{number: 7000, name: tcp, protocol: TCP}}]}}\n---\n"
        )
    };
    let documents = entry("a-wide", "203.0.0.0/16") + &entry("z-narrow", "203.0.113.0/24");
    let results = eval(&documents, &[bytes("203.0.113.7", 7000, None), bytes("203.0.1.1", 7000, None)]);
    assert_eq!(clusters(&results), ["outbound|7000||z-narrow.example.com", "outbound|7000||a-wide.example.com"]);
}

#[test]
fn a_written_target_port_holds_where_the_address_is_the_clients_choice() {
    let documents = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: moved, namespace: shop}\n\
         spec: {hosts: [moved.example.com], addresses: [203.0.113.0/24], location: MESH_EXTERNAL, resolution: NONE, \
         ports: [{number: 7000, name: tcp, protocol: TCP, targetPort: 7001}, {number: 7002, name: tcp-same, protocol: TCP}]}\n";
    let results = eval(documents, &[bytes("203.0.113.7", 7000, None), bytes("203.0.113.7", 7002, None)]);
    let addresses: Vec<&Value> =
        results.iter().map(|result| &result["route"]["backends"][0]["endpoints"][0]["address"]).collect();
    assert_eq!(addresses, ["203.0.113.7:7001", "203.0.113.7:7002"]);
}

#[test]
fn the_older_name_of_a_pods_account_counts() {
    let documents = "apiVersion: v1\nkind: Pod\nmetadata: {name: known, namespace: shop, labels: {app: known}}\n\
         spec: {serviceAccount: teller, containers: [{name: c, image: i}]}\nstatus: {podIP: 10.1.3.1}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: known, namespace: shop}\n\
         spec: {selector: {app: known}, ports: [{name: http, port: 80}]}\n";
    let results = eval(documents, &[request("shop", 80, "known")]);
    assert_eq!(results[0]["route"]["backends"][0]["sans"], json!(["spiffe://cluster.local/ns/shop/sa/teller"]));
}

#[test]
fn a_sidecars_own_ports_lead_nowhere() {
    let mut inbound = bytes("10.1.0.1", 15006, None);
    inbound["direction"] = json!("inbound");
    let results = eval("", &[bytes("10.1.0.1", 15001, None), bytes("10.1.0.1", 15006, None), inbound]);
    let reasons: Vec<&Value> = results.iter().map(|result| &result["reason"]).collect();
    assert_eq!(reasons, ["no-filter-chain"; 3]);
}
