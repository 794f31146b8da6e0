//! Kinds that nothing uses are refused and taken as admission does.

use super::*;

const EXTENSIONS: &str = "extensions.istio.io/v1alpha1";
const ALPHA: &str = "networking.istio.io/v1alpha3";
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

#[test]
fn workload_groups() {
    let rows = [
        ("{}", "spec.template"),
        ("{template: 5}", "spec.template"),
        ("{template: {ports: {http: 0}}}", "spec.template.ports.http"),
        ("{template: {address: 'unix:///a', ports: {http: 80}}}", "spec.template.ports"),
        ("{template: {}, metadata: {labels: {'a b': c}}}", "spec.metadata.labels[a b]"),
        ("{template: {}, probe: {}}", "spec.probe"),
        ("{template: {}, probe: {grpc: {port: 80}}}", "spec.probe"),
        ("{template: {}, probe: {exec: {command: []}}}", "spec.probe.exec.command"),
        ("{template: {}, probe: {tcpSocket: {port: 70000}}}", "spec.probe.tcpSocket.port"),
        ("{template: {}, probe: {httpGet: {port: 80, scheme: FTP}}}", "spec.probe.httpGet.scheme"),
        (
            "{template: {}, probe: {httpGet: {port: 80, httpHeaders: [{name: a_b}]}}}",
            "spec.probe.httpGet.httpHeaders[0].name",
        ),
        ("{template: {}, probe: {httpGet: {port: 80}, exec: {command: [a]}}}", "spec.probe.exec"),
        ("{template: {}, probe: {periodSeconds: -1, exec: {command: [a]}}}", "spec.probe.periodSeconds"),
    ];
    expect(NETWORKING, "WorkloadGroup", Severity::Error, &rows);
    let fine = ["{template: {}}", "{template: {address: a.b}, probe: {httpGet: {port: 80, scheme: HTTPS}}}"];
    accept(NETWORKING, "WorkloadGroup", &fine);
}

#[test]
fn wasm_plugins_and_traffic_extensions() {
    let rows = [
        ("{}", "spec.url"),
        ("{url: ''}", "spec.url"),
        ("{url: 'ftp://a/b'}", "spec.url"),
        ("{url: 'a:80/b'}", "spec.url"),
        ("{url: a/b, sha256: abc}", "spec.sha256"),
        ("{url: a/b, phase: SOON}", "spec.phase"),
        ("{url: a/b, match: [{ports: [{number: 0}]}]}", "spec.match[0].ports[0].number"),
        ("{url: a/b, match: [{ports: [{number: 1}, {number: 1}]}]}", "spec.match[0].ports[1]"),
        ("{url: a/b, vmConfig: {env: [{name: A, valueFrom: HOST, value: b}]}}", "spec.vmConfig.env[0].value"),
        ("{url: a/b, vmConfig: {env: [{name: A}, {name: A}]}}", "spec.vmConfig.env[1]"),
        ("{url: a/b, selector: {}, targetRefs: [{kind: Service, name: a}]}", "spec.targetRefs"),
        ("{url: a/b, targetRefs: [{kind: Pod, name: a}]}", "spec.targetRefs[0].kind"),
    ];
    expect(EXTENSIONS, "WasmPlugin", Severity::Error, &rows);
    accept(EXTENSIONS, "WasmPlugin", &["{url: a.b/c}", "{url: 'oci://a.b/c:v1', pluginConfig: {any: [thing]}}"]);
    let rows = [
        ("{}", "spec"),
        ("{lua: {}}", "spec.lua.inlineCode"),
        ("{lua: {inlineCode: ''}}", "spec.lua.inlineCode"),
        ("{lua: {inlineCode: a}, wasm: {url: a}}", "spec.lua"),
        ("{wasm: {url: a, type: OTHER}}", "spec.wasm.type"),
    ];
    expect(EXTENSIONS, "TrafficExtension", Severity::Error, &rows);
    accept(EXTENSIONS, "TrafficExtension", &["{lua: {inlineCode: a}}", "{wasm: {url: a.b/c}, phase: STATS}"]);
}

