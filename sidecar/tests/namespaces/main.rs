//! The redirection rules in real network namespaces: where each kind of connection ends.
//!
//! Needs root and `ip`; a program that is missing, or a right, is reported as a skip.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::unistd::Uid;
use palisade_sidecar::redirect::{DnsCapture, Hooked, PROXY_ID, ProxyOwner, Redirect};

mod ground;
mod paths;

use ground::{Namespace, Protocol, TIMEOUT, Who, Wire, ask, wire};
use paths::{CASES, CRASHED, Case, Dns};

const OWNERS: [ProxyOwner; 2] = [ProxyOwner::Ids { uid: PROXY_ID, gid: PROXY_ID }, ProxyOwner::Mark(PROXY_ID)];
const PROGRAMS: [&str; 2] = ["nft", "iptables"];

fn rules(case: &Case, owner: ProxyOwner) -> Redirect {
    let annotation = |(key, value): &(&str, &str)| (format!("traffic.sidecar.istio.io/{key}"), (*value).to_owned());
    let annotations: BTreeMap<String, String> = case.annotations.iter().map(annotation).collect();
    let dns = match case.dns {
        Dns::None => None,
        Dns::Servers => Some(DnsCapture::Servers(["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into())),
        Dns::All => Some(DnsCapture::All),
    };
    Redirect::from_annotations(&annotations, owner, dns).unwrap().unwrap()
}

/// Takes every path of a table; how many there are.
fn check(wire: &Wire, owner: ProxyOwner, name: &str, table: &'static str) -> usize {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut checked = 0;
    for line in lines {
        let (path, end) = line.split_once(" -> ").unwrap();
        let words: Vec<&'static str> = path.split(' ').collect();
        let who = match words[1] {
            "application" => Who::Application,
            "root" => Who::Root,
            "proxy" => Who::Proxy,
            "group" if matches!(owner, ProxyOwner::Mark(_)) => continue,
            "group" => Who::ProxyGroup,
            other => panic!("{other}"),
        };
        let protocol = if words[2] == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let (to, source) = (words[3], words.get(5).copied());
        let namespace: &Namespace = match words[0] {
            "peer" => &wire.peer,
            "pod" => &wire.pod,
            _ => &wire.vm,
        };
        let patience = if end == "nothing" { Duration::from_secs(1) } else { TIMEOUT };
        let actual = namespace.run(move || ask(who, owner, protocol, source, to, patience));
        match end {
            // A datagram that nobody takes may come back as an error, or not at all.
            "nothing" => assert!(
                ["operation would block", "connection refused"].contains(&actual.as_str()),
                "{name}: {line}: {actual}"
            ),
            "resolver" => assert_eq!(actual, "peer's resolver", "{name}: {line}"),
            end => assert_eq!(actual, end, "{name}: {line}"),
        }
        checked += 1;
    }
    checked
}

fn is_skipped(reason: &str) -> bool {
    eprintln!("skipped: {reason}");
    true
}

fn may_run() -> bool {
    if !Uid::effective().is_root() {
        return !is_skipped("not root");
    }
    true
}

/// A wire, or why there can be none.
fn wire_or_skip(owner: ProxyOwner, has_proxy: bool) -> Option<Wire> {
    wire(owner, has_proxy).map_err(|reason| is_skipped(&reason)).ok()
}

#[test]
fn every_connection_ends_where_istio_ends_it() {
    if !may_run() {
        return;
    }
    for owner in OWNERS {
        for program in PROGRAMS {
            // One wire for all cases: each takes the place of the one before it.
            let Some(wire) = wire_or_skip(owner, true) else { return };
            let mut hooked = Hooked::default();
            let mut checked = 0;
            for case in &CASES {
                let rules = rules(case, owner);
                // Twice: the second time changes nothing.
                let loaded =
                    wire.load(program, &rules, &mut hooked).and_then(|()| wire.load(program, &rules, &mut hooked));
                if let Err(reason) = loaded {
                    is_skipped(&reason);
                    break;
                }
                checked += check(&wire, owner, &format!("{program}, {owner:?}, {}", case.name), case.paths);
            }
            assert!(checked == 0 || checked >= 30, "{checked} paths");
        }
    }
}

#[test]
fn nothing_passes_around_a_sidecar_that_is_not_there() {
    if !may_run() {
        return;
    }
    for owner in OWNERS {
        for program in PROGRAMS {
            let Some(wire) = wire_or_skip(owner, false) else { return };
            match wire.load(program, &rules(&CASES[0], owner), &mut Hooked::default()) {
                Ok(()) => assert!(check(&wire, owner, &format!("{program}, {owner:?}, crashed"), CRASHED) > 0),
                Err(reason) => drop(is_skipped(&reason)),
            }
        }
    }
}

#[test]
fn connections_outlive_rules_that_are_loaded_again() {
    if !may_run() {
        return;
    }
    let owner = OWNERS[0];
    for program in PROGRAMS {
        let Some(wire) = wire_or_skip(owner, false) else { return };
        let mut hooked = Hooked::default();
        if let Err(reason) = wire.load(program, &rules(&CASES[0], owner), &mut hooked) {
            is_skipped(&reason);
            continue;
        }
        // The sidecar's ports, and one that is excluded later on, say everything back.
        for address in ["10.0.0.2:15006", "0.0.0.0:15001"] {
            repeat(&wire.pod, address);
        }
        let dial = |namespace: &Namespace, to: &'static str| namespace.run(move || TcpStream::connect(to).unwrap());
        let mut connections = [dial(&wire.peer, "10.0.0.2:9090"), dial(&wire.pod, "10.0.0.1:3306")];
        connections.iter_mut().for_each(said_back);
        // As they were, then with rules under which these connections would go elsewhere, were they new.
        for case in [&CASES[0], &CASES[1], &CASES[3]] {
            wire.load(program, &rules(case, owner), &mut hooked).unwrap();
            connections.iter_mut().for_each(said_back);
        }
    }
}

/// Says back what comes in.
fn repeat(namespace: &Namespace, address: &'static str) {
    let (bound, is_bound) = channel();
    let listener = namespace.run(move || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        bound.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    is_bound.recv().unwrap();
}

fn said_back(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"?").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"?");
}
