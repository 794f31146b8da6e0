//! Requests of one session go where its first one went, as long as that is there.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use palisade_model::{endpoint::Address, route::Session};

use super::*;
use crate::request::changes::HeaderChange;

const BOTH: [&str; 2] = ["10.0.0.1:9080", "10.0.0.2:9080"];

fn cookie(name: &str) -> Session {
    Session { name: name.into(), is_header: false, is_permanent: false, timeout: None }
}

/// A gateway whose rule has this session and two weighted backends.
fn kept(session: &Session, endpoints: &[&str]) -> RuntimeIndex {
    let RouteAction::Forward(forward) = forward(vec![backend("one", 50, None), backend("two", 50, None)]) else {
        panic!("no forward")
    };
    let action = RouteAction::Forward(Forward { session: Some(session.clone()), ..forward });
    gateway_with(vec![rule("a", None, action)], true, endpoints)
}

/// Where a request goes, and what its answer tells the client. `draw` decides what the session does not.
fn ask(index: &RuntimeIndex, shown: Option<(HeaderName, &str)>, draw: f64, at: u64) -> (String, Option<HeaderChange>) {
    let mut headers = HeaderMap::new();
    headers.extend(shown.map(|(name, value)| (name, HeaderValue::from_str(value).unwrap())));
    let admitted = admit(index, client(), Seen::Http).unwrap();
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: b"a.com",
        target: b"/",
        version: HttpVersion::Http11,
        headers: &headers,
        jwt: None,
    };
    let mut chance = Chance::fixed(SystemTime::UNIX_EPOCH + Duration::from_secs(at), draw);
    let verdict = decide_http(index, &admitted, Some(&request), &mut chance);
    let plan = plan(&verdict);
    let held = plan.session.as_ref().unwrap();
    let picked = held.pick(&plan.permit, &plan.cluster, &[]).unwrap_or_else(|| {
        balance::pick(&plan.permit, &plan.cluster, client().destination, None, &[], &mut chance).unwrap()
    });
    let Address::Socket(address) = picked.address else { panic!("{picked:?}") };
    (format!("{} {address}", plan.cluster.name()), held.answer(plan.cluster.name(), &picked.address))
}

/// The cookie that a client sends back for what it was told.
fn sent_back(told: Option<HeaderChange>) -> String {
    let Some(HeaderChange::Append(name, line)) = told else { panic!("no cookie: {told:?}") };
    assert_eq!(name, header::SET_COOKIE);
    let line = line.to_str().unwrap();
    assert!(line.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{line}");
    line.split(';').next().unwrap().to_owned()
}

#[test]
fn a_cookie_leads_to_the_same_endpoint_of_the_same_backend() {
    let index = kept(&cookie("shop"), &BOTH);
    let mut places = std::collections::BTreeSet::new();
    for first in [0.0, 0.3, 0.6, 0.9] {
        let (place, told) = ask(&index, None, first, 0);
        let shown = sent_back(told);
        for draw in [0.0, 0.3, 0.6, 0.9] {
            let (again, told) = ask(&index, Some((header::COOKIE, &shown)), draw, 0);
            assert_eq!(again, place, "{shown}");
            assert!(told.is_none(), "it knows already");
        }
        places.insert(place);
    }
    assert!(places.len() > 1, "draws decide where a session begins: {places:?}");
}

#[test]
fn what_is_no_token_or_leads_nowhere_begins_a_session() {
    let index = kept(&cookie("shop"), &BOTH);
    for shown in
        ["shop=", "shop=x", "shop=0000000000000000", "shop=00000000000000001", "other=1", "shop=+000000000000000"]
    {
        let (_, told) = ask(&index, Some((header::COOKIE, shown)), 0.0, 0);
        assert!(told.is_some(), "{shown}");
    }
    let (place, told) = ask(&index, None, 0.0, 0);
    let shown = sent_back(told);
    let (gone, left) = if place.contains("10.0.0.1") { (BOTH[0], BOTH[1]) } else { (BOTH[1], BOTH[0]) };
    let fewer = kept(&cookie("shop"), &[left]);
    let (elsewhere, told) = ask(&fewer, Some((header::COOKIE, &shown)), 0.0, 0);
    assert!(!elsewhere.contains(gone), "{elsewhere}");
    assert_ne!(sent_back(told), shown, "the client learns its new endpoint");
}

#[test]
fn a_session_ends_with_its_time_however_often_it_is_used() {
    let session = Session { timeout: Some(Duration::from_secs(100)), ..cookie("shop") };
    let index = kept(&session, &BOTH);
    let shown = sent_back(ask(&index, None, 0.9, 1000).1);
    assert!(ask(&index, Some((header::COOKIE, &shown)), 0.0, 1099).1.is_none());
    assert!(ask(&index, Some((header::COOKIE, &shown)), 0.0, 1100).1.is_some(), "its time is up");
    assert!(ask(&index, Some((header::COOKIE, &shown)), 0.0, 999).1.is_some(), "it has not begun yet");
    let permanent = Session { is_permanent: true, ..session };
    let (_, told) = ask(&kept(&permanent, &BOTH), None, 0.0, 1000);
    let Some(HeaderChange::Append(_, line)) = told else { panic!("{told:?}") };
    assert!(line.to_str().unwrap().contains("; Max-Age=100;"), "{line:?}");
}

#[test]
fn a_header_carries_a_session_that_the_client_sends_by_itself() {
    let session = Session { is_header: true, ..cookie("x-session") };
    let index = kept(&session, &BOTH);
    let name = HeaderName::from_static("x-session");
    let (place, told) = ask(&index, None, 0.9, 0);
    let Some(HeaderChange::Set(set, value)) = told else { panic!("{told:?}") };
    assert_eq!(set, name);
    let (again, told) = ask(&index, Some((name, value.to_str().unwrap())), 0.0, 0);
    assert_eq!(again, place);
    assert!(matches!(told, Some(HeaderChange::Set(_, same)) if same == value), "each answer says it");
}