#[test]
fn envoy_filters() {
    let rows = [
        ("{configPatches: [{}]}", "spec.configPatches[0].applyTo"),
        ("{configPatches: [{applyTo: CLUSTER}]}", "spec.configPatches[0].patch"),
        ("{configPatches: [{applyTo: CLUSTER, patch: {}}]}", "spec.configPatches[0].patch.operation"),
        ("{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE}}]}", "spec.configPatches[0].patch.value"),
        (
            "{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {a: [{'@type': 'type.googleapis.com/envoy.a.v2.B'}]}}}]}",
            "spec.configPatches[0].patch.value",
        ),
        (
            "{configPatches: [{applyTo: CLUSTER, patch: {operation: REMOVE}, match: {listener: {}}}]}",
            "spec.configPatches[0].match",
        ),
        (
            "{configPatches: [{applyTo: CLUSTER, patch: {operation: REMOVE}, match: {proxy: {proxyVersion: '('}}}]}",
            "spec.configPatches[0].match.proxy.proxyVersion",
        ),
        (
            "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: REMOVE}, match: {listener: {filterChain: {filter: {name: a, subFilter: {name: b}}}}}}]}",
            "spec.configPatches[0].match.listener.filterChain.filter",
        ),
        (
            "{configPatches: [{applyTo: CLUSTER, patch: {operation: REMOVE}, match: {context: WAYPOINT}}]}",
            "spec.configPatches[0].match.waypoint",
        ),
        (
            "{configPatches: [{applyTo: CLUSTER, match: {cluster: {}, listener: {}}}]}",
            "spec.configPatches[0].match.cluster",
        ),
        ("{workloadSelector: {labels: {a: b}}, targetRefs: [{kind: Gateway, name: a}]}", "spec.targetRefs"),
        ("{workloadSelector: {labels: {'*': b}}}", "spec.workloadSelector.labels"),
        ("{priority: 1.5}", "spec.priority"),
    ];
    expect(ALPHA, "EnvoyFilter", Severity::Error, &rows);
    let fine = [
        "{}",
        "{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {}}, match: {cluster: {service: a}}}]}",
        "{configPatches: [{applyTo: CLUSTER, match: {context: WAYPOINT, waypoint: {}}}]}",
    ];
    accept(ALPHA, "EnvoyFilter", &fine);
}

#[test]
fn proxy_configs() {
    let rows = [
        ("{concurrency: -1}", "spec.concurrency"),
        ("{environmentVariables: {A: 5}}", "spec.environmentVariables.A"),
        ("{selector: {matchLabels: {a: '*'}}}", "spec.selector.matchLabels.a"),
    ];
    expect("networking.istio.io/v1beta1", "ProxyConfig", Severity::Error, &rows);
    accept("networking.istio.io/v1beta1", "ProxyConfig", &["{}", "{concurrency: 0, image: {imageType: debug}}"]);
    let annotated = check(NETWORKING, "WorkloadGroup", ", annotations: {istio.io/dry-run: 'true'}", "{template: {}}");
    assert!(annotated.is_rejected(), "{:#?}", annotated.issues);
}

#[test]
fn listener_sets_and_udp_routes() {
    let rows = [
        ("{parentRef: {name: g}}", "spec.listeners"),
        ("{parentRef: {name: g}, listeners: []}", "spec.listeners"),
        ("{listeners: [{name: l, port: 80, protocol: HTTP}]}", "spec.parentRef"),
        ("{parentRef: {name: g}, listeners: [{name: l, protocol: HTTP}]}", "spec.listeners[0].port"),
        ("{parentRef: {name: g}, listeners: [{name: l, port: 80, protocol: HTTP, tls: {}}]}", "spec.listeners[0].tls"),
        (
            "{parentRef: {name: g}, listeners: [{name: l, port: 80, protocol: HTTP}, {name: m, port: 80, protocol: HTTP}]}",
            "spec.listeners[1]",
        ),
    ];
    expect(GATEWAY_API, "ListenerSet", Severity::Error, &rows);
    accept(GATEWAY_API, "ListenerSet", &["{parentRef: {name: g}, listeners: [{name: l, port: 80, protocol: HTTP}]}"]);
    let rows = [
        ("{}", "spec.rules"),
        ("{rules: [{backendRefs: []}]}", "spec.rules[0].backendRefs"),
        ("{rules: [{backendRefs: [{name: a}]}]}", "spec.rules[0].backendRefs[0].port"),
    ];
    expect(GATEWAY_API, "UDPRoute", Severity::Error, &rows);
    accept(GATEWAY_API, "UDPRoute", &["{rules: [{backendRefs: [{name: a, port: 53}]}]}"]);
}
