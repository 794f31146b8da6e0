//! Datagrams, and certificates on either side of a Gateway: what its status says, and what its proxy is told.

use palisade_compile::ProxyRef;
use palisade_model::{
    cluster::{Originate, UpstreamTls},
    listener::{ClientValidation, ServerTlsMode},
    resource::{Resource, ResourceKind},
    route::{Forward, RouteAction, Session},
    snapshot::Snapshot,
};

use super::*;

/// A certificate, a key that is none, and roots that are none: nobody reads further than their marks.
const PEM: &str = "
apiVersion: v1
kind: Secret
metadata: {name: own, namespace: a}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    -----BEGIN CERTIFICATE-----
    MIIBaTCCARCgAwIBAgIUSFg/+lCVsrdbwH+SOxOy+v5wts8wCgYIKoZIzj0EAwIw
    DDEKMAgGA1UEAwwBYTAeFw0yNjExMzAxOTUwMTRaFw0zNjExMjcxOTUwMTRaMAwx
    CjAIBgNVBAMMAWEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR6kQdZssyCYyDk
    NUrFnx8RWeWUnx5EIqIy+5L4zeE9WC+X2yQhDbgbkuO2mgVuOYbsEB93ewNSf627
    selgf8NAo1AwTjAdBgNVHQ4EFgQU6REr8cjjv85vYLhYtI7pG+ENju8wHwYDVR0j
    BBgwFoAU6REr8cjjv85vYLhYtI7pG+ENju8wDAYDVR0TAQH/BAIwADAKBggqhkjO
    PQQDAgNHADBEAiAqfuGK/q6u+F1IgBTEey/OZeJmqEYYVNhiOrEKpgTTCQIgXxaC
    v8XGwKtMAIKhgWqYu5/y7hL/R7k0rE+iHUq699k=
    -----END CERTIFICATE-----
  tls.key: |
    -----BEGIN PRIVATE KEY-----
    MA==
    -----END PRIVATE KEY-----
---
apiVersion: v1
kind: ConfigMap
metadata: {name: roots, namespace: a}
data:
  ca.crt: |
    -----BEGIN CERTIFICATE-----
    MA==
    -----END CERTIFICATE-----
---";

fn edge(documents: &str) -> Snapshot {
    let text = format!("{CLASS}---{documents}");
    support::snapshot(&support::compile_all(support::documents("in.yaml", &text)), &ProxyRef::gateway("a", "edge"), &[])
}

fn udp_route(parents: &str, backends: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {{name: dns, namespace: a}}
spec: {{parentRefs: [{parents}], rules: [{{backendRefs: [{backends}]}}]}}
---"
    )
}

