//! AuthorizationPolicies as the policies that enforce them: scope, rules admitted once, and what broken documents deny.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::istio::{self, Action, AuthorizationPolicy, PolicyTargetReference, RuleEntry};
use palisade_model::{
    origin::Origin,
    policy::{DenyAll, Policy, PolicyId, PolicyMode},
};
use palisade_policy::{RuleAction, RuleSpec, TrustDomains};

use crate::{
    lower::client::Proxy,
    object::{self, Head, Object},
    reports::{Code, Report, Reports},
};

mod memo;

pub(crate) use memo::{PolicyMemo, RememberedPolicies};

/// The group of Gateway API kinds.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// One document's effect on the proxies that it applies to.
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Workloads with these labels; empty = all.
    Workloads(BTreeMap<String, String>),
    /// Named objects.
    Objects(Vec<PolicyTargetReference>),
}

/// All restrictions, in age order.
#[derive(Debug, Default)]
pub(crate) struct Authorization {
    root: Arc<str>,
    restrictions: Vec<Restriction>,
    memo: RememberedPolicies,
}

impl Authorization {
    /// Sorts restrictions.
    pub(crate) fn new(root: Arc<str>, mut restrictions: Vec<Restriction>, memo: RememberedPolicies) -> Self {
        restrictions.sort_by(|a, b| a.origin.cmp(&b.origin));
        Self { root, restrictions, memo }
    }

    /// What became of each AuthorizationPolicy, for the next time.
    pub(crate) fn memo(&self) -> &RememberedPolicies {
        &self.memo
    }

    /// Those that apply to a proxy (istio-semantics 1.2).
    pub(crate) fn of_proxy<'a>(&'a self, proxy: &'a Proxy) -> impl Iterator<Item = &'a Restriction> {
        self.restrictions.iter().filter(|restriction| self.applies(restriction, proxy))
    }

    /// Whether a document applies to a proxy.
    pub(crate) fn applies(&self, restriction: &Restriction, proxy: &Proxy) -> bool {
        self.takes(&restriction.namespace, &restriction.target, proxy)
    }

    /// Whether a document of `namespace` with this target applies to a proxy.
    pub(crate) fn takes(&self, namespace: &Arc<str>, target: &Target, proxy: &Proxy) -> bool {
        let is_own = *namespace == proxy.namespace;
        match target {
            Target::Workloads(labels) => (is_own || *namespace == self.root) && object::selects(labels, &proxy.labels),
            Target::Objects(targets) => proxy.gateway.as_ref().is_some_and(|gateway| {
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

    /// What an AuthorizationPolicy does; `None` = nothing (a dry run).
    pub(crate) fn new(
        document: &Object<AuthorizationPolicy>,
        domains: &TrustDomains,
        reports: &mut Reports,
    ) -> Option<Self> {
        let head = &document.head;
        let spec = &document.spec;
        let targets: Vec<PolicyTargetReference> = spec.targets().cloned().collect();
        let labels = spec.selector.as_ref().map(|selector| selector.match_labels.clone());
        let target = match (labels, targets.is_empty()) {
            (Some(labels), false) => {
                // Which of the two is meant cannot be known: both are denied.
                return Some(Self::denying(head, Target::Workloads(labels), "selector together with targetRefs"));
            }
            (labels, true) => Target::Workloads(labels.unwrap_or_default()),
            (None, false) => Target::Objects(targets),
        };
        if is_dry_run(head) {
            reports.add(Report::warning(
                head,
                Code::NotServed,
                "metadata.annotations[istio.io/dry-run]",
                "dry runs are not served yet: the policy has no effect",
            ));
            return None;
        }
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
            is_allow: spec.action == Action::Allow,
        };
        for (index, entry) in spec.rules() {
            restriction.add_rule(head, action, index, entry, domains, reports);
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
        let targets: Vec<PolicyTargetReference> = spec.targets().cloned().collect();
        let labels = spec.selector.as_ref().map(|selector| selector.match_labels.clone());
        let target = match (labels, targets.is_empty()) {
            (Some(labels), false) => {
                let message = "selector together with targetRefs";
                return (!is_dry_run(head)).then(|| Self::denying(head, Target::Workloads(labels), message));
            }
            (labels, true) => Target::Workloads(labels.unwrap_or_default()),
            (None, false) => Target::Objects(targets),
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
            restriction.add_rule(head, RuleAction::Deny, index, entry, domains, reports);
        }
        Some(restriction)
    }

    fn add_rule(
        &mut self,
        head: &Head,
        action: RuleAction,
        index: usize,
        entry: &RuleEntry,
        domains: &TrustDomains,
        reports: &mut Reports,
    ) {
        let key = &head.key;
        let id = PolicyId::of_rule(&key.namespace, &key.name, index);
        match entry {
            // Istio skips it, whatever the action.
            RuleEntry::Null => {}
            RuleEntry::Invalid(message) => {
                if action == RuleAction::Deny {
                    let deny = DenyAll { id, source: Some(head.origin()), message: message.as_str().into() };
                    self.deny_all = palisade_policy::fold_deny_all(self.deny_all.take(), Some(deny));
                }
            }
            RuleEntry::Rule(rule) => {
                let spec = RuleSpec {
                    id,
                    source: Some(head.origin()),
                    rule: u32::try_from(index).ok(),
                    namespace: key.namespace.to_string(),
                    action,
                    mode: PolicyMode::Enforce,
                    from: rule.from.as_ref().map(|from| from.iter().map(|from| source(&from.source)).collect()),
                    to: rule.to.as_ref().map(|to| to.iter().map(|to| operation(&to.operation)).collect()),
                    when: rule.when.iter().map(condition).collect(),
                };
                let admission = palisade_policy::admit_rule(&spec, domains);
                self.policies.extend(admission.policies);
                self.deny_all = palisade_policy::fold_deny_all(self.deny_all.take(), admission.deny_all);
                for problem in admission.problems {
                    let path = format!("spec.rules[{index}].{}", problem.field);
                    reports.add(Report::warning(head, Code::PolicyRule, &path, &problem.message));
                }
            }
        }
    }
}

/// Go's `ParseBool`; what it cannot read is enforced.
pub(crate) fn is_dry_run(head: &Head) -> bool {
    let written = head.annotations.get("istio.io/dry-run").map(String::as_str);
    matches!(written, Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
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
