//! One authorization rule in a neutral, typed form: Istio's meaning, without Kubernetes.

use palisade_model::{
    origin::Origin,
    policy::{PolicyId, PolicyMode},
};

/// What a matching rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// A matching request is allowed unless something denies it.
    Allow,
    /// A matching request is denied.
    Deny,
    /// A matching request is recorded. Always in [`PolicyMode::Audit`], whatever the rule's own mode says.
    Audit,
}

/// One rule: (any of `from`) and (any of `to`) and (all of `when`).
///
/// Values are the user's own strings; [`crate::admit_rule`] parses them and says what is wrong with which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// Stable id, `NAMESPACE/NAME[RULE]`.
    pub id: PolicyId,
    /// The document that the rule stands in.
    pub source: Option<Origin>,
    /// Index in the document's `rules`.
    pub rule: Option<u32>,
    /// The document's namespace: a service account value without one means this one.
    pub namespace: String,
    /// Allow, deny or audit.
    pub action: RuleAction,
    /// [`PolicyMode::Enforce`], or [`PolicyMode::Shadow`] for a dry run.
    pub mode: PolicyMode,
    /// `None`: any source. `Some` of an empty list is a broken rule.
    pub from: Option<Vec<Source>>,
    /// `None`: any operation. `Some` of an empty list is a broken rule.
    pub to: Option<Vec<Operation>>,
    /// Empty: no condition.
    pub when: Vec<Condition>,
}

/// `from[].source`: every non-empty list must have a matching value, every `not_` list none. All lists empty: a broken rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// Peer names without `spiffe://`.
    pub principals: Vec<String>,
    /// None of these peer names.
    pub not_principals: Vec<String>,
    /// Namespaces of the peer; `*` anywhere in a value matches any text.
    pub namespaces: Vec<String>,
    /// None of these namespaces.
    pub not_namespaces: Vec<String>,
    /// `NAMESPACE/ACCOUNT`, or `ACCOUNT` in the rule's own namespace.
    pub service_accounts: Vec<String>,
    /// None of these service accounts.
    pub not_service_accounts: Vec<String>,
    /// Trust domains of the peer.
    pub trust_domains: Vec<String>,
    /// None of these trust domains.
    pub not_trust_domains: Vec<String>,
    /// Address or CIDR of the TCP peer.
    pub ip_blocks: Vec<String>,
    /// None of these.
    pub not_ip_blocks: Vec<String>,
    /// Address or CIDR of the original client.
    pub remote_ip_blocks: Vec<String>,
    /// None of these.
    pub not_remote_ip_blocks: Vec<String>,
    /// `ISSUER/SUBJECT` of the request's token. HTTP only.
    pub request_principals: Vec<String>,
    /// None of these. HTTP only.
    pub not_request_principals: Vec<String>,
}

/// `to[].operation`: as [`Source`]. All lists empty: a broken rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    /// Authority with its port, case ignored. HTTP only.
    pub hosts: Vec<String>,
    /// None of these. HTTP only.
    pub not_hosts: Vec<String>,
    /// Original destination ports, 1 to 65535.
    pub ports: Vec<String>,
    /// None of these.
    pub not_ports: Vec<String>,
    /// HTTP methods. HTTP only.
    pub methods: Vec<String>,
    /// None of these. HTTP only.
    pub not_methods: Vec<String>,
    /// Normalised path without query; `{*}` and `{**}` make a template. HTTP only.
    pub paths: Vec<String>,
    /// None of these. HTTP only.
    pub not_paths: Vec<String>,
}

/// One `when` entry: any of `values` (if there are some) and none of `not_values`. Both empty: a broken rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// The key as the user wrote it, for example `request.headers[x-tenant]`. An unknown one is a broken rule.
    pub key: String,
    /// Any of these.
    pub values: Vec<String>,
    /// None of these.
    pub not_values: Vec<String>,
}

/// The mesh's own trust domain and its aliases: a principal of one of them stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomains {
    own: String,
    aliases: Vec<String>,
}

impl TrustDomains {
    /// From `meshConfig.trustDomain` and `trustDomainAliases`. `cluster.local` in a principal always means the own domain.
    pub fn new(own: impl Into<String>, aliases: impl IntoIterator<Item = String>) -> Self {
        Self { own: own.into(), aliases: aliases.into_iter().collect() }
    }

    /// The own domain first, then the aliases as given, without repetitions.
    pub fn all(&self) -> Vec<&str> {
        let mut all = vec![self.own.as_str()];
        for alias in &self.aliases {
            if !all.contains(&alias.as_str()) {
                all.push(alias);
            }
        }
        all
    }
}

impl Default for TrustDomains {
    fn default() -> Self {
        Self::new("cluster.local", [])
    }
}
