//! How long an edit takes from the write's return to the first request that every proxy judges by it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::task::JoinSet;

use crate::{
    checkout,
    http::Client,
    mesh::{Mesh, Options},
};

/// Edits that are measured.
const EDITS: u32 = 200;

/// Routes of the edge that nobody asks for, as many to a document as Gateway API allows but few.
const ROUTES: usize = 3000;
const ROUTES_PER_DOCUMENT: usize = 10;

/// An edit that is not live by then is a failure.
const LIMIT: Duration = Duration::from_secs(10);

/// What is asked for through the edge: one path per proxy. The edge judges the first, the sidecars the others.
const JUDGES: [&str; 5] = ["edge", "productpage", "details", "reviews", "ratings"];

/// The policy of one edit: the edge's callers have no mesh identity, the sidecars' have.
fn policy(edit: u32) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: edits
  namespace: istio-system
spec:
  action: DENY
  rules:
  - from:
    - source:
        namespaces: [bookinfo]
    to:
    - operation:
        paths: [\"*/{edit}\"]
  - to:
    - operation:
        paths: [/edge/{edit}]
"
    )
}

/// Routes that lead each judge's paths to it.
fn judges() -> String {
    let rule = |name: &&str| {
        format!(
            "  - matches:
    - path: {{type: PathPrefix, value: /{name}}}
    backendRefs:
    - name: {name}
      port: 9080
"
        )
    };
    let rules: String = JUDGES.iter().skip(1).map(rule).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: judges
  namespace: bookinfo
spec:
  parentRefs:
  - name: edge
  rules:
{rules}"
    )
}

/// Documents with `count` routes that nobody asks for.
fn crowd(count: usize) -> String {
    let route = |document: usize| {
        let rules: String = (0..ROUTES_PER_DOCUMENT)
            .map(|rule| {
                format!(
                    "  - matches:
    - path: {{type: PathPrefix, value: /unused/{document}/{rule}}}
    backendRefs:
    - name: reviews
      port: 9080
"
                )
            })
            .collect();
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: unused-{document}
  namespace: bookinfo
spec:
  parentRefs:
  - name: edge
  rules:
{rules}"
        )
    };
    (0..count / ROUTES_PER_DOCUMENT).map(route).collect()
}

/// Runs the benchmark and gives the tables: the demo's mesh as it is, and with many routes.
///
/// # Errors
/// When a mesh does not start, or an edit is not live within ten seconds.
pub async fn run() -> anyhow::Result<String> {
    Ok(format!("{}\n{}", measure(0).await?, measure(ROUTES).await?))
}

async fn measure(routes: usize) -> anyhow::Result<String> {
    let demo = checkout::root().join("deploy/demo");
    let documents =
        ["bookinfo.yaml", "clients.yaml", "gateway.yaml"].map(|file| demo.join("documents").join(file)).to_vec();
    let mesh = Mesh::start(Options { documents, images: demo.join("images.yaml"), ..Options::default() }).await?;
    let edge = mesh.gateway("bookinfo/edge", 80)?.to_owned();
    mesh.write("judges.yaml", &judges())?;
    if routes > 0 {
        mesh.write("crowd.yaml", &crowd(routes))?;
    }
    let (pods, gateways) = (mesh.ready().pods.len(), mesh.ready().gateways.len());
    let mut taken = Vec::new();
    // The first edit warms connections and is not counted.
    for edit in 0..=EDITS {
        mesh.write("edits.yaml", &policy(edit))?;
        let begin = Instant::now();
        let mut judges = JoinSet::new();
        for judge in JUDGES {
            judges.spawn(judged(edge.clone(), format!("/{judge}/{edit}"), begin));
        }
        let mut slowest = Duration::ZERO;
        while let Some(judged) = judges.join_next().await {
            slowest = slowest.max(judged??);
        }
        if edit > 0 {
            taken.push(slowest);
        }
    }
    mesh.stop().await?;
    taken.sort();
    let quantile =
        |share: usize| taken.get((taken.len() * share / 100).min(taken.len() - 1)).copied().unwrap_or_default();
    Ok(format!(
        "edit to every proxy, {EDITS} edits, {pods} pods and {gateways} gateway, {routes} routes beside those asked for, \
         from the write's return to the first request that each of {} judges by the new version\n\
         | median | p90 | p99 | slowest |\n|---|---|---|---|\n| {:.1?} | {:.1?} | {:.1?} | {:.1?} |\n",
        JUDGES.len(),
        quantile(50),
        quantile(90),
        quantile(99),
        quantile(100),
    ))
}

/// Asks until the answer is 403.
async fn judged(edge: String, path: String, begin: Instant) -> anyhow::Result<Duration> {
    let mut client = Client::new(&edge);
    loop {
        // A request that was in progress when the edit came is cut off; only an answer counts.
        let status = client.get(&path, &[]).await.map(|answer| answer.status());
        if status.as_ref().is_ok_and(|status| *status == 403) {
            return Ok(begin.elapsed());
        }
        ensure!(begin.elapsed() < LIMIT, "`{path}` still answers {status:?} after {LIMIT:?}");
    }
}
