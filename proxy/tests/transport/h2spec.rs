//! The public conformance suite for HTTP/2 servers against our downstream HTTP/2.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::certs::Pki;
use crate::support::h1_peer;
use crate::support::hop::Setup;
use palisade_proxy::transport::UpstreamProtocol;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2spec_finds_no_fault() {
    let origin = h1_peer::start().await;
    // Over TLS: in the clear, what is no preface is a bad HTTP/1 request.
    let setup = Setup { accept_tls: Some(Pki::new().server_public), ..Setup::to(origin.address) };
    let hop = setup.speaking(UpstreamProtocol::Http1).start().await;
    let port = hop.address.port().to_string();
    let run = Command::new("h2spec")
        .args(["--host", "127.0.0.1", "--port", &port, "--timeout", "5", "--tls", "--insecure"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(std::time::Duration::from_secs(300), run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: h2spec is not installed; deploy/scripts/prerequisites test builds it");
            return;
        }
        other => panic!("{other:?}"),
    };
    let report = String::from_utf8_lossy(&output.stdout);
    let failures: Vec<&str> = report.split("\n\n").filter(|part| part.contains('×')).collect();
    let summary = report.lines().rfind(|line| line.contains("tests,")).unwrap_or_default();
    println!("{summary}");
    assert!(output.status.success() && summary.contains(" 0 failed"), "{summary}\n{}", failures.join("\n\n"));
}
