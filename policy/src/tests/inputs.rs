//! Inputs of fuzz targets: what lies in a folder of the corpus, those inputs with something changed, and noise.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, FileFailurePersistence, TestRunner},
};

/// How many inputs beside the corpus; `PALISADE_LONG=1` takes two hundred times as many.
fn rounds(few: u32) -> u32 {
    if std::env::var_os("PALISADE_LONG").is_some() { few * 200 } else { few }
}

/// Runs a target over the corpus `fuzz/NAME` of the crate whose folder is `root`, then over `few` random inputs of at most `longest` bytes.
/// An input that fails is kept beside the corpus and comes first from then on.
pub(super) fn run(root: &str, name: &str, few: u32, longest: usize, target: impl Fn(&[u8])) {
    let folder = Path::new(root).join("fuzz").join(name);
    let mut corpus: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    corpus.retain(|path| path.extension().is_none());
    corpus.sort();
    let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(corpus.len() > 2, "{} holds next to nothing", folder.display());
    for input in &corpus {
        target(input);
    }
    let failures = folder.join("failures.txt").display().to_string();
    let config = Config {
        cases: rounds(few),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(Box::leak(failures.into_boxed_str())))),
        ..Config::default()
    };
    let noise = proptest::collection::vec(any::<u8>(), 0..longest);
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>(), 0..4_u8), 0..6);
    let changed = (select(corpus), changes).prop_map(move |(mut input, changes)| {
        for (at, byte, how) in changes {
            change(&mut input, at, byte, how);
        }
        input.truncate(longest);
        input
    });
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&prop_oneof![noise, changed], |input| {
        target(&input);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn change(input: &mut Vec<u8>, at: Index, byte: u8, how: u8) {
    if input.is_empty() || how == 0 {
        let at = at.index(input.len() + 1);
        input.insert(at, byte);
        return;
    }
    let at = at.index(input.len());
    match how {
        1 => input[at] = byte,
        2 => drop(input.remove(at)),
        _ => {
            let tail = input[at..].to_vec();
            input.extend(tail);
        }
    }
}
