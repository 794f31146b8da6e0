//! After an installation: the control plane, who leads, and the Gateways.

use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};

use super::{Checkup, Finding, Level};
use crate::{ca::ROOTS, identity::bundle, leader::LEASE, status::LEASE_NAME};

/// Label of control planes, with their version and revision.
const NAME: &str = "app.kubernetes.io/name=palisade-control";
const VERSION: &str = "app.kubernetes.io/version";

impl Checkup {
    /// The control planes that are installed.
    pub(super) async fn deployments(&self) -> Result<Vec<Deployment>, kube::Error> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        Ok(api.list(&ListParams::default().labels(NAME)).await?.items)
    }

    /// Replicas, versions, the leader, the roots.
    pub(super) async fn control_plane(&self) -> Vec<Finding> {
        const CHECK: &str = "control-plane";
        let deployments = match self.deployments().await {
            Ok(deployments) => deployments,
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        };
        if deployments.is_empty() {
            let text = format!("no control plane in namespace `{}`", self.namespace);
            return vec![Finding::new(CHECK, Level::Error, text).cure("docs/operations/install.md")];
        }
        let mut findings: Vec<Finding> = deployments.iter().map(available).collect();
        findings.extend(deployments.iter().filter_map(|deployment| self.skew(deployment)));
        findings.push(self.leader().await);
        findings.push(self.roots().await);
        findings
    }

    fn skew(&self, deployment: &Deployment) -> Option<Finding> {
        let version = deployment.labels().get(VERSION)?;
        (version != self.version).then(|| {
            let text = format!("`{}` is version {version}, this program {}", deployment.name_any(), self.version);
            Finding::new("versions", Level::Warning, text).cure("use the `palisade` of the control plane's version")
        })
    }

    async fn leader(&self) -> Finding {
        const CHECK: &str = "leader";
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let lease = match api.get_opt(LEASE_NAME).await {
            Ok(Some(lease)) => lease.spec.unwrap_or_default(),
            Ok(None) => return Finding::new(CHECK, Level::Error, "no replica has ever led").cure("see the pods' logs"),
            Err(error) => return Finding::unseen(CHECK, &error),
        };
        let holder = lease.holder_identity.unwrap_or_default();
        let age = lease.renew_time.map(|time| jiff::Timestamp::now().duration_since(time.0).as_secs());
        match age {
            // Clocks differ: twice the time after which another one takes it.
            Some(age) if !holder.is_empty() && age < 2 * i64::try_from(LEASE.as_secs()).unwrap_or(i64::MAX) => {
                Finding::ok(CHECK, format!("`{holder}` leads"))
            }
            _ => Finding::new(CHECK, Level::Error, "no replica leads: statuses and Gateways stay as they are")
                .cure("see the pods' logs"),
        }
    }

    /// Namespaces without the mesh's roots, or with others than the control plane's own.
    async fn roots(&self) -> Finding {
        const CHECK: &str = "roots";
        let named = ListParams::default().fields(&format!("metadata.name={}", bundle::NAME));
        let maps = Api::<ConfigMap>::all(self.client.clone()).list(&named).await;
        let namespaces = Api::<Namespace>::all(self.client.clone()).list_metadata(&ListParams::default()).await;
        let (maps, namespaces) = match (maps, namespaces) {
            (Ok(maps), Ok(namespaces)) => (maps.items, namespaces.items),
            (Err(error), _) | (_, Err(error)) => return Finding::unseen(CHECK, &error),
        };
        let of = |namespace: &str| {
            let map = maps.iter().find(|map| map.namespace().as_deref() == Some(namespace))?;
            map.data.as_ref()?.get(ROOTS).cloned()
        };
        let Some(own) = of(&self.namespace) else {
            let text = format!("ConfigMap `{}/{}` is not there", self.namespace, bundle::NAME);
            return Finding::new(CHECK, Level::Error, text).cure("see the control plane's logs");
        };
        let others = namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
        let wrong: Vec<String> =
            others.map(ResourceExt::name_any).filter(|name| of(name).as_ref() != Some(&own)).collect();
        if wrong.is_empty() {
            return Finding::ok(CHECK, format!("the mesh's roots are in all {} namespaces", namespaces.len()));
        }
        let text = format!("ConfigMap `{}` is missing or differs in: {}", bundle::NAME, wrong.join(", "));
        Finding::new(CHECK, Level::Warning, text).cure("pods there do not start, or trust another mesh; see the logs")
    }

    /// Gateways of ours that are not programmed.
    pub(super) async fn gateways(&self) -> Vec<Finding> {
        const CHECK: &str = "gateways";
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway"));
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let gateways = match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            // Without the Gateway API there are none.
            Err(kube::Error::Api(status)) if status.code == 404 => return Vec::new(),
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        };
        let class = |gateway: &DynamicObject| {
            gateway
                .data
                .pointer("/spec/gatewayClassName")
                .and_then(|class| class.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let ours: Vec<&DynamicObject> =
            gateways.iter().filter(|gateway| class(gateway).starts_with("palisade")).collect();
        let problems = ours.iter().filter_map(|gateway| problem(gateway));
        let mut findings: Vec<Finding> = problems
            .map(|text| Finding::new(CHECK, Level::Warning, text).cure("docs/operations/gateways.md"))
            .collect();
        if findings.is_empty() && !ours.is_empty() {
            findings.push(Finding::ok(CHECK, format!("{} Gateways are programmed", ours.len())));
        }
        findings
    }
}

fn available(deployment: &Deployment) -> Finding {
    const CHECK: &str = "control-plane";
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let ready = status.available_replicas.unwrap_or(0);
    let text = format!("`{}`: {ready} of {wanted} replicas are available", deployment.name_any());
    match ready {
        ready if ready >= wanted => Finding::ok(CHECK, text),
        0 => Finding::new(CHECK, Level::Error, text).cure("kubectl describe pods tells why"),
        _ => Finding::new(CHECK, Level::Warning, text).cure("kubectl describe pods tells why"),
    }
}

/// Why a Gateway is not programmed; `None` = it is.
fn problem(gateway: &DynamicObject) -> Option<String> {
    let place = format!("Gateway `{}/{}`", gateway.namespace().unwrap_or_default(), gateway.name_any());
    let conditions = gateway.data.pointer("/status/conditions").and_then(|list| list.as_array());
    let condition = conditions
        .into_iter()
        .flatten()
        .find(|own| own.get("type").and_then(|kind| kind.as_str()) == Some("Programmed"));
    let Some(condition) = condition else { return Some(format!("{place} has no status")) };
    let text = |field: &str| condition.get(field).and_then(|text| text.as_str()).unwrap_or_default().to_owned();
    (text("status") != "True").then(|| format!("{place} is not programmed: {}: {}", text("reason"), text("message")))
}
