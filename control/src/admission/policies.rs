//! ValidatingAdmissionPolicies: what the API server checks by itself, so that it holds while no control plane answers.
//!
//! A small part of what the webhook says of policies: those mistakes of which most people would be surprised what they do. The
//! webhook refuses the same, with better words.

use serde_json::{Value, json};

const API_VERSION: &str = "admissionregistration.k8s.io/v1";

/// A rule and what is said when it is broken.
type Rule = (&'static str, &'static str);

const DRY_RUN: &str = "object.metadata.?annotations[?'istio.io/dry-run']";

const AUTHORIZATION: &[Rule] = &[
    (
        "!(object.?spec.action.orValue('ALLOW') in ['DENY', 'CUSTOM']) || object.?spec.rules.orValue([]).size() > 0",
        "spec.rules: DENY and CUSTOM without rules never match; an empty rule `{}` matches every request",
    ),
    (
        "(object.?spec.action.orValue('ALLOW') == 'CUSTOM') == (object.?spec.provider.name.orValue('') != '')",
        "spec.provider: `provider.name` goes with the action CUSTOM, and that action needs it",
    ),
    (
        "object.?spec.rules.orValue([]).all(r, r.?from.orValue([{'source': {}}]).size() > 0 && r.?to.orValue([{'operation': {}}]).size() > 0)",
        "spec.rules: `from` and `to` must not be empty lists; leave the field out to match everything",
    ),
    (
        "object.?spec.rules.orValue([]).all(r, !has(r.from) || r.from.all(f, SOURCE.exists(k, k)))",
        "spec.rules: a `source` must not be empty",
    ),
    (
        "object.?spec.rules.orValue([]).all(r, !has(r.to) || r.to.all(t, OPERATION.exists(k, k)))",
        "spec.rules: an `operation` must not be empty",
    ),
];

const SOURCE: &[&str] = &[
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];

const OPERATION: &[&str] = &["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"];

/// The policies and their bindings, each with the plural of its kind.
pub(super) fn policies() -> Vec<(&'static str, Value)> {
    let any = |variable: &str, field: &str, keys: &[&str]| {
        let terms: Vec<String> =
            keys.iter().map(|key| format!("{variable}.?{field}.{key}.orValue([]).size() > 0")).collect();
        format!("[{}]", terms.join(", "))
    };
    let (source, operation) = (any("f", "source", SOURCE), any("t", "operation", OPERATION));
    let dry_run = format!(
        "!{DRY_RUN}.hasValue() || ({DRY_RUN}.orValue('') in ['1', 't', 'T', 'true', 'TRUE', 'True', '0', 'f', 'F', 'false', 'FALSE', 'False'] \
         && object.?spec.action.orValue('ALLOW') in ['ALLOW', 'DENY'])"
    );
    let mut authorization: Vec<(String, String)> = AUTHORIZATION
        .iter()
        .map(|(rule, message)| {
            (rule.replace("SOURCE", &source).replace("OPERATION", &operation), (*message).to_owned())
        })
        .collect();
    authorization.push((
        dry_run,
        "metadata.annotations: `istio.io/dry-run` is a boolean, and for the actions ALLOW and DENY only".to_owned(),
    ));
    let internal: Vec<(String, String)> = ["webhook-always-reject", "parents", "parent-namespace"]
        .iter()
        .map(|key| {
            (
                format!("!object.metadata.?annotations[?'internal.istio.io/{key}'].hasValue()"),
                format!("metadata.annotations: `internal.istio.io/{key}` may not be set by users"),
            )
        })
        .collect();
    let istio: &[&str] = &["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"];
    let of_policies =
        pair("authorization.policies.palisade.dev", &["security.istio.io"], "authorizationpolicies", &authorization);
    let of_annotations = pair("annotations.policies.palisade.dev", istio, "*", &internal);
    of_policies.into_iter().chain(of_annotations).collect()
}

fn pair(name: &str, groups: &[&str], resource: &str, rules: &[(String, String)]) -> [(&'static str, Value); 2] {
    let validations: Vec<Value> = rules
        .iter()
        .map(|(rule, message)| json!({"expression": rule, "message": message, "reason": "Invalid"}))
        .collect();
    let policy = json!({
        "apiVersion": API_VERSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "palisade"}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "resourceRules": [{
                    "apiGroups": groups, "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource],
                }],
            },
            // An object that is on its way out must be able to lose its finalizers, whatever it says.
            "matchConditions": [{"name": "stays", "expression": "!has(object.metadata.deletionTimestamp)"}],
            "validations": validations,
        },
    });
    let binding = json!({
        "apiVersion": API_VERSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "palisade"}},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    [("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", binding)]
}
