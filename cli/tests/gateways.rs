//! Gateways, and routes of the Gateway API, as `eval` says: whose target ports count, what is passed on, what is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "command/eval.rs"]
mod command;

use serde_json::{Value, json};

const SERVICES: &str = include_str!("sidecars/services.yaml");

/// The answers to cases over the services, a gateway's pod and further documents.
fn eval(documents: &str, cases: &[Value]) -> Vec<Value> {
    let gateway = "apiVersion: v1\nkind: Pod\nmetadata: {name: front, namespace: edge, labels: {app: front}}\n\
                   spec: {containers: [{name: proxy, image: i}]}\nstatus: {podIP: 10.9.0.1}\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, format!("{SERVICES}---\n{gateway}---\n{documents}")).unwrap();
    command::answers_over(&file, cases, &[])
}

fn gateway(servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: front, namespace: edge}}\n\
         spec: {{selector: {{app: front}}, servers: [{servers}]}}\n---\n"
    )
}

fn rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: front, namespace: edge}}\n\
         spec: {{hosts: ['*'], gateways: [front], {spec}}}\n---\n"
    )
}

/// A service with one pod, which has a sidecar or none.
fn service(name: &str, ip: &str, inject: bool) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: shop, labels: {{app: {name}, sidecar.istio.io/inject: '{inject}'}}}}\n\
         spec: {{containers: [{{name: c, image: i}}]}}\nstatus: {{podIP: {ip}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}\n---\n"
    )
}

/// A connection to the gateway.
fn connection(port: u16) -> Value {
    json!({
        "direction": "inbound", "proxy": {"kind": "gateway", "namespace": "edge", "name": "front"},
        "destination": {"ip": "10.9.0.1", "port": port}, "random": 0,
    })
}

/// A request of the shop's client.
fn request(namespace: &str, authority: &str, path: &str, headers: &[(&str, &str)]) -> Value {
    json!({
        "direction": "outbound", "proxy": {"namespace": namespace, "name": "client"}, "destination": {"port": 80},
        "http": {"method": "GET", "authority": authority, "path": path, "headers": headers}, "random": 0,
    })
}

#[test]
fn subnets_of_tcp_rules_do_not_count_at_a_gateway() {
    let documents = gateway("{port: {number: 5000, name: tcp, protocol: TCP}, hosts: ['*']}")
        + &rule(
            "tcp: [{match: [{destinationSubnets: [203.0.113.0/24]}], \
             route: [{destination: {host: db.shop.svc.cluster.local, port: {number: 5000}}}]}]",
        );
    let results = eval(&documents, &[connection(5000)]);
    assert_eq!(results[0]["route"]["backends"][0]["cluster"], "outbound|5000||db.shop.svc.cluster.local");
}

#[test]
fn a_service_entry_may_carry_a_gateway() {
    let documents = gateway("{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}")
        + &rule("http: [{directResponse: {status: 204}}]")
        + "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: front, namespace: edge}\n\
           spec: {hosts: [front.example.com], location: MESH_INTERNAL, resolution: STATIC, \
           ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], endpoints: [{address: 10.9.0.1}]}\n";
    let at = |port: u16| {
        let mut case = connection(port);
        case["http"] = json!({"method": "GET", "authority": "a.example.com", "path": "/"});
        case
    };
    let results = eval(&documents, &[at(8080), at(80)]);
    assert_eq!((&results[0]["status"], &results[1]["reason"]), (&json!(204), &json!("no-filter-chain")));
}

#[test]
fn mesh_tls_is_passed_on_as_it_is_and_only_where_it_ends() {
    let documents =
        gateway("{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}")
            + &service("meshed", "10.1.2.1", true)
            + &service("bare", "10.1.2.2", false);
    let to = |service: &str| {
        let mut case = connection(443);
        let sni = format!("outbound_.80_._.{service}.shop.svc.cluster.local");
        case["tls"] = json!({"sni": sni, "alpn": ["istio"]});
        case
    };
    let results = eval(&documents, &[to("meshed"), to("bare")]);
    let backend = &results[0]["route"]["backends"][0];
    assert_eq!(
        (&results[0]["outcome"], &results[0]["connection"]["mode"]),
        (&json!("forward"), &json!("tls-passthrough"))
    );
    assert_eq!((&backend["endpoints"][0]["address"], &backend["tls"]), (&json!("10.1.2.1:80"), &json!("none")));
    assert_eq!((&results[1]["outcome"], &results[1]["reason"]), (&json!("reset"), &json!("no-endpoints")));
}

