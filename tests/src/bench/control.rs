//! What a control plane costs on a real API server: the mesh of [`documents`], proxies that only receive, edits through the API.

pub mod documents;
mod edits;
mod markers;
mod proxies;
mod stand;

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::Context;
use kube::Client;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use self::{
    documents::{namespace_of, pod_name, route, service_name},
    edits::Edits,
    markers::Markers,
    proxies::{Proxies, Target, place},
    stand::{Control, Stand},
};
use super::process::cpu_time;

/// Proxies of the small, the middle and the large mesh.
const FEW: usize = 10;
const SOME: usize = 100;
const MANY: usize = 1000;
/// First configurations that proxies wait for at a time.
const AT_ONCE: usize = 50;
/// What has just been done is over by then: statuses written, memory given back.
const SETTLE: Duration = Duration::from_secs(8);
/// How long nothing happens while CPU time at rest is measured.
const REST: Duration = Duration::from_secs(20);
/// Routes that are attached to one Gateway.
const ATTACHED: usize = 1000;

/// Runs the benchmark and gives the table.
///
/// # Errors
/// When the cluster or the control plane does not come up, or an edit does not arrive.
pub async fn run(runs: Option<usize>) -> anyhow::Result<String> {
    let edits = runs.unwrap_or(50);
    let stand = Stand::new().await?;
    let mut table = Table::default();
    // The first control plane makes the roots, and writes every status once.
    let first = stand.control().await?;
    let ready = stand.ready(&first).await?;
    table.row("ready, with nothing in status yet, s", format!("{:.2}", ready.as_secs_f64()));
    let tokens = tokens(&stand.client, MANY).await?;
    written(&stand, &first, &mut table).await?;
    attached(&stand, &first, &mut table).await?;
    first.stop().await?;

    let control = stand.control().await?;
    let outcome = Box::pin(some(&stand, &control, &tokens, edits, &mut table)).await;
    outcome.with_context(|| control.said())?;
    control.stop().await?;

    let control = stand.control().await?;
    let outcome = Box::pin(many(&stand, &control, &tokens, &mut table)).await;
    outcome.with_context(|| control.said())?;
    control.stop().await?;

    let control = stand.control().await?;
    let outcome = Box::pin(storm(&stand, &control, &tokens, &mut table)).await;
    outcome.with_context(|| control.said())?;
    control.stop().await?;
    Ok(table.0)
}

/// Up to a hundred proxies, and edits.
async fn some(
    stand: &Stand,
    control: &Control,
    tokens: &[String],
    edits: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let target = stand.target(control).await?;
    let mut proxies = Proxies::new(Markers::default());
    let bytes = proxies.connect(&target, first_of(tokens, FEW), FEW).await?;
    let served = control.started.elapsed();
    table.row("cold start to the first 10 proxies served, s", format!("{:.2}", served.as_secs_f64()));
    table.row("full compile, ms", control.compiles()?.first().map_or("–".to_owned(), |ms| format!("{ms:.0}")));
    table.row("bytes to a proxy, first", (bytes / FEW as u64).to_string());
    sleep(SETTLE).await;
    table.row("RSS with 10 proxies, MiB", format!("{:.0}", control.resident()?));
    proxies.connect(&target, first_of(tokens, SOME), AT_ONCE).await?;
    calm(stand, control).await?;
    table.row("RSS with 100 proxies, MiB", format!("{:.0}", control.resident()?));
    table.row("CPU at rest with 100 proxies, % of a core", at_rest(control).await?);
    Edits { stand, control, proxies: &proxies, count: edits }.run(table).await?;
    table.row("RSS after the edits, MiB", format!("{:.0}", control.resident()?));
    Ok(())
}

/// A thousand proxies.
async fn many(stand: &Stand, control: &Control, tokens: &[String], table: &mut Table) -> anyhow::Result<()> {
    stand.ready(control).await?;
    let target: Target = stand.target(control).await?;
    sleep(SETTLE).await;
    let mut proxies = Proxies::new(Markers::default());
    let (before, begin) = (cpu_time(control.pid)?, Instant::now());
    proxies.connect(&target, tokens, AT_ONCE).await?;
    let (taken, cpu) = (begin.elapsed(), cpu_time(control.pid)?.saturating_sub(before));
    let text = format!("{:.1} s, {:.1} s", taken.as_secs_f64(), cpu.as_secs_f64());
    table.row("first configuration of 1,000 proxies, 50 at a time: time, CPU", text);
    calm(stand, control).await?;
    table.row("RSS with 1,000 proxies, MiB", format!("{:.0}", control.resident()?));
    table.row("CPU at rest with 1,000 proxies, % of a core", at_rest(control).await?);
    Edits { stand, control, proxies: &proxies, count: 20 }.few(table).await
}

/// A hundred proxies while endpoints change all the time.
async fn storm(stand: &Stand, control: &Control, tokens: &[String], table: &mut Table) -> anyhow::Result<()> {
    stand.ready(control).await?;
    let target = stand.target(control).await?;
    let mut proxies = Proxies::new(Markers::default());
    proxies.connect(&target, first_of(tokens, SOME), AT_ONCE).await?;
    calm(stand, control).await?;
    Edits { stand, control, proxies: &proxies, count: 0 }.storm(table).await
}

