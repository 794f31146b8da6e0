//! One table per kind: what Istio's webhook rejects, warns about, and takes.

use crate::codes::Code;
use crate::document;
use crate::issue::Severity;
use crate::object::{Parsed, parse};

mod admission;
mod extension;

fn check(api_version: &str, kind: &str, metadata: &str, spec: &str) -> Parsed {
    let text = format!(
        "{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: x, namespace: ns{metadata}}}, spec: {spec}}}"
    );
    let read = document::read("f.yaml", text.as_bytes());
    assert_eq!(read.unreadable, [], "{text}");
    parse(&read.documents[0], "default")
}

/// Each row: a spec, and the path where something of that severity is found.
fn expect(api_version: &str, kind: &str, severity: Severity, rows: &[(&str, &str)]) {
    for (spec, path) in rows {
        let parsed = check(api_version, kind, "", spec);
        let found = parsed.issues.iter().any(|issue| issue.severity == severity && issue.path.to_string() == *path);
        assert!(found, "{kind} {spec}: nothing at {path}: {:#?}", parsed.issues);
        if severity != Severity::Error {
            assert!(!parsed.is_rejected(), "{kind} {spec}: {:#?}", parsed.issues);
        }
    }
}

fn accept(api_version: &str, kind: &str, specs: &[&str]) {
    for spec in specs {
        let parsed = check(api_version, kind, "", spec);
        let found: Vec<_> = parsed.issues.iter().filter(|issue| issue.code != Code::KindNotServed).collect();
        assert!(found.is_empty(), "{kind} {spec}: {found:#?}");
    }
}

const NETWORKING: &str = "networking.istio.io/v1";
const SECURITY: &str = "security.istio.io/v1";

