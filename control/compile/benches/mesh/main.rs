//! What compiling costs: `make bench-compile`. `docs/benchmarks.md` keeps the numbers.
//!
//! `-- --repeat KIND COUNT` does one kind of edit over and over, for a profiler.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "a benchmark: what cannot be made ends it")]

#[path = "../../../../tests/src/bench/control/documents.rs"]
#[expect(dead_code, unreachable_pub, reason = "the benchmark of a whole control plane shares it")]
mod documents;
mod measure;

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{
    Compiled, KeptInputs, Mesh, ProxyRef, Slice, SourceOptions, compile, compile_after, scope_after,
};
use palisade_crds::Document;
use palisade_model::service::Query;
use serde_json::{Value, json};

use documents::{
    NAMESPACES, SERVICES, endpoint_slice, mesh_policy, namespace_of, pod_name, policy, route, service_name,
};
use measure::{Samples, anonymous_kib, ms};

/// Edits of each kind.
const EDITS: usize = 30;
/// Sidecars that are told.
const SIDECARS: usize = 100;
/// Services of other namespaces that each sidecar uses.
const USED: usize = 10;

/// What is edited.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Route,
    Policy,
    MeshPolicy,
    Endpoint,
    EdgeRoute,
}

const KINDS: [(Edit, &str); 5] = [
    (Edit::Route, "a route of one service"),
    (Edit::Policy, "the policy of one workload"),
    (Edit::MeshPolicy, "a policy of the whole mesh"),
    (Edit::Endpoint, "an endpoint of one service"),
    (Edit::EdgeRoute, "a route of the gateway that has 3,000"),
];

/// A mesh that is edited.
struct Bench {
    kept: KeptInputs,
    mesh: Mesh,
    proxies: Vec<(ProxyRef, BTreeSet<Query>)>,
    slices: Vec<Arc<Slice>>,
}

fn put(kept: &mut KeptInputs, value: Value) {
    kept.put(&Arc::new(palisade_crds::parse(&Document::from_value(value), "default")));
}