#[test]
fn routes_without_backends_fail_and_routes_in_the_mesh_need_no_grant() {
    let route = |name: &str, rules: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: {name}}}], rules: [{rules}]}}\n---\n"
        )
    };
    let elsewhere = "apiVersion: v1\nkind: Service\nmetadata: {name: there, namespace: guest}\n\
                     spec: {selector: {app: client}, ports: [{name: http, port: 80}]}\n---\n";
    let documents = elsewhere.to_owned()
        + &route(
            "web",
            "{matches: [{path: {type: PathPrefix, value: /none}}]}, \
             {matches: [{path: {type: PathPrefix, value: /there}}], backendRefs: [{name: there, namespace: guest, port: 80}]}, \
             {matches: [{path: {type: PathPrefix, value: /moved}}], backendRefs: [{name: web, port: 80, \
             filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example.com, statusCode: 301}}]}]}",
        );
    let results = eval(&documents, &["/none", "/there", "/moved"].map(|path| request("shop", "web", path, &[])));
    assert_eq!((&results[0]["status"], &results[0]["reason"]), (&json!(500), &json!("no-cluster")));
    assert_eq!(results[1]["route"]["backends"][0]["cluster"], "outbound|80||there.guest.svc.cluster.local");
    assert_eq!(
        (&results[2]["status"], &results[2]["route"]["redirect"]),
        (&json!(301), &json!("http://new.example.com/moved"))
    );
}

#[test]
fn a_header_that_is_not_there_is_an_empty_one_to_what_is_to_be_absent() {
    let documents = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\n\
         spec: {hosts: [web], http: [\
         {match: [{withoutHeaders: {x-key: {regex: '.*'}}}], directResponse: {status: 418}}, \
         {match: [{withoutHeaders: {x-key: {exact: a}}}], directResponse: {status: 202}}, \
         {directResponse: {status: 203}}]}\n";
    let results = eval(documents, &[request("shop", "web", "/", &[]), request("shop", "web", "/", &[("x-key", "a")])]);
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(202), &json!(203)));
}

#[test]
fn routes_for_bytes_attach_to_services() {
    let route = |kind: &str, parent: &str, more: &str, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{name: db, namespace: shop}}\n\
             spec: {{parentRefs: [{parent}]{more}, rules: [{{backendRefs: [{backend}]}}]}}\n---\n"
        )
    };
    let db = "{group: '', kind: Service, name: db}";
    let documents =
        route("TCPRoute", db, "", "{name: web, port: 8080, weight: 1}, {name: late, port: 8080, weight: 3}")
            + &route("TLSRoute", db, ", hostnames: ['*.example.com']", "{name: late, port: 8080}");
    let case = |port: u16, sni: Option<&str>| {
        let mut case = json!({
            "direction": "outbound", "proxy": {"namespace": "shop", "name": "client"},
            "destination": {"ip": "10.96.0.4", "port": port}, "random": 0.5,
        });
        if let Some(sni) = sni {
            case["tls"] = json!({"sni": sni});
        }
        case
    };
    let results = eval(&documents, &[case(5000, None), case(5443, Some("a.example.com")), case(5443, Some("a.org"))]);
    let seen: Vec<(&Value, &Value)> =
        results.iter().map(|result| (&result["route"]["source"], &result["route"]["backends"][0]["cluster"])).collect();
    let late = json!("outbound|8080||late.shop.svc.cluster.local");
    assert_eq!(
        seen,
        [
            (&json!("TCPRoute shop/db"), &late),
            (&json!("TLSRoute shop/db"), &late),
            (&Value::Null, &json!("PassthroughCluster")),
        ]
    );
}

#[test]
fn every_namespace_has_its_name_as_a_label() {
    let route = |namespace: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: own, namespace: {namespace}}}\n\
             spec: {{parentRefs: [{{name: entrance, namespace: edge}}], hostnames: [{namespace}.example.com], rules: [\
             {{filters: [{{type: RequestRedirect, requestRedirect: {{scheme: https}}}}]}}]}}\n---\n"
        )
    };
    let documents =
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: entrance, namespace: edge}\n\
         spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: \
         {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: shop}}}}}]}\n---\n"
            .to_owned()
            + &route("shop")
            + &route("guest");
    let to = |host: &str| {
        let mut case = connection(80);
        case["proxy"]["gateway"] = json!("edge/entrance");
        case["http"] = json!({"method": "GET", "authority": host, "path": "/"});
        case
    };
    let results = eval(&documents, &[to("shop.example.com"), to("guest.example.com")]);
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(302), &json!(404)));
}