#[test]
fn virtual_service_errors() {
    let rows = [
        ("{hosts: [a], http: []}", "spec"),
        ("{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts[0]"),
        ("{hosts: [a_b], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts[0]"),
        ("{hosts: ['*.a.com', b.a.com], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts[1]"),
        ("{gateways: [a], http: [{route: [{destination: {host: a}}]}]}", "spec.gateways"),
        ("{hosts: [a.com], gateways: [a/b/c], http: [{route: [{destination: {host: a}}]}]}", "spec.gateways[0]"),
        ("{hosts: [a], http: [{}]}", "spec.http[0]"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}], redirect: {uri: /}}]}", "spec.http[0].route"),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], directResponse: {status: 200}}]}",
            "spec.http[0].route",
        ),
        ("{hosts: [a], http: [{redirect: {uri: /}, fault: {abort: {httpStatus: 500}}}]}", "spec.http[0].fault"),
        ("{hosts: [a], http: [{delegate: {name: d}, route: [{destination: {host: a}}]}]}", "spec.http[0].route"),
        ("{hosts: [a], http: [{route: [{destination: {host: '*'}}]}]}", "spec.http[0].route[0].destination.host"),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a, port: {number: 0}}}]}]}",
            "spec.http[0].route[0].destination.port.number",
        ),
        ("{hosts: [a], http: [{route: [{destination: {host: a}, weight: -1}]}]}", "spec.http[0].route[0].weight"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}", "spec.http[0].route"),
        (
            "{hosts: [a], http: [{match: [{headers: {x: {prefix: ''}}}], route: [{destination: {host: a}}]}]}",
            "spec.http[0].match[0].headers.x",
        ),
        (
            "{hosts: [a], http: [{match: [{uri: {regex: '('}}], route: [{destination: {host: a}}]}]}",
            "spec.http[0].match[0].uri",
        ),
        (
            "{hosts: [a], http: [{match: [{headers: {'@request.auth.claims.sub': {exact: b}}}], route: [{destination: {host: a}}]}]}",
            "spec.http[0].match[0].headers[@request.auth.claims.sub]",
        ),
        (
            "{hosts: [a], http: [{match: [{port: 70000}], route: [{destination: {host: a}}]}]}",
            "spec.http[0].match[0].port",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], headers: {request: {set: {':path': b}}}}]}",
            "spec.http[0].headers.request.set[:path]",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], headers: {response: {remove: [host]}}}]}",
            "spec.http[0].headers.response.remove[0]",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], rewrite: {authority: b}, headers: {request: {set: {host: c}}}}]}",
            "spec.http[0].headers",
        ),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}], rewrite: {}}]}", "spec.http[0].rewrite"),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], retries: {attempts: 0, retryOn: 5xx}}]}",
            "spec.http[0].retries.attempts",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], retries: {attempts: 1, retryOn: '5xx,nope'}}]}",
            "spec.http[0].retries.retryOn",
        ),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}], timeout: 0s}]}", "spec.http[0].timeout"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}], timeout: 1.0005s}]}", "spec.http[0].timeout"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}], fault: {}}]}", "spec.http[0].fault"),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], fault: {abort: {httpStatus: 99}}}]}",
            "spec.http[0].fault.abort.httpStatus",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], fault: {abort: {grpcStatus: NOPE}}}]}",
            "spec.http[0].fault.abort.grpcStatus",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}}]}",
            "spec.http[0].fault.delay.percentage",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], corsPolicy: {allowMethods: [FETCH]}}]}",
            "spec.http[0].corsPolicy.allowMethods[0]",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], corsPolicy: {allowOrigins: [{}]}}]}",
            "spec.http[0].corsPolicy.allowOrigins[0]",
        ),
        ("{hosts: [a], http: [{redirect: {}}]}", "spec.http[0].redirect"),
        ("{hosts: [a], http: [{redirect: {uri: /, redirectCode: 200}}]}", "spec.http[0].redirect.redirectCode"),
        (
            "{hosts: [a], http: [{redirect: {uri: /, port: 80, derivePort: FROM_REQUEST_PORT}}]}",
            "spec.http[0].redirect.derivePort",
        ),
        ("{hosts: [a], http: [{directResponse: {status: 100}}]}", "spec.http[0].directResponse.status"),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], mirror: {host: a}, mirrors: [{destination: {host: a}}]}]}",
            "spec.http[0].mirrors",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], mirrorPercentage: {value: 101}}]}",
            "spec.http[0].mirrorPercentage",
        ),
        (
            "{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: a}}]}]}",
            "spec.tls[0].match[0].sniHosts[0]",
        ),
        ("{hosts: [a.com], tls: [{match: [], route: [{destination: {host: a}}]}]}", "spec.tls[0].match"),
        (
            "{hosts: [a.com], tcp: [{match: [{destinationSubnets: [a]}], route: [{destination: {host: a}}]}]}",
            "spec.tcp[0].match[0].destinationSubnets[0]",
        ),
        ("{hosts: [a.com], tcp: [{route: []}]}", "spec.tcp[0].route"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}]}], exportTo: ['*', ns]}", "spec.exportTo"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}]}], exportTo: ['.', ns]}", "spec.exportTo[1]"),
        ("{hosts: [a], http: [{route: [{destination: {host: a}}]}], exportTo: ['~']}", "spec.exportTo[0]"),
    ];
    expect(NETWORKING, "VirtualService", Severity::Error, &rows);
}

#[test]
fn virtual_service_warnings() {
    let rows = [
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}]}, {match: [{uri: {exact: /b}}], route: [{destination: {host: a}}]}]}",
            "spec.http[1]",
        ),
        (
            "{hosts: [a], http: [{match: [{uri: {exact: /b}}], route: [{destination: {host: a}}]}, {match: [{name: second, uri: {exact: /b}}], route: [{destination: {host: a}}]}]}",
            "spec.http[1].match[0]",
        ),
        (
            "{hosts: [a], http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: a}}]}, {match: [{uri: {prefix: /bc}}], route: [{destination: {host: a}}]}]}",
            "spec.http[1].match[0]",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], mirror: {host: b}, mirrorPercent: 5}]}",
            "spec.http[0].mirrorPercent",
        ),
        (
            "{hosts: [a.com], gateways: [gw.ns.svc.cluster.local], http: [{route: [{destination: {host: a}}]}]}",
            "spec.gateways[0]",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a}}], fault: {abort: {percentage: {value: 1}}}}]}",
            "spec.http[0].fault.abort",
        ),
    ];
    expect(NETWORKING, "VirtualService", Severity::Warning, &rows);
}

