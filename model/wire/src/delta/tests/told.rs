//! What either side is told beside the configuration: listeners that do not listen, queries that are too many.

use palisade_model::{feature, trust::Trust};

use super::*;

#[test]
fn an_ack_names_the_listeners_that_do_not_listen() {
    let mut pair = Pair::new(snapshot_of([secret("s", "1", &[])]), &[]);
    pair.binds = vec![Unbound { listener: "0.0.0.0:80".into(), message: "address in use".into() }];
    pair.connect();
    pair.settle();
    assert_eq!(pair.acked, [pair.target.version()], "the rest is in force");
    assert_eq!(pair.unbound, pair.binds);
}

#[test]
fn only_the_queries_that_are_too_many_are_refused_and_the_stream_stays() {
    let query = |number: usize| Query::Host(format!("h{number}.example").into()).encode();
    let now = Instant::now();
    let mut server = Server::new(now, Patience::default());
    let send =
        |server: &mut Server, sequence, kind| server.message(now, v1::ProxyMessage { sequence, kind: Some(kind) });
    let hello = v1::Hello {
        protocol: PROTOCOL,
        namespace: "foo".into(),
        name: "a".into(),
        subscriptions: (0..MAX_SUBSCRIPTIONS + 1).map(query).collect(),
        hears_surplus: true,
        ..Default::default()
    };
    let actions = send(&mut server, 1, v1::proxy_message::Kind::Hello(hello));
    let [server::Action::Send(told), server::Action::Surplus(refused), server::Action::Greeted(greeting)] =
        &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!((refused.len(), greeting.subscriptions.len()), (1, MAX_SUBSCRIPTIONS));
    assert!(!greeting.subscriptions.contains(&refused[0]));
    // The proxy does not say it again, and asks again when it needs it.
    let mut client = Client::new(profile(&[]));
    drop(client.subscribe(refused.iter().cloned()));
    drop(client.connected());
    let actions = client.message(now, told.clone());
    assert_eq!(actions, [client::Action::Surplus(refused.clone())]);
    assert!(client.subscriptions().is_empty());
    // Room is room again.
    let change = v1::Subscribe { add: vec![query(MAX_SUBSCRIPTIONS)], remove: vec![query(0)] };
    let actions = send(&mut server, 2, v1::proxy_message::Kind::Subscribe(change));
    assert!(matches!(&actions[..], [server::Action::Subscribed(all)] if all.len() == MAX_SUBSCRIPTIONS), "{actions:?}");
    // Who does not understand is not told.
    let mut server = Server::new(now, Patience::default());
    let old = v1::Hello {
        protocol: PROTOCOL,
        subscriptions: (0..MAX_SUBSCRIPTIONS + 1).map(query).collect(),
        ..Default::default()
    };
    let actions = send(&mut server, 1, v1::proxy_message::Kind::Hello(old));
    assert!(matches!(&actions[..], [server::Action::Surplus(_), server::Action::Greeted(_)]), "{actions:?}");
}

#[test]
fn trust_is_told_to_those_who_understand_and_answered_only_then() {
    let now = Instant::now();
    let print = |text: &str| ContentHash::of_bytes(text.as_bytes());
    let trust = Trust { roots: "PEM".into(), signing: Some(print("b")), revoked: "CRL".into(), refusal: None };
    let standing = Standing {
        trust: Some(trust.version().unwrap()),
        roots: [print("a"), print("b")].into(),
        leaf_roots: [print("a")].into(),
        not_after: 7,
        problem: Some("why".into()),
    };
    for (features, is_told) in [(&[][..], false), (&[feature::TRUST][..], true)] {
        let mut server = Server::new(now, Patience::default());
        let mut client = Client::new(profile(features));
        assert!(server.trust(&trust).is_empty(), "nothing before the hello");
        let actions = client.connected();
        assert!(client.standing(&standing).is_empty(), "an older control plane would not understand");
        let [client::Action::Send(hello)] = &actions[..] else { panic!("{actions:?}") };
        drop(server.message(now, hello.clone()));
        let actions = server.trust(&trust);
        assert_eq!(!actions.is_empty(), is_told);
        let Some(server::Action::Send(told)) = actions.first() else { continue };
        assert_eq!(client.message(now, told.clone()), [client::Action::Trust(trust.clone())]);
        let actions = client.standing(&standing);
        let [client::Action::Send(answer)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(server.message(now, answer.clone()), [server::Action::Standing(standing.clone())]);
        // The next stream may lead to an older one.
        client.disconnected();
        drop(client.connected());
        assert!(client.standing(&standing).is_empty());
    }
}

#[test]
fn trust_may_come_while_an_offer_is_applied_and_too_many_roots_end_the_stream() {
    let mut pair = Pair::new(snapshot_of([secret("s", "1", &[])]), &[feature::TRUST]);
    pair.connect();
    while pair.applying.is_none() {
        assert!(pair.deliver(true) | pair.deliver(false));
    }
    let actions = pair.server.as_mut().unwrap().trust(&Trust::default());
    pair.on_server(actions);
    pair.settle();
    assert!(pair.violations.is_empty(), "{:?}", pair.violations);
    assert_eq!(pair.standings, [Standing::default()]);
    let mut server = Server::new(pair.now, Patience::default());
    let hello = v1::Hello { protocol: PROTOCOL, features: vec![feature::TRUST.to_owned()], ..Default::default() };
    let kind = Some(v1::proxy_message::Kind::Hello(hello));
    drop(server.message(pair.now, v1::ProxyMessage { sequence: 1, kind }));
    let roots = (0..=MAX_ROOTS).map(|n| ContentHash::of_bytes(&n.to_be_bytes()).encode()).collect();
    let kind = Some(v1::proxy_message::Kind::Standing(v1::Standing { roots, ..Default::default() }));
    let actions = server.message(pair.now, v1::ProxyMessage { sequence: 2, kind });
    assert!(matches!(&actions[..], [server::Action::Close(Violation::Limit { .. })]), "{actions:?}");
}
