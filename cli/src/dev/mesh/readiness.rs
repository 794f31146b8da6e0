//! Waiting until processes are ready to serve.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::dev::commands::{CONTROL_PORT, PROXY_HEALTH_PORT};
use crate::dev::fabric::Fabric;
use crate::dev::pod::{Pod, Stage};

/// How long processes may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two questions to the same process.
const POLL: Duration = Duration::from_millis(20);

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until the control plane takes connections.
pub(super) async fn control(fabric: &Fabric, pod: &Pod) -> anyhow::Result<()> {
    let address = SocketAddr::new(*pod.spec.addresses.first().context("no address")?, CONTROL_PORT);
    let is_open = async {
        while fabric.connect(address).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    };
    let process = pod.spec.processes.first().context("no process")?;
    tokio::time::timeout(LIMIT, is_open)
        .await
        .with_context(|| format!("the control plane is not ready; see `{}`", process.log.display()))
}

/// Waits until all applications listen and all proxies say that they serve.
pub(super) async fn all<'a>(
    fabric: &Fabric,
    applications: impl Iterator<Item = &'a Pod>,
    proxies: impl Iterator<Item = &'a Pod>,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    let applications = applications.map(|pod| async move {
        match tokio::time::timeout_at(deadline, pod.listening()).await {
            Ok(Stage::Started | Stage::Listening) => None,
            Ok(Stage::Gone) | Err(_) => Some(format!("{}: the application", pod.spec.name)),
        }
    });
    let proxies = proxies.map(|pod| async move {
        let is_ready = async {
            while !is_proxy_ready(fabric, pod).await {
                tokio::time::sleep(POLL).await;
            }
        };
        let late = tokio::time::timeout_at(deadline, is_ready).await.err()?;
        let log = pod.spec.processes.first().map(|process| process.log.display().to_string()).unwrap_or_default();
        Some(format!("{}: the proxy ({late}; see `{log}`)", pod.spec.name))
    });
    let (applications, proxies) =
        tokio::join!(futures::future::join_all(applications), futures::future::join_all(proxies));
    let late: Vec<String> = applications.into_iter().chain(proxies).flatten().collect();
    if !late.is_empty() {
        bail!("not ready: {}", late.join(", "));
    }
    Ok(())
}

async fn is_proxy_ready(fabric: &Fabric, pod: &Pod) -> bool {
    let Some(address) = pod.spec.addresses.first() else { return false };
    let ask = async {
        let mut stream = fabric.connect(SocketAddr::new(*address, PROXY_HEALTH_PORT)).await?;
        stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head.ends_with(b" 200"))
    };
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, ask).await, Ok(Ok(true)))
}
