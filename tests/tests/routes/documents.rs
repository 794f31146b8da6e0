//! The documents of these tests.

use palisade_tests::certificates::Certificate;

/// A pod with its Service.
fn workload(name: &str, command: &str, port: u16, target: u16, protocol: &str, env: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: {name}}}}}
spec:
  containers: [{{name: app, image: x, command: [bookinfo, {command}, --port={target}]{env}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: {protocol}, port: {port}, targetPort: {target}}}]
---
"
    )
}

const CLIENT: &str = "apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default, labels: {app: client}}
spec:
  containers: [{name: app, image: x, command: [bookinfo, client]}]
---
";

/// A gateway that terminates two names, and one that relays a third.
pub(crate) fn tls(a: &Certificate, b: &Certificate, own: &Certificate) -> String {
    let (certificate, key) = own.pem();
    let env = format!(", env: [{{name: TLS_CERTIFICATE, value: {certificate:?}}}, {{name: TLS_KEY, value: {key:?}}}]");
    [
        workload("echo", "echo", 80, 8080, "http", ""),
        workload("own", "tls-echo", 443, 8443, "tls", &env),
        format!("{}---\n{}---\n", a.secret("cert-a"), b.secret("cert-b")),
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  gatewayClassName: palisade
  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {certificateRefs: [{name: cert-a}]}}
  - {name: b, port: 443, protocol: HTTPS, hostname: b.example.com, tls: {certificateRefs: [{name: cert-b}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: default}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: echo, port: 80}]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: passthrough, namespace: default}
spec:
  selector: {istio: passthrough}
  servers:
  - {port: {number: 8443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: [own.example.com]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: own, namespace: default}
spec:
  hosts: [own.example.com]
  gateways: [passthrough]
  tls:
  - match: [{port: 8443, sniHosts: [own.example.com]}]
    route: [{destination: {host: own, port: {number: 443}}}]
"
        .to_owned(),
    ]
    .concat()
}

/// Pods that speak HTTP and gRPC, and an edge in front of them.
pub(crate) fn plain() -> String {
    [
        CLIENT,
        &workload("echo", "echo", 80, 8080, "http", ""),
        &workload("shadow", "echo", 80, 8080, "http", ""),
        &workload("grpc", "grpc-echo", 9000, 9000, "grpc", ""),
        // Takes connections and never answers as HTTP does.
        &workload("silent", "tcp-echo", 80, 8080, "http", ""),
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  selector: {matchLabels: {app: grpc}}
  action: DENY
  rules: [{to: [{operation: {paths: [/shop.Admin/*]}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  gatewayClassName: palisade
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [a.example.com]
  rules:
  - matches: [{path: {value: /copied}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /stalled}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: silent, port: 80}}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /shared}}]
    filters: [{type: CORS, cors: {allowOrigins: ['https://shop.example.com'], allowMethods: [PUT]}}]
    backendRefs: [{name: echo, port: 80}]
",
    ]
    .concat()
}
