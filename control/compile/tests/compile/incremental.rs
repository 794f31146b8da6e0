//! Compiling after an edit gives what compiling everything anew gives, whatever was edited.

use std::{collections::BTreeSet, sync::Arc};

use palisade_compile::{
    Compiled, FetchedKeys, Inputs, KeySource, Keys, Mesh, ProxyRef, SourceDocument, SourceOptions, compile,
    compile_after, scope,
};
use palisade_model::{hash::ContentHash, service::Query};

use crate::support::{client, documents, pod};

mod pool;

use pool::pool;

/// Everything that anybody sees of a mesh.
fn seen(compiled: &Compiled) -> (Vec<Result<ContentHash, String>>, Vec<String>) {
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
    let snapshots = proxies.iter().map(|proxy| {
        scope(&compiled.mesh, proxy, &queries).map(|snapshot| snapshot.version()).map_err(|error| error.to_string())
    });
    let mut reports: Vec<String> = compiled.reports.diagnostics().iter().map(|d| format!("{d:?}")).collect();
    reports.push(format!("{:?} {:?}", compiled.reports.conditions, compiled.reports.attached_routes));
    (snapshots.collect(), reports)
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
fn compile_both(previous: &Mesh, (text, inputs): (String, Inputs), edit: &str) -> Compiled {
    let anew = compile(&Arc::new(inputs.clone()));
    let after = compile_after(previous, inputs);
    assert_eq!(seen(&after), seen(&anew), "{edit}: {text}");
    after
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
    let mut previous = compile(&Arc::new(inputs(&pool, &chosen, &keys[0]).1)).mesh;
    let mut taken_over = 0;
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
        taken_over += usize::from(previous.shares_with(&after.mesh) > 0);
        previous = after.mesh;
    }
    assert!(taken_over > 200, "only {taken_over} meshes took anything over");
}

#[test]
fn after_each_edit_alone_the_mesh_is_as_if_compiled_anew() {
    let pool = pool();
    let keys = fetched(Some("{\"keys\": []}"));
    let all_there = vec![1; pool.len()];
    let base = compile(&Arc::new(inputs(&pool, &all_there, &keys).1)).mesh;
    for (at, forms) in pool.iter().enumerate() {
        for form in (0..forms.len()).filter(|form| *form != 1) {
            let mut edited = all_there.clone();
            edited[at] = form;
            compile_both(&base, inputs(&pool, &edited, &keys), &format!("document {at}, form {form}"));
        }
    }
}
