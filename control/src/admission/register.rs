//! What tells the API server about the webhooks: written by the control plane itself, so that their CA is always the one that signs.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    discovery::ApiResource,
};
use palisade_compile::Revisions;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ca::CertificateAuthority;

use super::{
    options::{AdmissionOptions, DEFAULT_REVISION},
    policies::policies,
};

/// The name that the control plane's writes carry.
const FIELD_MANAGER: &str = "palisade";
/// What others did to the configurations is undone this often.
const KEEP: Duration = Duration::from_secs(30);
/// After a failure it is tried again this soon.
const RETRY: Duration = Duration::from_secs(2);
const API_VERSION: &str = "admissionregistration.k8s.io/v1";

/// Namespaces whose pods are never injected.
pub const NEVER_INJECTED: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Keeps the configurations in the cluster until `stop`: at once, when the roots change and every half minute, with the roots of that moment.
///
/// Each replica writes the same, so none of them need lead.
pub async fn keep(
    client: Client,
    options: AdmissionOptions,
    namespace: String,
    mut authority: watch::Receiver<Arc<CertificateAuthority>>,
    stop: CancellationToken,
) {
    let mut failures: u32 = 0;
    loop {
        let roots = authority.borrow_and_update().root_bundle().to_owned();
        let wait = match write(&client, &options, &namespace, &roots).await {
            Ok(()) => {
                failures = 0;
                KEEP
            }
            Err(error) => {
                tracing::warn!(%error, "the webhooks are not registered");
                failures = failures.saturating_add(1);
                (RETRY * 2_u32.saturating_pow(failures.min(4) - 1)).min(KEEP)
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait.mul_f64(0.9 + 0.2 * fastrand::f64())) => {}
            Ok(()) = authority.changed() => {}
        }
    }
}

/// Writes all configurations once, by server-side apply. What is as it should be is left untouched.
///
/// # Errors
/// When the API server refuses one.
pub async fn write(
    client: &Client,
    options: &AdmissionOptions,
    namespace: &str,
    roots: &str,
) -> Result<(), kube::Error> {
    let endpoint = |path: &str| client_config(options, namespace, roots, path);
    let mut objects = vec![
        ("validatingwebhookconfigurations", validating(&options.revisions(), &endpoint("/validate"))),
        ("mutatingwebhookconfigurations", mutating(&options.revisions(), &endpoint("/inject"))),
    ];
    objects.extend(policies());
    // Revisions share the admission policies: each says its own about them, and takes nothing back from the others.
    let manager = match options.revision.as_str() {
        DEFAULT_REVISION => FIELD_MANAGER.to_owned(),
        revision => format!("{FIELD_MANAGER}-{revision}"),
    };
    let parameters = PatchParams::apply(&manager).force();
    let owner = owner(client, &options.webhook_owner).await;
    for (plural, mut object) in objects {
        if let (Some(owner), Some(metadata)) = (&owner, object.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert("ownerReferences".to_owned(), json!([owner]));
        }
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let resource = ApiResource {
            group: "admissionregistration.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: API_VERSION.to_owned(),
            kind: text("/kind"),
            plural: plural.to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        api.patch(&text("/metadata/name"), &parameters, &Patch::Apply(&object)).await?;
    }
    Ok(())
}

/// The ClusterRole that everything belongs to, so that it goes with the installation; `None` where there is none to be seen.
async fn owner(client: &Client, name: &str) -> Option<Value> {
    let api: Api<ClusterRole> = Api::all(client.clone());
    match api.get_opt(name).await {
        Ok(role) => Some(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": name, "uid": role?.metadata.uid?,
        })),
        Err(error) => {
            tracing::debug!(%error, role = name, "webhook configurations have no owner");
            None
        }
    }
}

fn client_config(options: &AdmissionOptions, namespace: &str, roots: &str, path: &str) -> Value {
    let bundle = STANDARD.encode(roots);
    match &options.webhook_url {
        Some(url) => json!({"url": format!("{}{path}", url.trim_end_matches('/')), "caBundle": bundle}),
        None => json!({
            "service": {"namespace": namespace, "name": options.webhook_service, "path": path, "port": 443},
            "caBundle": bundle,
        }),
    }
}

/// Name of the webhook configurations of the default revision.
pub const NAME: &str = "palisade";

/// Names of the webhook configurations of a revision.
pub fn name(revision: &str) -> String {
    if revision == DEFAULT_REVISION { NAME.to_owned() } else { format!("{NAME}-{revision}") }
}

/// Names of the admission policies and their bindings.
pub fn policy_names() -> Vec<String> {
    let name = |object: &Value| object.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
    let mut names: Vec<String> = policies().iter().filter_map(|(_, object)| name(object)).collect();
    names.sort();
    names.dedup();
    names
}

