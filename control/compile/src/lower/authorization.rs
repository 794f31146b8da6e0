//! The policy set of a proxy.

use std::sync::Arc;

use palisade_model::{
    hash::HashError,
    policy::{PolicyId, PolicySet},
    resource::Resource,
    settings::ProxyKind,
};

use crate::lower::assembly::Assembly;

/// Adds the proxy's policy set with its policies, and gives the set's key.
pub(crate) fn add(assembly: &mut Assembly<'_>) -> Result<Arc<str>, HashError> {
    let client = assembly.client;
    let proxy = client.proxy;
    let key: Arc<str> = match (&proxy.kind, &proxy.gateway) {
        (ProxyKind::Sidecar, _) => format!("workload/{}/{}", proxy.namespace, proxy.name).into(),
        (ProxyKind::Gateway, Some(gateway)) => format!("gateway/{gateway}").into(),
        (ProxyKind::Gateway, None) => format!("gateway/{}/{}", proxy.namespace, proxy.name).into(),
    };
    let mut members: Vec<PolicyId> = Vec::new();
    let mut deny_all = None;
    let mut has_allow = false;
    let mut origins = Vec::new();
    for restriction in client.resolved.authorization.of_proxy(proxy) {
        has_allow |= restriction.is_allow;
        deny_all = palisade_policy::fold_deny_all(deny_all, restriction.deny_all.clone());
        origins.push(restriction.origin.clone());
        for policy in &restriction.policies {
            members.push(policy.id.clone());
            assembly.add(Resource::Policy(policy.clone()), policy.source.clone())?;
        }
    }
    // No ALLOW policy applies: everything is allowed that nothing denies.
    if !has_allow {
        let permit = palisade_policy::default_permit();
        members.push(permit.id.clone());
        assembly.add(Resource::Policy(permit), None)?;
    }
    members.sort();
    members.dedup();
    let set = PolicySet { key: Arc::clone(&key), policies: members.into(), deny_all };
    assembly.add(Resource::PolicySet(set), origins)?;
    Ok(key)
}
