//! Hosts outside the mesh, reached by real processes in namespaces: an egress gateway that knows its callers, originates TLS and
//! relays it by server name; hosts that nobody declared are refused.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    mesh::{Mesh, Options, Pod},
};
use serde_json::Value;
use tempfile::TempDir;

/// The hosts outside the mesh.
const HOSTS: [&str; 4] = ["www.example.com", "relayed.example.com", "direct.example.com", "unknown.example.com"];

/// How long a host outside the mesh may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_egress_gateway_knows_its_callers_and_unknown_hosts_are_refused() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let sources = checkout::root().join("tests/tests/egress");
    let folder = tempfile::Builder::new().prefix("palisade-egress-").tempdir()?;
    let ca = certificates(&folder, &sources)?;
    let origin = |host: &str| {
        let file = |name: &str| folder.path().join(name).display().to_string();
        format!("--external={host}=python3 {}/origin.py {} {}", sources.display(), file("cert.pem"), file("key.pem"))
    };
    let mesh = Mesh::start(Options {
        documents: vec![folder.path().join("documents")],
        images: folder.path().join("images.yaml"),
        arguments: HOSTS.map(origin).to_vec(),
        ..Options::default()
    })
    .await?;
    let (allowed, other) = (mesh.pod("shop", "allowed")?.clone(), mesh.pod("shop", "other")?.clone());
    let call = async |pod: &Pod, url: &str| call(&mesh, pod, &sources, url, &ca).await;
    let gateway = mesh.ready().gateways.first().context("no gateway")?.address.clone();

    // The hosts outside start on their own: wait for them once.
    let deadline = tokio::time::Instant::now() + START_LIMIT;
    let answer = loop {
        let answer = call(&allowed, "http://www.example.com/").await?;
        if answer["status"] == 200 || tokio::time::Instant::now() > deadline {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let log = || mesh.access_log("istio-system", "egressgateway").unwrap_or_default();
    ensure!(answer["status"] == 200, "{answer}; {:#?}", log());
    let said: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default())?;
    ensure!(said["tls"] == true && said["host"] == "www.example.com", "TLS is originated: {said}");
    ensure!(said["peer"] == gateway.as_str(), "by the gateway at {gateway}: {said}");
    let line = log().into_iter().find(|line| line["status"] == 200).context("no line of the gateway")?;
    ensure!(line["source"] == "spiffe://cluster.local/ns/shop/sa/allowed", "the caller's identity: {line}");

    let answer = call(&other, "http://www.example.com/").await?;
    ensure!(answer["status"] == 403, "another caller is refused: {answer}");

    let answer = call(&other, "https://relayed.example.com/").await?;
    ensure!(answer["status"] == 200, "TLS is relayed by server name: {answer}; {:#?}", log());
    let said: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default())?;
    ensure!(said["peer"] == gateway.as_str(), "through the gateway: {said}");

    for url in ["http://direct.example.com/", "https://direct.example.com/"] {
        let answer = call(&other, url).await?;
        ensure!(answer["status"] == 200, "{url}: {answer}");
        let said: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default())?;
        ensure!(said["peer"] == other.ip.as_str(), "past the gateway: {said}");
    }

    let answer = call(&allowed, "http://unknown.example.com/").await?;
    ensure!(answer["status"] == 502, "a host that nobody declared: {answer}");
    let answer = call(&allowed, "https://unknown.example.com/").await?;
    ensure!(answer["status"] == 0, "closed: {answer}");
    mesh.stop().await
}

async fn call(mesh: &Mesh, pod: &Pod, sources: &Path, url: &str, ca: &str) -> anyhow::Result<Value> {
    let script = sources.join("call.py").display().to_string();
    let output = mesh.exec(pod, &["python3", &script, url, ca]).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).with_context(|| format!("{url}: {output:?}"))
}

/// Writes documents with the CA of the hosts outside, and their certificate; gives the CA's path.
fn certificates(folder: &TempDir, sources: &Path) -> anyhow::Result<String> {
    let made = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned))?;
    let pem = made.cert.pem();
    fs::write(folder.path().join("cert.pem"), &pem)?;
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
    fs::write(folder.path().join("images.yaml"), "{}\n")?;
    let documents = folder.path().join("documents");
    fs::create_dir(&documents)?;
    fs::copy(sources.join("documents.yaml"), documents.join("documents.yaml"))?;
    let indented: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: www-ca, namespace: istio-system}}\nstringData:\n  ca.crt: |\n{indented}"
    );
    fs::write(documents.join("secret.yaml"), secret)?;
    Ok(folder.path().join("cert.pem").display().to_string())
}
