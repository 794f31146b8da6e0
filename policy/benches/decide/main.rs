//! What decisions cost: `make bench-authz`. `docs/benchmarks.md` keeps the numbers.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Instant, UNIX_EPOCH},
};

use palisade_model::policy::{Policy, PolicyId, PolicyMode, PolicySet};
use palisade_policy::{
    CompiledPolicy, Condition, ConnectionFacts, Operation, Peer, PolicyEngine, RequestFacts, RuleAction, RuleSpec,
    Source, TrustDomains, admit_rule,
};

mod measure;

use measure::{COUNT, allocations, anonymous_kib, cpu, instructions, nanoseconds};

/// What policies of one workload are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// All from one namespace, each with a path of its own.
    Paths,
    /// Each from a namespace and with a path of its own.
    Principals,
    /// Each with a value of one header, all with one path.
    Headers,
}

/// One row: so many policies in the mesh, so many of them on the workload; the last of them allows the request.
#[derive(Debug, Clone, Copy)]
struct Row {
    mesh: usize,
    workload: usize,
    shape: Shape,
}

const ROWS: [Row; 17] = [
    Row { mesh: 1, workload: 1, shape: Shape::Paths },
    Row { mesh: 10, workload: 4, shape: Shape::Paths },
    Row { mesh: 100, workload: 4, shape: Shape::Paths },
    Row { mesh: 1_000, workload: 4, shape: Shape::Paths },
    Row { mesh: 10_000, workload: 4, shape: Shape::Paths },
    Row { mesh: 100_000, workload: 4, shape: Shape::Paths },
    Row { mesh: 10, workload: 10, shape: Shape::Paths },
    Row { mesh: 100, workload: 100, shape: Shape::Paths },
    Row { mesh: 1_000, workload: 1_000, shape: Shape::Paths },
    Row { mesh: 1, workload: 1, shape: Shape::Principals },
    Row { mesh: 10, workload: 10, shape: Shape::Principals },
    Row { mesh: 100, workload: 100, shape: Shape::Principals },
    Row { mesh: 1_000, workload: 1_000, shape: Shape::Principals },
    Row { mesh: 1, workload: 1, shape: Shape::Headers },
    Row { mesh: 10, workload: 10, shape: Shape::Headers },
    Row { mesh: 100, workload: 100, shape: Shape::Headers },
    Row { mesh: 1_000, workload: 1_000, shape: Shape::Headers },
];

type Loaded = BTreeMap<PolicyId, Arc<CompiledPolicy>>;

fn rule(number: usize, namespace: &str, shape: Shape) -> RuleSpec {
    let one = |text: &str| vec![text.to_owned()];
    let path = if shape == Shape::Headers { "/api/*".to_owned() } else { format!("/api/v{number}/*") };
    let header =
        Condition { key: "request.headers[x-tenant]".to_owned(), values: vec![number.to_string()], not_values: vec![] };
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
            paths: vec![path],
            ports: one("8080"),
            ..Operation::default()
        }]),
        when: if shape == Shape::Headers { vec![header] } else { Vec::new() },
    }
}

fn admitted(count: usize, shape: Shape, namespace: impl Fn(usize) -> String) -> Vec<Policy> {
    let domains = TrustDomains::default();
    (0..count).flat_map(|number| admit_rule(&rule(number, &namespace(number), shape), &domains).policies).collect()
}

fn load(policies: &[Policy]) -> Loaded {
    policies.iter().map(|policy| (policy.id.clone(), Arc::new(CompiledPolicy::load(policy)))).collect()
}

