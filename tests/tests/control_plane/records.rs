//! Decision records from a proxy through control to whoever listens on loopback, in one process.

use futures::StreamExt;
use palisade_control::{
    admin,
    decisions::client::{ReceivedRecords, listen},
    rotation::{Place, Rotation},
};
use palisade_proxy::config::Outbox;
use palisade_tests::{http::Client, wait::until};
use serde_json::json;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// A control plane in this process, with a proxy that is connected to it.
struct Reporting {
    /// Of the control plane's pages.
    address: SocketAddr,
    /// Of the proxy.
    outbox: Arc<Outbox>,
    _subscriptions: Subscriptions,
    _mesh: Mesh,
    _stop: tokio_util::sync::DropGuard,
}

async fn reporting() -> Reporting {
    let mesh = Mesh::new();
    let stop = CancellationToken::new();
    let options = SourceOptions { is_files: true, ..Default::default() };
    let control = standalone(vec![mesh.path("documents")], "default", options, &mesh.path("ca"), stop.clone()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let keys = watch::channel(Arc::from([])).1;
    let rotation = Rotation::new(Place::Folder(mesh.path("ca")), control.shared(), "test");
    tokio::spawn(admin::serve(listener, Arc::clone(control.shared()), keys, rotation, stop.clone()));
    let token = control.token(&WorkloadRef { namespace: "foo".into(), name: "a-1".into() }).unwrap();
    let profile = Profile {
        namespace: "foo".into(),
        name: "a-1".into(),
        build: "test".into(),
        features: BTreeSet::new(),
        short_id: "a".into(),
    };
    let dialer = Dialer::Pipe(Pipe::new(control.connect.clone()));
    let applier = Arc::new(Counting::default());
    let outbox = Arc::new(Outbox::default());
    let (client, subscriptions) =
        ConfigClient::new(profile, dialer, TokenSource::Fixed(token), applier, BTreeSet::new());
    tokio::spawn(client.with_reports(Arc::clone(&outbox)).run(stop.clone()));
    Reporting { address, outbox, _subscriptions: subscriptions, _mesh: mesh, _stop: stop.drop_guard() }
}

async fn wanted(outbox: &Outbox, is_wanted: bool) {
    let holds = async || {
        anyhow::ensure!(outbox.is_wanted() == is_wanted);
        Ok(())
    };
    until("the proxy to be told", LIMIT, holds).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_travel_while_somebody_listens() {
    let Reporting { address, outbox, .. } = &reporting().await;
    outbox.push(&json!("nobody listens"));
    let mut all = Box::pin(listen(&format!("http://{address}"), "").await.unwrap());
    let mut elsewhere = Box::pin(listen(&format!("http://{address}"), "bar").await.unwrap());
    wanted(outbox, true).await;
    outbox.push(&json!({"v": 1}));
    outbox.push(&json!({"v": 1, "id": "x"}));
    let mut records = Vec::new();
    while records.len() < 2 {
        let batch = tokio::time::timeout(LIMIT, all.next()).await.unwrap().unwrap().unwrap();
        let ReceivedRecords { pod, records: more, dropped } = batch;
        assert_eq!((&*pod.namespace, &*pod.name, dropped), ("foo", "a-1", 0));
        records.extend(more);
    }
    assert_eq!(records, [&b"{\"v\":1}"[..], &b"{\"v\":1,\"id\":\"x\"}"[..]]);
    assert!(tokio::time::timeout(Duration::from_millis(50), elsewhere.next()).await.is_err(), "another namespace");
    drop((all, elsewhere));
    wanted(outbox, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_answer_to_addresses_and_localhost_only() {
    let reporting = reporting().await;
    let address = reporting.address.to_string();
    for (host, expected) in [(&*address, 200), ("localhost:1", 200), ("[::1]:1", 200), ("rebound.example.com", 403)] {
        let answer = Client::new(&address).get("/proxies", &[("host", host)]).await.unwrap();
        assert_eq!(answer.status(), expected, "{host}");
    }
}