#[test]
fn virtual_services_that_are_fine() {
    let specs = [
        "{hosts: ['*'], gateways: [gw], http: [{match: [{headers: {'@request.auth.claims.sub': {exact: b}}}], route: [{destination: {host: a}}]}]}",
        "{hosts: [10.0.0.1], http: [{match: [{uri: {prefix: ''}}], route: [{destination: {host: a}}]}]}",
        "{http: [{route: [{destination: {host: a}}]}]}",
        "{hosts: [a], http: [{delegate: {name: d, namespace: e}}]}",
        "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}}], retries: {attempts: 0}, rewrite: {uri: /}}]}",
        "{hosts: [a], http: [{match: [{uri: {regex: '/items/{id}'}, withoutHeaders: {x: {regex: '*'}}}], route: [{destination: {host: a, subset: v1}}], retries: {attempts: 1, retryOn: '5xx,503'}}]}",
        "{hosts: [a.com], gateways: [gw], tls: [{match: [{port: 443, sniHosts: ['*.b.a.com', 'a.com']}], route: [{destination: {host: a}}]}], exportTo: ['.']}",
    ];
    // The server name must be part of the hosts: the last one is not.
    accept(NETWORKING, "VirtualService", &specs[..specs.len() - 1]);
    assert!(check(NETWORKING, "VirtualService", "", specs[specs.len() - 1]).is_rejected());
}

#[test]
fn destination_rule_errors() {
    let rows = [
        ("{host: ''}", "spec.host"),
        ("{}", "spec.host"),
        ("{host: a, trafficPolicy: {}}", "spec.trafficPolicy"),
        (
            "{host: a, trafficPolicy: {portLevelSettings: [{tls: {mode: DISABLE}}]}}",
            "spec.trafficPolicy.portLevelSettings[0].port",
        ),
        (
            "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}}",
            "spec.trafficPolicy.portLevelSettings[0]",
        ),
        ("{host: a, trafficPolicy: {connectionPool: {}}}", "spec.trafficPolicy.connectionPool"),
        (
            "{host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}}",
            "spec.trafficPolicy.connectionPool.tcp.maxConnections",
        ),
        (
            "{host: a, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}}",
            "spec.trafficPolicy.connectionPool.http.useClientProtocol",
        ),
        (
            "{host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}}",
            "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
        ),
        (
            "{host: a, trafficPolicy: {outlierDetection: {consecutiveLocalOriginFailures: 1}}}",
            "spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
        ),
        (
            "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash",
        ),
        (
            "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 4}}}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
        ),
        (
            "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 50}}]}}}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
        ),
        ("{host: a, trafficPolicy: {tls: {mode: MUTUAL}}}", "spec.trafficPolicy.tls.clientCertificate"),
        (
            "{host: a, trafficPolicy: {tls: {mode: SIMPLE, credentialName: a, caCertificates: b}}}",
            "spec.trafficPolicy.tls.credentialName",
        ),
        (
            "{host: a, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [b]}}}",
            "spec.trafficPolicy.tls.insecureSkipVerify",
        ),
        ("{host: a, trafficPolicy: {tls: {mode: TLS}}}", "spec.trafficPolicy.tls.mode"),
        ("{host: a, subsets: [{name: v1}, {name: v1}]}", "spec.subsets[1].name"),
        ("{host: a, subsets: [{name: v_1}]}", "spec.subsets[0].name"),
        ("{host: a, subsets: [{name: v1, labels: {version: 'a b'}}]}", "spec.subsets[0].labels.version"),
        ("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [other]}", "spec.exportTo"),
    ];
    expect(NETWORKING, "DestinationRule", Severity::Error, &rows);
    let warnings = [
        (
            "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting",
        ),
        (
            "{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 5}}}",
            "spec.trafficPolicy.outlierDetection.consecutiveErrors",
        ),
    ];
    expect(NETWORKING, "DestinationRule", Severity::Warning, &warnings);
    let fine = [
        "{host: '*.a.com', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, subsets: [{name: v1, labels: {version: v1}}], exportTo: ['.']}",
        "{host: a, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 0s}}, loadBalancer: {localityLbSetting: {distribute: [{from: 'a/*', to: {'b/*': 50, 'b/c': 50}}]}}}}",
    ];
    accept(NETWORKING, "DestinationRule", &fine);
}

