//! A way from this machine to the admin pages of a control plane in a cluster, which answer on their own loopback only: as
//! `kubectl port-forward` does it, to a ready pod of its Service.

use std::{io, net::SocketAddr};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Portforwarder},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// A loopback address that leads to a port of a pod, as long as the value lives.
#[derive(Debug)]
pub struct Forward {
    /// The address.
    pub address: SocketAddr,
    /// `NAMESPACE/NAME` of the pod.
    pub pod: String,
    _relay: AbortOnDropHandle<()>,
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The API server does not answer, or does not let the caller look.
    #[error("{what}: {source}")]
    Api {
        /// What was asked for.
        what: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// There is no such Service.
    #[error("there is no Service {0}")]
    NoService(String),
    /// The Service leads to no pods.
    #[error("Service {0} selects no pods")]
    NoSelector(String),
    /// Nobody is ready.
    #[error("no pod of Service {service} is ready ({pods} are there)")]
    NoReadyPod {
        /// The Service.
        service: String,
        /// Pods that it selects.
        pods: usize,
    },
    /// None of the ready pods can be reached.
    #[error("port {port} cannot be forwarded: {}", .problems.join("; "))]
    Refused {
        /// The port.
        port: u16,
        /// `NAMESPACE/NAME: why`, of each pod.
        problems: Vec<String>,
    },
    /// This machine has no port left.
    #[error("no local port: {0}")]
    Listen(#[from] io::Error),
}

/// Leads to a port of the first pod behind a Service that is ready and lets itself be forwarded.
///
/// # Errors
/// When there is none, or the caller may not.
pub async fn forward(client: Client, namespace: &str, service: &str, port: u16) -> Result<Forward, ForwardError> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let mut problems = Vec::new();
    for name in ready_pods(client, namespace, service).await? {
        let pod = format!("{namespace}/{name}");
        // The first connection is made at once: who may not, or cannot, learns it here.
        match pods.portforward(&name, &[port]).await {
            Ok(first) => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let address = listener.local_addr()?;
                let relay = tokio::spawn(relay(listener, pods, name, port, first));
                return Ok(Forward { address, pod, _relay: AbortOnDropHandle::new(relay) });
            }
            Err(error) => problems.push(format!("{pod}: {error}")),
        }
    }
    Err(ForwardError::Refused { port, problems })
}

/// Names of the pods behind a Service that are ready, at least one.
///
/// # Errors
/// When there is none, or they cannot be asked for.
pub async fn ready_pods(client: Client, namespace: &str, service: &str) -> Result<Vec<String>, ForwardError> {
    let called = format!("{namespace}/{service}");
    let failed = |what: &str| {
        let what = format!("{what} {called}");
        move |source| ForwardError::Api { what, source: Box::new(source) }
    };
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let found = services.get_opt(service).await.map_err(failed("Service"))?;
    let found = found.ok_or_else(|| ForwardError::NoService(called.clone()))?;
    let selector = found.spec.and_then(|spec| spec.selector).filter(|selector| !selector.is_empty());
    let selector = selector.ok_or_else(|| ForwardError::NoSelector(called.clone()))?;
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods = Api::<Pod>::namespaced(client, namespace);
    let pods = pods.list(&ListParams::default().labels(&labels.join(","))).await.map_err(failed("pods of Service"))?;
    let mut ready: Vec<&Pod> = pods.items.iter().filter(|pod| is_ready(pod)).collect();
    // The oldest one knows most.
    ready.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.name_any()));
    if ready.is_empty() {
        return Err(ForwardError::NoReadyPod { service: called, pods: pods.items.len() });
    }
    Ok(ready.into_iter().map(ResourceExt::name_any).collect())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}

/// A connection to the pod for each that comes.
async fn relay(listener: TcpListener, pods: Api<Pod>, name: String, port: u16, first: Portforwarder) {
    let mut first = Some(first);
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let forwarder = match first.take() {
            Some(first) => Ok(first),
            None => pods.portforward(&name, &[port]).await,
        };
        match forwarder {
            Ok(forwarder) => drop(connections.spawn(connect(stream, forwarder, port))),
            Err(error) => tracing::warn!(pod = %name, %error, "the port is not forwarded any more"),
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(mut stream: TcpStream, mut forwarder: Portforwarder, port: u16) {
    let Some(mut inner) = forwarder.take_stream(port) else { return };
    // Either side may end it as it likes.
    drop(tokio::io::copy_bidirectional(&mut stream, &mut inner).await);
    drop(inner);
    forwarder.abort();
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{PodCondition, PodStatus},
        apimachinery::pkg::apis::meta::v1::Time,
    };

    use super::*;

    fn pod(conditions: &[(&str, &str)], is_going: bool) -> Pod {
        let condition = |(kind, status): &(&str, &str)| PodCondition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            ..PodCondition::default()
        };
        let status = PodStatus { conditions: Some(conditions.iter().map(condition).collect()), ..PodStatus::default() };
        let mut pod = Pod { status: Some(status), ..Pod::default() };
        pod.metadata.deletion_timestamp = is_going.then_some(Time(jiff::Timestamp::UNIX_EPOCH));
        pod
    }

    #[test]
    fn a_pod_is_ready_when_it_says_so_and_stays() {
        assert!(is_ready(&pod(&[("Initialized", "True"), ("Ready", "True")], false)));
        assert!(!is_ready(&pod(&[("Ready", "False")], false)));
        assert!(!is_ready(&pod(&[("Initialized", "True")], false)));
        assert!(!is_ready(&pod(&[("Ready", "True")], true)), "it is going");
        assert!(!is_ready(&Pod::default()));
    }
}
