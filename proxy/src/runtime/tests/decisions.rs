//! What becomes of decisions in a running proxy: the guard on Cedar, and the ids of what a dry run would change.

use super::*;

/// `deny_admin`, whose compiled form says something else than its text.
fn damaged() -> Policy {
    let sound = deny_admin().swap_remove(0);
    let elsewhere = RuleSpec {
        id: PolicyId::of_rule("foo", "no-admin", 0),
        source: None,
        rule: Some(0),
        namespace: "foo".into(),
        action: RuleAction::Deny,
        mode: PolicyMode::Enforce,
        from: None,
        to: Some(vec![Operation { paths: vec!["/nowhere".into()], ..Operation::default() }]),
        when: Vec::new(),
    };
    let other = admit_rule(&elsewhere, &TrustDomains::default()).policies.swap_remove(0);
    assert!(!other.ir.is_empty());
    Policy { ir: other.ir, ..sound }
}

async fn guarded(replay_one_in: u32) -> (Sidecar, u16) {
    let application = application().await;
    let mut settings = RuntimeSettings::new("foo/b");
    settings.decisions = DecisionSettings { replay_one_in, ..DecisionSettings::default() };
    let b = sidecar_with(&TestCa::new("mesh"), "b", Role::Inbound, application, settings).await;
    let snapshot = inbound_snapshot(application.port(), MtlsMode::Disable, vec![damaged(), default_permit()]);
    b.runtime.apply(snapshot).unwrap();
    (b, application.port())
}

