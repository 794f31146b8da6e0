//! AuthorizationPolicies as the policies that enforce them: scope, rules admitted once, and what broken documents deny.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_crds::istio::{self, Action, AuthorizationPolicy, PolicyTargetReference, RuleEntry};
use palisade_model::{
    origin::Origin,
    policy::{DenyAll, Policy, PolicyId, PolicyMode},
};
use palisade_policy::{CedarShare, RuleAction, RuleSpec, TrustDomains, document_marker};

use crate::{
    lower::client::Proxy,
    memo::{self as looks, Read},
    object::{self, Head, Object},
    reports::{Code, Report, Reports},
    settings::MeshSettings,
};

mod memo;

pub(crate) use memo::{PolicyMemo, RememberedPolicies};

/// The group of Gateway API kinds.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// One document's effect on the proxies that it applies to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Restriction {
    /// Metadata.
    pub(crate) origin: Origin,
    namespace: Arc<str>,
    target: Target,
    /// Admitted policies.
    pub(crate) policies: Vec<Policy>,
    /// Denies the whole target.
    pub(crate) deny_all: Option<DenyAll>,
    /// An enforced ALLOW: the mesh's default permit does not stand beside it.
    pub(crate) is_allow: bool,
}

/// What a document applies to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    /// Workloads with these labels; empty = all.
    Workloads(BTreeMap<String, String>),
    /// Named objects.
    Objects(Vec<PolicyTargetReference>),
    /// The workloads behind a Service of the document's own namespace, by its selector.
    Service(BTreeMap<String, String>),
}

/// Restrictions by namespace.
#[derive(Debug, Default)]
struct Restrictions(BTreeMap<Arc<str>, Vec<Arc<Restriction>>>);

/// All restrictions, in age order.
#[derive(Debug, Default)]
pub(crate) struct Authorization {
    root: Arc<str>,
    /// Gateways of the Gateway API are selected as other workloads are.
    selects_gateways: bool,
    restrictions: Restrictions,
    /// What workloads may reach outside the mesh.
    egress: Restrictions,
    memo: RememberedPolicies,
}

impl Restrictions {
    fn new(all: Vec<Arc<Restriction>>) -> Self {
        let mut by_namespace: BTreeMap<Arc<str>, Vec<Arc<Restriction>>> = BTreeMap::new();
        for restriction in all {
            by_namespace.entry(Arc::clone(&restriction.namespace)).or_default().push(restriction);
        }
        by_namespace.values_mut().for_each(|own| own.sort_by(|a, b| a.origin.cmp(&b.origin)));
        Self(by_namespace)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Restriction>> {
        self.0.values().flatten()
    }

    /// Those of the namespaces whose documents can apply to a proxy, in the order of their origins.
    fn near<'a>(&'a self, root: &'a str, proxy: &'a Proxy) -> impl Iterator<Item = &'a Arc<Restriction>> {
        let of_gateways = proxy.gateways.iter().map(|gateway| &*gateway.namespace);
        let namespaces: BTreeSet<&str> = [&*proxy.namespace, root].into_iter().chain(of_gateways).collect();
        let mut near: Vec<&Arc<Restriction>> =
            namespaces.into_iter().filter_map(|namespace| self.0.get(namespace)).flatten().collect();
        // INVARIANT: of all documents the origins decide the order, whatever their namespaces.
        near.sort_by(|a, b| a.origin.cmp(&b.origin));
        near.into_iter()
    }
}

impl Authorization {
    /// Sorts restrictions.
    pub(crate) fn new(
        settings: &MeshSettings,
        restrictions: Vec<Arc<Restriction>>,
        egress: Vec<Arc<Restriction>>,
        memo: RememberedPolicies,
    ) -> Self {
        let (restrictions, egress) = (Restrictions::new(restrictions), Restrictions::new(egress));
        let (root, selects_gateways) = (Arc::clone(&settings.root_namespace), settings.selects_gateways);
        Self { root, selects_gateways, restrictions, egress, memo }
    }

