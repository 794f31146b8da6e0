//! Which answers count again, for whom, and what happens when equal requests come together.

use std::sync::atomic::{AtomicUsize, Ordering};

use palisade_model::{
    cluster::Discovery,
    listener::{InboundPort, MtlsMode, Protocol},
    policy::PolicySet,
    resource::Resource,
    settings::ProxyKind,
};
use tokio::sync::Notify;

use super::*;
use crate::request::{
    connection::{Seen, admit},
    facts::{Connection, Direction, HttpVersion},
    testing,
};

const LIFETIME: Duration = Duration::from_secs(30);

fn kept(key: &[KeyPart]) -> Arc<KeptAnswers> {
    KeptAnswers::new(CheckCache { lifetime: LIFETIME, key: key.into() })
}

fn digest(number: usize) -> Digest {
    let mut digesting = Digesting::default();
    digesting.count(number);
    digesting.finish()
}

fn allowed() -> CheckAnswer {
    CheckAnswer::Allowed(Allowance::default())
}

fn refused(headers: &[(&str, &str)], body: &str) -> CheckAnswer {
    let line = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    CheckAnswer::Denied(Refusal {
        status: 403,
        headers: headers.iter().map(line).collect(),
        body: body.to_owned().into(),
    })
}

/// A provider that counts how often it is asked and answers when it is let.
struct Provider {
    asked: Arc<AtomicUsize>,
    told: Told,
    gate: Option<Arc<Notify>>,
}

impl Provider {
    fn saying(answer: CheckAnswer) -> Self {
        Self { asked: Arc::default(), told: Told::plainly(answer), gate: None }
    }

