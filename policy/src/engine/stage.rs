//! The indexed policies of HTTP requests: grouped by principal, inside a group by what they need of a request; and what of them is left for one
//! connection.

use std::{collections::HashMap, sync::Arc};

use super::index_of;
use crate::{
    CompiledPolicy, PolicyIndex,
    eval::{Outcome, RequestView, View},
    index::{Needs, RequestIndex, field_keys, path_keys, principal_keys},
    ir::{Actions, Entity},
};

/// What a set says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    Permitted(PolicyIndex),
    Forbidden(PolicyIndex),
    Failed(PolicyIndex),
    Nothing,
}

/// Policies by principal and what they need of a request.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// The group of policies that need no particular principal comes first.
    groups: Vec<Group>,
    by_principal: HashMap<Entity, usize, ahash::RandomState>,
}

/// Policies that need the same principal.
#[derive(Debug, Default)]
struct Group {
    /// Places in the engine's list, ascending.
    members: Vec<u32>,
    forbids: RequestIndex,
    permits: RequestIndex,
}

/// What is left of a stage for one connection.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Groups that the principal is in.
    groups: Vec<Narrowed>,
    /// The answer to every request, where the connection alone decides.
    pub constant: Option<Hit>,
}

/// A group and what each of its members came to, as far as the connection decides.
#[derive(Debug)]
struct Narrowed {
    group: usize,
    outcomes: Box<[Narrow]>,
}

/// What is left of one policy for one connection.
#[derive(Debug, Clone, Copy)]
struct Narrow {
    outcome: Outcome,
    /// Of an open one, the parts that the request still decides.
    open: u64,
}

impl Stage {
    pub(super) fn build(policies: &[Arc<CompiledPolicy>], actions: Actions) -> Self {
        let mut stage = Self { groups: vec![Group::default()], by_principal: HashMap::default() };
        // Of each group, its forbids and its permits.
        let mut needs: Vec<[Vec<(u32, Needs)>; 2]> = Vec::new();
        for (position, policy) in policies.iter().enumerate() {
            if !policy.is_about(actions) {
                continue;
            }
            // Looking a policy up by what it needs skips its evaluation, and with it an error: only where there can be none.
            let condition = policy.program().filter(|_| policy.is_infallible()).map(|p| &p.condition);
            let needed = Needs { paths: condition.and_then(path_keys), fields: condition.and_then(field_keys) };
            let groups = match condition.and_then(principal_keys) {
                None => vec![0],
                Some(principals) => principals.into_iter().map(|principal| stage.group_of(principal)).collect(),
            };
            needs.resize_with(stage.groups.len(), Default::default);
            for place in groups {
                if let (Some(group), Some([forbids, permits])) = (stage.groups.get_mut(place), needs.get_mut(place)) {
                    let at = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
                    group.members.push(index_of(position).0);
                    let side = if policy.is_forbid() { forbids } else { permits };
                    side.push((at, needed.clone()));
                }
            }
        }
        for (group, [forbids, permits]) in stage.groups.iter_mut().zip(needs) {
            (group.forbids, group.permits) = (RequestIndex::build(forbids), RequestIndex::build(permits));
        }
        stage
    }

    fn group_of(&mut self, principal: Entity) -> usize {
        let next = self.groups.len();
        let group = *self.by_principal.entry(principal).or_insert(next);
        if group == next {
            self.groups.push(Group::default());
        }
        group
    }

    /// Collects the groups of a connection's principal and evaluates their members as far as the connection goes.
    pub(super) fn candidates(
        &self,
        policies: &[Arc<CompiledPolicy>],
        view: &View<'_>,
        may_be_grpc: bool,
    ) -> Candidates {
        let of_principal = view.connection.principal.entities.iter().filter_map(|e| self.by_principal.get(e).copied());
        let mut groups = Vec::new();
        let mut summary = Summary::default();
        for group in std::iter::once(0).chain(of_principal) {
            let Some(members) = self.groups.get(group).map(|g| &g.members).filter(|m| !m.is_empty()) else { continue };
            let outcomes = members.iter().map(|index| {
                let Some(policy) = policy_at(policies, *index) else {
                    return Narrow { outcome: Outcome::Error, open: 0 };
                };
                // Which action it is going to be is not known either.
                let is_apart = may_be_grpc && policy.tells_grpc_apart();
                let outcome = if is_apart { Outcome::Unknown } else { policy.eval(view) };
                summary.add(*index, policy.is_forbid(), outcome);
                let open = match outcome {
                    Outcome::Unknown if is_apart => u64::MAX,
                    Outcome::Unknown => policy.open_parts(view),
                    Outcome::True | Outcome::False | Outcome::Error => 0,
                };
                Narrow { outcome, open }
            });
            groups.push(Narrowed { group, outcomes: outcomes.collect() });
        }
        Candidates { groups, constant: summary.constant() }
    }

