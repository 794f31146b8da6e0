//! Before an installation: rights, others that do the same, Pod Security, nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{Namespace, Node},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};

use super::{Checkup, Finding, Level, cluster::OLDEST};

/// What whoever installs must be allowed: group, resource, whether in the control plane's namespace.
const INSTALLS: [(&str, &str, bool); 13] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("apps", "deployments", true),
    ("", "services", true),
    ("", "serviceaccounts", true),
    ("policy", "poddisruptionbudgets", true),
    ("autoscaling", "horizontalpodautoscalers", true),
    ("networking.k8s.io", "networkpolicies", true),
    ("", "configmaps", true),
];

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

impl Checkup {
    /// Whether whoever asks may install.
    pub(super) async fn rights(&self) -> Vec<Finding> {
        const CHECK: &str = "rights";
        let mut missing = Vec::new();
        for (group, resource, is_own) in INSTALLS {
            match self.may("create", group, resource, is_own).await {
                Ok(true) => {}
                Ok(false) => missing.push(format!("create {resource}")),
                Err(error) => return vec![Finding::unseen(CHECK, &error)],
            }
        }
        // Nobody grants what he does not have, unless he may.
        match self.may("escalate", "rbac.authorization.k8s.io", "clusterroles", false).await {
            Ok(true) => {}
            Ok(false) => match self.lacks().await {
                Ok(lacking) => missing.extend(lacking),
                Err(error) => return vec![Finding::unseen(CHECK, &error)],
            },
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        }
        if missing.is_empty() {
            return vec![Finding::ok(CHECK, "you may install Palisade, and grant it what it needs")];
        }
        let text = format!("you may not: {}", missing.join(", "));
        vec![Finding::new(CHECK, Level::Error, text).cure("install as cluster-admin, or have these rights granted")]
    }

    /// Rights of a control plane that whoever asks does not have.
    async fn lacks(&self) -> Result<Vec<String>, kube::Error> {
        let mut lacking = Vec::new();
        for right in crate::rights::cluster_rights() {
            for group in &right.api_groups {
                for resource in &right.resources {
                    for verb in &right.verbs {
                        if right.resource_names.is_empty() && !self.may(verb, group, resource, false).await? {
                            lacking.push(format!("grant {verb} {resource}"));
                        }
                    }
                }
            }
        }
        Ok(lacking)
    }

    async fn may(&self, verb: &str, group: &str, resource: &str, is_own: bool) -> Result<bool, kube::Error> {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, part)) => (resource, Some(part.to_owned())),
            None => (resource, None),
        };
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            verb: Some(verb.to_owned()),
            namespace: is_own.then(|| self.namespace.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        Ok(api.create(&PostParams::default(), &review).await?.status.is_some_and(|status| status.allowed))
    }

    /// Others that serve the same documents or inject the same pods.
    pub(super) async fn others(&self) -> Vec<Finding> {
        const CHECK: &str = "other-meshes";
        let deployments: Api<Deployment> = Api::all(self.client.clone());
        let istiods = match deployments.list(&ListParams::default().labels("app=istiod")).await {
            Ok(list) => list.items,
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        };
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let injectors = match webhooks.list(&ListParams::default().labels("app=sidecar-injector")).await {
            Ok(list) => list.items,
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        };
        let mut findings: Vec<Finding> = istiods
            .iter()
            .map(|istiod| {
                let place = format!("{}/{}", istiod.namespace().unwrap_or_default(), istiod.name_any());
                Finding::new(CHECK, Level::Info, format!("an istiod is there: {place}")).cure(
                    "leave `istioClasses` off while it serves class `istio`; a `cacerts` Secret in both namespaces lets both \
                     meshes trust each other (docs/operations/identity.md)",
                )
            })
            .collect();
        let by_default = injectors.iter().filter(|injector| {
            let labels = injector.labels();
            labels.get("istio.io/rev").is_none_or(|revision| revision == "default")
        });
        findings.extend(by_default.map(|injector| {
            let text = format!(
                "`{}` injects Istio's sidecar into the namespaces that Palisade would inject, too: whoever comes first has \
                 the pod",
                injector.name_any()
            );
            Finding::new(CHECK, Level::Warning, text)
                .cure("install with `revision: NAME` and label namespaces istio.io/rev=NAME, one after the other")
        }));
        if findings.is_empty() {
            findings.push(Finding::ok(CHECK, "no other control plane of Istio's documents"));
        }
        findings
    }

    /// Namespaces whose pods could not be admitted.
    pub(super) async fn pod_security(&self) -> Vec<Finding> {
        const CHECK: &str = "pod-security";
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespaces = match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        };
        let mut findings = Vec::new();
        let own = namespaces.iter().find(|namespace| namespace.name_any() == self.namespace);
        findings.push(match own.map(|own| own.labels().get(ENFORCE).map(String::as_str)) {
            None => Finding::new(CHECK, Level::Info, format!("namespace `{}` is not there yet", self.namespace)),
            Some(Some("restricted")) => {
                Finding::ok(CHECK, format!("namespace `{}` enforces `restricted`", self.namespace))
            }
            Some(_) => Finding::new(
                CHECK,
                Level::Info,
                format!("namespace `{}` does not enforce `restricted`", self.namespace),
            )
            .cure(format!("kubectl label namespace {} {ENFORCE}=restricted: the control plane fits", self.namespace)),
        });
        findings.extend(namespaces.iter().filter(|namespace| is_injected(namespace.labels())).filter_map(|namespace| {
            let level = namespace.labels().get(ENFORCE).filter(|level| *level != "privileged")?;
            let text = format!(
                "namespace `{}` is injected and enforces `{level}`: `palisade-redirect` needs NET_ADMIN, and pods are refused",
                namespace.name_any()
            );
            let cure = "enforce `privileged` there, or leave interception out: `sidecar.istio.io/interceptionMode: NONE`";
            Some(Finding::new(CHECK, Level::Warning, text).cure(cure))
        }));
        findings
    }

    /// What is known of nodes, and what is not.
    pub(super) async fn nodes(&self) -> Vec<Finding> {
        const CHECK: &str = "nodes";
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => return vec![Finding::unseen(CHECK, &error)],
        };
        let info = |node: &Node| node.status.as_ref().and_then(|status| status.node_info.clone());
        let is_old = |node: &&Node| {
            let version = info(node).map(|info| info.kubelet_version).unwrap_or_default();
            // Simulated nodes say something else.
            let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
            minor.is_some_and(|minor| minor < OLDEST)
        };
        let old: Vec<String> = nodes.iter().filter(is_old).map(ResourceExt::name_any).collect();
        let mut findings = vec![if old.is_empty() {
            Finding::ok(CHECK, format!("{} nodes", nodes.len()))
        } else {
            let text = format!("kubelets older than 1.{OLDEST}: {}", old.join(", "));
            Finding::new(CHECK, Level::Error, text).cure("they know no native sidecars: keep injected pods off them")
        }];
        let text = "of nodes it cannot be seen from here whether their kernels have nf_tables or iptables, and whether their \
                    container runtime lets pods set net.ipv4.ip_unprivileged_port_start";
        findings.push(
            Finding::new(CHECK, Level::Unknown, text)
                .cure("a pod that is injected and a Gateway on port 80 show it: their events say what is missing"),
        );
        findings
    }
}

fn is_injected(labels: &BTreeMap<String, String>) -> bool {
    let is = |key: &str| labels.get(key).is_some_and(|value| value == "enabled");
    is("istio-injection") || is("palisade.dev/injection")
}
