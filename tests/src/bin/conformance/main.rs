//! `conformance`: runs the Gateway API's conformance suite, unmodified, against Palisade on a real node.

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context, bail};
use clap::Parser;
use palisade_tests::{
    checkout,
    kubernetes::{Node, lacks_for_node},
};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

mod install;
mod report;

/// Every profile that there is.
const PROFILES: &str = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP,MESH-HTTP,MESH-GRPC";

/// What is served of routes at Services. What Gateways serve, their class says.
const MESH_FEATURES: [&str; 10] = [
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// Addresses of the node's pool that no Service is given by itself, and one that it does not have at all.
const USABLE_ADDRESS: &str = "203.0.113.250";
const UNUSABLE_ADDRESS: &str = "192.0.2.1";

/// Runs the Gateway API's conformance suite against Palisade on a real node, and writes its report.
#[derive(Debug, Parser)]
struct Options {
    /// One test alone, by its short name; no report is written.
    #[arg(long, value_name = "NAME")]
    run_test: Option<String>,
    /// Tests to leave out; no report is written.
    #[arg(long, value_name = "NAMES")]
    skip_tests: Option<String>,
    /// Where the report goes.
    #[arg(long, value_name = "DIR", default_value_os_t = checkout::root().join("docs/conformance"))]
    reports: PathBuf,
    /// Where everything that the suite says goes.
    #[arg(long, value_name = "FILE", default_value_os_t = checkout::root().join("target/conformance.log"))]
    log: PathBuf,
    /// Leaves the cluster running after the suite, until standard input ends.
    #[arg(long)]
    keep: bool,
    /// Further flags of the suite.
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything passed.
async fn run(options: Options) -> anyhow::Result<bool> {
    if let Some(lack) = lacks_for_node() {
        bail!(lack);
    }
    let suite = built().await?;
    eprintln!("starting Kubernetes with a node");
    let node = Node::start().await?;
    install::images(&node, &suite).await?;
    install::palisade(&node).await?;
    let is_whole = options.run_test.is_none() && options.skip_tests.is_none() && options.flags.is_empty();
    let written = node.folder().join("report.yaml");
    let outcome = judge(&node, &suite, &options, is_whole.then_some(written.as_path())).await?;
    println!("{outcome}");
    if is_whole {
        report::write(&options.reports, &written, &outcome)?;
    }
    if options.keep {
        let kubectl = node.kubectl_program();
        eprintln!("KUBECONFIG={} nsenter --net={} {}", node.kubeconfig().display(), node.network(), kubectl.display());
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())).await??;
    }
    Ok(outcome.failed.is_empty())
}

/// The folder of the suite's programs.
async fn built() -> anyhow::Result<PathBuf> {
    let script = checkout::root().join("tests/conformance/build");
    let output =
        Command::new(&script).stderr(Stdio::inherit()).output().await.with_context(|| script.display().to_string())?;
    let said = String::from_utf8(output.stdout)?;
    let folder = said.lines().last().filter(|_| output.status.success());
    folder.map(PathBuf::from).with_context(|| format!("{} failed", script.display()))
}

/// Runs the suite beside the cluster and reads its results off its output.
async fn judge(node: &Node, suite: &Path, options: &Options, report: Option<&Path>) -> anyhow::Result<report::Outcome> {
    let of_class = ["get", "gatewayclass", "palisade", "-o", "jsonpath={.status.supportedFeatures[*].name}"];
    let of_class = node.kubectl(&of_class).await?;
    let features: Vec<&str> = of_class.split_whitespace().chain(MESH_FEATURES).collect();
    let mut command = node.command(suite.join("suite"));
    command.args(["-test.v", "-test.run=TestConformance", "-test.timeout=3h", "-gateway-class=palisade"]);
    command.arg(format!("-supported-features={}", features.join(",")));
    command.arg(format!("-usable-address={USABLE_ADDRESS}")).arg(format!("-unusable-address={UNUSABLE_ADDRESS}"));
    // What is labelled gets sidecars; the Gateways' own pods never do.
    command.arg("-namespace-labels=istio-injection=enabled");
    match &options.run_test {
        Some(test) => command.arg(format!("-run-test={test}")),
        None => command.arg(format!("-conformance-profiles={PROFILES}")),
    };
    command.args(options.skip_tests.as_ref().map(|tests| format!("-skip-tests={tests}")));
    if let Some(path) = report {
        command.arg(format!("-report-output={}", path.display())).args(report::implementation());
    }
    command.args(&options.flags).current_dir(suite).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().context("cannot run `nsenter` (util-linux)")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    if let Some(folder) = options.log.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let mut log = File::create(&options.log).await.with_context(|| options.log.display().to_string())?;
    eprintln!("running the suite; what it says goes to {}", options.log.display());
    let mut outcome = report::Outcome::default();
    while let Some(line) = lines.next_line().await? {
        log.write_all(line.as_bytes()).await?;
        log.write_all(b"\n").await?;
        if let Some(said) = outcome.hear(&line) {
            eprintln!("{said}");
        }
    }
    log.flush().await?;
    let status = child.wait().await?;
    if !status.success() && outcome.failed.is_empty() {
        bail!("the suite ended with {status} before any test: see {}", options.log.display());
    }
    Ok(outcome)
}
