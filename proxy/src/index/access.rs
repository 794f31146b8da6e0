//! What stands before authorization: token rules and external checks of each target.

use std::sync::Arc;

use ahash::AHashMap;
use palisade_model::{
    external_authorization::ExternalCheck,
    hash::ContentHash,
    resource::{Resource, ResourceKind},
    snapshot::Snapshot,
};
use palisade_policy::PolicyEngine;

use super::PolicyTable;
use crate::request::{external::kept::KeptAnswers, tokens::TokenVerifier};

/// Token rules and external checks, by the key of the target's policy set.
#[derive(Debug, Default)]
pub struct AccessTable {
    tokens: AHashMap<Arc<str>, (ContentHash, Arc<TokenVerifier>)>,
    checks: AHashMap<Arc<str>, Arc<[Arc<IndexedCheck>]>>,
}

/// One external check with the engine that says what it is about.
#[derive(Debug)]
pub struct IndexedCheck {
    /// The check.
    pub check: ExternalCheck,
    /// What it forbids needs the provider's word.
    pub engine: Arc<PolicyEngine>,
    /// Answers that count again; `None` = each request is asked about.
    pub answers: Option<Arc<KeptAnswers>>,
}

impl IndexedCheck {
    fn new(check: &ExternalCheck, engine: &Arc<PolicyEngine>) -> Self {
        // An answer about a body is about that body.
        let shows_body = check.asks.service().is_some_and(|service| service.body.is_some());
        let answers = check.cache.clone().filter(|_| !shows_body && !check.is_dry_run).map(KeptAnswers::new);
        Self { check: check.clone(), engine: Arc::clone(engine), answers }
    }
}

impl AccessTable {
    pub(super) fn build(snapshot: &Snapshot, policies: &PolicyTable, previous: Option<&Self>) -> Self {
        let mut table = Self::default();
        for entry in snapshot.of_kind(ResourceKind::Authentication) {
            let Resource::Authentication(authentication) = entry.resource() else { continue };
            let held = previous.and_then(|p| p.tokens.get(&authentication.key)).filter(|held| held.0 == entry.hash());
            let held = held.cloned();
            let verifier = held.unwrap_or_else(|| (entry.hash(), Arc::new(TokenVerifier::new(authentication))));
            table.tokens.insert(Arc::clone(&authentication.key), verifier);
        }
        for entry in snapshot.of_kind(ResourceKind::ExternalAuthorization) {
            let Resource::ExternalAuthorization(external) = entry.resource() else { continue };
            let held = previous.map(|previous| previous.checks(&external.key)).unwrap_or_default();
            let checks = external.checks.iter().map(|check| {
                let engine = policies.engine(&check.policies);
                let same = held.iter().find(|held| held.check == *check && Arc::ptr_eq(&held.engine, engine));
                same.map_or_else(|| Arc::new(IndexedCheck::new(check, engine)), Arc::clone)
            });
            table.checks.insert(Arc::clone(&external.key), checks.collect());
        }
        table
    }

    /// The token rules of a target; `None` = tokens are nobody's business there.
    pub fn tokens(&self, target: &str) -> Option<&Arc<TokenVerifier>> {
        self.tokens.get(target).map(|(_, verifier)| verifier)
    }

    /// The external checks of a target.
    pub fn checks(&self, target: &str) -> &[Arc<IndexedCheck>] {
        self.checks.get(target).map(|checks| &**checks).unwrap_or_default()
    }
}