/// Status writes for a mesh that has none.
async fn written(stand: &Stand, control: &Control, table: &mut Table) -> anyhow::Result<()> {
    calm(stand, control).await?;
    let each = [("HTTPRoute", "3,000 new HTTPRoutes"), ("AuthorizationPolicy", "1,000 new AuthorizationPolicies")];
    for (kind, what) in each {
        table.row(&format!("status writes for {what}"), stand.writes(control, kind).await?.to_string());
    }
    Ok(())
}

/// Waits until no status is written any more: how many proxies enforce each object changes with every proxy that comes.
async fn calm(stand: &Stand, control: &Control) -> anyhow::Result<()> {
    let mut last = u64::MAX;
    loop {
        sleep(SETTLE).await;
        let now = stand.writes(control, "HTTPRoute").await? + stand.writes(control, "AuthorizationPolicy").await?;
        if now == last {
            return Ok(());
        }
        last = now;
    }
}

/// Status writes of a Gateway to which a thousand routes are attached, one after the other.
async fn attached(stand: &Stand, control: &Control, table: &mut Table) -> anyhow::Result<()> {
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "palisade"}, "spec": {"controllerName": "palisade.dev/gateway-controller"}});
    let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "ns-00"},
        "spec": {"gatewayClassName": "palisade", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP",
            "allowedRoutes": {"namespaces": {"from": "All"}}}]}});
    stand.write("objects of the edge", vec![class, gateway]).await?;
    let before = stand.writes(control, "Gateway").await?;
    let routes = (0..ATTACHED).map(|number| {
        let mut route = route(number % documents::SERVICES, number, "none");
        route["metadata"]["name"] = json!(format!("edge-{number}"));
        route["metadata"]["labels"] = json!({"bench": "edge"});
        route["spec"]["parentRefs"] = json!([{"name": "edge", "namespace": "ns-00"}]);
        route
    });
    stand.write("routes of the edge", routes.collect()).await?;
    sleep(SETTLE).await;
    let writes = stand.writes(control, "Gateway").await? - before;
    table.row("status writes of the Gateway per 1,000 routes attached", writes.to_string());
    // The mesh of the other rows has none of them.
    for namespace in 0..documents::NAMESPACES {
        let collection =
            format!("/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes", namespace_of(namespace));
        let request = http::Request::delete(format!("{collection}?labelSelector=bench%3Dedge")).body(Vec::new())?;
        let _: serde_json::Value = stand.client.request(request).await?;
    }
    sleep(SETTLE).await;
    Ok(())
}

/// CPU time at rest.
async fn at_rest(control: &Control) -> anyhow::Result<String> {
    let before = cpu_time(control.pid)?;
    sleep(REST).await;
    let cpu = cpu_time(control.pid)?.saturating_sub(before);
    Ok(format!("{:.2}", cpu.as_secs_f64() / REST.as_secs_f64() * 100.0))
}

/// Tokens of the first proxies' pods, as their nodes would ask for them.
async fn tokens(client: &Client, count: usize) -> anyhow::Result<Vec<String>> {
    use k8s_openapi::api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Pod, ServiceAccount},
    };
    use kube::{Api, api::PostParams};
    let one = |proxy: usize, client: Client| async move {
        let (service, pod) = place(proxy);
        let (namespace, name) = (namespace_of(service), pod_name(service, pod));
        let uid = Api::<Pod>::namespaced(client.clone(), &namespace).get(&name).await?.metadata.uid;
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name),
            uid,
        };
        let spec = TokenRequestSpec {
            audiences: vec!["palisade".to_owned()],
            bound_object_ref: Some(bound),
            expiration_seconds: Some(3600),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(client, &namespace);
        let account = service_name(service);
        let made = accounts.create_token_request(&account, &PostParams::default(), &request).await?;
        anyhow::Ok((proxy, made.status.context("no token")?.token))
    };
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut under_way = JoinSet::new();
    for proxy in 0..count {
        if under_way.len() == 16
            && let Some(done) = under_way.join_next().await
        {
            all.push(done??);
        }
        under_way.spawn(one(proxy, client.clone()));
    }
    while let Some(done) = under_way.join_next().await {
        all.push(done??);
    }
    all.sort();
    Ok(all.into_iter().map(|(_, token)| token).collect())
}

fn first_of(tokens: &[String], count: usize) -> &[String] {
    tokens.get(..count).unwrap_or(tokens)
}

/// Rows of a table, printed as they come: a run takes minutes.
#[derive(Debug)]
struct Table(String);

impl Default for Table {
    fn default() -> Self {
        Self("| figure | palisade |\n|---|---|\n".to_owned())
    }
}

impl Table {
    fn row(&mut self, what: &str, value: String) {
        eprintln!("{what}: {value}");
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "| {what} | {value} |");
    }
}
