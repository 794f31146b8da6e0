//! Proxies: how many there should be, how many are connected, and which versions run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use palisade_compile::PROXY_LABEL;

use super::{Checkup, Finding, Level, told};

impl Checkup {
    /// Whether all that run are connected, and to one version.
    pub(super) async fn proxies(&self) -> Vec<Finding> {
        const CHECK: &str = "proxies";
        let api: Api<Pod> = Api::all(self.client.clone());
        let pods = match api.list(&ListParams::default().labels(PROXY_LABEL)).await {
            Ok(list) => list.items,
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        };
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let mut findings = vec![match self.connected().await {
            Ok(connected) if connected >= ready => Finding::ok(CHECK, format!("{connected} proxies are connected")),
            Ok(connected) => {
                let text = format!("{connected} proxies are connected, and {ready} pods with one are ready");
                Finding::new(CHECK, Level::Warning, text)
                    .cure("palisade proxy status, and the log of the proxies that lack")
            }
            Err(error) => {
                let text = format!("how many proxies are connected cannot be asked: {error}");
                Finding::new(CHECK, Level::Unknown, text)
                    .cure("the metric palisade_control_proxies of each replica says it (right: get pods/proxy)")
            }
        }];
        findings.extend(versions(&pods));
        findings
    }

    /// Connected proxies of all replicas, by way of the API server.
    async fn connected(&self) -> Result<usize, String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels("app.kubernetes.io/name=palisade-control");
        let replicas = api.list(&params).await.map_err(|error| told(&error))?.items;
        let mut connected = 0;
        for pod in replicas.iter().filter(|pod| is_ready(pod)) {
            let path = format!("/api/v1/namespaces/{}/pods/{}:15014/proxy/metrics", self.namespace, pod.name_any());
            let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
            let text = self.client.request_text(request).await.map_err(|error| told(&error))?;
            let line = text.lines().find_map(|line| line.strip_prefix("palisade_control_proxies "));
            let count = line.and_then(|number| number.trim().parse::<usize>().ok());
            connected += count.ok_or_else(|| format!("`{}` tells no number", pod.name_any()))?;
        }
        Ok(connected)
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Images of proxies, where there is more than one of a kind.
fn versions(pods: &[Pod]) -> Option<Finding> {
    let mut images: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for spec in pods.iter().filter_map(|pod| pod.spec.as_ref()) {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        for image in containers.filter_map(|container| container.image.as_deref()) {
            let name = image.rsplit('/').next().unwrap_or(image);
            for kind in ["palisade-sidecar", "palisade-gateway"] {
                if name.starts_with(kind) {
                    images.entry(kind).or_default().insert(image);
                }
            }
        }
    }
    let several: Vec<String> = images
        .into_values()
        .filter(|images| images.len() > 1)
        .map(|images| images.into_iter().collect::<Vec<_>>().join(", "))
        .collect();
    (!several.is_empty()).then(|| {
        let text = format!("several versions of proxies run: {}", several.join("; "));
        Finding::new("versions", Level::Info, text).cure("pods get the new one when they are made anew")
    })
}