    /// Decides one request: forbids first, each side by the first match in canonical order.
    pub(super) fn decide(
        &self,
        policies: &[Arc<CompiledPolicy>],
        candidates: &Candidates,
        view: &View<'_>,
        request: &RequestView<'_>,
    ) -> Hit {
        if let Some((index, outcome)) = self.first(policies, candidates, view, request, true) {
            let index = PolicyIndex(index);
            return if outcome == Outcome::True { Hit::Forbidden(index) } else { Hit::Failed(index) };
        }
        self.first(policies, candidates, view, request, false)
            .map_or(Hit::Nothing, |(index, _)| Hit::Permitted(PolicyIndex(index)))
    }

    /// Calls `visit` with the place of every policy that matches a request; a forbid that fails counts as one.
    pub(super) fn for_each_match(
        &self,
        policies: &[Arc<CompiledPolicy>],
        candidates: &Candidates,
        view: &View<'_>,
        request: &RequestView<'_>,
        mut visit: impl FnMut(usize),
    ) {
        for narrowed in &candidates.groups {
            let Some(group) = self.groups.get(narrowed.group) else { continue };
            for (index, is_forbid) in [(&group.forbids, true), (&group.permits, false)] {
                index.for_each_list(view, request, |list| {
                    for at in list.iter().filter_map(|at| usize::try_from(*at).ok()) {
                        let Some(place) = group.members.get(at) else { continue };
                        let outcome = match narrowed.outcomes.get(at) {
                            None => Outcome::Error,
                            Some(Narrow { outcome: Outcome::Unknown, open }) => {
                                policy_at(policies, *place).map_or(Outcome::Error, |p| p.eval_open(view, *open))
                            }
                            Some(decided) => decided.outcome,
                        };
                        let is_match = outcome == Outcome::True || (is_forbid && super::is_forbidding(outcome));
                        if let (true, Ok(place)) = (is_match, usize::try_from(*place)) {
                            visit(place);
                        }
                    }
                });
            }
        }
    }

    fn first(
        &self,
        policies: &[Arc<CompiledPolicy>],
        candidates: &Candidates,
        view: &View<'_>,
        request: &RequestView<'_>,
        is_forbid: bool,
    ) -> Option<(u32, Outcome)> {
        let mut best: Option<(u32, Outcome)> = None;
        for narrowed in &candidates.groups {
            let Some(group) = self.groups.get(narrowed.group) else {
                best = best.or(UNREADABLE.filter(|_| is_forbid));
                continue;
            };
            let index = if is_forbid { &group.forbids } else { &group.permits };
            if index.is_empty() {
                continue;
            }
            index.for_each_list(view, request, |list| {
                for at in list {
                    let at = usize::try_from(*at).unwrap_or(usize::MAX);
                    let (Some(known), Some(policy_index)) = (narrowed.outcomes.get(at), group.members.get(at)) else {
                        best = best.or(UNREADABLE.filter(|_| is_forbid));
                        continue;
                    };
                    if best.is_some_and(|(first, _)| *policy_index >= first) {
                        break;
                    }
                    let outcome = match known.outcome {
                        Outcome::Unknown => policy_at(policies, *policy_index)
                            .map_or(Outcome::Error, |policy| policy.eval_open(view, known.open)),
                        decided => decided,
                    };
                    if outcome == Outcome::True || (is_forbid && super::is_forbidding(outcome)) {
                        best = Some((*policy_index, outcome));
                        break;
                    }
                }
            });
        }
        best
    }
}

/// A forbid that the index names and that is not there: it failed, whichever it was.
const UNREADABLE: Option<(u32, Outcome)> = Some((u32::MAX, Outcome::Error));

