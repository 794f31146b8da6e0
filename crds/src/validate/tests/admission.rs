//! Single values at the edge of what admission takes, each found by comparing with Istio's webhook and the CRDs' schemas.

use super::*;

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

#[test]
fn hosts_and_addresses() {
    let rows = [
        ("{host: .}", "spec.host"),
        ("{host: a, trafficPolicy: {tunnel: {targetHost: ., targetPort: 80}}}", "spec.trafficPolicy.tunnel.targetHost"),
    ];
    expect(NETWORKING, "DestinationRule", Severity::Error, &rows);
    expect(NETWORKING, "WorkloadEntry", Severity::Error, &[("{address: .}", "spec.address")]);
    let hosts = "{selector: {a: b}, servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['fd00::1']}]}";
    expect(NETWORKING, "Gateway", Severity::Error, &[(hosts, "spec.servers[0].hosts[0]")]);
}

#[test]
fn selectors_have_plain_keys() {
    for (kind, spec) in [
        ("Sidecar", "{workloadSelector: {labels: {'*': a}}, egress: [{hosts: ['*/*']}]}"),
        ("ServiceEntry", "{hosts: [a.b], ports: [{number: 80, name: h}], workloadSelector: {labels: {'': a}}}"),
    ] {
        expect(NETWORKING, kind, Severity::Error, &[(spec, "spec.workloadSelector.labels")]);
    }
}

#[test]
fn policies() {
    let rows = [
        ("{rules: [{from: [{source: {ipBlocks: ['']}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"),
        (
            "{rules: [{from: [{source: {serviceAccounts: [], namespaces: [a]}}]}]}",
            "spec.rules[0].from[0].source.serviceAccounts",
        ),
    ];
    expect(SECURITY, "AuthorizationPolicy", Severity::Error, &rows);
    let rows = [("{jwtRules: [{issuer: a, jwksUri: 'https://a.b:c/d'}]}", "spec.jwtRules[0].jwksUri")];
    expect(SECURITY, "RequestAuthentication", Severity::Error, &rows);
    let ports = "{selector: {matchLabels: {a: b}}, portLevelMtls: {'80': null}}";
    expect(SECURITY, "PeerAuthentication", Severity::Error, &[(ports, "spec.portLevelMtls")]);
}

#[test]
fn routes() {
    accept(
        NETWORKING,
        "VirtualService",
        &[
            "{hosts: [a], http: [{route: [{destination: {host: a}}], corsPolicy: {allowHeaders: ['a,b']}}]}",
            "{hosts: [a], http: [{match: [{uri: {regex: '\\p{Greek}+'}}], route: [{destination: {host: a}}]}]}",
        ],
    );
    let twice = "{hosts: [a], http: [{match: [{uri: {regex: 'a++'}}], route: [{destination: {host: a}}]}]}";
    expect(NETWORKING, "VirtualService", Severity::Error, &[(twice, "spec.http[0].match[0].uri")]);
    let filter = |value: &str| {
        format!(
            "{{rules: [{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: a, value: {value}}}]}}}}]}}]}}"
        )
    };
    let value = "spec.rules[0].filters[0].requestHeaderModifier.set[0].value";
    for kind in ["HTTPRoute", "GRPCRoute"] {
        accept(GATEWAY_API, kind, &[&filter("'a b'")]);
        expect(GATEWAY_API, kind, Severity::Error, &[(&filter("'a  b'"), value), (&filter("é"), value)]);
    }
    let matched = "{rules: [{matches: [{headers: [{name: a, value: é}]}]}]}";
    expect(GATEWAY_API, "HTTPRoute", Severity::Error, &[(matched, "spec.rules[0].matches[0].headers[0].value")]);
    accept(GATEWAY_API, "GRPCRoute", &[matched, "{rules: [{matches: [{method: {service: .a.B}}]}]}"]);
    let sixty = vec!["{method: {service: a}}"; 60].join(", ");
    let rule = format!("{{matches: [{sixty}]}}");
    let many = format!("{{rules: [{rule}, {rule}, {rule}]}}");
    let rows = [(many.as_str(), "spec.rules"), ("{rules: [{name: a}, {name: a}]}", "spec.rules[1].name")];
    expect(GATEWAY_API, "GRPCRoute", Severity::Error, &rows);
}

#[test]
fn routes_of_connections_differ_by_version() {
    let rules = "rules: [{backendRefs: [{name: a, port: 80}]}]";
    let (none, address) = (format!("{{{rules}}}"), format!("{{hostnames: [10.0.0.1], {rules}}}"));
    let rows = [(none.as_str(), "spec.hostnames"), (address.as_str(), "spec.hostnames[0]")];
    for version in ["v1", "v1alpha3"] {
        expect(&format!("gateway.networking.k8s.io/{version}"), "TLSRoute", Severity::Error, &rows);
    }
    accept("gateway.networking.k8s.io/v1alpha2", "TLSRoute", &[&none, &address]);
    let two = "{rules: [{backendRefs: [{name: a, port: 80}]}, {backendRefs: [{name: b, port: 80}]}]}";
    for kind in ["TCPRoute", "UDPRoute"] {
        expect(GATEWAY_API, kind, Severity::Error, &[(two, "spec.rules")]);
        accept("gateway.networking.k8s.io/v1alpha2", kind, &[two]);
    }
}

#[test]
fn backend_tls_policies() {
    let spec = |targets: &str, validation: &str| format!("{{targetRefs: [{targets}], validation: {{{validation}}}}}");
    let service = "{group: '', kind: Service, name: a}";
    let port = "{group: '', kind: Service, name: a, sectionName: p}";
    let known = "hostname: a.b, wellKnownCACertificates: System";
    let rows = [
        (spec(&format!("{service}, {service}"), known), "spec.targetRefs[1]"),
        (spec(&format!("{service}, {port}"), known), "spec.targetRefs[1]"),
        (spec(&format!("{port}, {port}"), known), "spec.targetRefs[1]"),
        (spec(service, "hostname: '*.a.b', wellKnownCACertificates: System"), "spec.validation.hostname"),
        (spec(service, "hostname: a.b, wellKnownCACertificates: Mine"), "spec.validation.wellKnownCACertificates"),
        (
            spec(service, &format!("{known}, subjectAltNames: [{{type: URI, uri: a}}]")),
            "spec.validation.subjectAltNames[0].uri",
        ),
    ];
    for (spec, path) in &rows {
        expect(GATEWAY_API, "BackendTLSPolicy", Severity::Error, &[(spec, path)]);
    }
    let fine = [
        spec(&format!("{port}, {{group: '', kind: Service, name: a, sectionName: q}}"), known),
        spec(
            service,
            "hostname: a.b, wellKnownCACertificates: a.b/c, subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}]",
        ),
    ];
    for spec in &fine {
        let parsed = check(GATEWAY_API, "BackendTLSPolicy", "", spec);
        assert!(!parsed.is_rejected(), "{spec}: {:#?}", parsed.issues);
    }
}

#[test]
fn access_log_filters_are_expressions() {
    let filter = |text: &str| format!("{{accessLogging: [{{filter: {{expression: \"{text}\"}}}}]}}");
    let place = "spec.accessLogging[0].filter.expression";
    let rows = [(filter(""), place), (filter(")++++"), place), (filter("response.code >"), place)];
    for (spec, path) in &rows {
        expect("telemetry.istio.io/v1", "Telemetry", Severity::Error, &[(spec, path)]);
    }
    accept("telemetry.istio.io/v1", "Telemetry", &[&filter("response.code >= 400 || connection.mtls")]);
}