/// Which documents are checked. Where nobody answers, policies are refused and everything else is taken: a route that is wrong
/// breaks itself only and says so in its status, a cluster that takes no routes is an outage.
pub(super) fn validating(revisions: &Revisions, endpoint: &Value) -> Value {
    let webhook = |part: &str, failure_policy: &str, operations: &[&str], groups: &[(&str, &[&str])], seconds: u32| {
        let rules: Vec<Value> = groups
            .iter()
            .map(|(group, resources)| {
                json!({
                    "apiGroups": [group], "apiVersions": ["*"], "resources": resources, "operations": operations, "scope": "*",
                })
            })
            .collect();
        // Objects of other revisions are not asked about. The default revision also serves those that name none, which no
        // selector can say; it lets the others through by itself.
        let selector = if revisions.is_default() {
            json!({})
        } else {
            json!({"matchExpressions": [{"key": "istio.io/rev", "operator": "In", "values": revisions.names()}]})
        };
        json!({
            "name": format!("{part}.validation.palisade.dev"),
            "clientConfig": endpoint,
            "rules": rules,
            "objectSelector": selector,
            "failurePolicy": failure_policy,
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "timeoutSeconds": seconds,
            "admissionReviewVersions": ["v1"],
        })
    };
    let of_istio: &[(&str, &[&str])] = &[("security.istio.io", &["*"])];
    let policies: &[(&str, &[&str])] = &[("security.istio.io", &["*"]), ("palisade.dev", &["cedarpolicies"])];
    let traffic: &[(&str, &[&str])] = &[
        ("networking.istio.io", &["*"]),
        ("telemetry.istio.io", &["*"]),
        ("extensions.istio.io", &["*"]),
        ("gateway.networking.k8s.io", &["*"]),
    ];
    let write = ["CREATE", "UPDATE"];
    json!({
        "apiVersion": API_VERSION,
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name(revisions.name()), "labels": {"app.kubernetes.io/part-of": "palisade"}},
        "webhooks": [
            webhook("policies", "Fail", &write, policies, 5),
            webhook("traffic", "Ignore", &write, traffic, 3),
            // Only to say what a removal opens; it is never refused.
            webhook("removals", "Ignore", &["DELETE"], of_istio, 1),
        ],
    })
}

/// Which pods are looked at: namespaces and pods that ask for a sidecar, as Istio's selectors have it.
fn mutating(revisions: &Revisions, endpoint: &Value) -> Value {
    let expression = |key: &str, operator: &str, values: &[&str]| {
        if values.is_empty() {
            json!({"key": key, "operator": operator})
        } else {
            json!({"key": key, "operator": operator, "values": values})
        }
    };
    let never = || expression("kubernetes.io/metadata.name", "NotIn", &NEVER_INJECTED);
    let pod_wants = || expression("sidecar.istio.io/inject", "In", &["true"]);
    let pod_does_not_refuse = || expression("sidecar.istio.io/inject", "NotIn", &["false"]);
    let of_revision = || expression("istio.io/rev", "In", &revisions.names());
    let no_revision = || expression("istio.io/rev", "DoesNotExist", &[]);
    let no_label = || expression("istio-injection", "DoesNotExist", &[]);
    let no_own_label = || expression("palisade.dev/injection", "DoesNotExist", &[]);
    let webhook = |part: &str, namespaces: Vec<Value>, pods: Vec<Value>| {
        let namespaces: Vec<Value> = std::iter::once(never()).chain(namespaces).collect();
        json!({
            "name": format!("{part}.injection.palisade.dev"),
            "clientConfig": endpoint,
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced",
            }],
            "namespaceSelector": {"matchExpressions": namespaces},
            "objectSelector": {"matchExpressions": pods},
            // A pod without its sidecar would send its traffic past every policy.
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "reinvocationPolicy": "Never",
            "sideEffects": "None",
            "timeoutSeconds": 10,
            "admissionReviewVersions": ["v1"],
        })
    };
    // A label that says so by name beats the label of a revision, and one webhook must not ask twice: the lists exclude each other.
    let mut webhooks = vec![
        webhook("rev-namespace", vec![no_label(), no_own_label(), of_revision()], vec![pod_does_not_refuse()]),
        webhook(
            "rev-object",
            vec![no_label(), no_own_label(), no_revision()],
            vec![of_revision(), pod_does_not_refuse()],
        ),
    ];
    if revisions.is_default() {
        webhooks.extend([
            webhook("namespace", vec![expression("istio-injection", "In", &["enabled"])], vec![pod_does_not_refuse()]),
            webhook(
                "own-namespace",
                vec![no_label(), expression("palisade.dev/injection", "In", &["enabled"])],
                vec![pod_does_not_refuse()],
            ),
            webhook("object", vec![no_label(), no_own_label(), no_revision()], vec![pod_wants(), no_revision()]),
        ]);
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name(revisions.name()), "labels": {"app.kubernetes.io/part-of": "palisade"}},
        "webhooks": webhooks,
    })
}