    /// Every policy of every document.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.restrictions.iter().chain(self.egress.iter()).flat_map(|restriction| &restriction.policies)
    }

    /// Those that say what a proxy's workload may reach outside the mesh.
    pub(crate) fn egress_of_proxy<'a>(&'a self, proxy: &'a Proxy) -> impl Iterator<Item = &'a Arc<Restriction>> {
        looks::note(|| Read::EgressRestrictions);
        self.egress_of(proxy)
    }

    /// The same, for who compares.
    pub(crate) fn egress_of<'a>(&'a self, proxy: &'a Proxy) -> impl Iterator<Item = &'a Arc<Restriction>> {
        self.egress.near(&self.root, proxy).filter(|restriction| self.applies(restriction, proxy))
    }

    /// What became of each AuthorizationPolicy, for the next time.
    pub(crate) fn memo(&self) -> &RememberedPolicies {
        &self.memo
    }

    /// Those that apply to a proxy (istio-semantics 1.2).
    pub(crate) fn of_proxy<'a>(&'a self, proxy: &'a Proxy) -> impl Iterator<Item = &'a Arc<Restriction>> {
        looks::note(|| Read::Restrictions);
        self.restrictions_of(proxy)
    }

    /// The same, for who compares.
    pub(crate) fn restrictions_of<'a>(&'a self, proxy: &'a Proxy) -> impl Iterator<Item = &'a Arc<Restriction>> {
        self.restrictions.near(&self.root, proxy).filter(|restriction| self.applies(restriction, proxy))
    }

    /// Whether a document applies to a proxy.
    pub(crate) fn applies(&self, restriction: &Restriction, proxy: &Proxy) -> bool {
        // The setting is about Istio's own kinds.
        match &*restriction.origin.kind {
            "CedarPolicy" => self.reaches(&restriction.namespace, &restriction.target, proxy),
            _ => self.takes(&restriction.namespace, &restriction.target, proxy),
        }
    }

    /// Whether a document of Istio's in `namespace` with this target applies to a proxy.
    pub(crate) fn takes(&self, namespace: &Arc<str>, target: &Target, proxy: &Proxy) -> bool {
        let is_unaddressed = matches!(target, Target::Workloads(_)) && !proxy.gateways.is_empty();
        (self.selects_gateways || !is_unaddressed) && self.reaches(namespace, target, proxy)
    }

    /// Whether a namespace is the mesh's root.
    pub(crate) fn is_root(&self, namespace: &str) -> bool {
        *namespace == *self.root
    }

    fn reaches(&self, namespace: &Arc<str>, target: &Target, proxy: &Proxy) -> bool {
        let is_own = *namespace == proxy.namespace;
        match target {
            Target::Workloads(labels) => (is_own || *namespace == self.root) && object::selects(labels, &proxy.labels),
            Target::Service(selector) => is_own && object::selects(selector, &proxy.labels),
            // A proxy of several Gateways does all that is said about any of them.
            Target::Objects(targets) => proxy.gateways.iter().any(|gateway| {
                targets.iter().any(|target| {
                    target.group == GATEWAY_GROUP
                        && target.kind == "Gateway"
                        && *target.name == *gateway.name
                        && *namespace == gateway.namespace
                })
            }),
        }
    }
}

const SELECTOR_AND_TARGETS: &str = "selector together with targetRefs";

impl Restriction {
    /// A document that denies its whole target.
    pub(crate) fn denying(head: &Head, target: Target, message: &str) -> Self {
        Self {
            origin: head.origin(),
            namespace: Arc::clone(&head.key.namespace),
            target,
            policies: Vec::new(),
            deny_all: Some(DenyAll {
                id: PolicyId(head.key.to_string().into()),
                source: Some(head.origin()),
                message: message.into(),
            }),
            is_allow: false,
        }
    }

