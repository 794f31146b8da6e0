//! A mesh of real processes whose root is replaced under traffic, step by step and back, and no request fails. What is revoked is
//! refused at once.

use std::{
    fs,
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    load::Load,
    mesh::{Mesh, Options, Pod},
    wait::until,
};
use serde_json::Value;
use tokio::process::Command;

#[path = "rotation/revocation.rs"]
mod revocation;

const SOON: Duration = Duration::from_secs(30);

const DOCUMENTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: palisade, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 9080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec:
  serviceAccountName: web
  containers: [{name: app, image: web, command: [bookinfo, echo, --port=9080], ports: [{containerPort: 9080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, namespace: shop, labels: {app: client}}
spec:
  serviceAccountName: client
  containers: [{name: app, image: client, command: [bookinfo, client]}]
";

/// A mesh, and the folder of its authority.
struct Stand {
    mesh: Mesh,
    client: Pod,
    authority: tempfile::TempDir,
}

impl Stand {
    async fn start() -> anyhow::Result<Self> {
        let source = tempfile::tempdir()?;
        fs::create_dir(source.path().join("documents"))?;
        fs::write(source.path().join("documents/all.yaml"), DOCUMENTS)?;
        fs::write(source.path().join("images.yaml"), "{}\n")?;
        let authority = tempfile::tempdir()?;
        let mesh = Mesh::start(Options {
            documents: vec![source.path().join("documents")],
            images: source.path().join("images.yaml"),
            arguments: vec![format!("--ca={}", authority.path().join("ca").display())],
            ..Options::default()
        })
        .await?;
        let client = mesh.pod("shop", "client")?.clone();
        Ok(Self { mesh, client, authority })
    }

    fn ca(&self, name: &str) -> std::path::PathBuf {
        self.authority.path().join("ca").join(name)
    }

    async fn identity(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let output = Command::new(checkout::binary("palisade")?)
            .arg("identity")
            .args(arguments)
            .args(["--control", &self.mesh.read_ready()?.control.admin])
            .output();
        output.await.context("cannot run `palisade identity`")
    }

    async fn status(&self) -> anyhow::Result<Value> {
        let output = self.identity(&["status", "-o", "json"]).await?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    }

    /// Takes a step, waiting for the proxies to have followed the one before; gives what was said.
    async fn step(&self, back: bool) -> anyhow::Result<String> {
        let mut arguments = vec!["rotate", "--wait", "60"];
        arguments.extend(back.then_some("--back"));
        let output = self.identity(&arguments).await?;
        ensure!(output.status.success(), "{output:?}\n{}", self.mesh.said());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// One call of the client's application; the status, or 0 where there is no answer.
    async fn call(&self) -> anyhow::Result<u64> {
        let counts = self.calls(1).await?;
        let status = counts.as_object().and_then(|counts| counts.keys().next().cloned()).context("no answer")?;
        Ok(status.parse().unwrap_or(0))
    }

    async fn calls(&self, count: u32) -> anyhow::Result<Value> {
        calls(&self.mesh, &self.client, count).await
    }
}

async fn calls(mesh: &Mesh, client: &Pod, count: u32) -> anyhow::Result<Value> {
    let count = count.to_string();
    let command = ["bookinfo", "call", "--count", "-n", &count, "http://web.shop:9080/"];
    let output = mesh.exec(client, &command).await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

/// The number of roots in a bundle file.
fn roots(path: &Path) -> anyhow::Result<usize> {
    Ok(fs::read_to_string(path)?.matches("BEGIN CERTIFICATE").count())
}

fn count(status: &Value, field: &str) -> Vec<u64> {
    let roots = status["roots"].as_array().cloned().unwrap_or_default();
    roots.iter().filter_map(|root| root[field].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_replaced_under_traffic_and_no_request_fails() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let stand = Arc::new(Stand::start().await?);
    let edge = stand.mesh.gateway("shop/edge", 80)?.to_owned();
    until("a first answer", SOON, async || {
        ensure!(stand.call().await? == 200);
        Ok(())
    })
    .await?;
    let load = Load::start(&edge, "/", &[], 4);
    let stop = Arc::new(AtomicBool::new(false));
    let inside = {
        let (stand, stop) = (Arc::clone(&stand), Arc::clone(&stop));
        tokio::spawn(async move {
            let (mut total, mut odd) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let counts = stand.calls(100).await?;
                total += 100;
                if counts != serde_json::json!({"200": 100}) {
                    odd.push(counts);
                }
            }
            anyhow::Ok((total, odd))
        })
    };

    let first = stand.status().await?;
    ensure!(first["phase"].is_null() && first["roots"].as_array().is_some_and(|roots| roots.len() == 1), "{first}");
    let old = fs::read_to_string(stand.ca("root-cert.pem"))?;
    ensure!(!stand.identity(&["rotate", "--back"]).await?.status.success(), "there is nothing to take back");

    // To the end of the second step and back to the start, then all the way.
    let steps = [
        (false, "distributing", 2),
        (false, "signing", 2),
        (true, "distributing", 2),
        (true, "", 1),
        (false, "distributing", 2),
        (false, "signing", 2),
    ];
    for (back, phase, trusted) in steps {
        let said = stand.step(back).await?;
        let status = stand.status().await?;
        ensure!(status["phase"].as_str().unwrap_or_default() == phase, "{said}: {status}");
        ensure!(roots(&stand.ca("root-cert.pem"))? == trusted, "{said}");
        if phase == "signing" {
            // At once: the proxies' certificates are of the old root, and each of them is named.
            let refused = stand.identity(&["rotate"]).await?;
            let text = String::from_utf8_lossy(&refused.stdout).into_owned();
            let is_named = text.contains("proxy shop/") && text.contains("its certificate is of the root");
            ensure!(refused.status.code() == Some(1) && is_named, "{text}");
        }
    }
    let before = fs::read_to_string(stand.ca("root-cert.pem"))?;
    ensure!(before.contains(old.trim()), "the old root is still trusted");
    // A control plane that starts again in the middle goes on where it was, and says nothing before its proxies are back.
    stand.mesh.kill_control().await?;
    until("a control plane", SOON, async || {
        ensure!(stand.status().await?["phase"] == "signing");
        Ok(())
    })
    .await?;
    let said = stand.step(false).await?;
    ensure!(!fs::read_to_string(stand.ca("root-cert.pem"))?.contains(old.trim()), "{said}");
    until("all proxies on the new root", SOON, async || {
        let status = stand.status().await?;
        let proxies = status["proxies"].as_u64().unwrap_or_default();
        ensure!(
            proxies == 3 && count(&status, "leaves") == [proxies] && count(&status, "trustedBy") == [proxies],
            "{status}"
        );
        Ok(())
    })
    .await?;

    // A proxy that starts now knows only what was there when the mesh began; it has kept the rest.
    let pid = stand.client.pid.context("no sidecar")?;
    stop.store(true, Ordering::Relaxed);
    let (total, odd) = inside.await??;
    let count = load.stop().await?;
    println!("{count:?}; {total} requests inside");
    ensure!(count.not_ok() == 0, "{count:?}");
    ensure!(odd.is_empty() && total > 0, "of {total}: {odd:?}");
    Command::new("kill").args(["-KILL", &pid.to_string()]).output().await?;
    until("the client's sidecar is back", SOON, async || {
        ensure!(stand.call().await? == 200);
        Ok(())
    })
    .await?;
    Arc::into_inner(stand).context("still in use")?.mesh.stop().await
}
