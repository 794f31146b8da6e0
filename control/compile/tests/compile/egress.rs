//! Claims about ServiceEntries, WorkloadEntries and Sidecars (istio-semantics 7 and 8).

use palisade_compile::ProxyRef;
use palisade_model::{
    cluster::{Discovery, UpstreamTls},
    endpoint::{Address, PeerProxy},
    listener::{MtlsMode, Protocol},
    resource::{Resource, ResourceKind},
    service::{Query, Service},
    settings::OutboundPolicy,
    snapshot::Snapshot,
};

use crate::support::{HTTP, client, cluster, compile_text, istio, names, of, pod, resource, service, statuses};

fn entry(name: &str, namespace: &str, spec: &str) -> String {
    istio("ServiceEntry", name, namespace, spec)
}

fn held<'a>(snapshot: &'a Snapshot, host: &str) -> Option<&'a Service> {
    match resource(snapshot, ResourceKind::Service, host)? {
        Resource::Service(service) => Some(service),
        other => panic!("{other:?}"),
    }
}

fn addresses(snapshot: &Snapshot, key: &str) -> Vec<Address> {
    match resource(snapshot, ResourceKind::Endpoints, key) {
        Some(Resource::Endpoints(endpoints)) => endpoints.endpoints.iter().map(|e| e.address.clone()).collect(),
        _ => panic!("no endpoints {key}; there are {:?}", names(snapshot, ResourceKind::Endpoints)),
    }
}

const WEB: &str = "ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]";

#[test]
fn each_resolution_finds_its_endpoints() {
    let text = pod("client", "a", "")
        + &entry("none", "a", &format!("{{hosts: [none.example.com], resolution: NONE, {WEB}}}"))
        + &entry("dns", "a", &format!("{{hosts: [dns.example.com], resolution: DNS, {WEB}}}"))
        + &entry("rr", "a", &format!("{{hosts: [rr.example.com], resolution: DNS_ROUND_ROBIN, {WEB}}}"))
        + &entry(
            "static",
            "a",
            &format!("{{hosts: [static.example.com], resolution: STATIC, endpoints: [{{address: 192.0.2.1}}], {WEB}}}"),
        )
        + &entry("wild", "a", &format!("{{hosts: [\"*.wild.example.com\"], resolution: DYNAMIC_DNS, {WEB}}}"));
    let held = of(&text, &client(), &[]);
    assert_eq!(cluster(&held, "outbound|80||none.example.com").discovery, Discovery::OriginalDestination);
    assert_eq!(addresses(&held, "dns.example.com|80"), [Address::Name("dns.example.com".into(), 80)]);
    assert_eq!(addresses(&held, "rr.example.com|80"), [Address::LogicalName("rr.example.com".into(), 80)]);
    assert_eq!(addresses(&held, "static.example.com|443"), [Address::Socket("192.0.2.1:443".parse().unwrap())]);
    assert_eq!(cluster(&held, "outbound|443||*.wild.example.com").discovery, Discovery::DynamicName { port: 443 });
}

