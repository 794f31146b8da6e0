//! The route index against the plain walk.

use http::HeaderMap;
use palisade_model::{
    resource::{Entry, Meta, Resource},
    route::{
        ClaimMatch, Fault, HeaderMatch, HeaderMutations, PathMatch, QueryMatch, RouteAction, RouteMatch, RouteRule,
        StringMatch,
    },
};
use palisade_policy::JwtFacts;
use proptest::prelude::*;

use super::*;

fn rule(key: usize, matches: Vec<RouteMatch>) -> Arc<CompiledRule> {
    let rule = RouteRule {
        key: format!("r{key}").into(),
        source: "VirtualService foo/a".into(),
        name: None,
        rule: 0,
        matches: matches.into(),
        fault: Fault::default(),
        cors: None,
        action: RouteAction::Refuse { message: "".into() },
        response_headers: HeaderMutations::default(),
    };
    let entry = Arc::new(Entry::new(Resource::Route(rule), Meta::default()).unwrap());
    Arc::new(CompiledRule::compile(&entry).unwrap().unwrap())
}

fn index(rules: Vec<Vec<RouteMatch>>) -> RouteIndex {
    let mut entries = Vec::new();
    for (key, matches) in rules.into_iter().enumerate() {
        let count = matches.len().max(1);
        let rule = rule(key, matches);
        entries.extend((0..count).map(|alternative| IndexedEntry { rule: Arc::clone(&rule), alternative }));
    }
    RouteIndex::build(entries)
}

fn facts<'a>(path: &'a str, method: &'a str, headers: &'a HeaderMap) -> MatchFacts<'a> {
    MatchFacts {
        path: path.as_bytes(),
        query: None,
        scheme: "http",
        method,
        authority: "a",
        headers: headers.into(),
        jwt: None,
    }
}

/// Few letters and short paths, so that prefixes nest and collide.
fn a_path() -> impl Strategy<Value = String> {
    prop::string::string_regex("(/[abA]{0,2}){1,4}").unwrap()
}

fn a_path_match() -> impl Strategy<Value = Option<PathMatch>> {
    prop_oneof![
        1 => Just(None),
        3 => (a_path(), any::<bool>())
            .prop_map(|(v, ignore_case)| Some(PathMatch::Exact { value: v.into(), ignore_case })),
        3 => (a_path(), any::<bool>())
            .prop_map(|(v, ignore_case)| Some(PathMatch::Prefix { value: v.into(), ignore_case })),
        3 => a_path().prop_map(|v| Some(PathMatch::SegmentPrefix { value: v.into() })),
        1 => a_path().prop_map(|v| Some(PathMatch::Regex { value: format!("{v}.*").into() })),
    ]
}

fn a_match() -> impl Strategy<Value = RouteMatch> {
    let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]));
    let header = prop::option::of((prop::sample::select(vec!["1", "2"]), any::<bool>()));
    let query = prop::option::of(prop::sample::select(vec![None, Some("1"), Some("2")]));
    let claim = prop::option::of((prop::option::of(prop::sample::select(vec!["a", "b"])), any::<bool>()));
    (a_path_match(), method, header, query, claim).prop_map(|(path, method, header, query, claim)| RouteMatch {
        path,
        method: method.map(|m| StringMatch::Exact(m.into())),
        headers: header
            .map(|(value, is_inverted)| HeaderMatch {
                name: "x-a".into(),
                value: Some(StringMatch::Exact(value.into())),
                is_inverted,
            })
            .into_iter()
            .collect(),
        query: query
            .map(|value| QueryMatch { name: "q".into(), value: value.map(|v| StringMatch::Exact(v.into())) })
            .into_iter()
            .collect(),
        claims: claim
            .map(|(value, is_inverted)| ClaimMatch {
                path: ["group".into()].into(),
                value: value.map(|v| StringMatch::Exact(v.into())),
                is_inverted,
            })
            .into_iter()
            .collect(),
        ..RouteMatch::default()
    })
}

fn identity(entry: Option<&IndexedEntry>) -> Option<(String, usize)> {
    entry.map(|entry| (entry.rule.rule().key.to_string(), entry.alternative))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_finds_what_the_plain_walk_finds(
        rules in prop::collection::vec(prop::collection::vec(a_match(), 0..3), 0..24),
        requests in prop::collection::vec(
            (a_path(), prop::sample::select(vec!["GET", "POST"]), 0..3_u8, 0..3_u8, 0..3_u8),
            16,
        ),
    ) {
        let index = index(rules);
        for (path, method, header, query, group) in requests {
            let mut headers = HeaderMap::new();
            if header > 0 {
                headers.insert("x-a", header.to_string().parse().unwrap());
            }
            let query = format!("q={query}");
            let name = ["", "a", "b"][usize::from(group)];
            let claims = serde_json::json!({"group": name});
            let jwt = JwtFacts::from_claims(claims.as_object().unwrap(), &[]);
            let facts = MatchFacts {
                query: (query != "q=0").then_some(query.as_bytes()),
                jwt: (group > 0).then_some(&jwt),
                ..facts(&path, method, &headers)
            };
            prop_assert_eq!(identity(index.find(&facts)), identity(index.find_by_walking(&facts)), "{}", path);
        }
    }
}

#[test]
fn an_earlier_entry_of_another_group_wins() {
    let path = |path| vec![RouteMatch { path: Some(path), ..RouteMatch::default() }];
    let index = index(vec![
        path(PathMatch::Prefix { value: "/a".into(), ignore_case: false }),
        path(PathMatch::Exact { value: "/a/b".into(), ignore_case: false }),
        vec![],
    ]);
    let headers = HeaderMap::new();
    assert_eq!(identity(index.find(&facts("/a/b", "GET", &headers))), Some(("r0".into(), 0)));
    assert_eq!(identity(index.find(&facts("/x", "GET", &headers))), Some(("r2".into(), 0)));
}
