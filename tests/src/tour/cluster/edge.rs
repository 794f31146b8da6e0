//! A step about the way in: a Gateway, its pods, and a Service of type LoadBalancer before them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};

use super::{BOOKINFO, Narrator, document};
use crate::{
    http::{Client, text},
    kubernetes::{Exposed, Node},
    wait::until,
};

const SOON: Duration = Duration::from_secs(90);

/// An address of this machine that leads to the LoadBalancer.
pub(super) async fn serves(narrator: &Narrator, node: &Node) -> anyhow::Result<Exposed> {
    narrator.step("A Gateway behind a LoadBalancer serves the page");
    narrator.does("kubectl apply -f deploy/demo/documents/gateway.yaml");
    node.apply(&document("documents/gateway.yaml")?).await?;
    let path = "jsonpath={.status.addresses[0].value} {.status.conditions[?(@.type==\"Programmed\")].status}";
    let address = until("an address in the Gateway's status, and Programmed", SOON, async || {
        let said = node.kubectl(&["get", "gateway", "edge", "-n", BOOKINFO, "-o", path]).await?;
        let (address, programmed) = said.split_once(' ').with_context(|| said.clone())?;
        ensure!(programmed == "True" && !address.is_empty(), "`{said}`");
        Ok(address.to_owned())
    })
    .await?;
    narrator.does(&format!("kubectl get gateway,service -n {BOOKINFO}"));
    narrator.shows(&node.kubectl(&["get", "gateway", "-n", BOOKINFO, "--no-headers"]).await?);
    let labels = "gateway.networking.k8s.io/gateway-name=edge";
    narrator.shows(&node.kubectl(&["get", "service", "-n", BOOKINFO, "-l", labels, "--no-headers"]).await?);
    let inside: SocketAddr = format!("{address}:80").parse()?;
    let page = node.connector().expose(inside).await?;
    let body = until("the page", SOON, async || {
        let answer = Client::new(&page.address.to_string()).get("/productpage", &[]).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        Ok(text(&answer))
    })
    .await?;
    ensure!(body.contains("Comedy of Errors"), "no page: {body}");
    narrator.does(&format!("curl http://{address}/productpage"));
    narrator.shows(&format!("200, {} bytes, with details, reviews and ratings", body.len()));
    narrator.holds("from an address of the pool through kube-proxy, the gateway's pods and the sidecars");
    Ok(page)
}