async fn counted(runtime: &Runtime, line: &str) {
    within(async {
        while !runtime.metrics.render().unwrap().lines().any(|it| it == line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiled_form_that_differs_from_cedar_is_found_and_cedar_decides_from_then_on() {
    let (b, port) = guarded(1).await;
    let mut client = TcpStream::connect(b.address).await.unwrap();
    assert!(within(ask(&mut client, "/admin")).await.0.starts_with("http/1.1 200"), "the damage shows");
    counted(&b.runtime, "palisade_policy_replay_mismatches_total 1").await;
    assert!(within(ask(&mut client, "/admin")).await.0.starts_with("http/1.1 403"));
    assert!(within(ask(&mut client, "/other")).await.0.starts_with("http/1.1 200"));
    // A later configuration with the policy in it trusts it no more.
    let more =
        vec![damaged(), default_permit(), Policy { id: PolicyId("foo/more[0]".into()), ..deny_admin().remove(0) }];
    b.runtime.apply(inbound_snapshot(port, MtlsMode::Disable, more)).unwrap();
    assert!(within(ask(&mut client, "/admin")).await.0.starts_with("http/1.1 403"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_decision_is_made_again_where_the_setting_says_none() {
    let (b, _) = guarded(0).await;
    let mut client = TcpStream::connect(b.address).await.unwrap();
    for _ in 0..50 {
        assert!(within(ask(&mut client, "/admin")).await.0.starts_with("http/1.1 200"));
    }
    counted(&b.runtime, "palisade_policy_replays_total 0").await;
}

/// A dry run of what `deny_admin` forbids.
fn candidate() -> Vec<Policy> {
    let source = palisade_model::origin::Origin {
        group: "security.istio.io".into(),
        kind: "AuthorizationPolicy".into(),
        namespace: "foo".into(),
        name: "no-admin".into(),
        uid: "".into(),
        generation: 0,
    };
    // Counts for the document, and is the same whatever its rules are.
    let marker = palisade_policy::document_marker("foo/no-admin", source.clone(), PolicyMode::Shadow, false, false);
    let shadowed = |policy: Policy| Policy { mode: PolicyMode::Shadow, source: Some(source.clone()), ..policy };
    deny_admin().into_iter().map(shadowed).chain([marker, default_permit()]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_that_would_change_an_answer_is_counted_and_explained() {
    let application = application().await;
    let settings = RuntimeSettings::new("foo/b");
    let b = sidecar_with(&TestCa::new("mesh"), "b", Role::Inbound, application, settings).await;
    b.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Disable, candidate())).unwrap();
    let mut client = TcpStream::connect(b.address).await.unwrap();
    let (head, _) = within(ask(&mut client, "/admin")).await;
    assert!(head.starts_with("http/1.1 200") && !head.contains("x-palisade-decision"), "{head}");
    within(ask(&mut client, "/other")).await;
    let labels = "kind=\"AuthorizationPolicy\",namespace=\"foo\",name=\"no-admin\",mode=\"dry-run\"";
    counted(&b.runtime, &format!("palisade_policy_recorded_matches_total{{{labels}}} 1")).await;
    counted(&b.runtime, &format!("palisade_policy_recorded_changes_total{{{labels}}} 1")).await;
    let line: serde_json::Value = serde_json::from_str(&logged(&b.log, "\"shadow\":{").await).unwrap();
    let id = line["decision"].as_str().unwrap();
    let source = source::RuntimeSource::new(Arc::clone(&b.runtime), Arc::new(NoFilter));
    let story = crate::admin::AdminSource::why(&*source, id).unwrap();
    assert_eq!(story["verdict"], "allow");
    let shadow = &story["shadow"][0];
    assert_eq!((&shadow["name"], &shadow["decision"]), (&"no-admin".into(), &"deny".into()), "{story}");
    // The policy is edited while traffic flows: it is counted anew, and what it does not match is not counted.
    let mut policies = candidate();
    let damaged = damaged();
    policies[0].cedar = damaged.cedar.replace("/admin*", "/nowhere").into();
    policies[0].ir = damaged.ir;
    b.runtime.apply(inbound_snapshot(application.port(), MtlsMode::Disable, policies)).unwrap();
    within(ask(&mut client, "/admin")).await;
    counted(&b.runtime, &format!("palisade_policy_recorded_matches_total{{{labels}}} 0")).await;
}

fn enforced(policy: Policy) -> Policy {
    Policy { mode: PolicyMode::Enforce, ..policy }
}

/// The inbound side with a policy of namespace `foo` in it, which is named to callers or not.
fn telling(port: u16, is_telling: bool) -> Arc<Snapshot> {
    let policies: Vec<Policy> = candidate()
        .into_iter()
        .filter(|policy| policy.rule.is_some() || policy.source.is_none())
        .map(enforced)
        .collect();
    let plain = inbound_snapshot(port, MtlsMode::Permissive, policies);
    let told = plain.entries().values().map(|entry| match entry.resource() {
        Resource::Settings(held) => {
            let telling_namespaces = is_telling.then(|| "foo".into()).into_iter().collect();
            Resource::Settings(palisade_model::settings::ProxySettings { telling_namespaces, ..held.clone() })
        }
        other => other.clone(),
    });
    testing::snapshot(told.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_names_its_policy_to_callers_inside_the_mesh_where_its_namespace_permits() {
    let mesh = mesh().await;
    let mut inside = TcpStream::connect(mesh.a.address).await.unwrap();
    for (is_telling, expected) in [(false, None), (true, Some("foo/no-admin[0]"))] {
        mesh.b.runtime.apply(telling(mesh.port, is_telling)).unwrap();
        let (head, _) = within(ask(&mut inside, "/admin")).await;
        assert!(head.starts_with("http/1.1 403") && head.contains("x-palisade-decision: "), "{head}");
        assert_eq!(head.lines().find_map(|line| line.strip_prefix("x-palisade-policy: ")), expected, "{head}");
        let mut outside = TcpStream::connect(mesh.b.address).await.unwrap();
        let (head, _) = within(ask(&mut outside, "/admin")).await;
        assert!(head.starts_with("http/1.1 403") && head.contains("x-palisade-decision: "), "{head}");
        assert!(!head.contains("x-palisade-policy") && !head.contains("no-admin"), "{head}");
    }
}

/// An application that answers every connection with this, once a request is there.
async fn saying(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_cannot_speak_of_decisions() {
    let forger = saying(
        "HTTP/1.1 403 No\r\nx-palisade-decision: forged\r\nx-palisade-policy: forged\r\ncontent-length: 0\r\n\r\n",
    );
    let forger = forger.await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, forger).await;
    b.runtime.apply(inbound_snapshot(forger.port(), MtlsMode::Disable, vec![default_permit()])).unwrap();
    let mut client = TcpStream::connect(b.address).await.unwrap();
    let (head, _) = within(ask(&mut client, "/")).await;
    assert!(head.starts_with("http/1.1 403") && !head.contains("forged"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_revoked_before_its_answer_has_an_id() {
    // An application that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, address).await;
    b.runtime.apply(inbound_snapshot(address.port(), MtlsMode::Disable, vec![default_permit()])).unwrap();
    let mut client = TcpStream::connect(b.address).await.unwrap();
    client.write_all(b"GET /admin HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    let (mut application, _) = within(silent.accept()).await.unwrap();
    let mut buffer = [0; 4096];
    assert!(within(application.read(&mut buffer)).await.unwrap() > 0);
    b.runtime.apply(telling(address.port(), false)).unwrap();
    let count = within(client.read(&mut buffer)).await.unwrap_or(0);
    let line: serde_json::Value = serde_json::from_str(&logged(&b.log, "authz-denied").await).unwrap();
    assert_eq!(line["policies"][0], "foo/no-admin[0]", "{line}");
    let id = line["decision"].as_str().unwrap();
    let text = String::from_utf8_lossy(&buffer[..count]).to_ascii_lowercase();
    // Either an answer with the id or none at all, as far as the connection still carried one.
    assert!(text.is_empty() || text.contains(&format!("x-palisade-decision: {id}")), "{text}");
}
