//! What lives, what is closed, and who is told.

use std::time::Duration;

use futures::FutureExt;

use super::*;

fn facts(principal: &str) -> LiveFacts {
    LiveFacts {
        kind: LiveKind::Connection,
        listener: ListenerKey::new("inbound"),
        peer: "10.0.0.1:1000".parse().unwrap(),
        destination: "10.0.0.2:80".parse().unwrap(),
        principal: Some(principal.into()),
        sni: None,
        subject: Some(Arc::new(principal.to_owned())),
    }
}

#[tokio::test]
async fn revocation_closes_what_is_no_longer_permitted_and_nothing_else() {
    let registry = LiveRegistry::new();
    let (good, bad) = (registry.register(facts("good")), registry.register(facts("bad")));
    let (good_stream, bad_stream) = (good.stream(None), bad.stream(None));
    assert_eq!(registry.counts(), LiveCounts { connections: 2, streams: 2 });
    let closed = registry.reevaluate(|facts| match facts.principal.as_deref() {
        Some("bad") if facts.kind == LiveKind::Connection => Verdict::Close(Reason::AuthzDenied),
        _ => Verdict::Keep,
    });
    assert_eq!(closed, BTreeMap::from([(Reason::AuthzDenied, 1)]));
    tokio::join!(bad.closed(), bad_stream.closed());
    assert_eq!(bad.close_reason(), Some(Reason::AuthzDenied));
    assert_eq!(bad_stream.close_reason(), Some(Reason::AuthzDenied), "a stream ends with its connection");
    assert!(good.closed().now_or_never().is_none() && good_stream.closed().now_or_never().is_none());
    assert_eq!((good.close_reason(), good_stream.close_reason()), (None, None));
    let again = registry.reevaluate(|facts| match facts.principal.as_deref() {
        Some("bad") => Verdict::Close(Reason::Draining),
        _ => Verdict::Keep,
    });
    assert!(again.is_empty(), "what is closed is not closed again");
}

#[test]
fn a_stream_can_be_closed_alone_and_judged_by_its_subject() {
    let registry = LiveRegistry::new();
    let connection = registry.register(facts("a"));
    let stream = connection.stream_as("alice".into(), Some(Arc::new(7_u32)));
    let closed =
        registry.reevaluate(|facts| match facts.subject.as_ref().and_then(|subject| subject.downcast_ref::<u32>()) {
            Some(7) if facts.principal.as_deref() == Some("alice") => Verdict::Close(Reason::AuthzDenied),
            _ => Verdict::Keep,
        });
    assert_eq!(closed.values().sum::<usize>(), 1);
    assert_eq!(stream.close_reason(), Some(Reason::AuthzDenied));
    assert_eq!(connection.close_reason(), None);
}

#[tokio::test]
async fn the_registry_is_empty_when_the_last_guard_is_dropped() {
    let registry = LiveRegistry::new();
    registry.empty().await;
    let connection = registry.register(facts("a"));
    let stream = connection.stream(None);
    let waiting = tokio::spawn({
        let registry = registry.clone();
        async move { registry.empty().await }
    });
    drop(connection);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(registry.counts(), LiveCounts::default());
    assert!(registry.snapshot().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_register_and_leave_while_others_are_judged() {
    let registry = LiveRegistry::new();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let registry = registry.clone();
            tokio::spawn(async move {
                for round in 0..500 {
                    let registration = registry.register(facts(if (task + round) % 2 == 0 { "a" } else { "b" }));
                    let _stream = registration.stream(None);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..50 {
        let _ = registry.reevaluate(|facts| match facts.principal.as_deref() {
            Some("b") => Verdict::Close(Reason::AuthzDenied),
            _ => Verdict::Keep,
        });
        let _ = registry.snapshot();
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(5), registry.empty()).await.unwrap();
}
