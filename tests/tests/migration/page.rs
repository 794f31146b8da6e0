//! The commands of `docs/tasks/migrate-from-istio.md`, each as it is written there, on a real API server with a control plane of ours.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{checkout, istio_sidecar::IstioSidecars, kubernetes::Cluster, wait::until};

const SOON: Duration = Duration::from_secs(60);

/// Blocks between "```sh" and "```".
fn commands(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(text), line) => *text += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    blocks
}

#[tokio::test]
async fn every_command_of_the_page_does_what_it_says() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(checkout::root().join("docs/tasks/migrate-from-istio.md"))?;
    let blocks = commands(&page);
    ensure!(blocks.len() > 6, "{blocks:?}");
    let cluster = Cluster::exclusive().await?;
    let folder = tempfile::tempdir()?;
    let programs = checkout::binary("palisade")?.parent().context("no folder")?.display().to_string();
    let path = format!("{programs}:{}:{}", cluster.programs().display(), std::env::var("PATH")?);
    let run = async |script: &str| {
        let mut command = cluster.command("sh");
        command.args(["-euc", script]).current_dir(folder.path()).env("PATH", &path).stdin(Stdio::null());
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        eprintln!("$ {script}{said}");
        ensure!(output.status.success(), "{script}: {said}");
        anyhow::Ok(())
    };

    // Istio's part: its definitions, a root that is plugged in, a namespace that it injects, and one node that runs pods.
    let istio = IstioSidecars::new(folder.path(), "shop", &["reviews"], "reviews", 9080)?;
    let here = checkout::root().join("tests/tests/migration");
    cluster.install_gateway_api("standard").await?;
    cluster.fake_nodes(1).await?;
    drop(cluster.kubectl(&["delete", "namespace", "palisade-system", "--ignore-not-found"]).await?);
    run("palisade crds apply --istio").await?;
    cluster.apply(&std::fs::read_to_string(here.join("page-cluster.yaml"))?).await?;
    cluster.apply(&std::fs::read_to_string(here.join("page-istio.yaml"))?).await?;
    let root = istio.ca().display().to_string();
    run(&format!("kubectl --namespace istio-system create secret generic cacerts --from-file={root}\n")).await?;
    run("kubectl --namespace shop rollout status deployment --timeout=1m\n").await?;

    let mut control = None;
    for block in &blocks {
        // The control plane is installed once the page has made its namespace and definitions, by what others document.
        if block.contains("palisade-ca-root-cert") {
            let connector = cluster.connector();
            let (listen, admin, webhook) =
                (connector.free_address().await?, connector.free_address().await?, connector.free_address().await?);
            let mut command = cluster.command(checkout::binary("palisade-control")?);
            command
                .arg("--kubeconfig")
                .arg(cluster.kubeconfig())
                .args(["--control-namespace", "palisade-system", "--revision", "palisade"])
                .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
                .args(["--webhook", &webhook.to_string(), "--webhook-url", &format!("https://{webhook}")])
                .stdin(Stdio::null());
            control = Some(command.spawn()?);
            until("roots in every namespace, and the webhook", SOON, async || {
                cluster.kubectl(&["-n", "shop", "get", "configmap", "palisade-ca-root-cert"]).await?;
                cluster.kubectl(&["get", "mutatingwebhookconfiguration", "palisade-palisade"]).await.map(drop)
            })
            .await?;
        }
        run(block).await?;
    }
    ensure!(control.is_some(), "the page never looks at the root");
    for kind in [
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicies",
    ] {
        cluster.kubectl(&["delete", kind, "-l", "app.kubernetes.io/part-of=palisade"]).await?;
    }
    Ok(())
}
