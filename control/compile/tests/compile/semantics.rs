//! Claims of istio-semantics.md, each against compiled documents.

use palisade_compile::ProxyRef;
use palisade_model::{
    cluster::{LoadBalancer, UpstreamTls},
    endpoint::EndpointHealth,
    listener::{MtlsMode, Protocol},
    resource::{Resource, ResourceKind},
    route::RouteAction,
    service::Query,
};

use crate::support::{
    HTTP, client, cluster, compile_text, istio, names, of, pod, resource, routes, rules_at, service, snapshot,
};

#[test]
fn a_sidecar_holds_its_own_namespace_and_what_it_asked_about() {
    let text = pod("client", "a", "")
        + &service("near", "a", HTTP)
        + &service("far", "b", HTTP)
        + &service("asked", "b", HTTP);
    let held = of(&text, &client(), &["asked.b", "nowhere"]);
    assert_eq!(names(&held, ResourceKind::Service), ["asked.b.svc.cluster.local", "near.a.svc.cluster.local"]);
    match resource(&held, ResourceKind::Lookup, "host:nowhere") {
        Some(Resource::Lookup(lookup)) => assert!(lookup.services.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_that_is_not_exported_is_not_known_elsewhere() {
    let hidden = service("hidden", "b", HTTP)
        .replace("namespace: b}", "namespace: b, annotations: {networking.istio.io/exportTo: .}}");
    let held = of(&(pod("client", "a", "") + &hidden), &client(), &["hidden.b"]);
    assert!(names(&held, ResourceKind::Service).is_empty());
}

#[test]
fn the_oldest_virtual_service_of_a_host_has_it_and_names_break_ties() {
    let rule = "{hosts: [s], http: [{route: [{destination: {host: s}}]}]}";
    let text = pod("client", "a", "")
        + &service("s", "a", HTTP)
        + &istio("VirtualService", "y", "a", rule)
        + &istio("VirtualService", "x", "a", rule);
    let held = of(&text, &client(), &[]);
    assert_eq!(rules_at(&held, "outbound:80", "s.a.svc.cluster.local:80"), ["VirtualService/a/x/http/0@80"]);
}

#[test]
fn an_exact_host_beats_an_older_wildcard() {
    let text = pod("client", "a", "")
        + &service("s", "a", HTTP)
        + &istio(
            "VirtualService",
            "a-wild",
            "a",
            "{hosts: [\"*.a.svc.cluster.local\"], http: [{route: [{destination: {host: s}}]}]}",
        )
        + &istio("VirtualService", "exact", "a", "{hosts: [s], http: [{route: [{destination: {host: s}}]}]}");
    let held = of(&text, &client(), &[]);
    assert_eq!(rules_at(&held, "outbound:80", "s.a.svc.cluster.local:80"), ["VirtualService/a/exact/http/0@80"]);
}

#[test]
fn a_host_that_no_service_has_is_served_on_port_80_only() {
    let text = pod("client", "a", "")
        + &istio(
            "VirtualService",
            "x",
            "a",
            "{hosts: [www.example.com], http: [{redirect: {authority: b.example.com}}]}",
        );
    let held = of(&text, &client(), &[]);
    assert_eq!(names(&held, ResourceKind::VirtualHost), ["outbound:80 www.example.com:80"]);
}

#[test]
fn a_service_without_rules_gets_default_retries_and_no_timeout() {
    let held = of(&(pod("client", "a", "") + &service("s", "a", HTTP)), &client(), &[]);
    let RouteAction::Forward(forward) = &routes(&held)[0].action else { panic!() };
    assert_eq!(forward.retries.as_ref().unwrap().attempts, 2);
    assert_eq!(forward.timeout, None);
}

#[test]
fn gateways_of_an_alternative_switch_its_source_labels_off() {
    let rule = "{hosts: [s], gateways: [mesh], http: [\
        {match: [{uri: {prefix: /x}, sourceLabels: {app: other}, gateways: [mesh]}], route: [{destination: {host: s}}]}, \
        {match: [{uri: {prefix: /y}, sourceLabels: {app: other}}], route: [{destination: {host: s}}]}]}";
    let held = of(
        &(pod("client", "a", "") + &service("s", "a", HTTP) + &istio("VirtualService", "v", "a", rule)),
        &client(),
        &[],
    );
    assert_eq!(rules_at(&held, "outbound:80", "s.a.svc.cluster.local:80"), ["VirtualService/a/v/http/0@80"]);
}

#[test]
fn a_missing_subset_is_named_and_answers_503() {
    let rule = "{hosts: [s], http: [{route: [{destination: {host: s, subset: v9}}]}]}";
    let held = of(
        &(pod("client", "a", "") + &service("s", "a", HTTP) + &istio("VirtualService", "v", "a", rule)),
        &client(),
        &[],
    );
    let RouteAction::Forward(forward) = &routes(&held)[0].action else { panic!() };
    assert_eq!(&*forward.backends[0].cluster, "outbound|80|v9|s.a.svc.cluster.local");
    assert_eq!(forward.backends[0].missing, Some(503));
}

#[test]
fn zero_weights_are_left_out_unless_there_is_one_destination() {
    let rule = "{hosts: [s], http: [{route: [{destination: {host: s}, weight: 0}, {destination: {host: s, subset: x}, weight: 5}]}]}";
    let held = of(
        &(pod("client", "a", "") + &service("s", "a", HTTP) + &istio("VirtualService", "v", "a", rule)),
        &client(),
        &[],
    );
    let RouteAction::Forward(forward) = &routes(&held)[0].action else { panic!() };
    assert_eq!(forward.backends.len(), 1);
    assert_eq!(forward.backends[0].weight, 5);
}

#[test]
fn names_by_which_a_service_is_called() {
    let text = pod("client", "a", "") + &service("near", "a", HTTP) + &service("far", "b", HTTP);
    let held = of(&text, &client(), &["far.b"]);
    let domains = |name: &str| match resource(&held, ResourceKind::VirtualHost, &format!("outbound:80 {name}:80")) {
        Some(Resource::VirtualHost(host)) => {
            host.domains.iter().map(ToString::to_string).filter(|d| !d.starts_with("10.")).collect::<Vec<_>>()
        }
        _ => panic!(),
    };
    assert_eq!(
        domains("near.a.svc.cluster.local"),
        ["near", "near.a", "near.a.svc", "near.a.svc.cluster.local", "near.a.svc.cluster.local."]
    );
    assert_eq!(
        domains("far.b.svc.cluster.local"),
        ["far.b", "far.b.svc", "far.b.svc.cluster.local", "far.b.svc.cluster.local."]
    );
}

#[test]
fn auto_mtls_follows_the_namespace_and_not_the_workload() {
    let base = pod("client", "a", "") + &pod("s", "b", "") + &service("s", "b", HTTP);
    let tls = |policy: &str| {
        cluster(&of(&(base.clone() + policy), &client(), &["s.b"]), "outbound|80||s.b.svc.cluster.local").tls.clone()
    };
    assert!(matches!(tls(""), UpstreamTls::Auto(_)));
    assert!(matches!(tls(&istio("PeerAuthentication", "p", "b", "{mtls: {mode: DISABLE}}")), UpstreamTls::Off));
    let workload = istio("PeerAuthentication", "p", "b", "{selector: {matchLabels: {app: s}}, mtls: {mode: DISABLE}}");
    assert!(matches!(tls(&workload), UpstreamTls::Auto(_)));
}

#[test]
fn a_destination_rule_beats_auto_mtls_and_credentials_at_a_sidecar_are_refused() {
    let base = pod("client", "a", "") + &service("s", "a", HTTP);
    let tls = |policy: &str| {
        let rule = istio("DestinationRule", "d", "a", &format!("{{host: s, trafficPolicy: {policy}}}"));
        cluster(&of(&(base.clone() + &rule), &client(), &[]), "outbound|80||s.a.svc.cluster.local").tls.clone()
    };
    assert!(matches!(tls("{tls: {mode: DISABLE}}"), UpstreamTls::Off));
    assert!(matches!(tls("{tls: {mode: ISTIO_MUTUAL}}"), UpstreamTls::Mesh(_)));
    assert!(matches!(tls("{tls: {mode: SIMPLE, credentialName: x}}"), UpstreamTls::Refuse { message: _ }));
    assert!(matches!(tls("{tls: {mode: SIMPLE, sni: x}}"), UpstreamTls::Originate(_)));
    let port =
        tls("{tls: {mode: ISTIO_MUTUAL}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}");
    assert!(matches!(port, UpstreamTls::Auto(_)), "settings of a port replace all blocks");
}

#[test]
fn mesh_tls_names_the_port_subset_and_host() {
    let held = of(&(pod("client", "a", "") + &service("s", "a", HTTP)), &client(), &[]);
    let UpstreamTls::Auto(tls) = &cluster(&held, "outbound|80||s.a.svc.cluster.local").tls else { panic!() };
    assert_eq!(&*tls.sni, "outbound_.80_._.s.a.svc.cluster.local");
}

#[test]
fn inbound_ports_are_those_of_services_with_an_endpoint_at_the_address() {
    let text =
        pod("s", "a", "") + &service("s", "a", "{name: http, port: 80, targetPort: 8080}, {name: tcp-x, port: 90}");
    let held = of(&text, &ProxyRef::sidecar("a", "s"), &[]);
    assert_eq!(names(&held, ResourceKind::Inbound), ["*", "8080", "90"]);
    let Some(Resource::Inbound(port)) = resource(&held, ResourceKind::Inbound, "8080") else { panic!() };
    assert_eq!((port.protocol, &*port.cluster, port.mtls), (Protocol::Http, "inbound|8080||", MtlsMode::Permissive));
    // Labels alone do not decide: the same labels at another address have no service.
    let mut elsewhere = ProxyRef::sidecar("a", "s");
    elsewhere.ips = Some(vec!["10.9.9.9".parse().unwrap()]);
    assert_eq!(names(&of(&text, &elsewhere, &[]), ResourceKind::Inbound), ["*"]);
}

#[test]
fn the_oldest_service_decides_what_a_shared_port_carries() {
    let both = |first: &str, second: &str| {
        let http = service("s", "a", "{name: http, port: 80, targetPort: 8080}");
        let tcp = service("t", "a", "{name: tcp, port: 90, targetPort: 8080}").replace("app: t", "app: s");
        pod("s", "a", "")
            + &http.replace("namespace: a}", &format!("namespace: a, creationTimestamp: \"{first}\"}}"))
            + &tcp.replace("namespace: a}", &format!("namespace: a, creationTimestamp: \"{second}\"}}"))
    };
    let protocol =
        |text: &str| match resource(&of(text, &ProxyRef::sidecar("a", "s"), &[]), ResourceKind::Inbound, "8080") {
            Some(Resource::Inbound(port)) => port.protocol,
            _ => panic!(),
        };
    assert_eq!(protocol(&both("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")), Protocol::Http);
    assert_eq!(protocol(&both("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z")), Protocol::Tcp);
}

#[test]
fn a_port_level_mode_applies_to_ports_that_no_service_declares() {
    let policy = "{selector: {matchLabels: {app: s}}, mtls: {mode: STRICT}, portLevelMtls: {9999: {mode: DISABLE}}}";
    let held =
        of(&(pod("s", "a", "") + &istio("PeerAuthentication", "p", "a", policy)), &ProxyRef::sidecar("a", "s"), &[]);
    let Some(Resource::Inbound(port)) = resource(&held, ResourceKind::Inbound, "9999") else { panic!() };
    assert_eq!((port.mtls, &*port.cluster), (MtlsMode::Disable, "InboundPassthroughCluster"));
    let Some(Resource::Inbound(others)) = resource(&held, ResourceKind::Inbound, "*") else { panic!() };
    assert_eq!(others.mtls, MtlsMode::Strict);
}

#[test]
fn a_broken_peer_authentication_is_strict_for_what_it_selects() {
    let policy = "{selector: {matchLabels: {app: s}}, mtls: {mode: SOMETIMES}}";
    let text = pod("s", "a", "") + &pod("t", "a", "") + &istio("PeerAuthentication", "p", "a", policy);
    let mode = |name: &str| match resource(&of(&text, &ProxyRef::sidecar("a", name), &[]), ResourceKind::Inbound, "*") {
        Some(Resource::Inbound(port)) => port.mtls,
        _ => panic!(),
    };
    assert_eq!((mode("s"), mode("t")), (MtlsMode::Strict, MtlsMode::Permissive));
}

#[test]
fn not_ready_endpoints_count_unless_they_terminate() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
        metadata: {name: s-1, namespace: a, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\n\
        ports: [{name: http, port: 8080}]\nendpoints:\n\
        - {addresses: [10.0.0.1], conditions: {ready: true}}\n\
        - {addresses: [10.0.0.2], conditions: {ready: false}}\n\
        - {addresses: [10.0.0.3], conditions: {ready: false, terminating: false}}\n\
        - {addresses: [10.0.0.4]}\n---\n";
    let held = of(&(pod("client", "a", "") + &service("s", "a", HTTP) + slice), &client(), &[]);
    let Some(Resource::Endpoints(endpoints)) = resource(&held, ResourceKind::Endpoints, "s.a.svc.cluster.local|80")
    else {
        panic!()
    };
    let health: Vec<EndpointHealth> = endpoints.endpoints.iter().map(|endpoint| endpoint.health).collect();
    assert_eq!(health, [EndpointHealth::Healthy, EndpointHealth::Unhealthy, EndpointHealth::Healthy]);
}

#[test]
fn a_headless_service_is_dialled_at_the_address_that_the_client_chose() {
    let headless = service("s", "a", HTTP).replace("spec: {", "spec: {clusterIP: None, ");
    let held = of(&(pod("client", "a", "") + &pod("s", "a", "") + &headless), &client(), &[]);
    assert_eq!(cluster(&held, "outbound|80||s.a.svc.cluster.local").load_balancer, LoadBalancer::Passthrough);
    let Some(Resource::Service(service)) = resource(&held, ResourceKind::Service, "s.a.svc.cluster.local") else {
        panic!()
    };
    assert!(service.is_headless && service.addresses.is_empty());
    assert_eq!(service.names[0].addresses.len(), 1);
}

#[test]
fn an_external_name_is_an_alias_of_its_target() {
    let alias = "apiVersion: v1\nkind: Service\nmetadata: {name: alias, namespace: b}\n\
        spec: {type: ExternalName, externalName: s.a.svc.cluster.local}\n---\n";
    let held = of(&(pod("client", "a", "") + &service("s", "a", HTTP) + alias), &client(), &["alias.b"]);
    match resource(&held, ResourceKind::Lookup, "host:alias.b") {
        Some(Resource::Lookup(lookup)) => assert_eq!(&*lookup.services[0], "s.a.svc.cluster.local"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_filter_of_the_mesh_has_whatever_a_query_is_answered_with() {
    let alias = "apiVersion: v1\nkind: Service\nmetadata: {name: alias, namespace: b}\n\
        spec: {type: ExternalName, externalName: s.a.svc.cluster.local}\n---\n";
    let headless = service("db", "b", HTTP).replace("spec: {", "spec: {clusterIP: None, ");
    let hidden = service("hidden", "c", HTTP)
        .replace("namespace: c}", "namespace: c, annotations: {networking.istio.io/exportTo: .}}");
    let text = pod("client", "a", "") + &pod("db", "b", "") + &service("s", "a", HTTP) + alias + &headless + &hidden;
    let compiled = compile_text(&text);
    let nothing = snapshot(&compiled, &client(), &[]);
    let Some(Resource::Membership(filter)) = resource(&nothing, ResourceKind::Membership, "mesh") else { panic!() };
    let has = |query: &Query| filter.may_have(query, "a", "cluster.local");
    let addresses: Vec<Query> = ["s.a", "db.b"]
        .iter()
        .flat_map(|host| {
            snapshot(&compiled, &client(), &[host]).of_kind(ResourceKind::Service).cloned().collect::<Vec<_>>()
        })
        .flat_map(|entry| match entry.resource() {
            Resource::Service(service) => service.names.iter().flat_map(|name| name.addresses.to_vec()).collect(),
            _ => Vec::new(),
        })
        .map(Query::Address)
        .collect();
    assert!(addresses.len() >= 2);
    let hosts = ["s", "s.a", "s.a.svc.cluster.local", "alias.b", "db.b", "x.db.b", "hidden.c"];
    for query in hosts.map(|host| Query::Host(host.into())).iter().chain(&addresses) {
        assert!(has(query), "{query}");
    }
    for absent in ["s.b", "nowhere", "example.com", "x.s.a"] {
        assert!(!has(&Query::Host(absent.into())), "{absent}");
    }
    assert!(!has(&Query::Address("192.0.2.1".parse().unwrap())));
}

#[test]
fn clients_of_one_destination_share_its_cluster_whatever_route_leads_there() {
    let rule = "{hosts: [s], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: t}}]}, {route: [{destination: {host: t}}]}]}";
    let text = pod("client", "a", "")
        + &service("s", "a", HTTP)
        + &service("t", "a", HTTP)
        + &istio("VirtualService", "v", "a", rule);
    let held = of(&text, &client(), &[]);
    assert!(names(&held, ResourceKind::Cluster).contains(&"outbound|80||t.a.svc.cluster.local".to_owned()));
    assert_eq!(rules_at(&held, "outbound:80", "s.a.svc.cluster.local:80").len(), 2);
}

#[test]
fn an_http_route_to_a_service_takes_the_place_of_its_default_route() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: b}\nspec:\n  \
        parentRefs: [{group: \"\", kind: Service, name: s}]\n  rules: [{backendRefs: [{name: s, port: 80}]}]\n---\n";
    let held = of(&(pod("client", "a", "") + &service("s", "b", HTTP) + route), &client(), &["s.b"]);
    assert_eq!(rules_at(&held, "outbound:80", "s.b.svc.cluster.local:80"), ["HTTPRoute/b/r/rules/0"]);
}

#[test]
fn a_delegate_fills_in_under_its_root() {
    let text = pod("client", "a", "")
        + &service("s", "a", HTTP)
        + &istio(
            "VirtualService",
            "root",
            "a",
            "{hosts: [s], http: [{name: r, match: [{uri: {prefix: /x}}], delegate: {name: d, namespace: b}, timeout: 3s}, {match: [{uri: {prefix: /gone}}], delegate: {name: gone}}]}",
        )
        + &istio(
            "VirtualService",
            "d",
            "b",
            "{http: [{name: i, match: [{uri: {prefix: /x/y}}], route: [{destination: {host: s.a.svc.cluster.local}}]}, {match: [{uri: {prefix: /z}}], route: [{destination: {host: s.a.svc.cluster.local}}]}]}",
        );
    let held = of(&text, &client(), &[]);
    assert_eq!(rules_at(&held, "outbound:80", "s.a.svc.cluster.local:80"), ["VirtualService/a/root/http/0/0@80"]);
    let rule = routes(&held)[0].clone();
    assert_eq!((rule.name.as_deref(), &*rule.source), (Some("r-i"), "VirtualService a/root"));
    let RouteAction::Forward(forward) = rule.action else { panic!() };
    assert_eq!(forward.timeout, Some(std::time::Duration::from_secs(3)));
}

#[test]
fn a_thousand_services_with_rules_compile() {
    let mut text = pod("client", "a", "");
    for index in 0..1000 {
        let name = format!("s{index}");
        text += &service(&name, "a", HTTP);
        text += &pod(&name, "a", "");
        text += &istio(
            "VirtualService",
            &name,
            "a",
            &format!("{{hosts: [{name}], http: [{{route: [{{destination: {{host: {name}}}}}]}}]}}"),
        );
        text += &istio(
            "DestinationRule",
            &name,
            "a",
            &format!("{{host: {name}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}"),
        );
    }
    let documents = crate::support::documents("in.yaml", &text);
    let start = std::time::Instant::now();
    let compiled = crate::support::compile_all(documents);
    let compiled_after = start.elapsed();
    let held = snapshot(&compiled, &client(), &[]);
    println!("compiled in {compiled_after:?}, one slice in {:?}", start.elapsed() - compiled_after);
    assert_eq!(names(&held, ResourceKind::Service).len(), 1000);
    assert_eq!(names(&held, ResourceKind::Route).len(), 1000);
}
