//! The policy set of a proxy.

use std::sync::Arc;

use palisade_model::{
    hash::HashError,
    policy::{Policy, PolicyId, PolicySet},
    resource::Resource,
    settings::ProxyKind,
};

use crate::{lower::assembly::Assembly, resolve::authorization::Restriction};

/// Adds the proxy's policy set with its policies, and gives the set's key.
pub(crate) fn add(assembly: &mut Assembly<'_>) -> Result<Arc<str>, HashError> {
    let client = assembly.client;
    let proxy = client.proxy();
    let key: Arc<str> = match (&proxy.kind, proxy.gateways.as_slice()) {
        (ProxyKind::Sidecar, _) => format!("workload/{}/{}", proxy.namespace, proxy.name).into(),
        (ProxyKind::Gateway, [gateway]) => format!("gateway/{gateway}").into(),
        (ProxyKind::Gateway, _) => format!("gateway/{}/{}", proxy.namespace, proxy.name).into(),
    };
    let restrictions: Vec<&Arc<Restriction>> = client.resolved.authorization.of_proxy(proxy).collect();
    add_set(assembly, &key, &restrictions, palisade_policy::default_permit())?;
    Ok(key)
}

/// Adds the set that decides what a sidecar's workload may reach outside the mesh, and gives its key; `None` where no policy says
/// anything about that.
pub(crate) fn add_egress(assembly: &mut Assembly<'_>) -> Result<Option<Arc<str>>, HashError> {
    let client = assembly.client;
    let proxy = client.proxy();
    let restrictions: Vec<&Arc<Restriction>> = client.resolved.authorization.egress_of_proxy(proxy).collect();
    if restrictions.is_empty() || proxy.kind != ProxyKind::Sidecar {
        return Ok(None);
    }
    let key: Arc<str> = format!("egress/{}/{}", proxy.namespace, proxy.name).into();
    add_set(assembly, &key, &restrictions, palisade_policy::default_egress_permit())?;
    Ok(Some(key))
}

/// Adds a set of policies; the default permit stands where none of them is an enforced permit.
fn add_set(
    assembly: &mut Assembly<'_>,
    key: &Arc<str>,
    restrictions: &[&Arc<Restriction>],
    default: Policy,
) -> Result<(), HashError> {
    let mut members: Vec<PolicyId> = Vec::new();
    let mut deny_all = None;
    let mut has_allow = false;
    let mut origins = Vec::new();
    for restriction in restrictions {
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
        members.push(default.id.clone());
        assembly.add(Resource::Policy(default), None)?;
    }
    members.sort();
    members.dedup();
    let set = PolicySet {
        key: Arc::clone(key),
        policies: members.into(),
        deny_all,
        // What stands before it says so itself.
        has_authentication: false,
        has_external_authorization: false,
    };
    assembly.add(Resource::PolicySet(set), origins)
}
