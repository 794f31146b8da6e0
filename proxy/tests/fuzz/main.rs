//! Mutated bytes against what reads untrusted ones: sniffer, path modes, authorities, request heads.
//!
//! A seeded mutator over the corpus beside this file. Short by default; `PALISADE_LONG=1` gives each target an hour,
//! `PALISADE_FUZZ_SECONDS` any other time; `PALISADE_SEED` repeats a run.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_model::settings::PathNormalization;
use palisade_proxy::{
    request::{
        facts::{HttpVersion, Request},
        hygiene,
        normalize::{PathRules, normalize},
    },
    serve::{
        DeclaredProtocol, MtlsMode,
        sniff::{SniffPlan, classify, classify_final},
    },
    transport::authority::Authority,
};

/// Bytes that parsers stumble over.
const DELICATE: &[u8] = b"\r\n\t \0:;,%/\\.?#@*[]{}\"<>+-0aA\x7f\x80\xff\x16\x03\x01";

struct Mutator {
    random: fastrand::Rng,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    fn new(corpus: &str) -> Self {
        let seed = std::env::var("PALISADE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("seed {seed}");
        let corpus = corpus.lines().filter(|line| !line.starts_with("//")).map(unescape).collect();
        Self { random: fastrand::Rng::with_seed(seed), corpus }
    }

    fn next(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut bytes = self.corpus[random.usize(..self.corpus.len())].clone();
        for _ in 0..random.usize(0..6) {
            let at = random.usize(..=bytes.len());
            let byte = if random.bool() { DELICATE[random.usize(..DELICATE.len())] } else { random.u8(..) };
            match random.u8(0..6) {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 if at < bytes.len() => bytes[at] = byte,
                3 => bytes.truncate(at),
                4 => {
                    let other = &self.corpus[random.usize(..self.corpus.len())];
                    let from = random.usize(..=other.len());
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => {
                    let piece = bytes[at..].to_vec();
                    bytes.extend(piece.iter().take(64));
                }
            }
        }
        bytes
    }
}

/// `\r`, `\n`, `\t`, `\\` and `\xHH` in a line of a corpus.
fn unescape(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = line.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let (decoded, used) = match (byte, tail.first()) {
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'x')) => (u8::from_str_radix(std::str::from_utf8(&tail[1..3]).unwrap(), 16).unwrap(), 4),
            _ => (byte, 1),
        };
        out.push(decoded);
        rest = &rest[used..];
    }
    out
}

/// Runs a target over mutated bytes for its time.
fn run(corpus: &str, mut target: impl FnMut(&[u8])) {
    let is_long = std::env::var_os("PALISADE_LONG").is_some_and(|value| value == "1");
    let seconds = std::env::var("PALISADE_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let time = Duration::from_secs(seconds.unwrap_or(if is_long { 3600 } else { 2 }));
    let mut mutator = Mutator::new(corpus);
    let (begin, mut runs) = (Instant::now(), 0_u64);
    while begin.elapsed() < time {
        for _ in 0..256 {
            target(&mutator.next());
        }
        runs += 256;
    }
    println!("{runs} runs");
}

#[test]
fn what_the_sniffer_is_sure_of_stays_true() {
    let plans: Vec<SniffPlan> = [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable]
        .into_iter()
        .flat_map(|mode| {
            [DeclaredProtocol::Http, DeclaredProtocol::Tcp, DeclaredProtocol::Auto]
                .map(|declared| SniffPlan::inbound(mode, declared, None))
        })
        .collect();
    run(include_str!("corpus/first_bytes.txt"), |bytes| {
        for plan in &plans {
            let whole = classify_final(bytes, *plan);
            let sure = (1..bytes.len()).find_map(|end| classify(&bytes[..end], *plan));
            if let Some(sure) = sure {
                assert_eq!(sure, whole, "{} under {plan:?}", bytes.escape_ascii());
            }
        }
    });
}

#[test]
fn a_normalised_path_is_normal() {
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Off};
    run(include_str!("corpus/targets.txt"), |bytes| {
        for mode in [Off, Base, MergeSlashes, DecodeAndMergeSlashes] {
            let Ok(once) = normalize(bytes, PathRules::new(mode, false)) else { continue };
            let path = once.path.as_bytes();
            let name = bytes.escape_ascii();
            assert!(path == b"*" || path.starts_with(b"/"), "{name}");
            assert!(!path.iter().any(|byte| matches!(byte, b'#' | b'?' | 0..=b' ' | 0x7f)), "{name} under {mode:?}");
            if mode == Off {
                continue;
            }
            assert!(!once.path.split('/').any(|segment| matches!(segment, "." | "..")), "{name} under {mode:?}");
            assert_eq!(normalize(path, PathRules::new(mode, false)).unwrap().path, once.path, "{name} under {mode:?}");
        }
    });
}

#[test]
fn an_authority_is_what_it_is_written_as() {
    run(include_str!("corpus/authorities.txt"), |bytes| {
        let Ok(authority) = Authority::parse(bytes) else { return };
        let text = authority.to_string();
        assert!(text.is_ascii() && !text.contains(['@', '/', ' ', ',']), "{}", bytes.escape_ascii());
        assert_eq!(Authority::parse(text.as_bytes()), Ok(authority), "{}", bytes.escape_ascii());
        // A port may be written with zeros in front; the host never changes.
        assert!(bytes.starts_with(authority.host().as_bytes()), "{}", bytes.escape_ascii());
    });
}

#[test]
fn a_request_that_is_forwarded_has_one_host_and_one_length() {
    run(include_str!("corpus/heads.txt"), |bytes| {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let Some(target) = lines.next() else { return };
        let mut headers = HeaderMap::new();
        for line in lines.take(100) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = line.split_at(colon);
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(&value[1..])) {
                headers.append(name, value);
            }
        }
        for version in [HttpVersion::Http10, HttpVersion::Http11, HttpVersion::Http2] {
            let headers = &headers;
            let request =
                Request { method: "POST", scheme: "http", authority: b"a", target, version, headers, jwt: None };
            let Ok(addressed) = hygiene::check(&request) else { continue };
            let name = bytes.escape_ascii();
            assert_eq!(addressed.authority, b"a", "{name}");
            assert!(addressed.target.starts_with(b"/") || &*addressed.target == b"*", "{name}");
            let lines = |name| headers.get_all(name).iter().count();
            assert!(lines("content-length") + lines("transfer-encoding") <= 1, "{name}");
        }
    });
}
