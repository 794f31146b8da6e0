//! RequestAuthentications as token rules: scope, places, keys.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::{
    BrokenTarget,
    istio::{self, JwtPresence, JwtRule, PolicyTargetReference, RequestAuthentication},
};
use palisade_model::{
    authentication::{ClaimHeader, TokenLocation, TokenRule},
    origin::Origin,
};

use crate::{
    inputs::Inputs,
    keys::{KeySource, Keys, public_keys},
    lower::client::Proxy,
    object::{self, Head, Object},
    reports::{Code, Report, Reports},
    resolve::authorization::{Authorization, Target},
};

/// One document.
#[derive(Debug)]
pub(crate) struct TokenPolicy {
    origin: Origin,
    namespace: Arc<str>,
    target: Target,
    rules: Vec<TokenRule>,
    /// The document cannot be read: every token on its target is refused.
    broken: Option<Arc<str>>,
}

/// All documents, oldest first.
#[derive(Debug, Default)]
pub(crate) struct TokenPolicies {
    policies: Vec<TokenPolicy>,
}

/// The documents that apply to one proxy, merged.
#[derive(Debug)]
pub(crate) struct TokenRules {
    pub(crate) rules: Vec<TokenRule>,
    pub(crate) refuse_tokens: Option<Arc<str>>,
    pub(crate) origins: Vec<Origin>,
}

impl TokenPolicies {
    /// Reads all documents.
    pub(crate) fn new(inputs: &Inputs, reports: &mut Reports) -> Self {
        let documents = object::by_age(inputs.request_authentications.values()).into_iter();
        let mut policies: Vec<TokenPolicy> =
            documents.flat_map(|document| policy(document, &inputs.keys, reports)).collect();
        for (head, broken) in inputs.broken_policies.iter().filter(|(head, _)| &*head.kind == "RequestAuthentication") {
            let (selector, targets) = match &broken.target {
                BrokenTarget::Readable { selector, target_refs } => (selector.clone(), target_refs.clone()),
                BrokenTarget::Unreadable => (None, Vec::new()),
            };
            let labels = selector.map(|selector| selector.match_labels);
            for target in targets_of(labels, targets) {
                policies.push(TokenPolicy::new(head, target, Vec::new(), Some(broken.message.as_str().into())));
            }
        }
        Self { policies }
    }

    /// What applies to a proxy; `None` = nothing does.
    pub(crate) fn of_proxy(&self, authorization: &Authorization, proxy: &Proxy) -> Option<TokenRules> {
        let mut applying: Vec<&TokenPolicy> = self
            .policies
            .iter()
            .filter(|policy| authorization.takes(&policy.namespace, &policy.target, proxy))
            .collect();
        if applying.is_empty() {
            return None;
        }
        // As Istio: the mesh's rules for an issuer come before those of a namespace.
        applying.sort_by_key(|policy| !authorization.is_root(&policy.namespace));
        let mut rules: Vec<TokenRule> = applying.iter().flat_map(|policy| policy.rules.iter().cloned()).collect();
        rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        Some(TokenRules {
            rules,
            refuse_tokens: applying.iter().find_map(|policy| policy.broken.clone()),
            origins: applying.iter().map(|policy| policy.origin.clone()).collect(),
        })
    }
}

impl TokenPolicy {
    fn new(head: &Head, target: Target, rules: Vec<TokenRule>, broken: Option<Arc<str>>) -> Self {
        let namespace = Arc::clone(&head.key.namespace);
        Self { origin: head.origin(), namespace, target, rules, broken }
    }
}

/// Everything that either of the two names; neither is the whole namespace.
fn targets_of(labels: Option<BTreeMap<String, String>>, targets: Vec<PolicyTargetReference>) -> Vec<Target> {
    match (labels, targets.is_empty()) {
        (Some(labels), false) => vec![Target::Workloads(labels), Target::Objects(targets)],
        (labels, true) => vec![Target::Workloads(labels.unwrap_or_default())],
        (None, false) => vec![Target::Objects(targets)],
    }
}