    /// What an AuthorizationPolicy does; `None` = nothing.
    pub(crate) fn new(
        document: &Object<AuthorizationPolicy>,
        domains: &TrustDomains,
        reports: &mut Reports,
    ) -> Option<Self> {
        let head = &document.head;
        let spec = &document.spec;
        let target = match target_of(spec) {
            Ok(target) => target,
            // Which of the two is meant cannot be known: both are denied.
            Err(target) => {
                return Some(match is_dry_run(head) {
                    true => Self::recording(head, target),
                    false => Self::denying(head, target, SELECTOR_AND_TARGETS),
                });
            }
        };
        let mode = mode_of(head, reports);
        let action = match spec.action {
            Action::Allow => RuleAction::Allow,
            Action::Deny => RuleAction::Deny,
            Action::Audit => RuleAction::Audit,
            // Its own kind of check, before all others.
            Action::Custom => return None,
        };
        let mut restriction = Self {
            origin: head.origin(),
            namespace: Arc::clone(&head.key.namespace),
            target,
            policies: Vec::new(),
            deny_all: None,
            is_allow: spec.action == Action::Allow && mode == PolicyMode::Enforce,
        };
        let mut would_deny_all = false;
        for (index, entry) in spec.rules() {
            would_deny_all |= restriction.add_rule(head, (action, mode), index, entry, domains, reports);
        }
        let recorded_mode = if action == RuleAction::Audit { PolicyMode::Audit } else { mode };
        if recorded_mode != PolicyMode::Enforce {
            // Audited and dry-run documents are seen, and counted, whatever became of their rules.
            let id = head.key.to_string();
            let permits = action != RuleAction::Deny;
            restriction.policies.push(document_marker(&id, head.origin(), recorded_mode, permits, would_deny_all));
        }
        Some(restriction)
    }

    /// The rules of a CUSTOM policy as forbids: what they match needs its provider's word. `None` = a dry run that cannot be read.
    pub(crate) fn of_custom(
        document: &Object<AuthorizationPolicy>,
        domains: &TrustDomains,
        reports: &mut Reports,
    ) -> Option<Self> {
        let (head, spec) = (&document.head, &document.spec);
        let target = match target_of(spec) {
            Ok(target) => target,
            Err(target) => return (!is_dry_run(head)).then(|| Self::denying(head, target, SELECTOR_AND_TARGETS)),
        };
        let mut restriction = Self {
            origin: head.origin(),
            namespace: Arc::clone(&head.key.namespace),
            target,
            policies: Vec::new(),
            deny_all: None,
            is_allow: false,
        };
        for (index, entry) in spec.rules() {
            restriction.add_rule(head, (RuleAction::Deny, PolicyMode::Enforce), index, entry, domains, reports);
        }
        Some(restriction)
    }

    /// One direction's share of a CedarPolicy.
    pub(crate) fn of_cedar(head: &Head, target: Target, share: CedarShare) -> Self {
        let CedarShare { policies, has_permit, deny_all } = share;
        let namespace = Arc::clone(&head.key.namespace);
        Self { origin: head.origin(), namespace, target, policies, deny_all, is_allow: has_permit }
    }

    /// A rejected document that is only a dry run: seen, never in force.
    pub(crate) fn recording(head: &Head, target: Target) -> Self {
        let marker = document_marker(&head.key.to_string(), head.origin(), PolicyMode::Shadow, false, true);
        Self {
            origin: head.origin(),
            namespace: Arc::clone(&head.key.namespace),
            target,
            policies: vec![marker],
            deny_all: None,
            is_allow: false,
        }
    }

