//! Converted policies, kept while document and circumstances are equal: converting one costs far more than comparing it.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::istio::AuthorizationPolicy;

use crate::{
    inputs::{Inputs, Objects},
    object::{Object, ObjectKey},
    reports::Reports,
    resolve::authorization::Restriction,
};

/// What became of each AuthorizationPolicy.
#[derive(Debug, Default)]
pub(crate) struct RememberedPolicies {
    /// All that converting could see besides the policies.
    circumstances: Option<Inputs>,
    policies: BTreeMap<ObjectKey, Arc<Remembered>>,
}

#[derive(Debug)]
struct Remembered {
    document: Arc<Object<AuthorizationPolicy>>,
    restriction: Option<Arc<Restriction>>,
    found: Reports,
}

/// Converts policies, taking over what is remembered.
#[derive(Debug)]
pub(crate) struct PolicyMemo<'a> {
    previous: Option<&'a RememberedPolicies>,
    current: RememberedPolicies,
}

impl<'a> PolicyMemo<'a> {
    /// For the inputs that converting sees.
    pub(crate) fn after(previous: Option<&'a RememberedPolicies>, inputs: &Inputs) -> Self {
        // A policy is converted by itself: other policies are no circumstance.
        let circumstances = Inputs { authorization_policies: Objects::new(), ..inputs.clone() };
        let is_valid = |held: &&RememberedPolicies| {
            held.circumstances.as_ref().is_some_and(|before| before.is_same(&circumstances))
        };
        Self {
            previous: previous.filter(is_valid),
            current: RememberedPolicies { circumstances: Some(circumstances), policies: BTreeMap::new() },
        }
    }

    /// What a document becomes. `convert` must not depend on other policies.
    pub(crate) fn convert(
        &mut self,
        document: &Arc<Object<AuthorizationPolicy>>,
        reports: &mut Reports,
        convert: impl FnOnce(&mut Reports) -> Option<Restriction>,
    ) -> Option<Arc<Restriction>> {
        let key = &document.head.key;
        let is_same = |held: &&Arc<Remembered>| Arc::ptr_eq(&held.document, document) || held.document == *document;
        let held = self.previous.and_then(|held| held.policies.get(key)).filter(is_same);
        let remembered = held.map(Arc::clone).unwrap_or_else(|| {
            let mut found = Reports::unplaced();
            let restriction = convert(&mut found).map(Arc::new);
            Arc::new(Remembered { document: Arc::clone(document), restriction, found })
        });
        reports.add_all(&remembered.found);
        let restriction = remembered.restriction.clone();
        self.current.policies.insert(key.clone(), remembered);
        restriction
    }

    /// What is to be remembered.
    pub(crate) fn finish(self) -> RememberedPolicies {
        self.current
    }
}