#[test]
fn outside_the_mesh_there_is_no_mesh_tls_and_inside_each_endpoints_label_decides() {
    let endpoints =
        "endpoints: [{address: 192.0.2.1, labels: {security.istio.io/tlsMode: istio}}, {address: 192.0.2.2}]";
    let spec = |host: &str, location: &str| {
        format!("{{hosts: [{host}], location: {location}, resolution: STATIC, {endpoints}, {WEB}}}")
    };
    let text = pod("client", "a", "")
        + &entry("out", "a", &spec("out.example.com", "MESH_EXTERNAL"))
        + &entry("in", "a", &spec("in.example.com", "MESH_INTERNAL"));
    let held = of(&text, &client(), &[]);
    assert_eq!(cluster(&held, "outbound|80||out.example.com").tls, UpstreamTls::Off);
    assert!(matches!(cluster(&held, "outbound|80||in.example.com").tls, UpstreamTls::Auto(_)));
    match resource(&held, ResourceKind::Endpoints, "in.example.com|80") {
        Some(Resource::Endpoints(endpoints)) => {
            let peers: Vec<PeerProxy> = endpoints.endpoints.iter().map(|e| e.peer).collect();
            assert_eq!(peers, [PeerProxy::Istio, PeerProxy::None]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_workload_whose_name_no_certificate_can_prove_is_trusted_by_no_other() {
    let spec = |account: &str| {
        format!(
            "{{hosts: [vm.example.com], location: MESH_INTERNAL, resolution: STATIC, endpoints: [{{address: 192.0.2.1, serviceAccount: {account}, labels: {{security.istio.io/tlsMode: istio}}}}], {WEB}}}"
        )
    };
    let names = |account: &str| {
        let text = pod("client", "a", "") + &entry("vm", "a", &spec(account));
        match cluster(&of(&text, &client(), &[]), "outbound|80||vm.example.com").tls.clone() {
            UpstreamTls::Auto(tls) => tls.subject_alt_names.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    // Empty: the identities of the endpoints count.
    assert!(names("vm").is_empty());
    assert_eq!(names("a/b"), ["spiffe://cluster.local/ns/a/sa/a/b".into()]);
    assert_eq!(names("'a b'"), ["spiffe://cluster.local/ns/a/sa/a b".into()]);
}

#[test]
fn a_rule_that_asks_for_tls_gets_it_and_takes_the_entrys_names() {
    let rule = |mode: &str| format!("{{host: www.example.com, trafficPolicy: {{tls: {mode}}}}}");
    let text = pod("client", "a", "")
        + &entry(
            "www",
            "a",
            &format!("{{hosts: [www.example.com], resolution: DNS, subjectAltNames: [origin.example.com], {WEB}}}"),
        );
    let tls = |mode: &str| {
        let held = of(&(text.clone() + &istio("DestinationRule", "www", "a", &rule(mode))), &client(), &[]);
        cluster(&held, "outbound|80||www.example.com").tls.clone()
    };
    match tls("{mode: SIMPLE}") {
        UpstreamTls::Originate(originate) => {
            assert_eq!(&*originate.subject_alt_names, ["origin.example.com".into()]);
            assert_eq!((originate.sni, originate.ca, originate.client_certificate), (None, None, None));
        }
        other => panic!("{other:?}"),
    }
    match tls("{mode: SIMPLE, subjectAltNames: [own.example.com], sni: www.example.com}") {
        UpstreamTls::Originate(originate) => {
            assert_eq!(&*originate.subject_alt_names, ["own.example.com".into()]);
            assert_eq!(originate.sni.as_deref(), Some("www.example.com"));
        }
        other => panic!("{other:?}"),
    }
    // Istio builds this cluster without TLS; here nothing is sent.
    assert!(matches!(tls("{mode: SIMPLE, credentialName: c}"), UpstreamTls::Refuse { .. }));
}

#[test]
fn hosts_without_addresses_get_one_that_does_not_change() {
    let allocated = |text: &str| held(&of(text, &client(), &[]), "www.example.com").unwrap().addresses.to_vec();
    let own =
        pod("client", "a", "") + &entry("www", "a", &format!("{{hosts: [www.example.com], resolution: DNS, {WEB}}}"));
    let first = allocated(&own);
    assert_eq!(first.len(), 1, "one family, that of the pod: {first:?}");
    assert!(first[0].to_string().starts_with("240.240."), "{first:?}");
    let more: String = (0..50)
        .map(|i| entry(&format!("x{i}"), "a", &format!("{{hosts: [x{i}.example.com], resolution: DNS, {WEB}}}")))
        .collect();
    assert_eq!(allocated(&(own + &more)), first);
}

/// What a controller has written into a ServiceEntry's status.
fn given(name: &str, spec: &str, addresses: &str) -> String {
    entry(name, "a", spec).replace("\n---\n", &format!("\nstatus: {{addresses: [{addresses}]}}\n---\n"))
}

#[test]
fn an_address_that_a_host_was_given_stays_and_of_two_the_older_keeps_it() {
    let spec = |host: &str| format!("{{hosts: [{host}], resolution: DNS, {WEB}}}");
    let text = pod("client", "a", "")
        + &given("b-older", &spec("one.example.com"), "{host: one.example.com, value: 240.240.7.7}")
        + &given("c-younger", &spec("two.example.com"), "{host: two.example.com, value: 240.240.7.7}")
        + &given(
            "d",
            &spec("three.example.com"),
            "{host: three.example.com, value: nonsense}, {host: gone, value: 240.240.7.8}",
        );
    let snapshot = of(&text, &client(), &[]);
    let addresses =
        |host: &str| held(&snapshot, host).unwrap().addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(addresses("one.example.com"), ["240.240.7.7"]);
    let (two, three) = (addresses("two.example.com"), addresses("three.example.com"));
    assert!(two.len() == 1 && two != ["240.240.7.7"] && three.len() == 1 && two != three, "{two:?} {three:?}");
    // Status says what proxies do, and keeps nothing of hosts that are gone.
    let told: serde_json::Value = serde_json::from_str(&statuses(&compile_text(&text))).unwrap();
    let of = |name: &str| &told[format!("ServiceEntry a/{name}").as_str()]["addresses"];
    assert_eq!(of("b-older")[0], serde_json::json!({"host": "one.example.com", "value": "240.240.7.7"}), "{told}");
    assert_eq!(of("c-younger")[0]["value"], two[0].as_str());
    assert_eq!(of("d").as_array().unwrap().len(), 2, "one of each family: {told}");
}

#[test]
fn no_address_is_told_where_none_is_needed() {
    let text = entry("own", "a", &format!("{{hosts: [own.example.com], addresses: [192.0.2.1], resolution: DNS, {WEB}}}"))
        + &given("direct", &format!("{{hosts: [direct.example.com], resolution: NONE, {WEB}}}"), "{host: direct.example.com, value: 240.240.7.7}")
        // Istio gives wildcards of this kind addresses, and would do so again and again.
        + &given("wild", &format!("{{hosts: [\"*.example.com\"], resolution: DYNAMIC_DNS, {WEB}}}"), "{host: \"*.example.com\", value: 240.240.7.8}");
    let told: serde_json::Value = serde_json::from_str(&statuses(&compile_text(&text))).unwrap();
    let of = |name: &str| &told[format!("ServiceEntry a/{name}").as_str()]["addresses"];
    assert!(of("own").is_null() && of("direct").is_null(), "{told}");
    assert_eq!(of("wild")[0]["value"], "240.240.7.8");
}

#[test]
fn wildcards_and_unresolved_hosts_get_no_address_and_no_dns_answer() {
    let text = pod("client", "a", "")
        + &entry("wild", "a", &format!("{{hosts: [\"*.example.com\"], resolution: NONE, {WEB}}}"))
        + &entry("none", "a", &format!("{{hosts: [none.example.org], resolution: NONE, {WEB}}}"));
    let snapshot = of(&text, &client(), &["a.example.com"]);
    for host in ["*.example.com", "none.example.org"] {
        let service = held(&snapshot, host).unwrap();
        assert!(service.addresses.is_empty() && service.names.is_empty(), "{service:?}");
    }
    match resource(&snapshot, ResourceKind::Lookup, "host:a.example.com") {
        Some(Resource::Lookup(lookup)) => assert_eq!(&*lookup.services, ["*.example.com".into()]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn kubernetes_has_a_host_before_any_entry_and_the_own_namespace_before_others() {
    let spec = |host: &str, ip: &str| {
        format!("{{hosts: [{host}], resolution: STATIC, endpoints: [{{address: {ip}}}], {WEB}}}")
    };
    let text = pod("client", "a", "")
        + &service("s", "b", HTTP)
        + &entry("squat", "a", &spec("s.b.svc.cluster.local", "192.0.2.1"))
        + &entry("a-far", "b", &spec("www.example.com", "192.0.2.2"))
        + &entry("near", "a", &spec("www.example.com", "192.0.2.3"))
        + &entry("a-older", "c", &spec("api.example.com", "192.0.2.4"))
        + &entry("younger", "b", &spec("api.example.com", "192.0.2.5"));
    let snapshot = of(&text, &client(), &["s.b.svc.cluster.local", "www.example.com", "api.example.com"]);
    assert!(addresses(&snapshot, "s.b.svc.cluster.local|80").is_empty());
    assert_eq!(addresses(&snapshot, "www.example.com|80"), [Address::Socket("192.0.2.3:80".parse().unwrap())]);
    assert_eq!(addresses(&snapshot, "api.example.com|80"), [Address::Socket("192.0.2.4:80".parse().unwrap())]);
}

#[test]
fn entries_of_one_host_in_one_namespace_add_up() {
    let one = "{hosts: [www.example.com], resolution: STATIC, endpoints: [{address: 192.0.2.1}], ports: [{number: 80, name: http, protocol: HTTP}]}";
    let two = "{hosts: [www.example.com], resolution: STATIC, endpoints: [{address: 192.0.2.2}], ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: more, protocol: TCP}]}";
    let text = pod("client", "a", "") + &entry("one", "a", one) + &entry("two", "a", two);
    let snapshot = of(&text, &client(), &[]);
    let ports: Vec<u16> = held(&snapshot, "www.example.com").unwrap().ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 81]);
    assert_eq!(addresses(&snapshot, "www.example.com|80").len(), 2);
}

#[test]
fn an_entry_that_is_not_exported_is_not_known_elsewhere() {
    let spec = format!("{{hosts: [www.example.com], resolution: DNS, exportTo: [\".\"], {WEB}}}");
    let text = pod("client", "a", "") + &entry("www", "b", &spec);
    assert!(held(&of(&text, &client(), &["www.example.com"]), "www.example.com").is_none());
}

#[test]
fn without_addresses_the_oldest_tcp_entry_of_a_port_stands_at_every_address() {
    let spec = |host: &str, address: &str| {
        format!("{{hosts: [{host}], {address} resolution: DNS, ports: [{{number: 5432, name: tcp, protocol: TCP}}]}}")
    };
    let text = pod("client", "a", "")
        + &entry("b", "b", &spec("b.example.com", ""))
        + &entry("c", "b", &spec("c.example.com", ""))
        + &entry("a", "b", &spec("a.example.com", "addresses: [192.0.2.9],"));
    let snapshot = of(&text, &client(), &["a.example.com", "c.example.com"]);
    let takes = |host: &str| held(&snapshot, host).unwrap().ports[0].takes_any_address;
    assert!(takes("b.example.com"));
    assert!(!takes("c.example.com") && !takes("a.example.com"));
}

#[test]
fn labels_of_the_object_win_over_those_of_the_workload_entry() {
    let text = pod("client", "a", "")
        + &pod("vm-pod", "a", "").replace("app: vm-pod", "app: vm")
        + &entry(
            "vms",
            "a",
            "{hosts: [vm.example.com], resolution: STATIC, location: MESH_INTERNAL, workloadSelector: {labels: {app: vm}}, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]}",
        )
        + &istio(
            "WorkloadEntry",
            "one",
            "a",
            "{address: 192.0.2.1, labels: {app: vm}, serviceAccount: vm, ports: {http: 81}}",
        )
        + &istio("WorkloadEntry", "two", "a", "{address: 192.0.2.2, labels: {app: vm}}")
            .replace("namespace: a}", "namespace: a, labels: {app: other}}")
        + &istio("WorkloadEntry", "three", "b", "{address: 192.0.2.3, labels: {app: vm}}");
    let snapshot = of(&text, &client(), &[]);
    let found = addresses(&snapshot, "vm.example.com|80");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&Address::Socket("192.0.2.1:81".parse().unwrap())), "{found:?}");
    match resource(&snapshot, ResourceKind::Endpoints, "vm.example.com|80") {
        Some(Resource::Endpoints(endpoints)) => {
            let identities: Vec<String> = endpoints.identities.iter().map(ToString::to_string).collect();
            assert_eq!(identities, ["spiffe://cluster.local/ns/a/sa/default", "spiffe://cluster.local/ns/a/sa/vm"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_behind_an_entry_has_its_port_inbound() {
    let text = pod("client", "a", "")
        + &entry(
            "own",
            "a",
            "{hosts: [own.example.com], resolution: STATIC, workloadSelector: {labels: {app: client}}, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]}",
        );
    let snapshot = of(&text, &client(), &[]);
    match resource(&snapshot, ResourceKind::Inbound, "8080") {
        Some(Resource::Inbound(inbound)) => {
            assert_eq!((inbound.protocol, inbound.service.as_deref()), (Protocol::Http, Some("own.example.com")));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn tls_behind_networks_is_told_apart_by_server_name() {
    let text = pod("client", "a", "")
        + &entry(
            "www",
            "a",
            "{hosts: [www.example.com], addresses: [192.0.2.0/24], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}",
        )
        .replace("resolution: DNS", "resolution: NONE");
    let compiled = compile_text(&text);
    let queries = [Query::Address("192.0.2.7".parse().unwrap())].into();
    let snapshot = palisade_compile::scope(&compiled.mesh, &client(), &queries).unwrap();
    match resource(&snapshot, ResourceKind::Lookup, "address:192.0.2.7") {
        Some(Resource::Lookup(lookup)) => assert_eq!(&*lookup.services, ["www.example.com".into()]),
        other => panic!("{other:?}"),
    }
    match resource(&snapshot, ResourceKind::L4Route, "ServiceEntry/a/www/www.example.com/443/tls") {
        Some(Resource::L4Route(route)) => assert_eq!(&*route.sni, ["www.example.com".parse().unwrap()]),
        _ => panic!("{:?}", names(&snapshot, ResourceKind::L4Route)),
    }
}

#[test]
fn one_sidecar_applies_and_it_limits_services_rules_and_unknown_hosts() {
    let rule = "{hosts: [s.b.svc.cluster.local], http: [{route: [{destination: {host: other.c.svc.cluster.local}}]}]}";
    let text = pod("client", "a", "")
        + &service("s", "b", HTTP)
        + &service("hidden", "b", HTTP)
        + &service("other", "c", HTTP)
        + &istio("VirtualService", "s", "b", rule)
        + &istio(
            "Sidecar",
            "default",
            "a",
            "{egress: [{hosts: [\"b/s.b.svc.cluster.local\"]}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
        )
        + &istio("Sidecar", "others", "a", "{workloadSelector: {labels: {app: x}}, egress: [{hosts: [\"*/*\"]}]}")
        + &istio("Sidecar", "root", "istio-system", "{egress: [{hosts: [\"~/*\"]}]}");
    let hosts = ["s.b", "hidden.b", "other.c"];
    let snapshot = of(&text, &client(), &hosts);
    assert_eq!(names(&snapshot, ResourceKind::Service), ["s.b.svc.cluster.local"]);
    assert_eq!(snapshot.settings().unwrap().outbound, OutboundPolicy::RegistryOnly);
    // What an imported rule leads to is reached by it, though nobody may name it.
    cluster(&snapshot, "outbound|80||other.c.svc.cluster.local");
    let elsewhere = of(&(text + &pod("client", "d", "")), &ProxyRef::sidecar("d", "client"), &hosts);
    assert!(names(&elsewhere, ResourceKind::Service).is_empty(), "the root namespace's");
}

#[test]
fn a_port_with_a_listener_of_its_own_sees_only_what_that_imports() {
    let text = pod("client", "a", "")
        + &service("s", "b", "{name: http, port: 80}, {name: http-more, port: 81}")
        + &service("t", "c", "{name: http, port: 80}, {name: http-more, port: 81}")
        + &istio(
            "Sidecar",
            "default",
            "a",
            "{egress: [{port: {number: 81, protocol: HTTP, name: x}, hosts: [\"b/*\"]}, {hosts: [\"c/*\", \"~c/u.c.svc.cluster.local\"]}]}",
        )
        + &service("u", "c", HTTP);
    let snapshot = of(&text, &client(), &["s.b", "t.c", "u.c"]);
    let ports =
        |host: &str| -> Vec<u16> { held(&snapshot, host).unwrap().ports.iter().map(|port| port.port).collect() };
    assert_eq!(ports("s.b.svc.cluster.local"), [81]);
    assert_eq!(ports("t.c.svc.cluster.local"), [80]);
    assert!(held(&snapshot, "u.c.svc.cluster.local").is_none());
}

#[test]
fn ingress_replaces_the_ports_of_services() {
    let text = pod("client", "a", "")
        + &service("client", "a", HTTP)
        + &istio(
            "Sidecar",
            "default",
            "a",
            "{ingress: [{port: {number: 9080, protocol: HTTP, name: p1}, defaultEndpoint: \"127.0.0.1:8080\"}, {port: {number: 9081, protocol: TCP, name: p2}, defaultEndpoint: \"unix:///run/app\"}, {port: {number: 9082, name: p3}}]}",
        );
    let snapshot = of(&text, &client(), &[]);
    assert_eq!(names(&snapshot, ResourceKind::Inbound), ["*", "9080", "9081", "9082"]);
    assert_eq!(addresses(&snapshot, "inbound|9080"), [Address::Socket("127.0.0.1:8080".parse().unwrap())]);
    assert_eq!(addresses(&snapshot, "inbound|9081"), [Address::Unix("/run/app".into())]);
    assert_eq!(cluster(&snapshot, "inbound|9082||").discovery, Discovery::Workload { port: Some(9082) });
}

#[test]
fn a_port_that_asks_for_tls_of_its_own_takes_mesh_peers_only() {
    let text = pod("client", "a", "")
        + &istio("PeerAuthentication", "plaintext", "a", "{mtls: {mode: DISABLE}}")
        + &istio(
            "Sidecar",
            "default",
            "a",
            "{ingress: [{port: {number: 9443, protocol: HTTPS, name: p1}, defaultEndpoint: \"127.0.0.1:8080\", tls: {mode: SIMPLE, privateKey: /k, serverCertificate: /c}}, {port: {number: 9080, protocol: HTTP, name: p2}}]}",
        );
    let snapshot = of(&text, &client(), &[]);
    let mode = |port: &str| match resource(&snapshot, ResourceKind::Inbound, port) {
        Some(Resource::Inbound(inbound)) => inbound.mtls,
        other => panic!("{other:?}"),
    };
    assert_eq!((mode("9443"), mode("9080")), (MtlsMode::Strict, MtlsMode::Disable));
}

/// Istio's egress gateway in the Gateway API's words.
const GATEWAY_API: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: a}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cnn, namespace: a}
spec:
  hosts: [edition.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  resolution: DNS
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: cnn-egress-gateway, namespace: a, annotations: {networking.istio.io/service-type: ClusterIP}}
spec:
  gatewayClassName: palisade-egress
  listeners:
  - {name: http, hostname: edition.example.com, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Same}}}
  - name: https
    hostname: edition.example.com
    port: 443
    protocol: HTTPS
    tls: {mode: Terminate, options: {gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: direct-cnn-to-egress-gateway, namespace: a}
spec:
  parentRefs: [{kind: ServiceEntry, group: networking.istio.io, name: cnn, port: 80}]
  rules: [{backendRefs: [{name: cnn-egress-gateway-palisade-egress, port: 443}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: egress-gateway, namespace: a}
spec:
  host: cnn-egress-gateway-palisade-egress.a.svc.cluster.local
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: edition.example.com}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: forward-cnn-from-egress-gateway, namespace: a}
spec:
  parentRefs: [{name: cnn-egress-gateway}]
  hostnames: [edition.example.com]
  rules: [{backendRefs: [{kind: Hostname, group: networking.istio.io, name: edition.example.com, port: 443}]}]
"#;

#[test]
fn an_egress_gateway_in_the_gateway_apis_words_leads_outside() {
    let compiled = compile_text(GATEWAY_API);
    assert!(compiled.reports.diagnostics().is_empty(), "{:#?}", compiled.reports.diagnostics());
    let sidecar = crate::support::snapshot(&compiled, &client(), &["edition.example.com"]);
    let to_gateway = cluster(&sidecar, "outbound|443||cnn-egress-gateway-palisade-egress.a.svc.cluster.local");
    assert!(matches!(&to_gateway.tls, UpstreamTls::Mesh(tls) if &*tls.sni == "edition.example.com"));
    assert_eq!(
        crate::support::rules_at(&sidecar, "outbound:80", "edition.example.com:80"),
        ["HTTPRoute/a/direct-cnn-to-egress-gateway/rules/0"]
    );
    let gateway = crate::support::snapshot(&compiled, &ProxyRef::gateway("a", "cnn-egress-gateway"), &[]);
    match resource(&gateway, ResourceKind::Listener, "0.0.0.0:443") {
        Some(Resource::Listener(listener)) => {
            let tls = listener.chains[0].tls.as_ref().unwrap();
            assert_eq!(tls.mode, palisade_model::listener::ServerTlsMode::Mesh);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        addresses(&gateway, "edition.example.com|443"),
        [Address::Name("edition.example.com".into(), 443)],
        "outside by name"
    );
}
