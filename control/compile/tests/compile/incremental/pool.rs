//! Documents that are edited: each in the forms that it may have.

use crate::support::{HTTP, istio, pod, service};

/// Documents of the Gateway API beside HTTPRoute, and what they refer to.
fn gateway_api_pool() -> Vec<Vec<String>> {
    let api = |kind: &str, name: &str, namespace: &str, spec: &str| {
        let version = match kind {
            "TCPRoute" | "TLSRoute" => "v1alpha2",
            "ReferenceGrant" => "v1beta1",
            _ => "v1",
        };
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
        )
    };
    let config_map = |name: &str, key: &str, text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: a}}\ndata: {{{key}: \"{text}\"}}\n---\n"
        )
    };
    let secret = |text: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: b}}\nstringData: {{tls.crt: {text}, tls.key: {text}}}\n---\n"
        )
    };
    let class = |controller: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: own}}\nspec: {{controllerName: {controller}}}\n---\n"
        )
    };
    let entry_parent = "{group: networking.istio.io, kind: ServiceEntry, name: e}";
    let mutual =
        "{frontend: {default: {validation: {caCertificateRefs: [{kind: ConfigMap, group: '', name: roots}]}}}}";
    let listener = "{name: tls, port: 443, protocol: HTTPS, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: x}}}}, \
                    tls: {certificateRefs: [{name: cert, namespace: b}]}}, {name: pass, port: 444, protocol: TLS, tls: {mode: Passthrough}}, \
                    {name: bytes, port: 445, protocol: TCP}, {name: datagrams, port: 445, protocol: UDP}";
    vec![
        vec![
            api("Gateway", "tls", "a", &format!("{{gatewayClassName: own, tls: {mutual}, listeners: [{listener}]}}")),
            api("Gateway", "tls", "a", &format!("{{gatewayClassName: palisade, listeners: [{listener}]}}")),
        ],
        vec![class("palisade.dev/gateway-controller"), class("someone.else/gateway")],
        vec![
            api(
                "GRPCRoute",
                "g",
                "b",
                "{parentRefs: [{name: tls, namespace: a}], rules: [{backendRefs: [{name: u, port: 80}]}]}",
            ),
            api(
                "GRPCRoute",
                "g",
                "b",
                "{parentRefs: [{kind: Service, group: '', name: u}], rules: [{matches: [{method: {service: x}}], backendRefs: [{name: u, port: 80}]}]}",
            ),
        ],
        vec![
            api(
                "TLSRoute",
                "l",
                "a",
                "{parentRefs: [{name: tls}], hostnames: [x.example], rules: [{backendRefs: [{name: s, port: 80}]}]}",
            ),
            api(
                "TLSRoute",
                "l",
                "a",
                "{parentRefs: [{name: tls}], hostnames: [x.example], rules: [{backendRefs: [{name: u, namespace: b, port: 80}]}]}",
            ),
        ],
        vec![api(
            "TCPRoute",
            "c",
            "a",
            "{parentRefs: [{name: tls, sectionName: bytes}], rules: [{backendRefs: [{name: t, port: 80}]}]}",
        )],
        vec![
            api(
                "UDPRoute",
                "d",
                "a",
                "{parentRefs: [{name: tls, sectionName: datagrams}], rules: [{backendRefs: [{name: d, port: 53}]}]}",
            ),
            api("UDPRoute", "d", "a", "{parentRefs: [{name: tls}], rules: [{backendRefs: [{name: none, port: 53}]}]}"),
        ],
        vec![
            service("d", "a", "{name: d, port: 53, protocol: UDP}"),
            service("d", "a", "{name: d, port: 53, targetPort: 1053, protocol: UDP}, {name: t, port: 53}"),
        ],
        vec![pod("d", "a", ""), pod("d", "a", ", annotations: {x: y}")],
        vec![
            api(
                "HTTPRoute",
                "to-entry",
                "a",
                &format!("{{parentRefs: [{entry_parent}], rules: [{{backendRefs: [{{name: s, port: 80}}]}}]}}"),
            ),
            api(
                "HTTPRoute",
                "to-entry",
                "a",
                "{parentRefs: [{name: edge}], rules: [{backendRefs: [{group: networking.istio.io, kind: Hostname, name: api.example.com, port: 443}]}]}",
            ),
        ],
        vec![
            api(
                "BackendTLSPolicy",
                "w",
                "a",
                "{targetRefs: [{group: '', kind: Service, name: s}], validation: {hostname: s.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]}}",
            ),
            api(
                "BackendTLSPolicy",
                "w",
                "a",
                "{targetRefs: [{group: '', kind: Service, name: s}], validation: {hostname: s.example, wellKnownCACertificates: System}}",
            ),
        ],
        vec![
            config_map("roots", "ca.crt", "-----BEGIN CERTIFICATE-----\\nMA==\\n-----END CERTIFICATE-----"),
            config_map("roots", "other", "x"),
        ],
        vec![secret("one"), secret("two")],
        vec![
            api(
                "ReferenceGrant",
                "rg",
                "b",
                "{from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: a}], to: [{group: '', kind: Secret}]}",
            ),
            api(
                "ReferenceGrant",
                "rg",
                "b",
                "{from: [{group: gateway.networking.k8s.io, kind: TLSRoute, namespace: a}], to: [{group: '', kind: Service}]}",
            ),
        ],
        vec!["apiVersion: v1\nkind: Namespace\nmetadata: {name: b, labels: {team: x}}\n---\n".to_owned()],
    ]
}