/// DNS on both transports: the ports have one number, and pods take them elsewhere.
const DNS: &str = "
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: a}
spec:
  selector: {app: dns}
  ports: [{name: tcp, port: 53, targetPort: 1053}, {name: udp, port: 53, targetPort: 2053, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: a, labels: {app: dns}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.1.0.7}
---";

#[test]
fn datagrams_go_to_the_udp_port_of_a_service() {
    let documents = format!(
        "{}{DNS}{}",
        gateway("{name: udp, port: 53, protocol: UDP}, {name: tcp, port: 53, protocol: TCP}"),
        udp_route("{name: edge}", "{name: dns, port: 53}")
    );
    let told = statuses(&documents);
    assert_eq!(condition(listener(&told, "udp"), "Accepted"), "True Accepted");
    assert_eq!(condition(listener(&told, "udp"), "Conflicted"), "False NoConflicts");
    assert_eq!(kinds(listener(&told, "udp")), ["UDPRoute"]);
    assert_eq!(listener(&told, "udp")["attachedRoutes"], 1);
    assert_eq!(listener(&told, "tcp")["attachedRoutes"], 0);
    let parent = &told["UDPRoute a/dns"]["parents"][0];
    assert_eq!(condition(parent, "Accepted"), "True Accepted");
    assert_eq!(condition(parent, "ResolvedRefs"), "True ResolvedRefs");

    let snapshot = edge(&documents);
    let names = support::names(&snapshot, ResourceKind::Listener);
    assert_eq!(names, ["0.0.0.0:53", "0.0.0.0:53/udp"]);
    let cluster = support::cluster(&snapshot, "outbound|53/udp||dns.a.svc.cluster.local");
    assert_eq!(cluster.tls, UpstreamTls::Off);
    match support::resource(&snapshot, ResourceKind::Endpoints, "dns.a.svc.cluster.local|53/udp") {
        Some(Resource::Endpoints(endpoints)) => {
            let at: Vec<String> = endpoints.endpoints.iter().map(|e| format!("{:?}", e.address)).collect();
            assert!(at.len() == 1 && at[0].contains("10.1.0.7:2053"), "{at:?}");
        }
        other => panic!("{other:?}"),
    }
    let udp = snapshot.get(ResourceKind::Listener, "0.0.0.0:53/udp").unwrap();
    assert!(udp.meta().requires.iter().any(|feature| &*feature.0 == "listener.udp"), "{:?}", udp.meta());
}

#[test]
fn a_udp_route_needs_a_udp_listener_and_udp_ports() {
    let listeners = gateway("{name: udp, port: 53, protocol: UDP}, {name: http, port: 80, protocol: HTTP}");
    for (parents, backends, accepted, resolved) in [
        (
            "{name: edge, sectionName: http}",
            "{name: dns, port: 53}",
            "False NotAllowedByListeners",
            "True ResolvedRefs",
        ),
        ("{name: edge, port: 54}", "{name: dns, port: 53}", "False NoMatchingParent", "True ResolvedRefs"),
        ("{name: edge}", "{name: none, port: 53}", "True Accepted", "False BackendNotFound"),
        ("{name: edge}", "{name: dns, namespace: b, port: 53}", "True Accepted", "False RefNotPermitted"),
        (
            "{group: '', kind: Service, name: dns}",
            "{name: dns, port: 53}",
            "False UnsupportedValue",
            "True ResolvedRefs",
        ),
    ] {
        let told = statuses(&format!("{listeners}{DNS}{}", udp_route(parents, backends)));
        let parent = &told["UDPRoute a/dns"]["parents"][0];
        assert_eq!(condition(parent, "Accepted"), accepted, "{parents} {backends}");
        assert_eq!(condition(parent, "ResolvedRefs"), resolved, "{parents} {backends}");
    }
    let tcp_only =
        DNS.replace(", protocol: UDP", "").replace("port: 53, targetPort: 2053", "port: 54, targetPort: 2053");
    let told = statuses(&format!("{listeners}{tcp_only}{}", udp_route("{name: edge}", "{name: dns, port: 53}")));
    assert_eq!(condition(&told["UDPRoute a/dns"]["parents"][0], "ResolvedRefs"), "False BackendNotFound");
}

/// A Gateway that speaks TLS to a backend, and shows it this certificate.
fn with_backend_tls(reference: &str) -> String {
    format!(
        "{PEM}
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: a}}
spec:
  gatewayClassName: palisade
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
  tls: {{backend: {{clientCertificateRef: {reference}}}}}
---{}{}
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: p, namespace: a}}
spec:
  targetRefs: [{{group: '', kind: Service, name: s}}]
  validation: {{hostname: s.example, caCertificateRefs: [{{group: '', kind: ConfigMap, name: roots}}]}}
---",
        route("{name: edge}", "rules: [{backendRefs: [{name: s, port: 443}, {name: plain, port: 80}]}]"),
        "\n".to_owned()
            + &support::service("s", "a", "{name: tls, port: 443}")
            + &support::service("plain", "a", "{name: http, port: 80}")
    )
}

