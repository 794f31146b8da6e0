//! AuthorizationPolicy: who may do what. <https://istio.io/latest/docs/reference/config/security/authorization-policy/>

use serde::Serialize;
use serde_json::Value;

use super::{PolicyTargetReference, WorkloadSelector};
use crate::codes::Code;
use crate::schema::Check::{Each, Items};
use crate::schema::formats::up_to;
use crate::schema::{Cursor, Decode, Shape};

record! {
    /// The spec of an AuthorizationPolicy. Without selector and targets it applies to its whole namespace, in the root namespace to the mesh.
    pub struct AuthorizationPolicy {
        /// Workloads it applies to.
        selector: Option<WorkloadSelector> = "selector";
        /// Deprecated: one target.
        target_ref: Option<PolicyTargetReference> = "targetRef";
        /// Objects it applies to.
        target_refs: Vec<PolicyTargetReference> = "targetRefs" [Items(0, 16)];
        /// What a match means; absent is ALLOW.
        action: Action = "action" or Action::Allow;
        /// Absent and empty are the same: nothing matches.
        rules: Option<Rules> = "rules" [Items(0, 512)];
        /// Who decides, for CUSTOM.
        provider: Option<Provider> = "provider";
    }
    at_most_one ["selector", "targetRef", "targetRefs"];
}

impl AuthorizationPolicy {
    /// All targets, however they are written.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        self.target_ref.iter().chain(&self.target_refs)
    }

    /// The rules with their index; none if there are none.
    pub fn rules(&self) -> impl Iterator<Item = (usize, &RuleEntry)> {
        self.rules.iter().flat_map(|rules| rules.0.iter().enumerate())
    }

    /// Whether no rule at all is written, `rules: []` included.
    #[must_use]
    pub fn has_no_rules(&self) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.0.is_empty())
    }
}

choice! {
    /// What a match means.
    pub enum Action {
        /// Requests that match may pass; others not.
        Allow = "ALLOW",
        /// Requests that match may not pass.
        Deny = "DENY",
        /// Requests that match are logged.
        Audit = "AUDIT",
        /// A provider decides about requests that match.
        Custom = "CUSTOM",
    }
}

record! {
    /// An entry of the mesh's `extensionProviders`.
    pub struct Provider {
        /// Its name; empty is a mistake.
        name: String = "name" or String::new();
    }
}

/// The rules in the order written, those that cannot be used among them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rules(pub Vec<RuleEntry>);

/// One entry of `rules`. What an unusable one does depends on the action; see "What a broken policy does" in the reference.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleEntry {
    /// A rule that admission accepts.
    Rule(Box<Rule>),
    /// `null`: Istio skips it.
    Null,
    /// Admission rejects it: why.
    Invalid(String),
}

impl Serialize for RuleEntry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rule(rule) => rule.serialize(serializer),
            Self::Null => serializer.serialize_none(),
            Self::Invalid(message) => serializer.collect_str(&format_args!("invalid: {message}")),
        }
    }
}

impl Decode for Rules {
    fn shape() -> Shape {
        Shape::List(Rule::shape)
    }

    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let Value::Array(items) = value else {
            cursor.wrong_type("a list", value);
            return None;
        };
        let entries = items.iter().enumerate().map(|(index, item)| cursor.within(index, |cursor| entry(item, cursor)));
        Some(Self(entries.collect()))
    }
}

fn entry(item: &Value, cursor: &mut Cursor<'_>) -> RuleEntry {
    if item.is_null() {
        cursor.report(Code::WrongType, "a rule must not be null");
        return RuleEntry::Null;
    }
    let place = cursor.path().clone();
    let rule = Rule::decode(item, cursor);
    match (cursor.first_error_within(&place), rule) {
        (Some(issue), _) => RuleEntry::Invalid(format!("{}: {}", issue.path, issue.message)),
        (None, Some(rule)) => RuleEntry::Rule(Box::new(rule)),
        (None, None) => RuleEntry::Invalid("the rule cannot be read".to_owned()),
    }
}