    fn call(&self) -> impl Fn() -> BoxFuture<'static, Told> + Send + use<> {
        let (asked, told, gate) = (Arc::clone(&self.asked), self.told.clone(), self.gate.clone());
        move || {
            let (asked, told, gate) = (Arc::clone(&asked), told.clone(), gate.clone());
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                if let Some(gate) = gate {
                    gate.notified().await;
                }
                told
            }
            .boxed()
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn allowing_and_refusing_answers_count_until_their_lifetime_ends() {
    for answer in [allowed(), refused(&[("x-why", "because")], "no")] {
        let (kept, provider, start) = (kept(&[]), Provider::saying(answer.clone()), Instant::now());
        for (after, source, asked) in [
            (0, AnswerSource::Provider, 1),
            (29, AnswerSource::Cache, 1),
            (30, AnswerSource::Provider, 2),
            (59, AnswerSource::Cache, 2),
        ] {
            let said = kept.answer(digest(0), start + Duration::from_secs(after), provider.call()).await;
            assert_eq!(said, (answer.clone(), source), "after {after} s");
            assert_eq!(provider.asked(), asked, "after {after} s");
        }
        kept.answer(digest(1), start, provider.call()).await;
        assert_eq!(provider.asked(), 3, "another request");
    }
}

#[tokio::test]
async fn what_may_not_be_kept_is_asked_each_time() {
    let never = |answer| Told { answer, freshness: Freshness::Never };
    let zero = Told { answer: allowed(), freshness: Freshness::AtMost(Duration::ZERO) };
    let sets = |name| HeaderChange::Set(name, HeaderValue::from_static("a=b"));
    let cookie = Allowance { response: vec![sets(header::SET_COOKIE)], ..Allowance::default() };
    for (name, told) in [
        ("unavailable", Told::plainly(CheckAnswer::Unavailable("down".into()))),
        ("too large a body", Told::plainly(CheckAnswer::BodyTooLarge)),
        ("no-store", never(allowed())),
        ("max-age=0", zero),
        ("a cookie of a refusal", Told::plainly(refused(&[("set-cookie", "a=b")], ""))),
        ("a cookie of a permission", Told::plainly(CheckAnswer::Allowed(cookie))),
        ("large", Told::plainly(refused(&[], &"x".repeat(MAX_ANSWER_BYTES + 1)))),
    ] {
        let (kept, now) = (kept(&[]), Instant::now());
        let provider = Provider { told, ..Provider::saying(allowed()) };
        for asked in 1..=3 {
            let (_, source) = kept.answer(digest(0), now, provider.call()).await;
            assert_eq!((source, provider.asked()), (AnswerSource::Provider, asked), "{name}");
        }
    }
}

/// Starts `count` equal requests that all wait for the provider.
async fn together(
    kept: &Arc<KeptAnswers>,
    provider: &Provider,
    count: usize,
) -> Vec<tokio::task::JoinHandle<(CheckAnswer, AnswerSource)>> {
    let now = Instant::now();
    let begun = Arc::new(AtomicUsize::new(0));
    let tasks = (0..count).map(|_| {
        let (kept, call, begun) = (Arc::clone(kept), provider.call(), Arc::clone(&begun));
        tokio::spawn(async move {
            begun.fetch_add(1, Ordering::SeqCst);
            kept.answer(digest(0), now, call).await
        })
    });
    let tasks = tasks.collect();
    // One thread: a task that has begun runs until it waits.
    while begun.load(Ordering::SeqCst) < count {
        tokio::task::yield_now().await;
    }
    tasks
}

#[tokio::test]
async fn equal_requests_that_come_together_are_asked_about_once() {
    for answer in [allowed(), CheckAnswer::Unavailable("down".into())] {
        let gate = Arc::new(Notify::new());
        let provider = Provider { gate: Some(Arc::clone(&gate)), ..Provider::saying(answer.clone()) };
        let kept = kept(&[]);
        let tasks = together(&kept, &provider, 10).await;
        gate.notify_one();
        let mut sources = Vec::new();
        for task in tasks {
            let (said, source) = task.await.unwrap();
            assert_eq!(said, answer);
            sources.push(source);
        }
        assert_eq!(provider.asked(), 1, "{answer:?}");
        assert_eq!(sources.iter().filter(|source| **source == AnswerSource::Flight).count(), 9);
        // A failure is told to those who waited, and to nobody after.
        let after = Provider::saying(allowed());
        kept.answer(digest(0), Instant::now(), after.call()).await;
        assert_eq!(after.asked(), usize::from(answer != allowed()));
    }
}

#[tokio::test]
async fn an_answer_for_one_request_is_given_to_no_other() {
    let gate = Arc::new(Notify::new());
    let told = Told { answer: allowed(), freshness: Freshness::Never };
    let provider = Provider { gate: Some(Arc::clone(&gate)), told, asked: Arc::default() };
    let tasks = together(&kept(&[]), &provider, 3).await;
    let release = tokio::spawn(async move {
        loop {
            gate.notify_one();
            tokio::task::yield_now().await;
        }
    });
    for task in tasks {
        assert_eq!(task.await.unwrap().1, AnswerSource::Provider);
    }
    release.abort();
    assert_eq!(provider.asked(), 3);
}

#[tokio::test]
async fn a_caller_that_leaves_takes_no_other_with_it() {
    let gate = Arc::new(Notify::new());
    let provider = Provider { gate: Some(Arc::clone(&gate)), ..Provider::saying(allowed()) };
    let kept = kept(&[]);
    let mut tasks = together(&kept, &provider, 2).await;
    let second = tasks.pop().unwrap();
    // Who asked first goes away before there is an answer.
    for task in tasks {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    gate.notify_one();
    assert_eq!(second.await.unwrap().0, allowed());
    assert_eq!(provider.asked(), 1);
    // And where all have gone, the next one asks anew.
    let stuck = Provider { gate: Some(Arc::default()), ..Provider::saying(allowed()) };
    let lone = kept.answer(digest(9), Instant::now(), stuck.call());
    assert!(tokio::time::timeout(Duration::ZERO, lone).await.is_err());
    let next = Provider::saying(refused(&[], ""));
    assert_eq!(kept.answer(digest(9), Instant::now(), next.call()).await.1, AnswerSource::Provider);
}

#[test]
fn a_provider_may_shorten_and_forbid_but_not_lengthen() {
    let kept = kept(&[KeyPart::Header("x-user".into())]);
    for (lines, expected) in [
        (&[][..], Freshness::Unsaid),
        (&[("cache-control", "public")], Freshness::Unsaid),
        (&[("cache-control", "max-age=5")], Freshness::AtMost(Duration::from_secs(5))),
        (&[("cache-control", "max-age=9, S-MaxAge=\"4\"")], Freshness::AtMost(Duration::from_secs(4))),
        (&[("cache-control", "max-age=9"), ("cache-control", "no-store")], Freshness::Never),
        (&[("cache-control", "No-Cache")], Freshness::Never),
        (&[("cache-control", "private, max-age=9")], Freshness::Never),
        (&[("cache-control", "max-age=soon")], Freshness::Never),
        (&[("vary", "X-User")], Freshness::Unsaid),
        (&[("vary", "x-user, accept")], Freshness::Never),
        (&[("vary", "*")], Freshness::Never),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(kept.freshness(&headers), expected, "{lines:?}");
    }
    let told = Told { answer: allowed(), freshness: Freshness::AtMost(Duration::from_secs(3600)) };
    assert_eq!(kept.keeps(&told), Some(LIFETIME));
}

fn admitted(source: &str, destination: &str) -> Admitted {
    let index = testing::index(vec![
        Resource::Settings(testing::settings(ProxyKind::Sidecar)),
        Resource::Inbound(InboundPort {
            port: None,
            protocol: Protocol::Http,
            mtls: MtlsMode::Disable,
            cluster: "inbound|80||".into(),
            service: None,
            policies: "p".into(),
        }),
        Resource::Cluster(testing::cluster("inbound|80||", Discovery::Workload { port: None })),
        Resource::PolicySet(PolicySet { key: "p".into(), policies: [].into(), ..PolicySet::default() }),
    ]);
    let facts = Connection {
        direction: Direction::Inbound,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        tls: None,
    };
    admit(&index, facts, Seen::Http).unwrap()
}

fn head(change: impl FnOnce(&mut QuestionHead)) -> QuestionHead {
    let mut head = QuestionHead {
        method: "GET".to_owned(),
        scheme: "http".to_owned(),
        authority: "a".to_owned(),
        target: b"/a?b=c".to_vec(),
        version: HttpVersion::Http11,
        headers: HeaderMap::new(),
    };
    change(&mut head);
    head
}

#[test]
fn a_key_has_the_named_parts_the_caller_and_the_destination_and_nothing_else() {
    let peer = || admitted("10.0.0.4:1", "10.0.0.9:80");
    let line = |value: &'static str| {
        move |head: &mut QuestionHead| {
            head.headers.append("x-user", HeaderValue::from_static(value));
        }
    };
    let plain = || head(|_| ());
    let cases: [(&str, KeyPart, QuestionHead); 7] = [
        ("method", KeyPart::Method, head(|head| head.method = "POST".to_owned())),
        ("scheme", KeyPart::Scheme, head(|head| head.scheme = "https".to_owned())),
        ("host", KeyPart::Host, head(|head| head.authority = "b".to_owned())),
        ("path", KeyPart::Path, head(|head| head.target = b"/b?b=c".to_vec())),
        ("query", KeyPart::Query, head(|head| head.target = b"/a?b=d".to_vec())),
        ("header", KeyPart::Header("x-user".into()), head(line("me"))),
        ("empty header", KeyPart::Header("x-user".into()), head(line(""))),
    ];
    for (name, part, other) in &cases {
        let named = kept(std::slice::from_ref(part));
        assert_ne!(named.key(&peer(), &plain()), named.key(&peer(), other), "{name}");
        assert_eq!(named.key(&peer(), other), named.key(&peer(), other), "{name}");
        let unnamed = kept(&[]);
        assert_eq!(unnamed.key(&peer(), &plain()), unnamed.key(&peer(), other), "{name} is not named");
    }
    let named = kept(&[KeyPart::Header("x-user".into())]);
    let twice = head(|head| {
        line("a")(head);
        line("b")(head);
    });
    assert_ne!(named.key(&peer(), &twice), named.key(&peer(), &head(line("ab"))), "lines are told apart");
    let any = kept(&[]);
    let key = |source, destination| any.key(&admitted(source, destination), &plain());
    assert_eq!(key("10.0.0.4:1", "10.0.0.9:80"), key("10.0.0.4:2", "10.0.0.9:80"), "another connection of the caller");
    assert_ne!(key("10.0.0.4:1", "10.0.0.9:80"), key("10.0.0.5:1", "10.0.0.9:80"), "another caller");
    assert_ne!(key("10.0.0.4:1", "10.0.0.9:80"), key("10.0.0.4:1", "10.0.0.9:81"), "another port");
}