#[test]
fn gateway_errors() {
    let server = |rest: &str| {
        format!("{{servers: [{{port: {{number: 443, name: p, protocol: HTTPS}}, hosts: [a.com]{rest}}}]}}")
    };
    let tls = |tls: &str| server(&format!(", tls: {tls}"));
    let rows = [
        ("{}".to_owned(), "spec.servers"),
        (server(""), "spec.servers[0].tls"),
        (tls("{mode: SIMPLE}"), "spec.servers[0].tls.serverCertificate"),
        (tls("{mode: MUTUAL, serverCertificate: a, privateKey: b}"), "spec.servers[0].tls.caCertificates"),
        (tls("{mode: ISTIO_MUTUAL, credentialName: a}"), "spec.servers[0].tls.credentialName"),
        (tls("{mode: SIMPLE, credentialName: a, serverCertificate: a, privateKey: b}"), "spec.servers[0].tls"),
        (tls("{mode: SIMPLE, credentialName: a, credentialNames: [b]}"), "spec.servers[0].tls.credentialNames"),
        ("{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: a}}]}".to_owned(), "spec.servers[0].tls"),
        ("{servers: [{port: {number: 80, name: p, protocol: TCP}, hosts: ['*'], tls: {httpsRedirect: true}}]}".to_owned(), "spec.servers[0].tls"),
        ("{servers: [{port: {number: 80, name: p, protocol: SPDY}, hosts: ['*']}]}".to_owned(), "spec.servers[0].port.protocol"),
        ("{servers: [{port: {number: 0, name: p, protocol: HTTP}, hosts: ['*']}]}".to_owned(), "spec.servers[0].port.number"),
        ("{servers: [{port: {number: 80, name: '', protocol: HTTP}, hosts: ['*']}]}".to_owned(), "spec.servers[0].port.name"),
        ("{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: []}]}".to_owned(), "spec.servers[0].hosts"),
        ("{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: [short]}]}".to_owned(), "spec.servers[0].hosts[0]"),
        ("{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: ['*'], bind: host}]}".to_owned(), "spec.servers[0].bind"),
        ("{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: ['*']}, {port: {number: 81, name: p, protocol: HTTP}, hosts: ['*']}]}".to_owned(), "spec.servers[1].port"),
    ];
    for (spec, path) in &rows {
        expect(NETWORKING, "Gateway", Severity::Error, &[(spec, path)]);
    }
    expect(
        NETWORKING,
        "Gateway",
        Severity::Warning,
        &[(&tls("{mode: SIMPLE, credentialName: a, cipherSuites: [NOPE]}"), "spec.servers[0].tls.cipherSuites[0]")],
    );
    let redirect =
        "{servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: ['ns/*.a.com'], tls: {httpsRedirect: true}}]}";
    accept(
        NETWORKING,
        "Gateway",
        &[
            redirect,
            &tls("{mode: SIMPLE, credentialName: a}"),
            &tls("{mode: MUTUAL, credentialName: a}"),
            &tls("{mode: ISTIO_MUTUAL}"),
        ],
    );
}