#[test]
fn a_listeners_option_may_ask_for_client_certificates() {
    let secret = |name: &str, keys: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: edge}}\nstringData: {{{keys}}}\n---\n"
        )
    };
    let listener = |name: &str, mode: &str| {
        format!(
            "{{name: {name}, hostname: {name}.example.com, port: 443, protocol: HTTPS, tls: {{certificateRefs: \
             [{{name: {name}}}], options: {{gateway.istio.io/tls-terminate-mode: {mode}}}}}}}"
        )
    };
    let documents = secret("own", "tls.crt: c, tls.key: k, ca.crt: r")
        + &secret("beside", "tls.crt: c, tls.key: k")
        + &secret("beside-cacert", "ca.crt: r")
        + &secret("rootless", "tls.crt: c, tls.key: k")
        + &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: entrance, namespace: edge}}\n\
             spec: {{gatewayClassName: istio, listeners: [{}, {}, {}]}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all, namespace: edge}}\n\
             spec: {{parentRefs: [{{name: entrance}}], rules: [\
             {{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: a.example.com}}}}]}}]}}\n---\n",
            listener("own", "MUTUAL"),
            listener("beside", "OPTIONAL_MUTUAL"),
            listener("rootless", "MUTUAL"),
        );
    let to = |name: &str, trusted: Option<&str>| {
        let mut case = connection(443);
        let host = format!("{name}.example.com");
        case["proxy"]["gateway"] = json!("edge/entrance");
        case["http"] = json!({"method": "GET", "authority": host, "path": "/"});
        case["tls"] = json!({"sni": host});
        if let Some(trusted) = trusted {
            case["tls"]["client"] = json!({"uris": [], "dns": [], "subject": "CN=a", "trustedBy": trusted});
        }
        case
    };
    let results = eval(
        &documents,
        &[
            to("own", None),
            to("own", Some("none")),
            to("own", Some("edge/own")),
            to("beside", None),
            to("beside", Some("none")),
            to("beside", Some("edge/beside-cacert")),
            to("rootless", Some("edge/rootless")),
        ],
    );
    let reasons: Vec<&Value> = results.iter().map(|result| &result["reason"]).collect();
    let (refused, served) = ("peer-refused", "redirect");
    assert_eq!(reasons, [refused, refused, served, served, refused, served, refused]);
}

/// Cases are judged with whatever stands in a Secret; that a running gateway could not use it is said.
#[test]
fn certificates_that_no_gateway_could_use_are_named() {
    let pair = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let (pem, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let servers =
        "{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: c}}";
    let said = |certificate: &str, key: &str| {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c", "namespace": "edge"},
            "stringData": {"tls.crt": certificate, "tls.key": key},
        });
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: front, namespace: edge, labels: {app: front}}\n\
                   spec: {containers: [{name: proxy, image: i}]}\nstatus: {podIP: 10.9.0.1}\n---\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.yaml");
        std::fs::write(&file, format!("{pod}{}{secret}\n", gateway(servers))).unwrap();
        let mut case = connection(443);
        case["tls"] = json!({"sni": "a.example"});
        case["http"] = json!({"method": "GET", "authority": "a.example", "path": "/"});
        let cases = folder.path().join("cases.jsonl");
        std::fs::write(&cases, format!("{case}\n{case}\n")).unwrap();
        let palisade = |command: &str| {
            let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_palisade"));
            program.args([command, "-o", "jsonl", "-f"]).arg(&file);
            program
        };
        let judged = palisade("eval").arg("--cases").arg(&cases).output().unwrap();
        let answers = String::from_utf8(judged.stdout).unwrap();
        assert_eq!(answers.matches("tls-terminated").count(), 2, "{answers}");
        let analyzed = String::from_utf8(palisade("analyze").output().unwrap().stdout).unwrap();
        (String::from_utf8(judged.stderr).unwrap().matches("fails the handshakes").count(), analyzed)
    };
    let (warnings, analyzed) = said(&pem, &key);
    assert!(warnings == 0 && !analyzed.contains("handshakes fail"), "{analyzed}");
    let (warnings, analyzed) = said("a certificate", "its key");
    assert!(warnings == 1 && analyzed.contains("cannot be read in secret `edge/c`"), "{analyzed}");
    // Only trying tells a key that is another's.
    assert_eq!(said(&pem, &other.signing_key.serialize_pem()).0, 1);
}
