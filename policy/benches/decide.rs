//! What decisions cost: `make bench-authz`. CPU time of the thread, so that other work on the machine does not count; allocations exactly.

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    sync::Arc,
    time::{Instant, UNIX_EPOCH},
};

use palisade_model::policy::{Policy, PolicyId, PolicyMode, PolicySet};
use palisade_policy::{
    CompiledPolicy, ConnectionDecision, ConnectionFacts, Operation, Peer, PolicyEngine, RequestFacts, RuleAction,
    RuleSpec, Source, TrustDomains, admit_rule,
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

type Loaded = BTreeMap<PolicyId, Arc<CompiledPolicy>>;

fn admitted(count: usize, namespace: impl Fn(usize) -> String) -> Vec<Policy> {
    let domains = TrustDomains::default();
    (0..count).flat_map(|number| admit_rule(&rule(number, &namespace(number)), &domains).policies).collect()
}

fn load(policies: &[Policy]) -> Loaded {
    policies.iter().map(|policy| (policy.id.clone(), Arc::new(CompiledPolicy::load(policy)))).collect()
}

fn engine_of(loaded: &Loaded, members: Vec<PolicyId>) -> PolicyEngine {
    let set = PolicySet { key: "workload/bench/target".into(), policies: members.into(), ..PolicySet::default() };
    PolicyEngine::build(&set, |id| loaded.get(id).cloned())
}

/// Nanoseconds that this thread has run.
fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Memory of the process that is not backed by files, in KiB.
fn anonymous_kib() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// CPU nanoseconds per call: least and median of 21 batches.
fn nanoseconds(calls: u32, mut call: impl FnMut()) -> (f64, f64) {
    let mut batches: Vec<f64> = (0..21)
        .map(|_| {
            let start = cpu();
            for _ in 0..calls {
                call();
            }
            (cpu() - start) / f64::from(calls)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches.first().copied().unwrap_or_default(), batches.get(10).copied().unwrap_or_default())
}

fn allocations(mut call: impl FnMut()) -> u64 {
    allocation_counter::measure(&mut call).count_total
}

fn facts(namespace: &str) -> ConnectionFacts {
    ConnectionFacts {
        source_ip: [10, 1, 2, 3].into(),
        source_port: 40000,
        destination_ip: [10, 9, 8, 7].into(),
        destination_port: 8080,
        peer: format!("spiffe://cluster.local/ns/{namespace}/sa/default").parse().map_or(Peer::Anonymous, Peer::Mesh),
        tls: None,
    }
}

fn with_request<T>(number: usize, ask: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
    let headers: Vec<(String, String)> = Vec::new();
    let path = format!("/api/v{number}/accounts/1234/entries");
    ask(&RequestFacts {
        method: "GET",
        scheme: "https",
        authority: b"ledger.payments",
        path: path.as_bytes(),
        query: None,
        headers: &headers,
        remote_ip: [10, 1, 2, 3].into(),
        jwt: None,
        now: UNIX_EPOCH,
    })
}

/// One row: decisions of an engine, for the request that only the last policy allows.
fn row(name: &str, engine: &PolicyEngine, last: usize) {
    let client = facts("client");
    let connection: ConnectionDecision = engine.connect(&client);
    with_request(last, |request| {
        if !engine.decide_http(&connection, request).is_allowed() {
            println!("{name}: the request was denied: nothing is measured");
            return;
        }
        let decide = || drop(black_box(engine.decide_http(&connection, black_box(request))));
        let (least, median) = nanoseconds(100_000, decide);
        let allocated = allocations(decide);
        let connect = nanoseconds(2_000, || drop(black_box(engine.connect(black_box(&client))))).1;
        let first = nanoseconds(200, || {
            let connection = engine.connect(black_box(&client));
            let _ = black_box(engine.decide_http(&connection, request));
        });
        println!("| {name} | {least:.0} / {median:.0} | {allocated} | {connect:.0} | {:.0} |", first.1);
    });
}

fn main() {
    println!(
        "| policies | decision, ns of CPU (least / median of 21) | allocations | new connection, ns | with its first request, ns |"
    );
    println!("|---|---:|---:|---:|---:|");
    for count in [1, 10, 100, 1_000, 10_000, 100_000] {
        // Four on the workload, the rest elsewhere in the mesh: loaded, and in no set of this workload.
        let loaded = load(&admitted(count, |_| "client".to_owned()));
        let members = loaded.keys().take(4).cloned().collect();
        row(&format!("{count} in the mesh, up to 4 on the workload"), &engine_of(&loaded, members), 0);
    }
    for count in [1, 10, 100, 1_000] {
        let loaded = load(&admitted(count, |_| "client".to_owned()));
        let members = loaded.keys().cloned().collect();
        row(&format!("{count} on the workload, one principal"), &engine_of(&loaded, members), count - 1);
        let last = count - 1;
        let loaded = load(&admitted(count, |n| if n == last { "client".to_owned() } else { format!("other{n}") }));
        let members = loaded.keys().cloned().collect();
        row(&format!("{count} on the workload, one principal each"), &engine_of(&loaded, members), count - 1);
    }

    let began = Instant::now();
    let start = cpu();
    let policies = admitted(10_000, |n| format!("client{n}"));
    println!(
        "\nControl plane, text and compiled form of 10,000 policies: {:.2} s of CPU ({:.2} s)",
        (cpu() - start) / 1e9,
        began.elapsed().as_secs_f64()
    );
    let (before, start) = (anonymous_kib(), cpu());
    let loaded = load(&policies);
    let ids: Vec<PolicyId> = loaded.keys().cloned().collect();
    let engines: Vec<PolicyEngine> = ids.chunks(4).map(|members| engine_of(&loaded, members.to_vec())).collect();
    println!(
        "Proxy, decode and index of 10,000 policies in {} sets: {:.3} s of CPU, {:.1} MiB",
        engines.len(),
        (cpu() - start) / 1e9,
        (anonymous_kib() - before) / 1024.0
    );
    drop(engines);

    let loaded = load(&admitted(1_000, |_| "client".to_owned()));
    let engine = engine_of(&loaded, loaded.keys().cloned().collect());
    let connection = engine.connect(&facts("nobody"));
    let captured = with_request(5, |request| engine.capture_http(&connection, request));
    let explain = nanoseconds(20, || drop(black_box(engine.explain(&captured)))).1;
    println!("Explanation of a default deny over 1,000 policies: {:.2} ms of CPU", explain / 1e6);
    let few = engine_of(&loaded, loaded.keys().take(10).cloned().collect());
    let explain = nanoseconds(200, || drop(black_box(few.explain(&captured)))).1;
    println!("Explanation of a default deny over 10 policies: {:.3} ms of CPU", explain / 1e6);
}
