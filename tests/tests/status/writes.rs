//! How many writes a thousand routes cost.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use palisade_tests::{kubernetes::Cluster, wait::until};
use serde_json::json;

use crate::control::{GATEWAY_API, Stand, gateway};

const ROUTES: usize = 1000;

#[tokio::test]
async fn a_thousand_routes_attach_with_few_writes() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, "writes").await?;
    cluster.apply(&gateway("writes", 8080)).await?;
    let control = stand.control("one").await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let routes: Api<DynamicObject> = Api::namespaced_with(stand.client.clone(), "writes", &kind);
    let before = (stand.writes(&control, "Gateway", "Done").await?, stand.writes(&control, "HTTPRoute", "Done").await?);
    let begun = Instant::now();
    let create = |index: usize| {
        let (routes, kind) = (&routes, &kind);
        async move {
            let spec = json!({"parentRefs": [{"name": "edge"}], "hostnames": [format!("r{index}.example.com")]});
            let route = DynamicObject::new(&format!("r{index}"), kind).data(json!({"spec": spec}));
            routes.create(&PostParams::default(), &route).await.map(drop)
        }
    };
    futures::stream::iter((0..ROUTES).map(create)).buffer_unordered(20).try_collect::<Vec<()>>().await?;
    let created = begun.elapsed();
    until("all routes attached", Duration::from_secs(120), async || {
        let edge = stand.get(GATEWAY_API, "gateways", "writes", "edge").await?;
        ensure!(edge["status"]["listeners"][0]["attachedRoutes"] == ROUTES, "{}", edge["status"]);
        let written = stand.writes(&control, "HTTPRoute", "Done").await? - before.1;
        ensure!(written >= u64::try_from(ROUTES)?, "{written} routes have a status");
        Ok(())
    })
    .await
    .with_context(|| control.said())?;
    let settled = begun.elapsed();
    // Nothing more is written once all is said.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let gateways = stand.writes(&control, "Gateway", "Done").await? - before.0;
    let of_routes = stand.writes(&control, "HTTPRoute", "Done").await? - before.1;
    let conflicts = stand.writes(&control, "HTTPRoute", "Conflict").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let at_rest = stand.writes(&control, "HTTPRoute", "Done").await? - before.1;
    println!(
        "{ROUTES} routes created in {created:?}, all statuses after {settled:?}: {gateways} writes of the Gateway, \
         {of_routes} of routes, {conflicts} conflicts"
    );
    ensure!(gateways <= 50, "{gateways} writes of the Gateway");
    ensure!(of_routes <= 1100, "{of_routes} writes of routes");
    ensure!(at_rest == of_routes, "{} writes at rest", at_rest - of_routes);
    cluster.kubectl(&["delete", "httproutes", "-n", "writes", "--all", "--wait=false"]).await?;
    control.stop().await
}
