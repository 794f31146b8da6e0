//! Traps in authorization policies: what is admitted and does not do what it seems to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::istio::{Action, AuthorizationPolicy, Condition, Operation, Rule, RuleEntry, Source};

use crate::{
    object::{self, Head, Object, ObjectKey},
    reports::{Code, Report, Reports},
    resolve::{Resolved, authorization::is_dry_run, check_cache},
};

mod inventory;

use inventory::Inventory;

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// What was found in each policy.
#[derive(Debug)]
pub(crate) struct CheckedPolicies {
    inventory: Arc<Inventory>,
    documents: BTreeMap<ObjectKey, Checked>,
}

#[derive(Debug, Clone)]
struct Checked {
    document: Arc<Object<AuthorizationPolicy>>,
    /// `None` = nothing.
    found: Option<Arc<Reports>>,
}

/// Adds all findings. What was found `before` in a policy counts while the policy, and who there is, are as they were.
pub(super) fn check(before: Option<&CheckedPolicies>, resolved: &Resolved, reports: &mut Reports) -> CheckedPolicies {
    let inventory = Inventory::after(before.map(|before| &before.inventory), resolved);
    let before = before.filter(|before| Arc::ptr_eq(&before.inventory, &inventory));
    let mut documents = BTreeMap::new();
    for (key, document) in resolved.inputs.authorization_policies.shared() {
        let is_same = |held: &&Checked| Arc::ptr_eq(&held.document, document) || held.document == *document;
        let held = before.and_then(|before| before.documents.get(key)).filter(is_same);
        let checked = held.cloned().unwrap_or_else(|| {
            let mut found = Reports::unplaced();
            check_document(&inventory, document, &mut found);
            Checked { document: Arc::clone(document), found: (!found.is_empty()).then(|| Arc::new(found)) }
        });
        if let Some(found) = &checked.found {
            reports.add_all(found);
        }
        documents.insert(key.clone(), checked);
    }
    CheckedPolicies { inventory, documents }
}

/// What there is to say about one policy, given who there is.
fn check_document(inventory: &Inventory, document: &Object<AuthorizationPolicy>, reports: &mut Reports) {
    let AuthorizationPolicy { selector: _, target_ref: _, target_refs: _, action, rules: _, provider: _ } =
        &document.spec;
    targets(inventory, document, reports);
    annotations(&document.head, reports);
    check_cache::check_place(document, reports);
    let tcp_ports = inventory.tcp_ports(document);
    let mut earlier: Vec<(usize, &Rule)> = Vec::new();
    for (index, entry) in document.spec.rules() {
        let RuleEntry::Rule(rule) = entry else { continue };
        let path = format!("spec.rules[{index}]");
        let mut warn = |code, path: &str, message: &str| {
            reports.add(Report::warning(&document.head, code, path, message));
        };
        if let Some((at, older)) = earlier.iter().find(|(_, older)| **older == **rule || is_everything(older)) {
            let why = if is_everything(older) { "matches everything" } else { "says the same" };
            warn(Code::PolicyShadowed, &path, &format!("adds nothing: rule {at} {why}"));
        }
        earlier.push((index, rule));
        for (field, value) in contradictions(rule) {
            let message = format!("never matches: `{value}` is asked for and excluded");
            warn(Code::PolicyNeverMatches, &format!("{path}.{field}"), &message);
        }
        tcp(*action, rule, &tcp_ports, &path, &mut warn);
        hosts(rule, &path, &mut warn);
        inventory.check(&document.head.key.namespace, rule, &path, &mut warn);
    }
}

/// Targets that bind nothing, and selectors that select nothing.
fn targets(inventory: &Inventory, document: &Object<AuthorizationPolicy>, reports: &mut Reports) {
    let Object { head, spec, .. } = document;
    let unbound = |path: &str, message: &str| Report::warning(head, Code::PolicyUnbound, path, message);
    for target in spec.targets() {
        let path = if spec.target_ref.is_some() { "spec.targetRef" } else { "spec.targetRefs" };
        let key = ObjectKey::new(&*head.key.namespace, target.name.as_str());
        let is_gateway = target.group == GATEWAY_GROUP && target.kind == "Gateway";
        if !is_gateway {
            let message = format!(
                "`{}` has no effect as a target: policies attach to waypoints by it, which there are none; use a selector",
                target.kind
            );
            reports.add(unbound(path, &message));
        } else if !inventory.seen.api_gateways.contains_key(&key) {
            reports.add(unbound(path, &format!("there is no Gateway `{key}`: the policy has no effect there")));
        }
    }
    let labels = spec.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty());
    let Some(labels) = labels else { return };
    let mut pods = inventory.pods_within(&head.key.namespace);
    if inventory.has_pods() && !pods.any(|pod| object::selects(labels, &pod.head.labels)) {
        reports.add(unbound("spec.selector", "no pod has these labels: the policy applies to nothing so far"));
    }
}

/// Annotations that look like the dry-run annotation.
fn annotations(head: &Head, reports: &mut Reports) {
    const DRY_RUN: &str = "istio.io/dry-run";
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    for key in head.annotations.keys().filter(|key| key.as_str() != DRY_RUN && !is_dry_run(head)) {
        let name = plain(key.rsplit('/').next().unwrap_or_default());
        if name == "dryrun" {
            let message = format!("`{key}` means nothing: the policy is enforced; did you mean `{DRY_RUN}`?");
            let path = format!("metadata.annotations[{key}]");
            reports.add(Report::warning(head, Code::PolicyTypo, &path, &message));
        }
    }
}

