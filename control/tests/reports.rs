//! The stream of decision records over gRPC, as a proxy that lies would use it.

use std::{pin::pin, time::Duration};

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use palisade_compile::SourceOptions;
use palisade_control::standalone;
use palisade_model::settings::WorkloadRef;
use palisade_wire::proto::v1::{
    DecisionRecords, DecisionReport, DecisionReporter, decision_report::Kind,
    decision_reports_client::DecisionReportsClient,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Endpoint};

const DOCUMENTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a-1, namespace: foo, labels: {app: a}}
spec: {serviceAccountName: a, containers: [{name: app, image: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b-1, namespace: foo, labels: {app: b}}
spec: {serviceAccountName: b, containers: [{name: app, image: b}]}
";

const SOON: Duration = Duration::from_secs(20);

fn reporter(name: &str) -> DecisionReport {
    let reporter = DecisionReporter { namespace: "foo".to_owned(), name: name.to_owned() };
    DecisionReport { kind: Some(Kind::Reporter(reporter)) }
}

fn records() -> DecisionReport {
    let records = DecisionRecords { records: vec![bytes::Bytes::from_static(b"{\"v\":1}")], dropped: 0 };
    DecisionReport { kind: Some(Kind::Records(records)) }
}

#[tokio::test]
async fn a_stream_that_claims_another_pods_name_is_refused_and_its_records_reach_nobody() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), DOCUMENTS).unwrap();
    let stop = CancellationToken::new();
    let options = SourceOptions { is_files: true, ..SourceOptions::default() };
    let files = vec![folder.path().join("all.yaml")];
    let control = standalone(files, "default", options, &folder.path().join("ca"), stop.clone()).unwrap();
    let token = |name: &str| {
        let pod = WorkloadRef { namespace: "foo".into(), name: name.into() };
        format!("Bearer {}", control.token(&pod).unwrap())
    };
    let report = async |proof: Option<String>, said: Vec<DecisionReport>| -> Result<(), Status> {
        let pipes = control.connect.clone();
        let connector = tower::service_fn(move |_| {
            let pipes = pipes.clone();
            async move {
                let (near, far) = tokio::io::duplex(64 * 1024);
                pipes.send(far).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        let channel = Endpoint::from_static("http://control").connect_with_connector(connector).await.unwrap();
        // The stream stays open behind what is said: only the control plane can end it.
        let said = futures::stream::iter(said).chain(futures::stream::pending());
        let mut request = Request::new(said);
        if let Some(proof) = proof {
            request.metadata_mut().insert("authorization", proof.parse().unwrap());
        }
        let mut wishes = DecisionReportsClient::new(channel).report(request).await?.into_inner();
        while let Some(wish) = tokio::time::timeout(SOON, wishes.message()).await.unwrap()? {
            // Whoever is believed is told whether his records are wanted.
            if wish.is_wanted {
                return Ok(());
            }
        }
        Ok(())
    };
    let mut heard = pin!(control.shared().decisions().subscribe(String::new()).unwrap());
    for (name, proof, first, expected, words) in [
        ("another pod", Some(token("a-1")), reporter("b-1"), Code::PermissionDenied, "not to foo/b-1"),
        ("no such pod", Some(token("a-1")), reporter("c-1"), Code::PermissionDenied, "not to foo/c-1"),
        ("nobody", None, reporter("a-1"), Code::Unauthenticated, "a token or a client certificate is needed"),
        ("records first", Some(token("a-1")), records(), Code::InvalidArgument, "who reports"),
    ] {
        let refused = report(proof, vec![first, records()]).await.unwrap_err();
        assert_eq!(refused.code(), expected, "{name}: {refused}");
        assert!(refused.message().contains(words), "{name}: {refused}");
    }
    // The same with its own name is heard, and is the first that is.
    report(Some(token("a-1")), vec![reporter("a-1"), records()]).await.unwrap();
    let batch = tokio::time::timeout(SOON, heard.next()).await.unwrap().unwrap();
    assert_eq!((&*batch.namespace, &*batch.name), ("foo", "a-1"));
    stop.cancel();
}
