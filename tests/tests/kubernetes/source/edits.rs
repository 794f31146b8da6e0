//! Edits of a cluster's objects are in the mesh at once, at the cost of what changed.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use anyhow::ensure;
use palisade_control::slices::Slices;
use palisade_tests::{kubernetes::Cluster, wait::until};

use super::{Followed, SOON, crd, has_pod, healthy, install, pod, text};

const ROUTED: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: edits}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_are_live_whatever_they_are() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    install(&cluster).await?;
    cluster.fake_nodes(1).await?;
    cluster.namespace("edits").await?;
    cluster.apply(ROUTED).await?;
    pod(&cluster, "edits", "client", "palisade.dev/proxy: sidecar").await?;
    let first = pod(&cluster, "edits", "web-1", "app: web, security.istio.io/tlsMode: istio").await?;
    let mut followed = Followed::new(&cluster).await?;
    let serves = |expected: &[IpAddr]| {
        let expected = BTreeSet::from_iter(expected.iter().copied());
        move |mesh: &dyn Slices| {
            let found = healthy(mesh, ("edits", "client"), "web.edits.")?;
            ensure!(found == expected, "{found:?}, not {expected:?}");
            Ok(())
        }
    };
    followed.until("the first endpoint", serves(&[first])).await?;
    let second = pod(&cluster, "edits", "web-2", "app: web").await?;
    followed.until("a second endpoint", serves(&[first, second])).await?;
    let not_ready = r#"{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}"#;
    let patch = ["patch", "pod", "web-2", "-n", "edits", "--subresource=status", "--type=merge", "-p", not_ready];
    cluster.kubectl(&patch).await?;
    followed.until("not ready", serves(&[first])).await?;
    cluster.kubectl(&["delete", "pod", "web-2", "-n", "edits", "--force", "--grace-period=0"]).await?;
    followed
        .until("gone", |mesh| {
            ensure!(has_pod(mesh, "edits", "web-2").is_err(), "it is there");
            Ok(())
        })
        .await?;

    let service = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: edits}, spec: \
                   {hosts: [web], http: [{name: NAME, route: [{destination: {host: web}}]}]}}";
    let routes = |name: &'static str| {
        move |mesh: &dyn Slices| {
            ensure!(text(mesh, "edits", "client")?.contains(name), "no `{name}`");
            Ok(())
        }
    };
    for name in ["first-rule", "second-rule"] {
        cluster.apply(&service.replace("NAME", name)).await?;
        let written = Instant::now();
        followed.until(name, routes(name)).await?;
        eprintln!("{name}: compiled {:?} after kubectl ended", written.elapsed());
    }
    cluster.kubectl(&["delete", "virtualservice", "web", "-n", "edits"]).await?;
    let no_route = |mesh: &dyn Slices| {
        ensure!(routes("second-rule")(mesh).is_err(), "the route is there");
        Ok(())
    };
    followed.until("no route", no_route).await?;

    // Another object by the same name.
    let before = followed.until("web-1", |mesh| has_pod(mesh, "edits", "web-1")).await?;
    cluster.kubectl(&["delete", "pod", "web-1", "-n", "edits", "--force", "--grace-period=0"]).await?;
    pod(&cluster, "edits", "web-1", "app: web").await?;
    let again = |mesh: &dyn Slices| {
        ensure!(has_pod(mesh, "edits", "web-1")? != before, "still the old one");
        Ok(())
    };
    followed.until("another UID", again).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_comes_and_goes_with_its_crd_and_changes_its_version() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    cluster.namespace("kinds").await?;
    cluster.fake_nodes(1).await?;
    pod(&cluster, "kinds", "client", "palisade.dev/proxy: sidecar").await?;
    let mut followed = Followed::new(&cluster).await?;
    followed.until("the pod", |mesh| has_pod(mesh, "kinds", "client").map(drop)).await?;
    let sees = |is_there: bool| {
        move |mesh: &dyn Slices| {
            let text = text(mesh, "kinds", "client")?;
            ensure!(text.contains("outside.example") == is_there, "the host is there: {}", !is_there);
            Ok(())
        }
    };
    let sidecar = "{apiVersion: networking.istio.io/VERSION, kind: Sidecar, metadata: {name: default, namespace: kinds}, spec: \
                   {egress: [{hosts: ['./*', 'istio-system/*']}]}}";
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: outside, namespace: kinds}, spec: \
                 {hosts: [outside.example], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}}";
    cluster.apply(&crd("networking.istio.io", "ServiceEntry", "serviceentries", &["v1"])).await?;
    cluster.apply(&crd("networking.istio.io", "Sidecar", "sidecars", &["v1alpha3"])).await?;
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd/serviceentries.networking.istio.io",
        "crd/sidecars.networking.istio.io",
    ];
    cluster.kubectl(&established).await?;
    cluster.apply(entry).await?;
    cluster.apply(&sidecar.replace("VERSION", "v1alpha3")).await?;
    followed.until("a kind that was not there", sees(true)).await?;
    // The same object under two versions is one object.
    cluster.apply(&crd("networking.istio.io", "Sidecar", "sidecars", &["v1alpha3", "v1"])).await?;
    cluster.apply(&sidecar.replace("VERSION", "v1").replace("'./*', ", "")).await?;
    followed.until("the newer version", sees(false)).await?;
    cluster.kubectl(&["delete", "crd", "sidecars.networking.istio.io", "--timeout=30s"]).await?;
    followed.until("without its CRD the Sidecar is gone", sees(true)).await?;
    cluster.kubectl(&["delete", "crd", "serviceentries.networking.istio.io", "--timeout=30s"]).await?;
    followed.until("and so is the ServiceEntry", sees(false)).await?;
    cluster.apply(&crd("networking.istio.io", "ServiceEntry", "serviceentries", &["v1"])).await?;
    cluster
        .kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd/serviceentries.networking.istio.io"])
        .await?;
    until("served again", SOON, async || cluster.apply(entry).await).await?;
    followed.until("and the CRD is back", sees(true)).await
}
