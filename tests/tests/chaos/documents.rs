//! Documents of the chaos run: two services that misbehave, an edge, policies and routes that flip.

/// `NS/NAME` of the edge gateway.
pub(crate) const GATEWAY: &str = "chaos/edge";

/// How many forms the flipping documents have.
pub(crate) const FORMS: u64 = 4;

/// What stays as it is: pods, gateway, and the policy that denies `/never` for ever.
pub(crate) fn fixed() -> String {
    let services = ["left", "right"].map(|service| {
        let pods = [1, 2].map(|pod| {
            format!(
                "
---
apiVersion: v1
kind: Pod
metadata: {{name: unruly-{service}-{pod}, namespace: chaos, labels: {{app: {service}, version: v{pod}}}}}
spec:
  containers:
  - name: app
    image: chaos
    command: [bookinfo, unruly, --port=9080, --service={service}, --seed={pod}]
    ports: [{{containerPort: 9080}}]"
            )
        });
        format!(
            "{}
---
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: chaos}}
spec: {{selector: {{app: {service}}}, ports: [{{name: http, port: 9080}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}, namespace: chaos}}
spec:
  host: {service}
  subsets:
  - {{name: v1, labels: {{version: v1}}}}
  - {{name: v2, labels: {{version: v2}}}}",
            pods.concat()
        )
    });
    format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: chaos}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: chaos}}
spec:
  gatewayClassName: palisade
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: split, namespace: chaos}}
spec:
  parentRefs: [{{name: edge}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /left}}}}]
    backendRefs: [{{name: left, port: 9080}}]
  - matches: [{{path: {{type: PathPrefix, value: /right}}}}]
    backendRefs: [{{name: right, port: 9080}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: never, namespace: chaos}}
spec:
  action: DENY
  rules: [{{to: [{{operation: {{paths: ['*/never', '/never*']}}}}]}}]
{}",
        services.concat()
    )
}

/// One of [`FORMS`] forms: whether `/SERVICE/sometimes` is denied, and how long a try may take.
pub(crate) fn flipping(form: u64) -> String {
    let path = if form.is_multiple_of(2) { "*/sometimes" } else { "*/nobody-asks-for-this" };
    let timeout = if form < 2 { "2s" } else { "3s" };
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: sometimes, namespace: chaos}}
spec:
  action: DENY
  rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: left, namespace: chaos}}
spec:
  hosts: [left]
  http:
  - timeout: {timeout}
    route:
    - {{destination: {{host: left, subset: v1}}, weight: {}}}
    - {{destination: {{host: left, subset: v2}}, weight: {}}}
",
        10 + form * 20,
        90 - form * 20,
    )
}
