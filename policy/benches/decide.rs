//! What one decision costs, by number of policies: `cargo bench -p palisade-policy`.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Instant, UNIX_EPOCH},
};

use palisade_model::policy::{PolicyId, PolicyMode, PolicySet};
use palisade_policy::{
    CompiledPolicy, ConnectionFacts, Operation, Peer, PolicyEngine, RequestFacts, RuleAction, RuleSpec, Source,
    TrustDomains, admit_rule,
};

fn rule(number: usize, namespace: &str) -> RuleSpec {
    let one = |text: &str| vec![text.to_owned()];
    RuleSpec {
        id: PolicyId::of_rule("bench", "allow", number),
        source: None,
        rule: None,
        namespace: "bench".to_owned(),
        action: RuleAction::Allow,
        mode: PolicyMode::Enforce,
        from: Some(vec![Source { namespaces: one(namespace), ..Source::default() }]),
        to: Some(vec![Operation {
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            paths: vec![format!("/api/v{number}/*")],
            ports: one("8080"),
            ..Operation::default()
        }]),
        when: Vec::new(),
    }
}

fn engine(count: usize, is_one_principal: bool) -> PolicyEngine {
    let mut policies = BTreeMap::new();
    for number in 0..count {
        let namespace =
            if is_one_principal || number == count - 1 { "client".to_owned() } else { format!("other{number}") };
        for policy in admit_rule(&rule(number, &namespace), &TrustDomains::default()).policies {
            policies.insert(policy.id.clone(), Arc::new(CompiledPolicy::load(&policy)));
        }
    }
    let set =
        PolicySet { key: "workload/bench/target".into(), policies: policies.keys().cloned().collect(), deny_all: None };
    PolicyEngine::build(&set, |id| policies.get(id).cloned())
}

/// The median of 15 batches, in nanoseconds per call.
fn nanoseconds(calls: u32, mut call: impl FnMut()) -> f64 {
    let mut batches: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..calls {
                call();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    batches.get(7).copied().unwrap_or_default()
}

fn main() {
    let facts = |namespace: &str| ConnectionFacts {
        source_ip: [10, 1, 2, 3].into(),
        source_port: 40000,
        destination_ip: [10, 9, 8, 7].into(),
        destination_port: 8080,
        peer: format!("spiffe://cluster.local/ns/{namespace}/sa/default").parse().map_or(Peer::Anonymous, Peer::Mesh),
        tls: None,
    };
    println!(
        "| policies | one principal each, ns | one principal, ns | connect, one principal each, ns | connect and first request, one principal, ns |"
    );
    println!("|---:|---:|---:|---:|---:|");
    for count in [1, 10, 100, 1000] {
        let headers: Vec<(String, String)> = Vec::new();
        let path = format!("/api/v{}/accounts/1234/entries", count - 1);
        let request = RequestFacts {
            method: "GET",
            scheme: "https",
            authority: b"ledger.payments",
            path: path.as_bytes(),
            headers: &headers,
            remote_ip: [10, 1, 2, 3].into(),
            jwt: None,
            now: UNIX_EPOCH,
        };
        let (many, one) = (engine(count, false), engine(count, true));
        let client = facts("client");
        let (to_many, to_one) = (many.connect(&client), one.connect(&client));
        for (engine, connection) in [(&many, &to_many), (&one, &to_one)] {
            if !engine.decide_http(connection, &request).is_allowed() {
                println!("the request was denied: nothing is measured");
                return;
            }
        }
        let decide = |engine: &PolicyEngine, connection: &palisade_policy::ConnectionDecision| {
            nanoseconds(100_000, || drop(black_box(engine.decide_http(connection, black_box(&request)))))
        };
        let (flat, indexed) = (decide(&many, &to_many), decide(&one, &to_one));
        let connect = nanoseconds(2_000, || drop(black_box(many.connect(black_box(&client)))));
        let first = nanoseconds(500, || {
            let connection = one.connect(black_box(&client));
            let _ = black_box(one.decide_http(&connection, &request));
        });
        println!("| {count} | {flat:.0} | {indexed:.0} | {connect:.0} | {first:.0} |");
    }
}
