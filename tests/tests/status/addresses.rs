//! ServiceEntries: hosts without an address are given one, which is in status, where Istio's controller writes it as well.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use palisade_tests::{kubernetes::Cluster, wait::until};
use serde_json::{Value, json};

use crate::{
    control::{SOON, Stand},
    istio::CRD,
};

fn entry(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: outside}}
spec: {{{spec}, ports: [{{number: 443, name: tls, protocol: TLS}}]}}
"
    )
}

fn addresses(object: &Value) -> BTreeMap<String, Vec<String>> {
    let mut addresses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in object["status"]["addresses"].as_array().into_iter().flatten() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        addresses.entry(text("host")).or_default().push(text("value"));
    }
    addresses
}

#[tokio::test]
async fn addresses_are_given_once_and_those_that_istio_gave_are_kept() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "outside").await?;
    let crd = CRD
        .replace("authorizationpolicies.security.istio.io", "serviceentries.networking.istio.io")
        .replace("security.istio.io", "networking.istio.io")
        .replace("kind: AuthorizationPolicy", "kind: ServiceEntry")
        .replace("authorizationpolicies", "serviceentries")
        .replace("authorizationpolicy", "serviceentry");
    cluster.apply(&crd).await?;
    let name = "crd/serviceentries.networking.istio.io";
    cluster.kubectl(&["wait", "--for=condition=Established", name, "--timeout=30s"]).await?;
    // What istiod has given is there before we are.
    cluster.apply(&entry("theirs", "hosts: [theirs.example.com], resolution: DNS")).await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("networking.istio.io", "v1", "ServiceEntry"));
    let kind = ApiResource { plural: "serviceentries".to_owned(), ..kind };
    let entries: Api<DynamicObject> = Api::namespaced_with(stand.client.clone(), "outside", &kind);
    let given = json!([{"host": "theirs.example.com", "value": "240.240.0.1"}, {"host": "theirs.example.com", "value": "2001:2::1"}]);
    let status = json!({"status": {"addresses": given}});
    entries.patch_status("theirs", &PatchParams::default(), &Patch::Merge(&status)).await?;

    let control = stand.control("one").await?;
    cluster.apply(&entry("ours", "hosts: [www.example.com, api.example.com], resolution: DNS")).await?;
    let get = async |name: &str| stand.get("networking.istio.io/v1", "serviceentries", "outside", name).await;
    let are = async |name: &str, hosts: &[&str]| {
        until("addresses", SOON, async || {
            let object = get(name).await?;
            let found = addresses(&object);
            let is_about_now = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            ensure!(is_about_now && found.keys().eq(hosts.iter()), "{object}");
            Ok(found)
        })
        .await
        .with_context(|| control.said())
    };
    let first = are("ours", &["api.example.com", "www.example.com"]).await?;
    for (host, addresses) in &first {
        let [v4, v6] = addresses.as_slice() else { anyhow::bail!("{host}: {addresses:?}") };
        ensure!(v4.starts_with("240.240.") && v6.starts_with("2001:2::"), "{host}: {addresses:?}");
    }
    let theirs = are("theirs", &["theirs.example.com"]).await?;
    ensure!(theirs["theirs.example.com"] == ["240.240.0.1", "2001:2::1"], "{theirs:?}");

    // A host more changes nothing for the others; one that has an address of its own needs none.
    cluster.apply(&entry("ours", "hosts: [a.example.com, api.example.com, www.example.com], resolution: DNS")).await?;
    let mut more = are("ours", &["a.example.com", "api.example.com", "www.example.com"]).await?;
    more.remove("a.example.com");
    ensure!(more == first, "{more:?}, not {first:?}");
    cluster.apply(&entry("ours", "hosts: [www.example.com], addresses: [192.0.2.1], resolution: DNS")).await?;
    are("ours", &[]).await?;
    control.stop().await
}
