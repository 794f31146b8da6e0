//! What stands before authorization at one proxy: token rules, and the external authorizers of CUSTOM policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_model::{
    authentication::Authentication,
    external_authorization::{ExternalAuthorization, ExternalCheck, ExternalProvider},
    hash::HashError,
    origin::Origin,
    policy::{PolicyId, PolicySet},
    resource::Resource,
};

use crate::{
    lower::assembly::Assembly,
    resolve::{
        check_cache,
        providers::{self, CustomPolicy, Provider},
        tokens::TokenRules,
    },
};

/// Adds what stands before the policy set `target`. Without it the set would mean something else: a proxy that does not
/// understand it gets neither.
pub(crate) fn add(assembly: &mut Assembly<'_>, target: &Arc<str>) -> Result<(), HashError> {
    let client = assembly.client;
    let resolved = client.resolved;
    if let Some(rules) = resolved.tokens.of_proxy(&resolved.authorization, client.proxy()) {
        let TokenRules { rules, refuse_tokens, origins } = rules;
        let authentication = Authentication { key: Arc::clone(target), rules: rules.into(), refuse_tokens };
        let resource = Resource::Authentication(authentication);
        assembly.precede(target, &resource)?;
        assembly.add(resource, origins)?;
    }
    let policies: Vec<&CustomPolicy> = resolved
        .custom
        .iter()
        .filter(|policy| resolved.authorization.applies(&policy.restriction, client.proxy()))
        .collect();
    if policies.is_empty() {
        return Ok(());
    }
    let enforced: BTreeSet<&Arc<str>> =
        policies.iter().filter(|policy| !policy.is_dry_run).map(|policy| &policy.provider).collect();
    let is_ambiguous = enforced.len() > 1 && !resolved.settings.multiple_custom_providers;
    let mut groups: BTreeMap<(Arc<str>, bool), Vec<&CustomPolicy>> = BTreeMap::new();
    for policy in &policies {
        groups.entry((Arc::clone(&policy.provider), policy.is_dry_run)).or_default().push(policy);
    }
    let mut checks = Vec::new();
    for ((provider, is_dry_run), members) in groups {
        let asks = if is_ambiguous && !is_dry_run {
            ExternalProvider::Missing { message: "several CUSTOM providers apply to the workload".into() }
        } else {
            provider_for(assembly, &provider)?
        };
        let suffix = if is_dry_run { "~dry-run" } else { "" };
        let key: Arc<str> = format!("custom/{provider}{suffix}/{target}").into();
        add_set(assembly, &key, &members)?;
        // An answer about a body is about that body.
        let shows_body = asks.service().is_some_and(|service| service.body.is_some());
        let cache = check_cache::merged(members.iter().map(|policy| policy.cache.as_ref())).filter(|_| !shows_body);
        checks.push(ExternalCheck { provider, policies: key, is_dry_run, asks, cache });
    }
    let external = ExternalAuthorization { key: Arc::clone(target), checks: checks.into() };
    let resource = Resource::ExternalAuthorization(external);
    assembly.precede(target, &resource)?;
    assembly.add(resource, policies.iter().map(|policy| policy.restriction.origin.clone()))
}

/// The provider with its cluster, as this proxy reaches it.
fn provider_for(assembly: &mut Assembly<'_>, name: &str) -> Result<ExternalProvider, HashError> {
    let missing = |message: String| ExternalProvider::Missing { message: message.into() };
    Ok(match providers::find(name, &assembly.client.resolved.settings) {
        Provider::Unusable(message) => missing(message),
        Provider::Usable { destination, namespace: Some(namespace), asks: _ }
            if assembly.client.destination_service(&destination.host).is_none_or(|s| s.key.namespace != namespace) =>
        {
            let host = &destination.host;
            missing(format!("extension provider `{name}`: there is no service `{host}` in namespace `{namespace}`"))
        }
        Provider::Usable { destination, namespace: _, asks } => match assembly.add_destination(&destination)? {
            true => *asks,
            false => {
                let (host, port) = (&destination.host, destination.port);
                missing(format!("extension provider `{name}`: there is no service `{host}` with port {port}"))
            }
        },
    })
}

/// The set of what a provider is asked about: everything is permitted but what the rules match.
fn add_set(assembly: &mut Assembly<'_>, key: &Arc<str>, members: &[&CustomPolicy]) -> Result<(), HashError> {
    let permit = palisade_policy::default_permit();
    let mut ids: Vec<PolicyId> = vec![permit.id.clone()];
    assembly.add(Resource::Policy(permit), None)?;
    let mut deny_all = None;
    let mut origins: Vec<Origin> = Vec::new();
    for member in members {
        let restriction = &member.restriction;
        deny_all = palisade_policy::fold_deny_all(deny_all, restriction.deny_all.clone());
        origins.push(restriction.origin.clone());
        for policy in &restriction.policies {
            ids.push(policy.id.clone());
            assembly.add(Resource::Policy(policy.clone()), policy.source.clone())?;
        }
    }
    ids.sort();
    ids.dedup();
    let set = PolicySet {
        key: Arc::clone(key),
        policies: ids.into(),
        deny_all,
        has_authentication: false,
        has_external_authorization: false,
    };
    assembly.add(Resource::PolicySet(set), origins)
}