/// A rule without any condition.
fn is_everything(rule: &Rule) -> bool {
    let Rule { from, to, when } = rule;
    from.is_none() && to.is_none() && when.is_empty()
}

/// Fields whose every value is excluded beside them, with one such value.
fn contradictions(rule: &Rule) -> Vec<(String, String)> {
    let mut found = Vec::new();
    // With several alternatives another one may match.
    let mut pair = |path: String, values: &[String], not: &[String]| {
        let is_void = !values.is_empty() && values.iter().all(|value| not.contains(value));
        if let (true, Some(value)) = (is_void, values.first()) {
            found.push((path, value.clone()));
        }
    };
    if let Some([from]) = rule.from.as_deref() {
        for (name, values, not) in source_pairs(&from.source) {
            pair(format!("from[0].source.{name}"), values, not);
        }
    }
    if let Some([to]) = rule.to.as_deref() {
        for (name, values, not) in operation_pairs(&to.operation) {
            pair(format!("to[0].operation.{name}"), values, not);
        }
    }
    for (index, Condition { key: _, values, not_values }) in rule.when.iter().enumerate() {
        pair(format!("when[{index}].values"), values, not_values);
    }
    found
}

type Pair<'a> = (&'static str, &'a [String], &'a [String]);

fn source_pairs(source: &Source) -> [Pair<'_>; 7] {
    let Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
    } = source;
    [
        ("principals", principals, not_principals),
        ("requestPrincipals", request_principals, not_request_principals),
        ("namespaces", namespaces, not_namespaces),
        ("serviceAccounts", service_accounts, not_service_accounts),
        ("trustDomains", trust_domains, not_trust_domains),
        ("ipBlocks", ip_blocks, not_ip_blocks),
        ("remoteIpBlocks", remote_ip_blocks, not_remote_ip_blocks),
    ]
}

fn operation_pairs(operation: &Operation) -> [Pair<'_>; 4] {
    let Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } = operation;
    [
        ("hosts", hosts, not_hosts),
        ("ports", ports, not_ports),
        ("methods", methods, not_methods),
        ("paths", paths, not_paths),
    ]
}

/// What of a rule does not exist on TCP ports.
fn http_only(rule: &Rule) -> BTreeSet<&'static str> {
    let mut fields = BTreeSet::new();
    let mut note = |name: &'static str, is_written: bool| {
        if is_written {
            fields.insert(name);
        }
    };
    for from in rule.from.iter().flatten() {
        let source = &from.source;
        note("requestPrincipals", !source.request_principals.is_empty() || !source.not_request_principals.is_empty());
    }
    for to in rule.to.iter().flatten() {
        for (name, values, not) in operation_pairs(&to.operation) {
            note(name, name != "ports" && (!values.is_empty() || !not.is_empty()));
        }
    }
    for condition in &rule.when {
        let is_http = condition.key.starts_with("request.");
        note("when", is_http);
    }
    fields
}

/// Rules with HTTP-only fields at workloads with declared TCP ports (istio-semantics 1.6).
fn tcp(
    action: Action,
    rule: &Rule,
    tcp_ports: &BTreeMap<u16, String>,
    path: &str,
    warn: &mut impl FnMut(Code, &str, &str),
) {
    let fields = http_only(rule);
    // A rule that names ports is about those only.
    let named: BTreeSet<u16> = rule
        .to
        .iter()
        .flatten()
        .flat_map(|to| &to.operation.ports)
        .chain(rule.when.iter().filter(|c| c.key == "destination.port").flat_map(|c| &c.values))
        .filter_map(|port| port.parse().ok())
        .collect();
    let concerned: Vec<String> = tcp_ports
        .iter()
        .filter(|(port, _)| named.is_empty() || named.contains(port))
        .map(|(port, service)| format!("{port} ({service})"))
        .collect();
    if fields.is_empty() || concerned.is_empty() {
        return;
    }
    let (fields, ports) = (fields.into_iter().collect::<Vec<_>>().join(", "), concerned.join(", "));
    let message = match action {
        Action::Allow => {
            format!("does not exist on TCP ports, since it asks for {fields}: it allows nothing on {ports}")
        }
        Action::Deny | Action::Audit | Action::Custom => {
            format!("loses {fields} on TCP ports, and so is wider on {ports}")
        }
    };
    warn(Code::PolicyTcp, path, &message);
}

/// Hosts without a port match no authority that has one.
fn hosts(rule: &Rule, path: &str, warn: &mut impl FnMut(Code, &str, &str)) {
    for (index, to) in rule.to.iter().flatten().enumerate() {
        let Operation { hosts, not_hosts, .. } = &to.operation;
        for (field, hosts) in [("hosts", hosts), ("notHosts", not_hosts)] {
            let has_port_form = |host: &String| {
                hosts
                    .iter()
                    .any(|other| other.strip_prefix(host.as_str()).is_some_and(|rest| rest.starts_with([':', '*'])))
            };
            for (at, host) in hosts.iter().enumerate() {
                let is_bare = !host.contains([':', '*']);
                if is_bare && !has_port_form(host) {
                    let message = format!(
                        "`{host}` does not match `{host}:80`: hosts are compared with their port; add `{host}:*`"
                    );
                    warn(Code::PolicyHostPort, &format!("{path}.to[{index}].operation.{field}[{at}]"), &message);
                }
            }
        }
    }
}
