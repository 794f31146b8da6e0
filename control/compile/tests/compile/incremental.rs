//! Compiling after an edit gives what compiling everything anew gives, whatever was edited.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{
    Compiled, Inputs, Mesh, ProxyRef, SourceDocument, SourceOptions, compile, compile_after, scope,
};
use palisade_model::{hash::ContentHash, service::Query};

use crate::support::{HTTP, client, documents, istio, pod, service};

/// Each document in the forms that it may have; the first is none.
fn pool() -> Vec<Vec<String>> {
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
        vec![mesh("trustDomain: other.example"), mesh("pathNormalization: {normalization: NONE}")],
    ];
    forms.into_iter().map(|forms| std::iter::once(String::new()).chain(forms).collect()).collect()
}

/// Everything that anybody sees of a mesh.
fn seen(compiled: &Compiled) -> (Vec<Result<ContentHash, String>>, Vec<String>) {
    let proxies = [client(), ProxyRef::sidecar("a", "s"), ProxyRef::sidecar("b", "x"), ProxyRef::gateway("a", "edge")];
    let queries: BTreeSet<Query> = ["u.b", "api.example.com", "none"].map(|host| Query::Host(host.into())).into();
    let snapshots = proxies.iter().map(|proxy| {
        scope(&compiled.mesh, proxy, &queries).map(|snapshot| snapshot.version()).map_err(|error| error.to_string())
    });
    let mut reports: Vec<String> = compiled.reports.diagnostics().iter().map(|d| format!("{d:?}")).collect();
    reports.push(format!("{:?} {:?}", compiled.reports.conditions, compiled.reports.attached_routes));
    (snapshots.collect(), reports)
}

#[test]
fn after_any_edits_the_mesh_is_as_if_compiled_anew() {
    let pool = pool();
    let mut state: u64 = 42;
    let mut draw = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    let mut chosen = vec![0; pool.len()];
    let mut previous: Option<Mesh> = None;
    let mut taken_over = 0;
    for step in 0..300 {
        for _ in 0..=draw(3) {
            let at = draw(pool.len());
            chosen[at] = draw(pool[at].len());
        }
        let text: String = pod("client", "a", "")
            + &chosen.iter().zip(&pool).map(|(form, forms)| forms[*form].as_str()).collect::<String>();
        let sources: Vec<SourceDocument> = documents("in.yaml", &text);
        let inputs = Inputs::new(sources, &SourceOptions { is_files: true, ..SourceOptions::default() });
        let anew = compile(&Arc::new(inputs.clone()));
        let after = match &previous {
            Some(mesh) => compile_after(mesh, inputs),
            None => compile(&Arc::new(inputs)),
        };
        assert_eq!(seen(&after), seen(&anew), "step {step}: {text}");
        taken_over += usize::from(previous.is_some_and(|before| before.shares_with(&after.mesh) > 0));
        previous = Some(after.mesh);
    }
    assert!(taken_over > 250, "only {taken_over} meshes took anything over");
}