/// A Gateway with as many routes as the services have, and the pod that serves it.
fn edge() -> Vec<Value> {
    let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "ns-00"},
        "spec": {"gatewayClassName": "palisade", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP",
            "allowedRoutes": {"namespaces": {"from": "All"}}}]}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "edge-0", "namespace": "ns-00", "labels": {"gateway.networking.k8s.io/gateway-name": "edge"}},
        "spec": {"serviceAccountName": "edge", "containers": [{"name": "proxy"}]},
        "status": {"phase": "Running", "podIP": "10.127.0.1", "podIPs": [{"ip": "10.127.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
    let routes = (0..SERVICES * documents::ROUTES).map(|number| edge_route(number, "none"));
    [gateway, pod].into_iter().chain(routes).collect()
}

fn edge_route(number: usize, marker: &str) -> Value {
    let service = number % SERVICES;
    let mut route = route(service, number, marker);
    route["metadata"]["name"] = json!(format!("edge-{number}"));
    route["spec"]["parentRefs"] = json!([{"name": "edge", "namespace": "ns-00"}]);
    route
}

impl Bench {
    fn new() -> Self {
        let all: Vec<Value> = [
            documents::places(),
            documents::services(),
            documents::endpoint_slices(),
            documents::pods(),
            documents::policies(),
            documents::routes(),
            edge(),
        ]
        .concat();
        let before = anonymous_kib();
        let mut kept = KeptInputs::new(SourceOptions::default());
        let count = all.len();
        let start = ms();
        for value in all {
            put(&mut kept, value);
        }
        println!("{count} documents read: {:.0} ms", ms() - start);
        let inputs = Arc::new(kept.inputs());
        let mut full = Samples::default();
        let mut mesh = None;
        for _ in 0..5 {
            let start = ms();
            let Compiled { mesh: compiled, .. } = compile(&inputs);
            full.push(ms() - start);
            mesh = Some(compiled);
        }
        println!("full compile: {full}");
        println!("memory with documents and one mesh: {:.0} MiB", (anonymous_kib() - before) / 1024.0);
        let mesh = mesh.unwrap_or_else(|| compile(&inputs).mesh);
        let sidecar = |number: usize| {
            let service = number % SERVICES;
            let queries = (1..=USED).map(|next| {
                let used = (service + next) % SERVICES;
                Query::Host(format!("{}.{}.svc.cluster.local", service_name(used), namespace_of(used)).into())
            });
            (ProxyRef::sidecar(namespace_of(service), pod_name(service, number / SERVICES)), queries.collect())
        };
        let mut proxies: Vec<(ProxyRef, BTreeSet<Query>)> = (0..SIDECARS).map(sidecar).collect();
        proxies.push((ProxyRef::gateway("ns-00", "edge-0"), BTreeSet::new()));
        let mut bench = Self { kept, mesh, proxies, slices: Vec::new() };
        let start = ms();
        bench.scope();
        println!(
            "first slices of {SIDECARS} sidecars in {NAMESPACES} namespaces and a gateway: {:.1} ms",
            ms() - start
        );
        bench
    }

    /// Cuts all slices; how many are others than before.
    fn scope(&mut self) -> usize {
        let held = std::mem::take(&mut self.slices);
        let slice = |(at, (proxy, queries)): (usize, &(ProxyRef, BTreeSet<Query>))| match scope_after(
            held.get(at),
            &self.mesh,
            proxy,
            queries,
        ) {
            Ok(slice) => slice,
            Err(error) => panic!("{error}"),
        };
        self.slices = self.proxies.iter().enumerate().map(slice).collect();
        let is_other = |(a, b): &(&Arc<Slice>, &Arc<Slice>)| a.snapshot().version() != b.snapshot().version();
        self.slices.iter().zip(&held).filter(is_other).count()
    }

    fn edit(&mut self, edit: Edit, number: usize) {
        let service = number * 7 % SIDECARS;
        let marker = format!("edit-{number}");
        let document = match edit {
            Edit::Route => route(service, 1, &marker),
            Edit::Policy => policy(service, &format!("/{marker}")),
            Edit::MeshPolicy => mesh_policy(&format!("/{marker}")),
            Edit::Endpoint => endpoint_slice(service, Some((&format!("10.126.0.{}", number % 250), &marker))),
            Edit::EdgeRoute => edge_route(number * 7 % 3000, &marker),
        };
        put(&mut self.kept, document);
    }

    fn compile(&mut self) {
        let inputs = self.kept.inputs();
        self.mesh = compile_after(&self.mesh, inputs).mesh;
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut bench = Bench::new();
    if let Some(at) = arguments.iter().position(|argument| argument == "--repeat") {
        let word = |offset: usize| arguments.get(at + offset).map(String::as_str).unwrap_or_default();
        let kind = KINDS.iter().find(|(kind, _)| format!("{kind:?}") == word(1)).map_or(Edit::Route, |(kind, _)| *kind);
        for number in 0..word(2).parse().unwrap_or(1) {
            bench.edit(kind, number);
            bench.compile();
            bench.scope();
        }
        return;
    }
    println!(
        "\n| one edit, ms, median (least to most) of {EDITS} | compile | {} slices | slices that changed |",
        SIDECARS + 1
    );
    println!("|---|---|---|---|");
    for (edit, what) in KINDS {
        let (mut compiled, mut scoped, mut changed) = (Samples::default(), Samples::default(), Samples::default());
        for number in 0..EDITS {
            bench.edit(edit, number);
            let start = ms();
            bench.compile();
            let middle = ms();
            let others = bench.scope();
            compiled.push(middle - start);
            scoped.push(ms() - middle);
            changed.push(others as f64);
        }
        println!("| {what} | {compiled} | {scoped} | {:.0} |", changed.median());
    }
}
