//! The compiled form against Cedar's own evaluator and authorizer.

use cedar_policy::{Authorizer, Decision, Policy as CedarPolicy, PolicyId, PolicySet};

use super::{
    facts::{Plain, decide, engine_of},
    random::{self, Rng},
};
use crate::{
    TrustDomains, admit_rule,
    check::text_literals,
    compile::compile,
    default_permit,
    eval::{ConnectionView, Outcome, RequestState, RequestView, Target, View},
    fallback::{CedarCondition, cedar_request},
    ir::{Actions, Program},
    pattern::Pattern,
};

fn with_view<T>(plain: &Plain, use_view: impl FnOnce(&View<'_>) -> T) -> T {
    let connection = ConnectionView::of(&plain.connection());
    let target = Target::of_key("gateway/foo/httpbin");
    plain.with_request(|facts| {
        let mut lowered = Vec::new();
        let request = RequestView::of(facts, &mut lowered);
        let view = match &plain.http {
            None => {
                View { action: Actions::TCP, target: &target, connection: &connection, request: RequestState::Opaque }
            }
            Some(_) => {
                let action = if request.is_grpc() { Actions::GRPC } else { Actions::HTTP };
                View { action, target: &target, connection: &connection, request: RequestState::Known(&request) }
            }
        };
        use_view(&view)
    })
}

fn run(program: &Program, view: &View<'_>) -> Outcome {
    if !program.actions.intersects(view.action) {
        return Outcome::False;
    }
    program.condition.eval(view, crate::index::is_infallible(program))
}

/// Tests that hand-written policies may contain, guarded or not: an unguarded one fails, and must fail alike.
const ATOMS: &[&str] = &[
    "true",
    "false",
    r#"principal == Mesh::ServiceAccount::"cluster.local/ns/foo/sa/sleep""#,
    r#"principal in Mesh::ServiceAccount::"cluster.local/ns/foo/sa/sleep""#,
    r#"principal in [Mesh::Namespace::"bar", Mesh::Namespace::"prod-a"]"#,
    r#"principal in Mesh::TrustDomain::"other.example""#,
    "principal is Mesh::ExternalPeer",
    r#"principal is Mesh::ServiceAccount in Mesh::Namespace::"foo""#,
    "principal is Mesh::Anonymous",
    r#"principal.name == "sleep""#,
    r#"(principal is Mesh::ServiceAccount && principal.namespace like "f*")"#,
    r#"action == Mesh::Action::"tcp""#,
    r#"action in Mesh::Action::"l7""#,
    r#"action in [Mesh::Action::"grpc", Mesh::Action::"l4"]"#,
    r#"action == Mesh::Action::"any""#,
    "resource is Mesh::Workload",
    r#"resource == Mesh::Workload::"foo/httpbin""#,
    r#"resource in Mesh::Namespace::"foo""#,
    r#"resource in [Mesh::Gateway::"foo/httpbin", Mesh::Gateway::"a/b"]"#,
    r#"resource in Mesh::Namespace::"bar""#,
    r#"context.source.ip.isInRange(ip("10.0.0.0/8"))"#,
    r#"context.source.remoteIp.isInRange(ip("fd00::/8"))"#,
    r#"context.destination.ip == ip("10.0.0.4")"#,
    "context.source.ip.isIpv4()",
    "context.source.ip.isIpv6()",
    "context.source.ip.isLoopback()",
    "context.source.ip.isMulticast()",
    "context.destination.port == 8080",
    "[80, 9090].contains(context.destination.port)",
    "context.destination.port < 1024",
    "context.destination.port >= 8080",
    "context.source.port > 39999",
    "context.source.port <= 39999",
    "context.destination.port != 80",
    "context has tls",
    "context has tls.sni",
    r#"context.tls.sni == "a.com""#,
    r#"(context has tls.sni && context.tls.sni like "*.com")"#,
    "context.tls has sni",
    "context.tls has alpn",
    r#"context.tls.version == "TLSv1.3""#,
    r#"context.http.method == "GET""#,
    r#"["GET", "POST"].contains(context.http.method)"#,
    r#"context.http.path like "/api/*""#,
    r#"context.http.path like "*a*b*""#,
    r#"context.http.path like "/x\*y""#,
    r#"context.http.path == "/api/v1/a""#,
    "context.http.depth == 3",
    "context.http.depth < 3",
    r#"context.http.authority == "a.com:8080""#,
    r#"context.http.host == "a.com""#,
    r#""a.com" == context.http.host"#,
    r#"context.http.scheme != "http""#,
    "context.http has query",
    r#"(context.http has query && context.http.query like "*x")"#,
    r#"context.http.query == "b=/x""#,
    r#"context.http.headers.hasTag("x-role")"#,
    r#"context.http.headers.getTag("x-role").contains("admin")"#,
    r#"(context.http.headers.hasTag("x-role") && context.http.headers.getTag("x-role").containsAny(["user", "a\"b\\"]))"#,
    "context has jwt",
    r#"context.jwt.issuer == "iss.example""#,
    r#"(context has jwt && context.jwt.subject like "a*")"#,
    r#"(context has jwt && context.jwt.audiences.contains("editor"))"#,
    r#"context.jwt.claims.hasTag("groups")"#,
    r#"(context has jwt && context.jwt.claims.hasTag("realm.roles") && context.jwt.claims.getTag("realm.roles").contains("editor"))"#,
    r#"context.jwt.claims.getTag("groups").containsAny(["editor", "viewer"])"#,
    r#"context.matched.contains("namespaces=f*")"#,
    r#"context.matched.containsAny(["principals=*/sa/sleep", "trustDomains=*.example"])"#,
    r#"context.http.matched.contains("paths=/api/{*}/a")"#,
    r#"context.http.matched.containsAny(["headers[x-role]=ad*", "claims[groups]=*or"])"#,
];

fn condition(rng: &mut Rng, depth: usize) -> String {
    match rng.below(if depth == 0 { 1 } else { 6 }) {
        0 | 1 => (*rng.pick(ATOMS)).to_owned(),
        2 | 3 => format!("({} && {})", condition(rng, depth - 1), condition(rng, depth - 1)),
        4 => format!("({} || {})", condition(rng, depth - 1), condition(rng, depth - 1)),
        _ => format!("!({})", condition(rng, depth - 1)),
    }
}

#[test]
fn compiled_conditions_come_to_what_cedar_comes_to() {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let mut rng = Rng::new(77);
    let mut texts: Vec<String> =
        ATOMS.iter().map(|a| format!("permit(principal, action, resource) when {{ {a} }};")).collect();
    for _ in 0..random::rounds(200) {
        let scope = *rng.pick(&[
            "principal, action, resource",
            r#"principal in Mesh::Namespace::"foo", action in Mesh::Action::"l7", resource"#,
            r#"principal is Mesh::ServiceAccount in Mesh::TrustDomain::"cluster.local", action, resource is Mesh::Workload in Mesh::Gateway::"foo/httpbin""#,
            r#"principal == Mesh::ServiceAccount::"cluster.local/ns/foo/sa/sleep", action == Mesh::Action::"http", resource in Mesh::Namespace::"foo""#,
            r#"principal is Mesh::ExternalPeer, action in [Mesh::Action::"tcp", Mesh::Action::"grpc"], resource == Mesh::Workload::"foo/httpbin""#,
        ]);
        let (when, unless) = (condition(&mut rng, 3), condition(&mut rng, 1));
        texts.push(if rng.one_in(4) {
            format!("forbid({scope}) when {{ {when} }} unless {{ {unless} }};")
        } else {
            format!("permit({scope}) when {{ {when} }};")
        });
    }
    for text in &texts {
        let policy = CedarPolicy::parse(None, text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let tree = policy.to_pst().unwrap();
        let program = compile(&tree).unwrap_or_else(|e| panic!("{text}: {e}"));
        let program = Program { condition: program.condition.merge_addresses(), ..program };
        let cedar = CedarCondition::new(&policy, &tree).unwrap();
        for _ in 0..20 {
            let plain = random::plain(&mut rng);
            let (ours, theirs) = with_view(&plain, |view| (run(&program, view), cedar.eval(view)));
            assert_eq!(ours, theirs, "{text}\n{plain:?}\n{program:?}");
            *seen.entry(format!("{ours:?}")).or_default() += 1;
            if crate::index::is_infallible(&program) {
                assert_ne!(ours, Outcome::Error, "{text}\n{plain:?}");
            }
        }
    }
    assert!(["True", "False", "Error"].iter().all(|o| seen.get(*o).is_some_and(|n| *n > 200)), "{seen:?}");
}

#[test]
fn the_engine_decides_as_cedars_authorizer_over_whole_sets() {
    let domains = TrustDomains::new("cluster.local", ["old.local".to_owned()]);
    let (mut allowed, mut denied) = (0, 0);
    for seed in 0..random::rounds(60) {
        let mut rng = Rng::new(seed + 1_000);
        let rules: Vec<_> = (0..1 + rng.below(5)).map(|number| random::rule(&mut rng, number)).collect();
        let mut policies: Vec<_> = rules.iter().flat_map(|r| admit_rule(r, &domains).policies).collect();
        if !policies.iter().any(|p| p.effect == palisade_model::policy::Effect::Permit) {
            policies.push(default_permit());
        }
        let (mut set, mut patterns, mut names) = (PolicySet::new(), Vec::new(), Vec::new());
        for policy in &policies {
            let parsed = CedarPolicy::parse(Some(PolicyId::new(policy.id.as_str())), &policy.cedar).unwrap();
            let tree = parsed.to_pst().unwrap();
            let literals = text_literals(&tree);
            patterns.extend(literals.iter().filter_map(|l| Pattern::parse(l).ok()));
            names.extend(literals.iter().map(|l| (*l).to_owned()));
            set.add(parsed).unwrap();
        }
        names.sort();
        names.dedup();
        let engine = engine_of(policies, None);
        for _ in 0..25 {
            let plain = random::plain(&mut rng);
            let response = with_view(&plain, |view| {
                let (request, entities) = cedar_request(view, &patterns, &names).unwrap();
                Authorizer::new().is_authorized(&request, &set, &entities)
            });
            assert_eq!(response.diagnostics().errors().count(), 0);
            let decision = decide(&engine, &plain);
            assert_eq!(decision.is_allowed(), response.decision() == Decision::Allow, "seed {seed}\n{plain:?}\n{set}");
            let reasons: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
            match engine.deciding(&decision) {
                Some(policy) => {
                    assert!(reasons.contains(&policy.id.to_string()), "seed {seed}: {policy:?} {reasons:?}")
                }
                None => assert!(reasons.is_empty(), "seed {seed}: {reasons:?}"),
            }
            if decision.is_allowed() { allowed += 1 } else { denied += 1 }
        }
    }
    assert!(allowed > 200 && denied > 200, "{allowed} {denied}");
}

#[test]
fn a_grpc_call_is_told_apart_by_its_content_type() {
    let mut plain = Plain::default();
    let text = r#"permit(principal, action == Mesh::Action::"grpc", resource);"#;
    let program = compile(&CedarPolicy::parse(None, text).unwrap().to_pst().unwrap()).unwrap();
    for (content_type, expected) in [
        ("application/grpc", Outcome::True),
        ("application/grpc+proto", Outcome::True),
        ("application/grpc-web", Outcome::False),
        ("text/plain", Outcome::False),
    ] {
        plain.http.as_mut().unwrap().headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        assert_eq!(with_view(&plain, |view| run(&program, view)), expected, "{content_type}");
    }
}