    /// Adds a rule. `true`: it is a broken DENY of a dry run, which enforced would deny the whole target.
    fn add_rule(
        &mut self,
        head: &Head,
        (action, mode): (RuleAction, PolicyMode),
        index: usize,
        entry: &RuleEntry,
        domains: &TrustDomains,
        reports: &mut Reports,
    ) -> bool {
        let is_shadow_deny = action == RuleAction::Deny && mode == PolicyMode::Shadow;
        let key = &head.key;
        let id = PolicyId::of_rule(&key.namespace, &key.name, index);
        match entry {
            // Istio skips it, whatever the action.
            RuleEntry::Null => false,
            RuleEntry::Invalid(message) => {
                if action == RuleAction::Deny && mode == PolicyMode::Enforce {
                    let deny = DenyAll { id, source: Some(head.origin()), message: message.as_str().into() };
                    self.deny_all = palisade_policy::fold_deny_all(self.deny_all.take(), Some(deny));
                }
                is_shadow_deny
            }
            RuleEntry::Rule(rule) => {
                let spec = RuleSpec {
                    id,
                    source: Some(head.origin()),
                    rule: u32::try_from(index).ok(),
                    namespace: key.namespace.to_string(),
                    action,
                    mode,
                    from: rule.from.as_ref().map(|from| from.iter().map(|from| source(&from.source)).collect()),
                    to: rule.to.as_ref().map(|to| to.iter().map(|to| operation(&to.operation)).collect()),
                    when: rule.when.iter().map(condition).collect(),
                };
                let admission = palisade_policy::admit_rule(&spec, domains);
                self.policies.extend(admission.policies);
                self.deny_all = palisade_policy::fold_deny_all(self.deny_all.take(), admission.deny_all);
                let is_broken = !admission.problems.is_empty();
                for problem in admission.problems {
                    let path = format!("spec.rules[{index}].{}", problem.field);
                    reports.add(Report::warning(head, Code::PolicyRule, &path, &problem.message));
                }
                is_broken && is_shadow_deny
            }
        }
    }
}

const DRY_RUN_PATH: &str = "metadata.annotations[istio.io/dry-run]";

/// Go's `ParseBool`; what it cannot read is enforced.
pub(crate) fn is_dry_run(head: &Head) -> bool {
    let written = head.annotations.get("istio.io/dry-run").map(String::as_str);
    matches!(written, Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
}

fn mode_of(head: &Head, reports: &mut Reports) -> PolicyMode {
    if is_dry_run(head) {
        return PolicyMode::Shadow;
    }
    if let Some(written) = head.annotations.get("istio.io/dry-run")
        && !matches!(written.as_str(), "0" | "f" | "F" | "FALSE" | "false" | "False")
    {
        let message = format!("`{written}` is neither true nor false: the policy is enforced");
        reports.add(Report::warning(head, Code::PolicyDryRun, DRY_RUN_PATH, &message));
    }
    PolicyMode::Enforce
}

/// Whom a policy is about. `Err`: it has a selector, whose workloads these are, and `targetRefs` as well.
fn target_of(spec: &AuthorizationPolicy) -> Result<Target, Target> {
    let targets: Vec<PolicyTargetReference> = spec.targets().cloned().collect();
    match (spec.selector.as_ref().map(|selector| selector.match_labels.clone()), targets.is_empty()) {
        (Some(labels), false) => Err(Target::Workloads(labels)),
        (labels, true) => Ok(Target::Workloads(labels.unwrap_or_default())),
        (None, false) => Ok(Target::Objects(targets)),
    }
}

fn source(written: &istio::Source) -> palisade_policy::Source {
    let istio::Source {
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
    } = written.clone();
    palisade_policy::Source {
        principals,
        not_principals,
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
        request_principals,
        not_request_principals,
    }
}

fn operation(written: &istio::Operation) -> palisade_policy::Operation {
    let istio::Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } =
        written.clone();
    palisade_policy::Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths }
}

fn condition(written: &istio::Condition) -> palisade_policy::Condition {
    let istio::Condition { key, values, not_values } = written.clone();
    palisade_policy::Condition { key, values, not_values }
}
