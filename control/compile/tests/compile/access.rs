//! What stands before authorization: RequestAuthentications and CUSTOM policies, as compiled.

use std::collections::BTreeMap;

use palisade_compile::{
    ControlSettings, FetchedKeys, Inputs, KeySource, ProxyRef, SourceOptions, compile, key_sources, scope,
};
use palisade_model::{
    authentication::{Authentication, TokenLocation},
    external_authorization::{CheckCache, ExternalCheck, ExternalProvider, KeyPart, NamePattern},
    resource::{Resource, ResourceKind},
    snapshot::Snapshot,
};

use crate::support::{compile_text, documents, istio, of, pod, service};

const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#;
const TARGET: &str = "workload/a/s";

fn tokens(snapshot: &Snapshot) -> Option<Authentication> {
    match snapshot.get(ResourceKind::Authentication, TARGET).map(|entry| entry.resource()) {
        Some(Resource::Authentication(authentication)) => Some(authentication.clone()),
        _ => None,
    }
}

fn checks(snapshot: &Snapshot) -> Vec<ExternalCheck> {
    match snapshot.get(ResourceKind::ExternalAuthorization, TARGET).map(|entry| entry.resource()) {
        Some(Resource::ExternalAuthorization(external)) => external.checks.to_vec(),
        _ => Vec::new(),
    }
}

fn sidecar() -> ProxyRef {
    ProxyRef::sidecar("a", "s")
}

fn mesh(config: &str) -> String {
    let indented = config.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {indented}\n---\n"
    )
}