/// Policies by hand, external authorizers, workloads outside, localities, and what the mesh configuration says about them.
fn further_pool() -> Vec<Vec<String>> {
    let cedar = |name: &str, spec: &str| {
        format!(
            "apiVersion: palisade.dev/v1alpha1\nkind: CedarPolicy\nmetadata: {{name: {name}, namespace: a}}\nspec: {spec}\n---\n"
        )
    };
    let node = |zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: {zone}}}}}\n---\n"
        )
    };
    let placed = |node: &str| {
        pod("placed", "a", "")
            .replace("app: placed", "app: s")
            .replace("spec: {", &format!("spec: {{nodeName: {node}, "))
    };
    let permit = |action: &str| format!("'permit (principal, action in Mesh::Action::\"{action}\", resource);'");
    let workload = |address: &str| {
        istio("WorkloadEntry", "w", "a", &format!("{{address: {address}, labels: {{app: vm}}, ports: {{http: 8080}}}}"))
    };
    vec![
        vec![
            cedar("c", &format!("{{selector: {{matchLabels: {{app: s}}}}, policies: {}}}", permit("l7"))),
            cedar("c", &format!("{{mode: Audit, policies: {}}}", permit("any"))),
            cedar("c", &format!("{{policies: {}}}", permit("egress"))),
            cedar("c", "{policies: 'forbid (principal, action, resource) when { context.nothing };'}"),
            cedar(
                "c",
                "\n  policies: |\n    // first\n    forbid (principal, action, resource)\n    when { context.htp.method };",
            ),
            cedar("c", "{policies: 7}"),
        ],
        vec![
            cedar(
                "aimed",
                &format!("{{targetRefs: [{{group: '', kind: Service, name: s}}], policies: {}}}", permit("l7")),
            ),
            cedar(
                "aimed",
                &format!(
                    "{{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}], policies: {}}}",
                    permit("any")
                ),
            ),
        ],
        vec![
            istio(
                "AuthorizationPolicy",
                "ask",
                "a",
                "{action: CUSTOM, provider: {name: asker}, rules: [{to: [{operation: {paths: [/x]}}]}]}",
            ),
            istio("AuthorizationPolicy", "ask", "a", "{action: CUSTOM, provider: {name: nobody}, rules: [{}]}"),
        ],
        vec![
            istio(
                "RequestAuthentication",
                "k",
                "a",
                "{selector: {matchLabels: {app: s}}, jwtRules: [{issuer: z, jwks: '{\"keys\": []}'}]}",
            ),
            istio("RequestAuthentication", "k", "a", "{jwtRules: [{issuer: \"https://y\"}]}"),
            istio("RequestAuthentication", "k", "a", "{jwtRules: 7}"),
        ],
        vec![
            istio(
                "ServiceEntry",
                "vm",
                "a",
                "{hosts: [vm.example], location: MESH_INTERNAL, ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, workloadSelector: {labels: {app: vm}}}",
            ),
            istio(
                "ServiceEntry",
                "vm",
                "a",
                "{hosts: [vm.example], addresses: [10.9.0.1], ports: [{number: 80, name: tcp, protocol: TCP}], resolution: STATIC, workloadSelector: {labels: {app: s}}}",
            ),
        ],
        vec![workload("10.8.0.1"), workload("10.8.0.2")],
        vec![
            istio(
                "Sidecar",
                "own",
                "a",
                "{workloadSelector: {labels: {app: client}}, egress: [{hosts: [\"./s.a.svc.cluster.local\"]}]}",
            ),
            istio(
                "Sidecar",
                "own",
                "a",
                "{workloadSelector: {labels: {app: client}}, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
            ),
        ],
        vec![istio("Sidecar", "default", "istio-system", "{egress: [{hosts: [\"istio-system/*\"]}]}")],
        vec![
            istio(
                "DestinationRule",
                "wide",
                "istio-system",
                "{host: \"*.svc.cluster.local\", trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}}",
            ),
            istio(
                "DestinationRule",
                "wide",
                "istio-system",
                "{host: \"*.svc.cluster.local\", trafficPolicy: {loadBalancer: {localityLbSetting: {enabled: true}}, outlierDetection: {consecutive5xxErrors: 3}}}",
            ),
        ],
        vec![
            istio(
                "Gateway",
                "in",
                "a",
                "{selector: {app: in}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]}",
            ),
            istio(
                "Gateway",
                "in",
                "a",
                "{selector: {app: in}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [\"*\"], tls: {mode: SIMPLE, credentialName: cert}}]}",
            ),
        ],
        vec![
            istio(
                "VirtualService",
                "through",
                "a",
                "{hosts: [\"*\"], gateways: [in], http: [{route: [{destination: {host: u.b.svc.cluster.local}}]}]}",
            ),
            istio("VirtualService", "through", "a", "{hosts: [\"*\"], gateways: [in], http: [{delegate: {name: v}}]}"),
        ],
        vec![node("z1"), node("z2")],
        vec![placed("node-1"), placed("elsewhere")],
    ]
}

