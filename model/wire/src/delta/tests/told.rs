//! What either side is told beside the configuration: listeners that do not listen, queries that are too many.

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
