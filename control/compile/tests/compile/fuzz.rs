//! Fuzz target: any text as the documents of a mesh. Nothing panics, every finding stands somewhere, and every proxy gets a configuration that is closed.

#[path = "../../../../policy/src/tests/inputs.rs"]
mod inputs;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use palisade_compile::{Inputs, ProxyRef, ScopeError, SourceDocument, SourceOptions, compile, scope};
use palisade_crds::document;
use palisade_model::service::Query;

use self::inputs::{Inputs as Texts, run};
use crate::support;

/// What is written over words of documents: what fields are tried with that take something else, or more than they should.
const PIECES: &[&str] = &[
    "null",
    "~",
    "true",
    "0",
    "-1",
    "65536",
    "18446744073709551616",
    "1e400",
    ".nan",
    "''",
    "\"\"",
    "*",
    "'*'",
    "{}",
    "[]",
    "[[]]",
    "[null]",
    "{a: b}",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "!!set ",
    "| \n",
    ">-\n",
    "- ",
    "? ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "# ",
    "\t",
    "\u{feff}",
    "\u{85}",
    "\u{202e}",
    "0x10",
    "0o7",
    "2001-01-01",
    "1h",
    "0s",
    "-5m",
    "999999999999h",
    "10.0.0.0/33",
    "::ffff:10.0.0.1",
    "::/0",
    "*.example",
    "a..b",
    ".",
    "/",
    "//",
    "{*}",
    "/{**}/x",
    "(",
    "[a-",
    "(?i)",
    "a{1,10000}",
    "%REQ(a)%",
    "spiffe://a/ns/b/sa/c",
    "mesh",
    "istio-system",
    "outbound|80||a",
    "DISABLE",
    "STRICT",
    "name: ",
    "namespace: ",
    "host: ",
    "labels: ",
    "spec: ",
    "kind: List\nitems:\n",
    "kind: Service",
    "kind: VirtualService",
];

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All documents of the golden tests, beside the corpus of texts with odd forms.
fn golden() -> Vec<Vec<u8>> {
    let folder = Path::new(ROOT).join("tests/golden");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases.iter().filter(|path| path.is_dir()).map(|path| fs::read(path.join("in.yaml")).unwrap()).collect()
}

#[test]
fn documents() {
    let inputs = Texts { root: ROOT, name: "documents", few: 150, longest: 8 * 1024, also: golden(), pieces: PIECES };
    run(inputs, read_and_compile);
}

fn read_and_compile(bytes: &[u8]) {
    let text = document::read("in.yaml", bytes);
    // YAML ends lines at a carriage return, too.
    let ends = bytes.iter().enumerate().filter(|(at, byte)| match byte {
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        byte => **byte == b'\n',
    });
    let lines = u32::try_from(ends.count()).unwrap() + 1;
    for part in &text.unreadable {
        assert!((1..=lines).contains(&part.line), "line {} of {lines}: {}", part.line, part.message);
        assert!(!part.message.is_empty() && !part.message.contains('\n'), "{:?}", part.message);
    }
    for document in &text.documents {
        // Written out it is the same document.
        let written = document::to_yaml(&document.value);
        let again = document::read("again.yaml", written.as_bytes());
        let values: Vec<_> = again.documents.iter().map(|document| &document.value).collect();
        if document.value.is_object() && document.value.get("items").is_none() {
            assert_eq!(values, [&document.value], "{written}\n{:?}", again.unreadable);
        }
    }
    let sources: Vec<SourceDocument> =
        text.documents.into_iter().map(|document| SourceDocument::parse(document, "default")).collect();
    for is_files in [true, false] {
        let options = SourceOptions { is_files, ..SourceOptions::default() };
        let inputs = Inputs::from_sources(sources.clone(), text.unreadable.clone(), &options);
        let proxies: Vec<ProxyRef> = inputs
            .pods
            .keys()
            .map(|key| ProxyRef::sidecar(Arc::clone(&key.namespace), Arc::clone(&key.name)))
            .chain(
                inputs
                    .api_gateways
                    .keys()
                    .map(|key| ProxyRef::gateway(Arc::clone(&key.namespace), Arc::clone(&key.name))),
            )
            .collect();
        let hosts: BTreeSet<Query> = inputs
            .services
            .keys()
            .map(|key| Query::Host(format!("{}.{}.svc.cluster.local", key.name, key.namespace).into()))
            .collect();
        let compiled = compile(&Arc::new(inputs));
        for finding in compiled.reports.diagnostics() {
            assert!(finding.line <= lines, "line {} of {lines}: {}", finding.line, finding.message);
            assert!(!finding.message.is_empty() && !finding.message.contains('\n'), "{:?}", finding.message);
        }
        drop(support::statuses(&compiled));
        for proxy in &proxies {
            match scope(&compiled.mesh, proxy, &hosts) {
                Ok(_) | Err(ScopeError::Identity { .. }) => {}
                Err(error) => panic!("{proxy:?}: {error}"),
            }
        }
    }
}
