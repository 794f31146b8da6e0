//! What changes seldom, all of it together.

use std::sync::Arc;

use crate::{
    inputs::{Input, Inputs},
    resolve::providers::CustomPolicy,
};

/// All that lowering may look at without noting it. Compared as a pointer: one that is equal to the mesh's before is that one.
#[derive(Debug)]
pub(crate) struct Basis {
    inputs: Inputs,
    custom: Arc<Vec<CustomPolicy>>,
}

/// Kinds that are not among them are looked at by [`super::Read`] alone.
const KINDS: &[Input] = &[
    Input::Namespaces,
    Input::Services,
    Input::Secrets,
    Input::ConfigMaps,
    Input::GatewayClasses,
    Input::ApiGateways,
    Input::ReferenceGrants,
    Input::Gateways,
    Input::VirtualServices,
    Input::DestinationRules,
    Input::ServiceEntries,
    Input::WorkloadEntries,
    Input::Sidecars,
    Input::PeerAuthentications,
    Input::RequestAuthentications,
    Input::BackendTlsPolicies,
    Input::BrokenPolicies,
    Input::Keys,
];

impl Basis {
    /// The basis of these inputs: that of `previous` if both are equal.
    pub(crate) fn after(previous: Option<&Arc<Self>>, inputs: &Inputs, custom: &Arc<Vec<CustomPolicy>>) -> Arc<Self> {
        let inputs = inputs.only(&[KINDS]);
        let is_same = |held: &&Arc<Self>| {
            let is_same_custom = Arc::ptr_eq(&held.custom, custom) || (held.custom.is_empty() && custom.is_empty());
            is_same_custom && held.inputs.is_same(&inputs)
        };
        match previous.filter(is_same) {
            Some(held) => Arc::clone(held),
            None => Arc::new(Self { inputs, custom: Arc::clone(custom) }),
        }
    }
}
