//! Answers and their lifetimes, against a resolver on loopback where one is needed.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{AFTER_FAILURE, Found, GRACE, Held, Known, Names, NamesSettings, NoDestination, State, query};
use crate::request::{balance::Picked, testing};
use palisade_model::{endpoint::Address, settings::ProxyKind};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn known() -> Known {
    Known {
        state: parking_lot::Mutex::new(State { good: None, due: None, used: Instant::now() }),
        is_asking: false.into(),
        answered: tokio::sync::watch::Sender::new(0),
        turn: 0.into(),
    }
}

fn found(text: &str, seconds: u64) -> Option<Found> {
    Some(Found { addresses: vec![ip(text)], lifetime: Duration::from_secs(seconds) })
}

#[test]
fn an_answer_lives_as_long_as_it_says_and_the_last_good_one_outlives_failures() {
    let (known, start) = (known(), Instant::now());
    assert!(matches!(known.held(start), Held::Old(None)));
    known.store(found("192.0.2.1", 30), start);
    assert!(matches!(known.held(start + Duration::from_secs(29)), Held::Fresh(_)));
    assert!(matches!(known.held(start + Duration::from_secs(31)), Held::Stale(_)));
    let late = start + Duration::from_secs(31) + GRACE;
    assert!(matches!(known.held(late), Held::Old(Some(_))));
    known.store(None, late);
    assert!(matches!(known.held(late), Held::Fresh(_)), "kept, and asked again later");
    assert!(matches!(known.held(late + AFTER_FAILURE.0), Held::Stale(_)));
}

#[test]
fn a_name_that_never_resolved_fails_for_a_while() {
    let (known, start) = (known(), Instant::now());
    known.store(None, start);
    assert!(matches!(known.held(start), Held::Failed));
    assert!(matches!(known.held(start + AFTER_FAILURE.1), Held::Old(None)));
}

#[test]
fn files_are_read_as_everybody_reads_them() {
    let hosts = "127.0.0.1 localhost\n# 192.0.2.9 a\n192.0.2.1 www.example.com a # b\n2001:db8::1 a\nnonsense a\n";
    assert_eq!(query::in_hosts(hosts, "A", false), [ip("192.0.2.1")]);
    assert_eq!(query::in_hosts(hosts, "a", true), [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert!(query::in_hosts(hosts, "b", true).is_empty());
    let (servers, search) = query::parse_resolv_conf("nameserver 192.0.2.53\nnameserver x\nsearch A.B. c\noptions x\n");
    assert_eq!(servers, [ip("192.0.2.53")]);
    assert_eq!(search, ["a.b", "c"]);
}

#[tokio::test]
async fn each_connection_to_a_name_takes_the_next_address_and_a_logical_one_stays() {
    let folder = std::env::temp_dir().join(format!("palisade-names-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, "192.0.2.1 www.example.com\n192.0.2.2 www.example.com\n").unwrap();
    let names = Names::new(NamesSettings { hosts, resolv_conf: folder.join("none"), socket_mark: None });
    let strict = Address::Name("www.example.com".into(), 80);
    let first = names.locate(&strict, false).await.unwrap();
    let second = names.locate(&strict, false).await.unwrap();
    assert_ne!(first, second);
    let logical = Address::LogicalName("www.example.com".into(), 80);
    assert_eq!(names.locate(&logical, false).await, names.locate(&logical, false).await);
    let literal = Address::Name("192.0.2.7".into(), 80);
    assert_eq!(names.locate(&literal, false).await, Some("192.0.2.7:80".parse().unwrap()));
    assert_eq!(names.locate(&Address::Name("nowhere.example.com".into(), 80), false).await, None);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_name_of_the_clients_that_moves_to_this_machine_is_not_followed() {
    let folder = std::env::temp_dir().join(format!("palisade-names-inside-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let hosts = folder.join("hosts");
    // 10.0.0.9 is the proxy's own.
    let lines = ["192.0.2.1 good", "127.0.0.1 home", "169.254.169.254 cloud", "10.0.0.9 self"];
    let text: String = lines.iter().map(|line| format!("{line}.wild.example.com\n")).collect();
    std::fs::write(&hosts, text).unwrap();
    let names = Names::new(NamesSettings { hosts, resolv_conf: folder.join("none"), socket_mark: None });
    let settings = testing::settings(ProxyKind::Sidecar);
    for (name, expected) in [
        ("good", Ok("192.0.2.1:80".parse().unwrap())),
        ("home", Err(NoDestination::Inside)),
        ("cloud", Err(NoDestination::Inside)),
        ("self", Err(NoDestination::Inside)),
        ("none", Err(NoDestination::Unresolved)),
    ] {
        let address = Address::Name(format!("{name}.wild.example.com").into(), 80);
        let picked = Picked { address, endpoint: None, source: None };
        assert_eq!(names.destination(&picked, &settings).await, expected, "{name}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
