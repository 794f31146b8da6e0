//! Compiling after an edit gives what compiling everything anew gives, whatever was edited.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{
    Compiled, FetchedKeys, Inputs, KeySource, Keys, Mesh, ProxyRef, Slice, SourceDocument, SourceOptions, compile,
    compile_after, scope_after,
};
use palisade_model::{hash::ContentHash, service::Query};

use crate::support::{client, documents, pod};

mod pool;

use pool::pool;

/// Slices of all proxies.
type Slices = Vec<Result<Arc<Slice>, String>>;

/// A mesh with the slices of its proxies.
struct Held {
    mesh: Mesh,
    slices: Slices,
}

/// Everything that anybody sees of a mesh, and the slices, made from those that are `held`.
fn seen(compiled: &Compiled, held: &Slices) -> (Vec<Result<ContentHash, String>>, Vec<String>, Slices) {
    let proxies = [
        client(),
        ProxyRef::sidecar("a", "s"),
        ProxyRef::sidecar("a", "placed"),
        ProxyRef::sidecar("b", "x"),
        ProxyRef::gateway("a", "edge"),
        ProxyRef::gateway("a", "tls"),
        ProxyRef::gateway("a", "in"),
    ];
    let hosts = ["u.b", "s.a.svc.cluster.local", "api.example.com", "vm.example", "none"];
    let addresses = ["10.1.0.1", "10.9.0.1"].map(|address| Query::Address(address.parse().unwrap()));
    let queries: BTreeSet<Query> = hosts.map(|host| Query::Host(host.into())).into_iter().chain(addresses).collect();
    let slice = |(at, proxy): (usize, &ProxyRef)| {
        let previous = held.get(at).and_then(|held| held.as_ref().ok());
        scope_after(previous, &compiled.mesh, proxy, &queries).map_err(|error| error.to_string())
    };
    let slices: Slices = proxies.iter().enumerate().map(slice).collect();
    let versions = slices.iter().map(|slice| slice.as_ref().map(|s| s.snapshot().version()).map_err(String::clone));
    let mut reports: Vec<String> = compiled.reports.diagnostics().iter().map(|d| format!("{d:?}")).collect();
    reports.push(format!("{:?} {:?}", compiled.reports.conditions(), compiled.reports.attached_routes()));
    (versions.collect(), reports, slices)
}

/// Fetched keys of the tokens of one issuer.
fn fetched(keys: Option<&str>) -> Keys {
    let source = KeySource::Uri("https://x/y".into());
    Keys::from([(source, FetchedKeys { keys: keys.map(Arc::from), error: Some("refused".into()) })])
}

/// The documents in these forms.
fn inputs(pool: &[Vec<String>], forms: &[usize], keys: &Keys) -> (String, Inputs) {
    let text: String = pod("client", "a", "")
        + &forms.iter().zip(pool).map(|(form, forms)| forms.get(*form).unwrap().as_str()).collect::<String>();
    let sources: Vec<SourceDocument> = documents("in.yaml", &text);
    let mut inputs = Inputs::new(sources, &SourceOptions { is_files: true, ..SourceOptions::default() });
    inputs.keys = keys.clone();
    (text, inputs)
}

/// Compiles after `previous`, which must make no difference.
fn compile_both(previous: &Held, (text, inputs): (String, Inputs), edit: &str) -> Held {
    let anew = compile(&Arc::new(inputs.clone()));
    let after = compile_after(&previous.mesh, inputs);
    let (expected_versions, expected_reports, expected) = seen(&anew, &Slices::new());
    let (versions, reports, slices) = seen(&after, &previous.slices);
    let differences = versions.iter().zip(&expected_versions).position(|(a, b)| a != b).and_then(|at| {
        let (after, anew) = (slices[at].as_ref().ok()?.snapshot(), expected[at].as_ref().ok()?.snapshot());
        let differ = |key| after.entries().get(key) != anew.entries().get(key);
        let keys: BTreeSet<_> = after.entries().keys().chain(anew.entries().keys()).filter(|key| differ(key)).collect();
        Some(format!("proxy {at}: {keys:?}"))
    });
    assert_eq!(versions, expected_versions, "{edit}: {differences:?}: {text}");
    assert_eq!(reports, expected_reports, "{edit}: {text}");
    Held { mesh: after.mesh, slices }
}

/// The first mesh.
fn first(inputs: Inputs) -> Held {
    let compiled = compile(&Arc::new(inputs));
    let (_, _, slices) = seen(&compiled, &Slices::new());
    Held { mesh: compiled.mesh, slices }
}

#[test]
fn after_any_edits_the_mesh_is_as_if_compiled_anew() {
    let pool = pool();
    let mut state: u64 = 42;
    let mut draw = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    let keys = [Keys::new(), fetched(None), fetched(Some("{\"keys\": []}"))];
    let mut held_keys = 0;
    let mut chosen = vec![0; pool.len()];
    let mut previous = first(inputs(&pool, &chosen, &keys[0]).1);
    let (mut taken_over, mut same_slices) = (0, 0);
    for step in 0..300 {
        for _ in 0..=draw(3) {
            let at = draw(pool.len());
            // What is there has more to do with the rest than what is not.
            chosen[at] = if draw(4) == 0 { 0 } else { draw(pool[at].len()) };
        }
        if draw(8) == 0 {
            held_keys = draw(keys.len());
        }
        let after = compile_both(&previous, inputs(&pool, &chosen, &keys[held_keys]), &format!("step {step}"));
        taken_over += usize::from(previous.mesh.shares_with(&after.mesh) > 0);
        let pairs = previous.slices.iter().zip(&after.slices);
        same_slices += pairs.filter(|pair| matches!(pair, (Ok(a), Ok(b)) if Arc::ptr_eq(a, b))).count();
        previous = after;
    }
    assert!(same_slices > 100, "only {same_slices} slices were taken over");
    assert!(taken_over > 200, "only {taken_over} meshes took anything over");
}

#[test]
fn after_each_edit_alone_the_mesh_is_as_if_compiled_anew() {
    let pool = pool();
    let keys = fetched(Some("{\"keys\": []}"));
    let all_there = vec![1; pool.len()];
    let base = first(inputs(&pool, &all_there, &keys).1);
    for (at, forms) in pool.iter().enumerate() {
        for form in (0..forms.len()).filter(|form| *form != 1) {
            let mut edited = all_there.clone();
            edited[at] = form;
            compile_both(&base, inputs(&pool, &edited, &keys), &format!("document {at}, form {form}"));
        }
    }
}