fn policy(document: &Object<RequestAuthentication>, keys: &Keys, reports: &mut Reports) -> Vec<TokenPolicy> {
    let RequestAuthentication { selector, target_ref: _, target_refs: _, jwt_rules } = &document.spec;
    let head = &document.head;
    let mut rules = Vec::new();
    for (index, rule) in jwt_rules.iter().enumerate() {
        rules.push(token_rule(head, index, rule, keys, reports));
    }
    let labels = selector.as_ref().map(|selector| selector.match_labels.clone());
    let targets = targets_of(labels, document.spec.targets().cloned().collect());
    targets.into_iter().map(|target| TokenPolicy::new(head, target, rules.clone(), None)).collect()
}

fn token_rule(head: &Head, index: usize, rule: &JwtRule, known: &Keys, reports: &mut Reports) -> TokenRule {
    let JwtRule {
        issuer,
        audiences,
        jwks_uri: _,
        jwks_uri_proto: _,
        jwks,
        from_headers,
        from_params,
        from_cookies,
        output_payload_to_header,
        forward_original_token,
        output_claim_to_headers,
        // The control plane fetches keys, within a time of its own.
        timeout: _,
        space_delimited_claims,
        presence,
    } = rule;
    let texts = |list: &[String]| list.iter().map(|text| Arc::from(text.as_str())).collect::<Vec<Arc<str>>>();
    let lower = |text: &str| Arc::<str>::from(text.to_ascii_lowercase());
    let mut locations: Vec<TokenLocation> = Vec::new();
    locations.extend(from_headers.iter().map(|istio::JwtHeader { name, prefix }| TokenLocation::Header {
        name: lower(name),
        prefix: prefix.as_str().into(),
    }));
    locations.extend(texts(from_params).into_iter().map(TokenLocation::Query));
    locations.extend(texts(from_cookies).into_iter().map(TokenLocation::Cookie));
    if locations.is_empty() {
        locations.push(TokenLocation::Header { name: "authorization".into(), prefix: "Bearer ".into() });
        locations.push(TokenLocation::Query("access_token".into()));
    }
    let source = KeySource::of(rule);
    let fetched = source.as_ref().and_then(|source| known.get(source));
    if let Some(error) = fetched.and_then(|fetched| fetched.error.as_ref()) {
        let (code, path) = (Code::KeysUnavailable, format!("spec.jwtRules[{index}].jwksUri"));
        let stands = fetched.is_some_and(|fetched| fetched.keys.is_some());
        let meanwhile = if stands { "the last good keys stand" } else { "every token of the rule is refused" };
        reports.add(Report::warning(head, code, &path, &format!("keys cannot be fetched, {meanwhile}: {error}")));
    }
    let written = jwks.as_deref().filter(|jwks| !jwks.is_empty());
    let keys = written.or_else(|| fetched.and_then(|fetched| fetched.keys.as_deref())).and_then(public_keys);
    if source.is_none() && keys.is_none() {
        let path = format!("spec.jwtRules[{index}]");
        let message = "the rule has no public keys: every token of it is refused";
        reports.add(Report::warning(head, Code::KeysUnavailable, &path, message));
    }
    TokenRule {
        issuer: issuer.as_deref().filter(|issuer| !issuer.is_empty()).map(Arc::from),
        audiences: texts(audiences).into(),
        keys: keys.unwrap_or_default().into(),
        locations: locations.into(),
        forwards_token: *forward_original_token,
        payload_header: (!output_payload_to_header.is_empty()).then(|| lower(output_payload_to_header)),
        claim_headers: output_claim_to_headers
            .iter()
            .map(|istio::ClaimToHeader { header, claim }| ClaimHeader {
                header: lower(header),
                claim: claim.as_str().into(),
            })
            .collect(),
        space_delimited: texts(space_delimited_claims).into(),
        is_required: *presence == Some(JwtPresence::Required),
    }
}