fn engine_of(loaded: &Loaded, members: Vec<PolicyId>) -> PolicyEngine {
    let set = PolicySet { key: "workload/bench/target".into(), policies: members.into(), ..PolicySet::default() };
    PolicyEngine::build(&set, |id| loaded.get(id).cloned())
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
    let headers: Vec<(String, String)> = vec![
        ("user-agent".to_owned(), "bench".to_owned()),
        ("accept".to_owned(), "*/*".to_owned()),
        ("x-tenant".to_owned(), number.to_string()),
    ];
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

impl Row {
    /// The policies of the whole mesh, loaded, and the engine of the workload.
    fn build(self, mesh: usize) -> (Loaded, PolicyEngine) {
        let last = self.workload - 1;
        let namespace = |number: usize| match self.shape {
            Shape::Principals if number != last => format!("other{number}"),
            _ => "client".to_owned(),
        };
        let policies = admitted(mesh, self.shape, namespace);
        let members = policies.iter().take(self.workload).map(|policy| policy.id.clone()).collect();
        let loaded = load(&policies);
        let engine = engine_of(&loaded, members);
        (loaded, engine)
    }

    fn measure(self, number: usize) {
        let Self { mesh, workload, shape } = self;
        let (_others, engine) = self.build(mesh);
        let client = facts("client");
        let connection = engine.connect(&client);
        with_request(workload - 1, |request| {
            if !engine.decide_http(&connection, request).is_allowed() {
                println!("| {self:?}: the request was denied: nothing is measured |");
                return;
            }
            let decide = || drop(black_box(engine.decide_http(&connection, black_box(request))));
            let (least, median) = nanoseconds(decide);
            let allocated = allocations(decide);
            let connect = nanoseconds(|| drop(black_box(engine.connect(black_box(&client))))).1;
            let first = nanoseconds(|| {
                let connection = engine.connect(black_box(&client));
                let _ = black_box(engine.decide_http(&connection, request));
            });
            let counted = instructions(number).map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
            println!(
                "| {mesh} | {workload}, {} | {least:.0} / {median:.0} | {counted} | {allocated} | {connect:.0} | {:.0} |",
                match shape {
                    Shape::Paths => "by path",
                    Shape::Principals => "by principal and path",
                    Shape::Headers => "by header",
                },
                first.1
            );
        });
    }

    /// Decides so often: under valgrind. What is elsewhere in the mesh is in no engine, so it is left out.
    fn repeat(self, calls: u32) {
        let (_loaded, engine) = self.build(self.workload);
        let connection = engine.connect(&facts("client"));
        with_request(self.workload - 1, |request| {
            for _ in 0..calls {
                let _ = black_box(engine.decide_http(&connection, black_box(request)));
            }
        });
    }
}

fn many() {
    let (began, start) = (Instant::now(), cpu());
    let policies = admitted(10_000, Shape::Paths, |n| format!("client{n}"));
    println!(
        "\nControl plane, text and compiled form of 10,000 policies: {:.2} s of CPU ({:.2} s)",
        (cpu() - start) / 1e9,
        began.elapsed().as_secs_f64()
    );
    let (before, start) = (anonymous_kib(), cpu());
    let loaded = load(&policies);
    let ids: Vec<PolicyId> = loaded.keys().cloned().collect();
    let engines: Vec<PolicyEngine> = ids.chunks(4).map(|members| engine_of(&loaded, members.to_vec())).collect();
    let mib = (anonymous_kib() - before) / 1024.0;
    println!(
        "Proxy, decode and index of 10,000 policies in {} sets: {:.3} s of CPU, {mib:.1} MiB ({:.2} MiB for each 1,000)",
        engines.len(),
        (cpu() - start) / 1e9,
        mib / 10.0
    );
    drop(engines);
    let (before, start) = (anonymous_kib(), cpu());
    let engine = engine_of(&loaded, ids);
    println!(
        "Proxy, index of the same 10,000 in one set: {:.3} s of CPU, {:.1} MiB more",
        (cpu() - start) / 1e9,
        (anonymous_kib() - before) / 1024.0
    );
    drop(engine);
}

fn explanations() {
    let loaded = load(&admitted(1_000, Shape::Paths, |_| "client".to_owned()));
    for count in [10, 100, 1_000] {
        let engine = engine_of(&loaded, loaded.keys().take(count).cloned().collect());
        let connection = engine.connect(&facts("nobody"));
        let captured = with_request(5, |request| engine.capture_http(&connection, request));
        let explain = nanoseconds(|| drop(black_box(engine.explain(&captured)))).1;
        println!("Explanation of a default deny over {count} policies: {:.3} ms of CPU", explain / 1e6);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, row, calls] = arguments.as_slice()
        && flag == COUNT
    {
        let row = row.parse().ok().and_then(|row: usize| ROWS.get(row));
        if let (Some(row), Ok(calls)) = (row, calls.parse()) {
            row.repeat(calls);
        }
        return;
    }
    println!(
        "| in the mesh | on the workload | decision, ns of CPU (least / median of 11) | instructions | allocations | new connection, ns | with its first request, ns |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    for (number, row) in ROWS.iter().enumerate() {
        row.measure(number);
    }
    many();
    explanations();
}