record! {
    /// One rule: any of `from`, and any of `to`, and all of `when`.
    pub struct Rule {
        /// Absent is anyone. Never empty in an accepted rule.
        from: Option<Vec<RuleFrom>> = "from" [Items(0, 512)];
        /// Absent is anything. Never empty in an accepted rule.
        to: Option<Vec<RuleTo>> = "to";
        /// Further conditions.
        when: Vec<Condition> = "when";
    }
}

record! {
    /// One alternative of `from`.
    pub struct RuleFrom {
        /// Who; never without any field in an accepted rule.
        source: Source = "source";
    }
}

record! {
    /// One alternative of `to`.
    pub struct RuleTo {
        /// What; never without any field in an accepted rule.
        operation: Operation = "operation";
    }
}

record! {
    /// Who calls. All fields that are written must hold; an empty list is as if not written.
    pub struct Source {
        /// Identities of mTLS peers, without `spiffe://`.
        principals: Vec<String> = "principals";
        /// None of these.
        not_principals: Vec<String> = "notPrincipals";
        /// Token principals, `issuer/subject`.
        request_principals: Vec<String> = "requestPrincipals";
        /// None of these.
        not_request_principals: Vec<String> = "notRequestPrincipals";
        /// Namespaces of mTLS peers.
        namespaces: Vec<String> = "namespaces";
        /// None of these.
        not_namespaces: Vec<String> = "notNamespaces";
        /// `namespace/name` or `name`.
        service_accounts: Vec<String> = "serviceAccounts" [Items(0, 16), Each(&[up_to(320)])];
        /// None of these.
        not_service_accounts: Vec<String> = "notServiceAccounts" [Items(0, 16), Each(&[up_to(320)])];
        /// Trust domains of mTLS peers.
        trust_domains: Vec<String> = "trustDomains";
        /// None of these.
        not_trust_domains: Vec<String> = "notTrustDomains";
        /// Addresses or CIDRs of the TCP peer.
        ip_blocks: Vec<String> = "ipBlocks";
        /// None of these.
        not_ip_blocks: Vec<String> = "notIpBlocks";
        /// Addresses or CIDRs of the original client.
        remote_ip_blocks: Vec<String> = "remoteIpBlocks";
        /// None of these.
        not_remote_ip_blocks: Vec<String> = "notRemoteIpBlocks";
    }
    at_most_one
        ["principals", "serviceAccounts"], ["notPrincipals", "serviceAccounts"],
        ["namespaces", "serviceAccounts"], ["notNamespaces", "serviceAccounts"],
        ["principals", "notServiceAccounts"], ["notPrincipals", "notServiceAccounts"],
        ["namespaces", "notServiceAccounts"], ["notNamespaces", "notServiceAccounts"];
}

record! {
    /// What is asked for. All fields that are written must hold; an empty list is as if not written.
    pub struct Operation {
        /// Hosts, ports included.
        hosts: Vec<String> = "hosts";
        /// None of these.
        not_hosts: Vec<String> = "notHosts";
        /// Target ports of the workload.
        ports: Vec<String> = "ports";
        /// None of these.
        not_ports: Vec<String> = "notPorts";
        /// HTTP methods.
        methods: Vec<String> = "methods";
        /// None of these.
        not_methods: Vec<String> = "notMethods";
        /// Paths or path templates.
        paths: Vec<String> = "paths";
        /// None of these.
        not_paths: Vec<String> = "notPaths";
    }
}

record! {
    /// A condition on an attribute: any of `values`, and none of `notValues`.
    pub struct Condition {
        /// Such as `request.headers[x-token]`.
        key: String = "key";
        /// Empty is any.
        values: Vec<String> = "values";
        /// None of these.
        not_values: Vec<String> = "notValues";
    }
}