/// What the mesh configuration may say, besides nothing.
const MESH: [&str; 9] = [
    "extensionProviders: [{name: asker, envoyExtAuthzHttp: {service: t.a.svc.cluster.local, port: 80}}]",
    "trustDomain: other.example",
    "trustDomainAliases: [third.example]",
    "pathNormalization: {normalization: NONE}",
    "rootNamespace: b",
    "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
    "defaultServiceExportTo: ['.']",
    "defaultVirtualServiceExportTo: ['.']",
    "localityLbSetting: {enabled: false}\\nconnectTimeout: 3s",
];

/// Each document in the forms that it may have; the first is none.
pub(super) fn pool() -> Vec<Vec<String>> {
    let api = "gateway.networking.k8s.io/v1";
    let route = |path: &str, to: &str| {
        format!(
            "apiVersion: {api}\nkind: HTTPRoute\nmetadata: {{name: r, namespace: a}}\nspec: {{parentRefs: [{{name: edge}}], \
             rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], backendRefs: [{{name: {to}, port: 80}}]}}]}}\n---\n"
        )
    };
    let mesh = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{text}\"}}\n---\n"
        )
    };
    let policy = |name: &str, spec: &str| istio("AuthorizationPolicy", name, "a", spec);
    let slice = |ready: bool| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: t-1, namespace: a, labels: {{kubernetes.io/service-name: t}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 80}}]\nendpoints: [{{addresses: [10.1.0.1], conditions: {{ready: {ready}}}}}]\n---\n"
        )
    };
    let gateway = |port: u16| {
        format!(
            "apiVersion: {api}\nkind: Gateway\nmetadata: {{name: edge, namespace: a}}\n\
             spec: {{gatewayClassName: palisade, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}\n---\n"
        )
    };
    let forms: Vec<Vec<String>> = vec![
        vec![service("s", "a", HTTP), service("s", "a", "{name: tcp-x, port: 80}, {name: http, port: 81}")],
        vec![service("t", "a", HTTP), service("t", "a", HTTP).replace("spec: {", "spec: {clusterIP: None, ")],
        vec![service("u", "b", HTTP)],
        vec![pod("s", "a", ""), pod("s", "a", ", annotations: {sidecar.istio.io/inject: \"false\"}")],
        vec![pod("t", "a", "")],
        vec![slice(true), slice(false)],
        vec![
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {istio-injection: disabled}}\n---\n"
                .to_owned(),
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n".to_owned(),
        ],
        vec![
            istio("VirtualService", "v", "a", "{hosts: [s], http: [{route: [{destination: {host: t}}]}]}"),
            istio("VirtualService", "v", "a", "{hosts: [s], http: [{route: [{destination: {host: s, subset: v1}}]}]}"),
            istio("VirtualService", "v", "a", "{hosts: [s], http: 7}"),
        ],
        vec![
            istio("DestinationRule", "d", "a", "{host: s, subsets: [{name: v1, labels: {app: s}}]}"),
            istio("DestinationRule", "d", "a", "{host: s, trafficPolicy: {tls: {mode: DISABLE}}}"),
        ],
        vec![
            policy("p", "{rules: [{to: [{operation: {paths: [/x]}}]}]}"),
            policy("p", "{action: DENY, rules: [{from: [{source: {principals: [\"*\"]}}]}]}"),
            policy("p", "{action: DENY, rules: [{when: [{key: nonsense, values: [x]}]}]}"),
            policy("p", "{action: AUDIT, rules: [{}]}"),
            policy("p", "{action: 3}"),
        ],
        vec![policy("q", "{selector: {matchLabels: {app: s}}}"), policy("q", "{rules: [{}]}")],
        vec![
            istio("PeerAuthentication", "default", "a", "{mtls: {mode: STRICT}}"),
            istio("PeerAuthentication", "default", "a", "{mtls: {mode: NONSENSE}}"),
        ],
        vec![istio("RequestAuthentication", "j", "a", "{jwtRules: [{issuer: x, jwksUri: \"https://x/y\"}]}")],
        vec![
            istio(
                "ServiceEntry",
                "e",
                "a",
                "{hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}",
            ),
            istio(
                "ServiceEntry",
                "e",
                "a",
                "{hosts: [\"*.example.com\"], ports: [{number: 80, name: http, protocol: HTTP}]}",
            ),
        ],
        vec![istio("Sidecar", "default", "a", "{egress: [{hosts: [\"./*\"]}]}")],
        vec![gateway(80), gateway(8080)],
        vec![route("/a", "s"), route("/b", "u"), route("/c", "nothing")],
        MESH.map(mesh).to_vec(),
    ];
    let forms = [forms, gateway_api_pool(), further_pool()].concat();
    forms.into_iter().map(|forms| std::iter::once(String::new()).chain(forms).collect()).collect()
}
