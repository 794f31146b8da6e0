//! What a control plane may do in its cluster: the least that works, in one place. The chart grants exactly this, and tests run with
//! nothing else.

use serde::Serialize;

use crate::{
    admission::register,
    identity::{bundle, root, trust_bundle},
    rotation,
    source::access_rules,
    status,
};

/// A rule of a Role or ClusterRole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Right {
    /// API groups; the empty one is the core group.
    pub api_groups: Vec<String>,
    /// Resources, as the API spells them.
    pub resources: Vec<String>,
    /// Single objects; empty = all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// What is done to them.
    pub verbs: Vec<String>,
}

fn right(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Right {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Right {
        api_groups: vec![group.to_owned()],
        resources: owned(resources),
        resource_names: owned(names),
        verbs: owned(verbs),
    }
}

/// Rights in the whole cluster, for a control plane of the default revision.
pub fn cluster_rights() -> Vec<Right> {
    let mut rights: Vec<Right> = access_rules()
        .into_iter()
        .map(|rule| Right {
            api_groups: rule.api_groups,
            resources: rule.resources,
            resource_names: Vec::new(),
            verbs: rule.verbs,
        })
        .collect();
    // Statuses.
    rights.extend(status::written().into_iter().map(|(group, resources)| Right {
        api_groups: vec![group.to_owned()],
        resources: resources.iter().map(|plural| format!("{plural}/status")).collect(),
        resource_names: Vec::new(),
        verbs: vec!["patch".to_owned()],
    }));
    rights.push(right(
        "apiextensions.k8s.io",
        &["customresourcedefinitions"],
        &["gateways.gateway.networking.k8s.io"],
        &["get"],
    ));
    // Who calls, and the mesh's roots in every namespace. Server-side apply creates what is not there, and creation cannot be limited
    // by name.
    rights.push(right("authentication.k8s.io", &["tokenreviews"], &[], &["create"]));
    rights.push(right("", &["configmaps"], &[bundle::NAME], &["get", "patch"]));
    rights.push(right("", &["configmaps"], &[], &["create"]));
    let group = "certificates.k8s.io";
    rights.push(right(group, &["clustertrustbundles"], &[trust_bundle::NAME], &["get", "patch"]));
    rights.push(right(group, &["clustertrustbundles"], &[], &["create"]));
    rights.push(right(group, &["signers"], &[trust_bundle::SIGNER], &["attest"]));
    // Webhooks and admission policies.
    let webhooks = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
    let policies = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
    let group = "admissionregistration.k8s.io";
    rights.push(right(group, &webhooks, &[register::NAME], &["get", "patch"]));
    let names = register::policy_names();
    rights.push(right(group, &policies, &names.iter().map(String::as_str).collect::<Vec<_>>(), &["get", "patch"]));
    rights.push(right(group, &[webhooks, policies].concat(), &[], &["create"]));
    rights.push(right("rbac.authorization.k8s.io", &["clusterroles"], &["palisade-control"], &["get"]));
    // What runs Gateways.
    let all = ["get", "list", "watch", "create", "patch", "delete"];
    rights.push(right("", &["serviceaccounts", "services"], &[], &all));
    rights.push(right("apps", &["deployments"], &[], &all));
    rights.push(right("autoscaling", &["horizontalpodautoscalers"], &[], &all));
    rights.push(right("policy", &["poddisruptionbudgets"], &[], &all));
    rights.push(right("gateway.networking.k8s.io", &["gatewayclasses"], &[], &["create"]));
    rights
}

/// Rights in the control plane's own namespace.
pub fn own_rights() -> Vec<Right> {
    vec![
        right("", &["secrets"], &[root::PLUGGED_IN, root::OWN], &["get", "list", "watch"]),
        right("", &["secrets"], &[], &["create"]),
        // Steps of a root's replacement, and what the replicas tell each other about it.
        right("", &["secrets"], &[root::OWN], &["update"]),
        right("", &["configmaps"], &[rotation::STATUS_MAP], &["get", "list", "watch", "patch"]),
        right("coordination.k8s.io", &["leases"], &[status::LEASE_NAME], &["get", "update"]),
        right("coordination.k8s.io", &["leases"], &[], &["create"]),
    ]
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    /// The rules as the chart has them.
    fn yaml(rights: &[Right]) -> String {
        let rules = serde_json::to_value(rights).unwrap();
        format!("# Made from control/src/rights.rs by `make golden`.\n{}", palisade_crds::document::to_yaml(&rules))
    }

    #[test]
    fn golden_rights_of_the_chart() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/palisade/files");
        for (name, rights) in [("cluster-rights.yaml", cluster_rights()), ("own-rights.yaml", own_rights())] {
            let (path, text) = (folder.join(name), yaml(&rights));
            if env::var_os("PALISADE_GOLDEN").is_some_and(|value| value == "write") {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, &text).unwrap();
            }
            let held = fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(held, text, "{name} is stale: run `make golden`, then deploy/scripts/manifests");
        }
    }

    #[test]
    fn nothing_is_granted_by_wildcard_and_no_secret_is_written_over_but_the_root() {
        for right in cluster_rights().iter().chain(&own_rights()) {
            let texts = right.api_groups.iter().chain(&right.resources).chain(&right.verbs);
            assert!(texts.clone().all(|text| !text.contains('*')), "{right:?}");
            let writes = right.verbs.iter().any(|verb| matches!(verb.as_str(), "update" | "patch" | "delete"));
            let is_of_secrets = right.resources.iter().any(|resource| resource == "secrets");
            assert!(!(writes && is_of_secrets) || right.resource_names == [root::OWN], "{right:?}");
        }
    }
}
