//! Istio's sample documents, unchanged, run by `palisade dev`: each routing document does what it says.
//!
//! The folder is the one that `ISTIO_SAMPLES` names; without it these tests report themselves as skipped.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null, it does not panic")]

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    http::{Client, text},
    mesh::{Mesh, Options},
    wait::until,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const REQUESTS: u32 = 1_000;

/// What the page's API shows of one request: the version of reviews, and whether ratings answered.
type Seen = BTreeMap<String, u32>;

/// Headers of a request.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// Versions with the least and the most of 1,000 requests that they may answer.
type Shares<'a> = &'a [(&'a str, u32, u32)];

/// The folder of samples, or `None` with the reason printed.
fn samples() -> anyhow::Result<Option<PathBuf>> {
    let Some(folder) = checkout::istio_samples()? else {
        println!("skipped: ISTIO_SAMPLES is not set");
        return Ok(None);
    };
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(None);
    }
    Ok(Some(folder))
}

fn options(documents: Vec<PathBuf>) -> Options {
    Options { documents, images: checkout::root().join("deploy/demo/images.yaml"), ..Options::default() }
}

#[tokio::test]
async fn virtual_services_of_bookinfo_do_what_they_say() -> anyhow::Result<()> {
    let Some(samples) = samples()? else { return Ok(()) };
    let networking = samples.join("bookinfo/networking");
    let mesh = Mesh::start(options(vec![
        samples.join("bookinfo/platform/kube/bookinfo.yaml"),
        networking.join("bookinfo-gateway.yaml"),
        networking.join("destination-rule-all.yaml"),
    ]))
    .await?;
    let edge = mesh.gateway("istio-system/ingressgateway", 8080)?.to_owned();
    let put = |file: &str| mesh.write("current.yaml", &std::fs::read_to_string(networking.join(file))?);

    // file, who asks, the version that only the new document brings, the shares of 1,000 with ten standard deviations
    let jason = [("cookie", "user=jason"), ("end-user", "jason")];
    let cases: [(&str, Headers<'_>, Shares<'_>); 7] = [
        ("virtual-service-all-v1.yaml", &[], &[("v1", 1000, 1000)]),
        ("virtual-service-reviews-90-10.yaml", &[], &[("v1", 805, 995), ("v2", 5, 195)]),
        ("virtual-service-reviews-50-v3.yaml", &[], &[("v1", 342, 658), ("v3", 342, 658)]),
        ("virtual-service-reviews-v3.yaml", &[], &[("v3", 1000, 1000)]),
        ("virtual-service-reviews-test-v2.yaml", &jason, &[("v2", 1000, 1000)]),
        ("virtual-service-reviews-test-v2.yaml", &[], &[("v1", 1000, 1000)]),
        ("virtual-service-all-v1.yaml", &jason, &[("v1", 1000, 1000)]),
    ];
    for (file, headers, shares) in cases {
        put(file)?;
        let allowed: Vec<&str> = shares.iter().map(|(version, ..)| *version).collect();
        live(&edge, headers, &allowed).await.context(file)?;
        let seen = count(&edge, headers).await?;
        for (version, least, most) in shares {
            let share = seen.get(*version).copied().unwrap_or(0);
            ensure!((*least..=*most).contains(&share), "{file}: {version} answered {share} times: {seen:?}");
        }
        ensure!(seen.keys().all(|version| allowed.contains(&version.as_str())), "{file}: {seen:?}");
    }

    faults(&mesh, &edge, &networking).await?;
    mesh.stop().await
}

/// The two documents that inject faults before ratings, for jason alone.
async fn faults(mesh: &Mesh, edge: &str, networking: &std::path::Path) -> anyhow::Result<()> {
    mesh.write("current.yaml", &std::fs::read_to_string(networking.join("virtual-service-ratings-test-abort.yaml"))?)?;
    let jason = [("cookie", "user=jason"), ("end-user", "jason")];
    let ratings = "/api/v1/products/0/ratings";
    until("the abort", SOON, async || {
        let status = Client::new(edge).get(ratings, &jason).await?.status();
        ensure!(status == 500, "jason got {status}");
        Ok(())
    })
    .await?;
    let (mut his, mut theirs) = (Client::new(edge), Client::new(edge));
    for _ in 0..REQUESTS {
        ensure!(his.get(ratings, &jason).await?.status() == 500, "an abort of 100 % let jason through");
        ensure!(theirs.get(ratings, &[]).await?.status() == 200, "the abort is for jason alone");
    }

    mesh.write("current.yaml", &std::fs::read_to_string(networking.join("virtual-service-ratings-test-delay.yaml"))?)?;
    until("the delay", SOON, async || {
        let status = Client::new(edge).get(ratings, &[]).await?.status();
        ensure!(status == 200, "others got {status}");
        // The page gives up on ratings after 3 s; the delay is 7 s.
        let begin = std::time::Instant::now();
        let status = Client::new(edge).get(ratings, &jason).await?.status();
        ensure!(
            status != 200 && status != 500 || begin.elapsed() >= Duration::from_secs(3),
            "jason was not delayed: {status}"
        );
        Ok(())
    })
    .await?;
    for _ in 0..REQUESTS {
        ensure!(theirs.get(ratings, &[]).await?.status() == 200, "the delay is for jason alone");
    }
    Ok(())
}

#[tokio::test]
async fn gateway_api_routes_of_bookinfo_do_what_they_say() -> anyhow::Result<()> {
    let Some(samples) = samples()? else { return Ok(()) };
    let routes = samples.join("bookinfo/gateway-api");
    let kube = samples.join("bookinfo/platform/kube");
    let mesh = Mesh::start(options(vec![
        kube.join("bookinfo.yaml"),
        kube.join("bookinfo-versions.yaml"),
        routes.join("bookinfo-gateway.yaml"),
    ]))
    .await?;
    let edge = mesh.gateway("default/bookinfo-gateway", 80)?.to_owned();
    let cases: [(&str, Shares<'_>); 2] = [
        ("route-all-v1.yaml", &[("v1", 1000, 1000)]),
        ("route-reviews-90-10.yaml", &[("v1", 805, 995), ("v2", 5, 195)]),
    ];
    for (file, shares) in cases {
        mesh.write("current.yaml", &std::fs::read_to_string(routes.join(file))?)?;
        let allowed: Vec<&str> = shares.iter().map(|(version, ..)| *version).collect();
        live(&edge, &[], &allowed).await.context(file)?;
        let seen = count(&edge, &[]).await?;
        for (version, least, most) in shares {
            let share = seen.get(*version).copied().unwrap_or(0);
            ensure!((*least..=*most).contains(&share), "{file}: {version} answered {share} times: {seen:?}");
        }
    }
    mesh.stop().await
}

#[tokio::test]
async fn httpbin_and_curl_run_unchanged() -> anyhow::Result<()> {
    let Some(samples) = samples()? else { return Ok(()) };
    let images = tempfile::NamedTempFile::new()?;
    std::fs::write(
        images.path(),
        "\"*/go-httpbin:*\": [go-httpbin, -port, \"8080\"]\n\"*/curlimages/curl:*\": [sleep, infinity]\n",
    )?;
    let mut options = options(vec![
        samples.join("httpbin/httpbin.yaml"),
        samples.join("httpbin/httpbin-gateway.yaml"),
        samples.join("curl/curl.yaml"),
    ]);
    options.images = images.path().to_owned();
    let mesh = Mesh::start(options).await?;
    let edge = mesh.gateway("istio-system/ingressgateway", 80)?.to_owned();
    let answer = until("httpbin through the edge", SOON, async || {
        let answer = Client::new(&edge).get("/headers", &[("x-tour", "yes")]).await?;
        ensure!(answer.status() == 200, "{}: {}", answer.status(), text(&answer));
        Ok(answer)
    })
    .await?;
    ensure!(text(&answer).contains("yes"), "{}", text(&answer));
    let curl = mesh.pod("default", "curl")?;
    let output = mesh.exec(curl, &["bookinfo", "call", "http://httpbin:8000/status/418"]).await?;
    let line: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(line["status"] == 418, "{line}");
    mesh.stop().await
}

/// Waits until only `allowed` versions answer: twenty in a row.
async fn live(edge: &str, headers: &[(&str, &str)], allowed: &[&str]) -> anyhow::Result<()> {
    until("the new document", SOON, async || {
        let mut client = Client::new(edge);
        for _ in 0..20 {
            let version = version(&mut client, headers).await?;
            ensure!(allowed.contains(&version.as_str()), "{version} still answers");
        }
        Ok(())
    })
    .await
}

async fn count(edge: &str, headers: &[(&str, &str)]) -> anyhow::Result<Seen> {
    let mut client = Client::new(edge);
    let mut seen = Seen::new();
    for _ in 0..REQUESTS {
        *seen.entry(version(&mut client, headers).await?).or_default() += 1;
    }
    Ok(seen)
}

async fn version(client: &mut Client, headers: &[(&str, &str)]) -> anyhow::Result<String> {
    let answer = client.get("/api/v1/products/0/reviews", headers).await?;
    ensure!(answer.status() == 200, "status {}: {}", answer.status(), text(&answer));
    let value: Value = serde_json::from_slice(answer.body())?;
    let pod = value["podname"].as_str().with_context(|| format!("no podname in {value}"))?;
    let version = pod.strip_prefix("reviews-").and_then(|rest| rest.split('-').next());
    Ok(version.with_context(|| format!("`{pod}` is not a reviews pod"))?.to_owned())
}