#[test]
fn a_gateway_shows_backends_its_certificate_or_does_not_speak_to_them() {
    let documents = with_backend_tls("{name: own}");
    let told = statuses(&documents);
    assert_eq!(condition(&told["Gateway a/edge"], "ResolvedRefs"), "True ResolvedRefs");
    let snapshot = edge(&documents);
    match &support::cluster(&snapshot, "outbound|443||s.a.svc.cluster.local").tls {
        UpstreamTls::Originate(Originate { client_certificate, .. }) => {
            assert_eq!(client_certificate.as_deref(), Some("secret/a/own"));
        }
        other => panic!("{other:?}"),
    }
    assert!(snapshot.get(ResourceKind::Secret, "secret/a/own").is_some(), "its key is there too");

    for (reference, expected) in [
        ("{name: none}", "False InvalidClientCertificateRef"),
        ("{name: own, group: wrong.example}", "False InvalidClientCertificateRef"),
        ("{name: own, kind: ConfigMap}", "False InvalidClientCertificateRef"),
        ("{name: own, namespace: b}", "False RefNotPermitted"),
    ] {
        let documents = with_backend_tls(reference);
        let told = statuses(&documents);
        assert_eq!(condition(&told["Gateway a/edge"], "ResolvedRefs"), expected, "{reference}");
        assert_eq!(condition(&told["Gateway a/edge"], "Accepted"), "True Accepted", "{reference}");
        let snapshot = edge(&documents);
        let tls = &support::cluster(&snapshot, "outbound|443||s.a.svc.cluster.local").tls;
        assert!(matches!(tls, UpstreamTls::Refuse { .. }), "{reference}: {tls:?}");
        let plain = &support::cluster(&snapshot, "outbound|80||plain.a.svc.cluster.local").tls;
        assert!(!matches!(plain, UpstreamTls::Refuse { .. }), "backends without TLS are no matter of this: {plain:?}");
    }
}

#[test]
fn clients_with_wrong_certificates_are_served_only_where_that_is_written() {
    let frontend = |mode: &str| {
        format!(
            "{PEM}
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: a}}
spec:
  gatewayClassName: palisade
  listeners: [{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: own}}]}}}}]
  tls: {{frontend: {{default: {{validation: {{{mode} caCertificateRefs: [{{group: '', kind: ConfigMap, name: roots}}]}}}}}}}}
---"
        )
    };
    for (mode, is_fallback) in [("", false), ("mode: AllowValidOnly,", false), ("mode: AllowInsecureFallback,", true)] {
        let documents = frontend(mode);
        let told = statuses(&documents);
        let expected = if is_fallback { "True ConfigurationChanged" } else { "none" };
        assert_eq!(condition(&told["Gateway a/edge"], "InsecureFrontendValidationMode"), expected, "{mode}");
        assert_eq!(condition(listener(&told, "https"), "Accepted"), "True Accepted", "{mode}");
        let snapshot = edge(&documents);
        let entry = snapshot.get(ResourceKind::Listener, "0.0.0.0:443").unwrap();
        let Resource::Listener(found) = entry.resource() else { panic!("{entry:?}") };
        match found.chains[0].tls.as_ref().map(|tls| &tls.mode) {
            Some(ServerTlsMode::Secrets { client: Some(client), .. }) => {
                let ClientValidation { is_required, tolerates_invalid, .. } = client;
                assert_eq!((*is_required, *tolerates_invalid), (!is_fallback, is_fallback), "{mode}");
            }
            other => panic!("{other:?}"),
        }
        let needs = entry.meta().requires.iter().any(|feature| &*feature.0 == "listener.client-fallback");
        assert_eq!(needs, is_fallback, "{mode}");
    }
}

#[test]
fn a_rule_keeps_sessions_by_cookie_or_header() {
    let session = |written: &str| {
        let rules = format!("rules: [{{backendRefs: [{{name: s, port: 80}}], sessionPersistence: {written}}}]");
        let documents = format!(
            "{}{}\n{}",
            gateway("{name: http, port: 80, protocol: HTTP}"),
            route("{name: edge}", &rules),
            support::service("s", "a", "{name: http, port: 80}")
        );
        let snapshot = edge(&documents);
        support::routes(&snapshot)[0].action.clone()
    };
    let kept = |written: &str| match session(written) {
        RouteAction::Forward(Forward { session: Some(session), .. }) => session,
        other => panic!("{other:?}"),
    };
    let unnamed = kept("{}");
    assert!(unnamed.name.starts_with("palisade-session-") && !unnamed.is_header && unnamed.timeout.is_none());
    let written = "{sessionName: shop, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}";
    let expected = Session {
        name: "shop".into(),
        is_header: false,
        is_permanent: true,
        timeout: Some(std::time::Duration::from_secs(3600)),
    };
    assert_eq!(kept(written), expected);
    let header = kept("{sessionName: X-Session, type: Header}");
    assert_eq!((&*header.name, header.is_header), ("x-session", true));
    let refused = session("{sessionName: 'a; Domain=b'}");
    assert!(matches!(&refused, RouteAction::Refuse { message } if message.contains("sessionName")), "{refused:?}");
}