/// Decides without an index: for opaque connections, which are asked about once.
pub(super) fn decide_all(
    policies: &[Arc<CompiledPolicy>],
    view: &View<'_>,
    eval: impl Fn(&CompiledPolicy, &View<'_>) -> Outcome,
) -> Hit {
    let mut permitted = None;
    for (position, policy) in policies.iter().enumerate() {
        if !policy.is_forbid() && permitted.is_some() {
            continue;
        }
        match (policy.is_forbid(), eval(policy, view)) {
            (true, Outcome::True) => return Hit::Forbidden(index_of(position)),
            (true, Outcome::Error | Outcome::Unknown) => return Hit::Failed(index_of(position)),
            (false, Outcome::True) => permitted = Some(index_of(position)),
            (_, Outcome::False) | (false, Outcome::Error | Outcome::Unknown) => {}
        }
    }
    permitted.map_or(Hit::Nothing, Hit::Permitted)
}

fn policy_at(policies: &[Arc<CompiledPolicy>], index: u32) -> Option<&CompiledPolicy> {
    policies.get(usize::try_from(index).ok()?).map(|p| &**p)
}

/// Whether the connection alone decides: nothing that is still open could come before what is known.
#[derive(Default)]
struct Summary {
    forbid: Side,
    permit: Side,
}

#[derive(Default)]
struct Side {
    hit: Option<(u32, Outcome)>,
    open: Option<u32>,
}

impl Summary {
    fn add(&mut self, index: u32, is_forbid: bool, outcome: Outcome) {
        let side = if is_forbid { &mut self.forbid } else { &mut self.permit };
        match outcome {
            Outcome::True => side.note(index, outcome),
            Outcome::Error if is_forbid => side.note(index, outcome),
            Outcome::Unknown => side.open = Some(side.open.map_or(index, |open| open.min(index))),
            Outcome::False | Outcome::Error => {}
        }
    }

    fn constant(&self) -> Option<Hit> {
        if let Some((index, outcome)) = self.forbid.decided() {
            let index = PolicyIndex(index);
            return Some(if outcome == Outcome::True { Hit::Forbidden(index) } else { Hit::Failed(index) });
        }
        if self.forbid.hit.is_some() || self.forbid.open.is_some() {
            return None;
        }
        match self.permit.decided() {
            Some((index, _)) => Some(Hit::Permitted(PolicyIndex(index))),
            None if self.permit.open.is_none() => Some(Hit::Nothing),
            None => None,
        }
    }
}

impl Side {
    fn note(&mut self, index: u32, outcome: Outcome) {
        if self.hit.is_none_or(|(first, _)| index < first) {
            self.hit = Some((index, outcome));
        }
    }

    /// The first match, if nothing open comes before it.
    fn decided(&self) -> Option<(u32, Outcome)> {
        self.hit.filter(|(index, _)| self.open.is_none_or(|open| index < &open))
    }
}

#[cfg(test)]
mod tests {
    use palisade_model::policy::{PolicyId, PolicyMode};

    use super::*;
    use crate::{
        ConnectionFacts, Peer, RequestFacts, RuleAction, RuleSpec, TrustDomains,
        admit::permit_all,
        admit_rule,
        eval::{ConnectionView, RequestState, Target},
    };

    fn policies() -> Vec<Arc<CompiledPolicy>> {
        let rule = RuleSpec {
            id: PolicyId::of_rule("foo", "none", 0),
            source: None,
            rule: Some(0),
            namespace: "foo".into(),
            action: RuleAction::Deny,
            mode: PolicyMode::Enforce,
            from: None,
            to: None,
            when: Vec::new(),
        };
        let admitted = admit_rule(&rule, &TrustDomains::new("cluster.local", Vec::<String>::new()));
        let permit = permit_all("mesh/all");
        admitted.policies.iter().chain([&permit]).map(|policy| Arc::new(CompiledPolicy::load(policy))).collect()
    }

    /// What a set that forbids and permits everything says, with these outcomes in place of its own.
    fn hit(tampered: impl Fn(&mut Candidates)) -> Hit {
        let policies = policies();
        let stage = Stage::build(&policies, Actions::L7);
        let address = "10.0.0.1".parse().unwrap();
        let connection = ConnectionView::of(&ConnectionFacts {
            source_ip: address,
            source_port: 1,
            destination_ip: address,
            destination_port: 2,
            peer: Peer::Anonymous,
            tls: None,
        });
        let lines: Vec<(String, Vec<u8>)> = Vec::new();
        let facts = RequestFacts {
            method: "GET",
            scheme: "http",
            authority: b"a",
            path: b"/",
            query: None,
            headers: &lines,
            remote_ip: address,
            jwt: None,
            now: std::time::SystemTime::UNIX_EPOCH,
        };
        let (mut lowered, target) = (Vec::new(), Target::of_key("workload/foo/a"));
        let request = RequestView::of(&facts, &mut lowered);
        let known = RequestState::Known(&request);
        let view = View { action: Actions::HTTP, target: &target, connection: &connection, request: known };
        let mut candidates = stage.candidates(&policies, &view, false);
        tampered(&mut candidates);
        stage.decide(&policies, &candidates, &view, &request)
    }

    #[test]
    fn a_forbid_that_cannot_be_looked_at_has_failed() {
        assert!(matches!(hit(|_| {}), Hit::Forbidden(_)));
        let no_outcomes = |candidates: &mut Candidates| {
            candidates.groups.iter_mut().for_each(|group| group.outcomes = Box::default());
        };
        assert!(matches!(hit(no_outcomes), Hit::Failed(_)));
        let no_group = |candidates: &mut Candidates| {
            candidates.groups.iter_mut().for_each(|group| group.group = usize::MAX);
        };
        assert!(matches!(hit(no_group), Hit::Failed(_)));
        let never_known = |candidates: &mut Candidates| {
            let narrow = |narrow: &mut Narrow| *narrow = Narrow { outcome: Outcome::Unknown, open: 0 };
            candidates.groups.iter_mut().for_each(|group| group.outcomes.iter_mut().for_each(narrow));
        };
        assert!(!matches!(hit(never_known), Hit::Permitted(_)));
    }

    #[test]
    fn what_stays_unknown_forbids() {
        assert!(super::super::is_forbidding(Outcome::Unknown));
        assert!(!super::super::is_forbidding(Outcome::False));
    }
}