const PROVIDERS: &str = "extensionProviders:
- name: grpc
  envoyExtAuthzGrpc: {service: authz.b.svc.cluster.local, port: 9000, timeout: 2s, statusOnError: \"503\"}
- name: http
  envoyExtAuthzHttp:
    service: b/authz.b.svc.cluster.local
    port: 8000
    pathPrefix: /check
    failOpen: true
    includeRequestHeadersInCheck: [X-Ext-*, \"*-id\", cookie]
    includeAdditionalHeadersInCheck: {X-Added: v}
    headersToUpstreamOnAllow: [x-user]
- name: bodies
  envoyExtAuthzGrpc: {service: authz.b.svc.cluster.local, port: 9000, includeRequestBodyInCheck: {maxRequestBytes: 9}}
- name: no-end
  envoyExtAuthzGrpc: {service: authz.b.svc.cluster.local, port: 9000, timeout: 0s}
- name: before-its-begin
  envoyExtAuthzHttp: {service: authz.b.svc.cluster.local, port: 8000, timeout: -1s}
- name: no-bytes
  envoyExtAuthzHttp: {service: authz.b.svc.cluster.local, port: 8000, includeRequestBodyInCheck: {allowPartialMessage: true}}
- name: nowhere
  envoyExtAuthzGrpc: {service: gone.b.svc.cluster.local, port: 9000}
- name: tracer
  zipkin: {service: z, port: 1}";

fn custom(name: &str, provider: &str) -> String {
    let spec = format!(
        "{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [/x]}}}}]}}]}}"
    );
    istio("AuthorizationPolicy", name, "a", &spec)
}

fn world() -> String {
    let ports = "{name: grpc, port: 9000}, {name: http, port: 8000}";
    mesh(PROVIDERS) + &pod("s", "a", "") + &pod("authz", "b", "") + &service("authz", "b", ports)
}

#[test]
fn documents_merge_sorted_by_issuer_whatever_their_scope() {
    let rule = |issuer: &str| format!("{{jwtRules: [{{issuer: {issuer}, jwks: '{KEYS}'}}]}}");
    let text = pod("s", "a", "")
        + &istio("RequestAuthentication", "z", "a", &rule("b"))
        + &istio("RequestAuthentication", "mesh", "istio-system", &rule("c"))
        + &istio(
            "RequestAuthentication",
            "x",
            "a",
            &format!("{{selector: {{matchLabels: {{app: s}}}}, jwtRules: [{{issuer: a, jwks: '{KEYS}'}}]}}"),
        )
        + &istio(
            "RequestAuthentication",
            "w",
            "a",
            &format!("{{selector: {{matchLabels: {{app: other}}}}, jwtRules: [{{issuer: d, jwks: '{KEYS}'}}]}}"),
        )
        + &istio("RequestAuthentication", "v", "other", &rule("e"));
    let authentication = tokens(&of(&text, &sidecar(), &[])).unwrap();
    let issuers: Vec<_> = authentication.rules.iter().map(|rule| rule.issuer.as_deref().unwrap()).collect();
    assert_eq!(issuers, ["a", "b", "c"]);
    assert_eq!(&*authentication.rules[0].keys, KEYS);
    assert_eq!(authentication.rules[0].locations.len(), 2, "the usual places");
}

#[test]
fn the_policy_set_is_withheld_from_proxies_that_cannot_verify_tokens() {
    let rule = format!("{{jwtRules: [{{issuer: a, jwks: '{KEYS}', fromCookies: [c]}}]}}");
    let snapshot = of(&(pod("s", "a", "") + &istio("RequestAuthentication", "p", "a", &rule)), &sidecar(), &[]);
    let needs = &snapshot.get(ResourceKind::PolicySet, TARGET).unwrap().meta().requires;
    assert!(needs.iter().any(|feature| &*feature.0 == "request-authentication"), "{needs:?}");
    let rule = &tokens(&snapshot).unwrap().rules[0];
    assert_eq!(*rule.locations, [TokenLocation::Cookie("c".into())], "a place that is named replaces the usual ones");
}

#[test]
fn remote_keys_come_from_what_was_fetched() {
    let rule =
        "{jwtRules: [{issuer: 'https://i', audiences: [x]}, {issuer: j, jwksUri: 'https://k/keys'}, {issuer: plain}]}";
    let text = pod("s", "a", "") + &istio("RequestAuthentication", "p", "a", rule);
    let options = SourceOptions { is_files: true, ..SourceOptions::default() };
    let mut inputs = Inputs::new(documents("in.yaml", &text), &options);
    let (issuer, uri) = (KeySource::Issuer("https://i".into()), KeySource::Uri("https://k/keys".into()));
    assert_eq!(key_sources(&inputs), [uri.clone(), issuer.clone()].into());
    let good = FetchedKeys { keys: Some(KEYS.into()), error: None };
    let failed = FetchedKeys { keys: None, error: Some("no answer".into()) };
    inputs.keys = BTreeMap::from([(issuer, good), (uri, failed)]);
    let compiled = compile(&inputs.into());
    let rules = tokens(&scope(&compiled.mesh, &sidecar(), &Default::default()).unwrap()).unwrap().rules;
    let keys: Vec<_> = rules.iter().map(|rule| (rule.issuer.as_deref().unwrap(), !rule.keys.is_empty())).collect();
    assert_eq!(keys, [("https://i", true), ("j", false), ("plain", false)]);
    let said: Vec<_> = compiled.reports.diagnostics().iter().map(|d| (d.code, d.path.clone())).collect();
    let at = |path: &str| ("PLS0411", path.to_owned());
    assert_eq!(said, [at("spec.jwtRules[1].jwksUri"), at("spec.jwtRules[2]")]);
}

#[test]
fn a_broken_request_authentication_refuses_every_token_and_nothing_else() {
    let text = pod("s", "a", "") + &istio("RequestAuthentication", "p", "a", "{jwtRules: [{issuer: a, jwks: '{'}]}");
    let snapshot = of(&text, &sidecar(), &[]);
    assert!(tokens(&snapshot).unwrap().refuse_tokens.is_some());
    let Resource::PolicySet(set) = snapshot.get(ResourceKind::PolicySet, TARGET).unwrap().resource() else { panic!() };
    assert_eq!(set.deny_all, None);
}

#[test]
fn custom_policies_name_their_providers() {
    let snapshot = of(&(world() + &custom("p", "grpc") + &custom("q", "grpc")), &sidecar(), &[]);
    let [check] = checks(&snapshot).try_into().unwrap();
    let ExternalProvider::Grpc(asked) = &check.asks else { panic!("{check:?}") };
    assert_eq!(&*asked.cluster, "outbound|9000||authz.b.svc.cluster.local");
    assert_eq!((asked.timeout.as_secs(), asked.status_on_error, asked.fails_open), (2, 503, false));
    let Some(Resource::PolicySet(set)) =
        snapshot.get(ResourceKind::PolicySet, &check.policies).map(|entry| entry.resource())
    else {
        panic!()
    };
    let ids: Vec<_> = set.policies.iter().map(ToString::to_string).collect();
    assert!(ids.contains(&"a/p[0]".to_owned()) && ids.contains(&"a/q[0]".to_owned()), "{ids:?}");
    let Resource::PolicySet(own) = snapshot.get(ResourceKind::PolicySet, TARGET).unwrap().resource() else { panic!() };
    assert_eq!(own.policies.len(), 1, "CUSTOM neither permits nor forbids by itself");
}

#[test]
fn http_providers_have_lists_of_headers() {
    let [check] = checks(&of(&(world() + &custom("p", "http")), &sidecar(), &[])).try_into().unwrap();
    let ExternalProvider::Http(http) = &check.asks else { panic!("{check:?}") };
    let patterns =
        [NamePattern::Prefix("x-ext-".into()), NamePattern::Suffix("-id".into()), NamePattern::Exact("cookie".into())];
    assert_eq!(*http.request_headers, patterns);
    assert_eq!(*http.added_headers, [("x-added".into(), "v".into())]);
    assert_eq!((&*http.path_prefix, http.service.fails_open, http.service.timeout.as_secs()), ("/check", true, 600));
}

#[test]
fn providers_that_cannot_be_asked_are_named() {
    for provider in ["unknown", "nowhere", "tracer"] {
        let [check] = checks(&of(&(world() + &custom("p", provider)), &sidecar(), &[])).try_into().unwrap();
        assert!(matches!(check.asks, ExternalProvider::Missing { .. }), "{provider}: {check:?}");
    }
    let said = compile_text(&(world() + &custom("p", "unknown"))).reports;
    assert!(said.diagnostics().iter().any(|d| d.code == "PLS0412" && d.path == "spec.provider.name"));
}

/// Envoy waits for ever with `0s`, and refuses its whole configuration with the others.
#[test]
fn a_check_always_has_a_limit_and_impossible_ones_are_refused() {
    let asked = |provider: &str| {
        let [check] = checks(&of(&(world() + &custom("p", provider)), &sidecar(), &[])).try_into().unwrap();
        check.asks
    };
    let ExternalProvider::Grpc(service) = asked("no-end") else { panic!("{:?}", asked("no-end")) };
    assert_eq!(service.timeout.as_secs(), 600);
    for (provider, field) in [("before-its-begin", "`timeout`"), ("no-bytes", "`maxRequestBytes: 0`")] {
        assert!(matches!(asked(provider), ExternalProvider::Missing { .. }), "{provider}");
        let said = compile_text(&(world() + &custom("p", provider))).reports;
        assert!(said.diagnostics().iter().any(|d| d.code == "PLS0412" && d.message.contains(field)), "{provider}");
    }
}

#[test]
fn two_providers_on_one_workload_deny_unless_they_are_allowed() {
    let text = world() + &custom("p", "grpc") + &custom("q", "http");
    let asked = |multiple: bool| {
        let control = ControlSettings { multiple_custom_providers: multiple, ..ControlSettings::default() };
        let options = SourceOptions { control, is_files: true };
        let compiled = compile(&Inputs::new(documents("in.yaml", &text), &options).into());
        let found = checks(&scope(&compiled.mesh, &sidecar(), &Default::default()).unwrap());
        found.iter().filter(|check| !matches!(check.asks, ExternalProvider::Missing { .. })).count()
    };
    assert_eq!((asked(false), asked(true)), (0, 2));
}

#[test]
fn dry_runs_of_custom_are_apart() {
    let dry = custom("q", "http").replace("namespace: a}", "namespace: a, annotations: {istio.io/dry-run: \"true\"}}");
    let found = checks(&of(&(world() + &custom("p", "grpc") + &dry), &sidecar(), &[]));
    let kinds: Vec<_> = found.iter().map(|check| (&*check.provider, check.is_dry_run)).collect();
    assert_eq!(kinds, [("grpc", false), ("http", true)], "and no second provider");
}

/// A CUSTOM policy with annotations, as pairs of name and value.
fn annotated(name: &str, provider: &str, annotations: &[(&str, &str)]) -> String {
    let written: Vec<String> = annotations.iter().map(|(name, value)| format!("{name}: \"{value}\"")).collect();
    let with = format!("namespace: a, annotations: {{{}}}}}", written.join(", "));
    custom(name, provider).replace("namespace: a}", &with)
}

const CACHE_LIFETIME: &str = "palisade.dev/ext-authz-cache-lifetime";
const CACHE_KEY: &str = "palisade.dev/ext-authz-cache-key";

#[test]
fn answers_count_again_where_every_policy_of_the_provider_says_so() {
    let of = |documents: &[String]| {
        let snapshot = of(&(world() + &documents.concat()), &sidecar(), &[]);
        let [check] = checks(&snapshot).try_into().unwrap();
        let features = snapshot.get(ResourceKind::ExternalAuthorization, TARGET).unwrap().meta().requires.clone();
        (check.cache, features.iter().any(|feature| &*feature.0 == "external-authorization.cache"))
    };
    let cached = |name: &str, lifetime, key| annotated(name, "grpc", &[(CACHE_LIFETIME, lifetime), (CACHE_KEY, key)]);
    let cache = |seconds, key: &[KeyPart]| {
        Some(CheckCache { lifetime: std::time::Duration::from_secs(seconds), key: key.into() })
    };
    let (p, q) = (cached("p", "30s", "path, headers.X-User"), cached("q", "1m", "path, method"));
    let user = KeyPart::Header("x-user".into());
    assert_eq!(of(std::slice::from_ref(&p)), (cache(30, &[KeyPart::Path, user.clone()]), true));
    assert_eq!(of(&[p.clone(), q]), (cache(30, &[KeyPart::Method, KeyPart::Path, user]), true));
    assert_eq!(of(&[p, custom("q", "grpc")]), (None, false), "one policy that says nothing");
}

#[test]
fn annotations_that_cannot_be_used_cache_nothing_and_are_named() {
    let allow = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {name: p, namespace: a}\nspec: {rules: [{}]}\n---\n";
    for (name, provider, annotations, at) in [
        ("no key", "grpc", &[(CACHE_LIFETIME, "30s")][..], CACHE_LIFETIME),
        ("no lifetime", "grpc", &[(CACHE_KEY, "path")], CACHE_KEY),
        ("no duration", "grpc", &[(CACHE_LIFETIME, "30"), (CACHE_KEY, "path")], CACHE_LIFETIME),
        ("zero", "grpc", &[(CACHE_LIFETIME, "0s"), (CACHE_KEY, "path")], CACHE_LIFETIME),
        ("negative", "grpc", &[(CACHE_LIFETIME, "-1s"), (CACHE_KEY, "path")], CACHE_LIFETIME),
        ("too long", "grpc", &[(CACHE_LIFETIME, "61m"), (CACHE_KEY, "path")], CACHE_LIFETIME),
        ("an unknown part", "grpc", &[(CACHE_LIFETIME, "30s"), (CACHE_KEY, "path, body")], CACHE_KEY),
        ("an empty key", "grpc", &[(CACHE_LIFETIME, "30s"), (CACHE_KEY, "")], CACHE_KEY),
        ("bodies", "bodies", &[(CACHE_LIFETIME, "30s"), (CACHE_KEY, "path")], CACHE_LIFETIME),
        (
            "a dry run",
            "grpc",
            &[(CACHE_LIFETIME, "30s"), (CACHE_KEY, "path"), ("istio.io/dry-run", "true")],
            CACHE_LIFETIME,
        ),
        ("no CUSTOM", "", &[(CACHE_LIFETIME, "30s")], CACHE_LIFETIME),
    ] {
        let text = match provider {
            "" => allow.replace("namespace: a}", &format!("namespace: a, annotations: {{{CACHE_LIFETIME}: 30s}}}}")),
            provider => annotated("p", provider, annotations),
        };
        let text = world() + &text;
        let said = compile_text(&text).reports;
        let path = format!("metadata.annotations[{at}]");
        let found = said.diagnostics().iter().any(|d| d.code == "PLS0415" && d.path == path && d.line > 0);
        assert!(found, "{name}: {:?}", said.diagnostics());
        assert!(checks(&of(&text, &sidecar(), &[])).iter().all(|check| check.cache.is_none()), "{name}");
    }
}