#[test]
fn authorization_policy_errors() {
    let rows = [
        ("{action: DENY}", "spec.rules"),
        ("{action: DENY, rules: []}", "spec.rules"),
        ("{action: CUSTOM, provider: {name: p}}", "spec.rules"),
        ("{action: CUSTOM, rules: [{}]}", "spec.provider"),
        ("{action: ALLOW, provider: {name: p}, rules: [{}]}", "spec.provider"),
        ("{action: Deny, rules: [{}]}", "spec.action"),
        ("{rules: [null]}", "spec.rules[0]"),
        ("{rules: [{from: []}]}", "spec.rules[0].from"),
        ("{rules: [{to: []}]}", "spec.rules[0].to"),
        ("{rules: [{from: [{source: {}}]}]}", "spec.rules[0].from[0].source"),
        ("{rules: [{from: [{}]}]}", "spec.rules[0].from[0].source"),
        ("{rules: [{from: [{source: {princpals: [a]}}]}]}", "spec.rules[0].from[0].source"),
        ("{rules: [{from: [{source: {principals: ['']}}]}]}", "spec.rules[0].from[0].source.principals[0]"),
        ("{rules: [{from: [{source: {principals: a}}]}]}", "spec.rules[0].from[0].source.principals"),
        ("{rules: [{from: [{source: {ipBlocks: [300.0.0.1]}}]}]}", "spec.rules[0].from[0].source.ipBlocks[0]"),
        (
            "{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/33]}}]}]}",
            "spec.rules[0].from[0].source.remoteIpBlocks[0]",
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: ['a/*']}}]}]}",
            "spec.rules[0].from[0].source.serviceAccounts[0]",
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]}",
            "spec.rules[0].from[0].source.serviceAccounts[0]",
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
            "spec.rules[0].from[0].source.serviceAccounts",
        ),
        ("{rules: [{from: [{source: {trustDomains: ['a*b']}}]}]}", "spec.rules[0].from[0].source.trustDomains[0]"),
        ("{rules: [{to: [{operation: {}}]}]}", "spec.rules[0].to[0].operation"),
        ("{rules: [{to: [{operation: {ports: [http]}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
        ("{rules: [{to: [{operation: {ports: [80]}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
        ("{rules: [{to: [{operation: {ports: ['65536']}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
        ("{rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{to: [{operation: {paths: ['/{id}']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{to: [{operation: {paths: ['/{*}/a*']}}]}]}", "spec.rules[0].to[0].operation.paths[0]"),
        ("{rules: [{when: [{key: source.nope, values: [a]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: 'request.headers', values: [a]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: source.ip, values: [a]}]}]}", "spec.rules[0].when[0].values[0]"),
        ("{rules: [{when: [{key: destination.port, notValues: [a]}]}]}", "spec.rules[0].when[0].notValues[0]"),
        ("{rules: [{when: [{key: source.ip}]}]}", "spec.rules[0].when[0]"),
        (
            "{action: CUSTOM, provider: {name: p}, rules: [{from: [{source: {principals: [a]}}]}]}",
            "spec.rules[0].from[0].source.principals",
        ),
        (
            "{action: CUSTOM, provider: {name: p}, rules: [{when: [{key: request.auth.principal, values: [a]}]}]}",
            "spec.rules[0].when[0].key",
        ),
        ("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: c}]}", "spec.targetRefs"),
        ("{targetRefs: [{kind: Pod, name: c}]}", "spec.targetRefs[0].kind"),
        ("{targetRefs: [{kind: Service, name: c, namespace: d}]}", "spec.targetRefs[0].namespace"),
    ];
    expect(SECURITY, "AuthorizationPolicy", Severity::Error, &rows);
}

#[test]
fn authorization_policies_that_are_fine() {
    let specs = [
        "{}",
        "{rules: [{}]}",
        "{action: DENY, rules: [{}]}",
        "{action: CUSTOM, provider: {name: p}, rules: [{to: [{operation: {paths: ['/a/{*}/{**}']}}]}]}",
        "{rules: [{from: [{source: {principals: ['*', 'a*', '*b'], ipBlocks: [10.0.0.0/8, '::1', 'fe80::1%eth0']}}], to: [{operation: {ports: ['80'], hosts: ['*.a.com'], methods: [GET]}}], when: [{key: 'request.headers[x]', values: [a]}, {key: 'request.auth.claims[a][b]', notValues: [c]}]}]}",
        "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}], rules: []}",
    ];
    accept(SECURITY, "AuthorizationPolicy", &specs);
    let warnings = [
        ("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}", "spec.rules[0]"),
        ("{action: DENY, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", "spec.rules[0]"),
        ("{selector: {}, rules: [{}]}", "spec.selector"),
    ];
    expect(SECURITY, "AuthorizationPolicy", Severity::Warning, &warnings);
}

#[test]
fn annotations_are_checked() {
    let dry_run = |kind: &str, value: &str, spec: &str| {
        let metadata = format!(", annotations: {{istio.io/dry-run: '{value}'}}");
        check(if kind == "VirtualService" { NETWORKING } else { SECURITY }, kind, &metadata, spec).is_rejected()
    };
    assert!(!dry_run("AuthorizationPolicy", "true", "{rules: [{}]}"));
    assert!(!dry_run("AuthorizationPolicy", "F", "{rules: [{}]}"));
    assert!(dry_run("AuthorizationPolicy", "yes", "{rules: [{}]}"));
    assert!(dry_run("AuthorizationPolicy", "true", "{action: AUDIT, rules: [{}]}"));
    assert!(dry_run("PeerAuthentication", "true", "{}"));
}

#[test]
fn request_authentication_errors() {
    let rows = [
        ("{jwtRules: [{}]}", "spec.jwtRules[0]"),
        ("{jwtRules: [{issuer: a, jwksUri: 'ftp://a'}]}", "spec.jwtRules[0].jwksUri"),
        ("{jwtRules: [{issuer: a, jwks: '{}', jwksUri: 'https://a'}]}", "spec.jwtRules[0].jwks"),
        ("{jwtRules: [{issuer: a, jwks: 'nope'}]}", "spec.jwtRules[0].jwks"),
        ("{jwtRules: [{issuer: a, fromHeaders: [{}]}]}", "spec.jwtRules[0].fromHeaders[0].name"),
        (
            "{jwtRules: [{issuer: a, outputClaimToHeaders: [{header: 'a b', claim: c}]}]}",
            "spec.jwtRules[0].outputClaimToHeaders[0].header",
        ),
    ];
    expect(SECURITY, "RequestAuthentication", Severity::Error, &rows);
    let keys = "{jwtRules: [{issuer: a, jwks: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}'}]}";
    expect(SECURITY, "RequestAuthentication", Severity::Warning, &[(keys, "spec.jwtRules[0].jwks")]);
    accept(
        SECURITY,
        "RequestAuthentication",
        &["{jwtRules: [{issuer: a, jwksUri: 'https://a/b'}, {issuer: b}]}", "{}"],
    );
}

#[test]
fn entries_sidecars_and_telemetry() {
    let rows = [
        ("{hosts: [a_b.com], resolution: NONE}", "spec.hosts[0]"),
        ("{hosts: ['*'], resolution: NONE}", "spec.hosts[0]"),
        ("{hosts: [a.com], addresses: [x], resolution: NONE}", "spec.addresses[0]"),
        (
            "{hosts: [a.com], addresses: [10.0.0.0/8], resolution: DNS, ports: [{number: 80, name: p}]}",
            "spec.addresses",
        ),
        ("{hosts: ['*.a.com'], resolution: DNS, ports: [{number: 80, name: p, protocol: HTTP}]}", "spec.hosts[0]"),
        (
            "{hosts: [a.com], resolution: STATIC, endpoints: [{address: b.com}], ports: [{number: 80, name: p, protocol: HTTP}]}",
            "spec.endpoints[0].address",
        ),
        (
            "{hosts: [a.com], resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {q: 80}}], ports: [{number: 80, name: p, protocol: HTTP}]}",
            "spec.endpoints[0].ports.q",
        ),
        ("{hosts: [a.com, b.com], resolution: DNS, ports: [{number: 80, name: p, protocol: TCP}]}", "spec.hosts"),
        ("{hosts: [a.com], ports: [{number: 80, name: p}, {number: 80, name: q}]}", "spec.ports[1]"),
    ];
    expect(NETWORKING, "ServiceEntry", Severity::Error, &rows);
    expect(
        NETWORKING,
        "WorkloadEntry",
        Severity::Error,
        &[("{}", "spec"), ("{address: 'a b'}", "spec.address"), ("{address: 'unix://a'}", "spec.address")],
    );
    let account = "{address: 192.0.2.1, serviceAccount: a/b}";
    expect(NETWORKING, "WorkloadEntry", Severity::Warning, &[(account, "spec.serviceAccount")]);
    let sidecars = [
        ("{}", "spec"),
        ("{egress: [{hosts: []}]}", "spec.egress[0].hosts"),
        ("{egress: [{hosts: [a.com]}]}", "spec.egress[0].hosts[0]"),
        ("{egress: [{hosts: ['*/*']}, {hosts: ['./*']}]}", "spec.egress[0]"),
        (
            "{ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: '10.0.0.1:80'}]}",
            "spec.ingress[0].defaultEndpoint",
        ),
    ];
    expect(NETWORKING, "Sidecar", Severity::Error, &sidecars);
    let telemetry = [
        ("{metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERT}}}]}]}", "spec.metrics[0].overrides[0]"),
        ("{tracing: [{randomSamplingPercentage: 101}]}", "spec.tracing[0].randomSamplingPercentage"),
    ];
    expect("telemetry.istio.io/v1", "Telemetry", Severity::Error, &telemetry);
    accept(
        NETWORKING,
        "ServiceEntry",
        &["{hosts: [a.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}"],
    );
    accept(NETWORKING, "Sidecar", &["{egress: [{hosts: ['./*', 'istio-system/*']}]}"]);
}
