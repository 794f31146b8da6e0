//! Other controllers at the same statuses: what is theirs stays, and no fight burns a core.

use std::time::Duration;

use anyhow::ensure;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use palisade_tests::{kubernetes::Cluster, wait::until};
use serde_json::json;

use crate::control::{GATEWAY_API, SOON, Stand, condition, gateway, route, told};

#[tokio::test]
async fn another_controllers_entry_survives_and_a_fight_is_slow() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "others").await?;
    cluster.apply(&format!("{}---{}", gateway("others", 8080), route("others", "web", "a.example.com"))).await?;
    let control = stand.control("one").await?;
    let web = async || stand.get(GATEWAY_API, "httproutes", "others", "web").await;
    until("our entry", SOON, async || {
        let object = web().await?;
        ensure!(told(&object["status"]["parents"][0]["conditions"], "Accepted")? == "True Accepted", "{object}");
        Ok(())
    })
    .await?;

    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let routes: Api<DynamicObject> = Api::namespaced_with(stand.client.clone(), "others", &kind);
    let theirs = json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs"},
        "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "ours",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    let ours = web().await?["status"]["parents"][0].clone();
    let both = json!({"status": {"parents": [theirs, ours]}});
    routes.patch_status("web", &PatchParams::default(), &Patch::Merge(&both)).await?;
    cluster.apply(&route("others", "web", "b.example.com")).await?;
    until("both entries", SOON, async || {
        let object = web().await?;
        let parents = &object["status"]["parents"];
        ensure!(parents.as_array().map(Vec::len) == Some(2) && parents[0] == theirs, "{parents}");
        let (.., generation, _) = condition(&parents[1]["conditions"], "Accepted")?;
        ensure!(Some(generation) == object["metadata"]["generation"].as_i64(), "{object}");
        Ok(())
    })
    .await?;

    // Somebody undoes what we write, as soon as it is there.
    let before = stand.writes(&control, "HTTPRoute", "Done").await?;
    let wrong = json!({"status": {"parents": [theirs]}});
    let mut undone = 0;
    let end = tokio::time::Instant::now() + Duration::from_secs(15);
    while tokio::time::Instant::now() < end {
        if web().await?["status"]["parents"].as_array().map(Vec::len) == Some(2) {
            routes.patch_status("web", &PatchParams::default(), &Patch::Merge(&wrong)).await?;
            undone += 1;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let writes = stand.writes(&control, "HTTPRoute", "Done").await? - before;
    println!("in 15 s of a fight: undone {undone} times, {writes} writes");
    ensure!((2..=6).contains(&writes), "{writes} writes, {undone} undone");
    control.stop().await
}
