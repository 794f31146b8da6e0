//! Inputs of fuzz targets: what lies in a corpus, those inputs with something changed, and noise.
//!
//! Short in `make test`; `PALISADE_LONG=1` gives each target an hour, `PALISADE_FUZZ_SECONDS` any other time.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, FileFailurePersistence, TestError, TestRunner},
};

/// How long a target goes on; `None`: one short round.
fn duration() -> Option<Duration> {
    let seconds = std::env::var("PALISADE_FUZZ_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("PALISADE_FUZZ_SECONDS is a number of seconds"));
    let is_long = std::env::var_os("PALISADE_LONG").is_some_and(|value| value == "1");
    seconds.or(is_long.then_some(3600)).map(Duration::from_secs)
}

/// All inputs in a folder of a corpus, in the order of their names.
pub(super) fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none());
    paths.sort();
    assert!(paths.len() > 2, "{} holds next to nothing", folder.display());
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What is tried on a target: the corpus `fuzz/NAME` of the crate whose folder is `root`, and random inputs.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) root: &'static str,
    pub(super) name: &'static str,
    /// Random inputs of one round.
    pub(super) few: u32,
    /// Their greatest length in bytes.
    pub(super) longest: usize,
    /// Further corpus.
    pub(super) also: Vec<Vec<u8>>,
    /// What may be written anywhere.
    pub(super) pieces: &'static [&'static str],
}

/// Runs a target over the corpus, then over random inputs. One that fails is kept beside the corpus and comes first from then on.
pub(super) fn run(inputs: Inputs, target: impl Fn(&[u8])) {
    let Inputs { root, name, few, longest, also, pieces } = inputs;
    let folder = Path::new(root).join("fuzz").join(name);
    let mut corpus = corpus(&folder);
    corpus.extend(also);
    for input in &corpus {
        target(input);
    }
    let failures = folder.join("failures.txt").display().to_string();
    let config = Config {
        cases: few,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(Box::leak(failures.into_boxed_str())))),
        ..Config::default()
    };
    let noise = proptest::collection::vec(any::<u8>(), 0..longest.min(512));
    let changes = proptest::collection::vec((any::<Index>(), any::<Index>(), any::<u8>(), 0..9_u8), 0..6);
    let (originals, others) = (select(corpus.clone()), select(corpus));
    let changed = (originals, others, changes).prop_map(move |(mut input, other, changes)| {
        for (at, second, byte, how) in changes {
            let piece = pieces.get(second.index(pieces.len().max(1))).map_or(&[][..], |piece| piece.as_bytes());
            change(&mut input, &other, (at, second), (byte, piece), how);
        }
        input.truncate(longest);
        input
    });
    let inputs = prop_oneof![1 => noise, 4 => changed];
    let (begin, length) = (Instant::now(), duration());
    let mut rounds = 0_u32;
    loop {
        let outcome = TestRunner::new(config.clone()).run(&inputs, |input| {
            target(&input);
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(reason, input)) => panic!("{}: {reason}\n{}", folder.display(), input.escape_ascii()),
            Err(TestError::Abort(reason)) => panic!("{}: {reason}", folder.display()),
        }
        rounds += 1;
        if length.is_none_or(|length| begin.elapsed() >= length) {
            break;
        }
    }
    println!("{}: {rounds} rounds of {few} inputs in {:?}", folder.display(), begin.elapsed());
}

/// One change: bytes inserted, replaced, removed or doubled; a piece written in or over a word; a line moved, or the rest of another input.
fn change(input: &mut Vec<u8>, other: &[u8], (at, second): (Index, Index), (byte, piece): (u8, &[u8]), how: u8) {
    if input.is_empty() || how == 0 {
        let at = at.index(input.len() + 1);
        input.insert(at, byte);
        return;
    }
    let at = at.index(input.len());
    match how {
        1 => input[at] = byte,
        2 => drop(input.remove(at)),
        3 => {
            let tail = input[at..].iter().take(256).copied().collect::<Vec<u8>>();
            input.extend(tail);
        }
        4 => drop(input.splice(at..at, piece.iter().copied())),
        5 => {
            let is_end = |byte: &u8| byte.is_ascii_whitespace() || b",:[]{}".contains(byte);
            let end = input[at..].iter().position(is_end).map_or(input.len(), |length| at + length);
            drop(input.splice(at..end, piece.iter().copied()));
        }
        6 => {
            input.truncate(at);
            input.extend_from_slice(&other[second.index(other.len() + 1)..]);
        }
        _ => {
            let mut lines: Vec<Vec<u8>> = input.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let line = lines.remove(second.index(lines.len()));
            if how == 7 {
                let place = usize::from(byte) % (lines.len() + 1);
                lines.insert(place, line);
            }
            *input = lines.concat();
        }
    }
}
