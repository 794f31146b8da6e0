//! What is kept of a request so that its decision can be explained later, and the explanation.

use std::ops::ControlFlow;

use palisade_model::policy::Effect;

use super::{ConnectionDecision, PolicyEngine, is_forbidding};
use crate::{
    CapturedHttp, CapturedRequest, Explanation, NearMiss, PolicyRef, RecordedExplanation, RequestFacts,
    eval::{ConnectionView, Outcome, RequestState, RequestView, Target, View},
    explain::failed_clauses,
    ir::Actions,
};

impl PolicyEngine {
    /// Copies what [`PolicyEngine::explain`] needs; of the header lines only those that the policies mention.
    pub fn capture_http(&self, connection: &ConnectionDecision, request: &RequestFacts<'_>) -> CapturedRequest {
        let RequestFacts { method, scheme, authority, path, query, headers, remote_ip, jwt, now } = request;
        let mut names: Vec<&str> = self.enforced.iter().chain(&self.recorded).flat_map(|p| p.header_names()).collect();
        if self.tells_grpc_apart {
            names.push("content-type");
        }
        names.sort_unstable();
        names.dedup();
        let mut lines = Vec::new();
        for name in names {
            headers.visit_lines(name, &mut |line| {
                lines.push((name.to_owned(), line.to_vec()));
                ControlFlow::Continue(())
            });
        }
        let http = CapturedHttp {
            method: (*method).to_owned(),
            scheme: (*scheme).to_owned(),
            authority: authority.to_vec(),
            path: match query {
                Some(query) => [*path, b"?", *query].concat(),
                None => path.to_vec(),
            },
            headers: lines,
            remote_ip: *remote_ip,
            jwt: jwt.cloned(),
            now: *now,
        };
        CapturedRequest { connection: connection.facts.clone(), http: Some(http), egress_host: None }
    }

    /// Copies what [`PolicyEngine::explain`] needs of an opaque connection.
    pub fn capture_tcp(&self, connection: &ConnectionDecision) -> CapturedRequest {
        CapturedRequest { connection: connection.facts.clone(), http: None, egress_host: None }
    }

    /// Decides again, slowly, and says why: for `why`, `eval` and the admin page.
    pub fn explain(&self, captured: &CapturedRequest) -> Explanation {
        self.with_view(captured, |view| Explanation {
            recorded: self.explain_recorded(view),
            ..self.explain_view(view)
        })
    }

    /// What was captured, as policies look at it.
    pub(super) fn with_view<T>(&self, captured: &CapturedRequest, look: impl FnOnce(&View<'_>) -> T) -> T {
        let CapturedRequest { connection, http, egress_host } = captured;
        let connection = ConnectionView::of(connection);
        let (facts, view);
        let mut lowered = Vec::new();
        let request = match http {
            None => RequestState::Opaque,
            Some(http) => {
                facts = http.facts();
                view = RequestView::of(&facts, &mut lowered);
                RequestState::Known(&view)
            }
        };
        let Some(host) = egress_host else { return look(&self.view(&connection, request)) };
        let action = if http.is_some() { Actions::EGRESS_HTTP } else { Actions::EGRESS_TCP };
        look(&View { action, target: &Target::external(host), connection: &connection, request })
    }

    /// What audited and dry-run documents say, and for those that would grant and did not match: how near they came.
    fn explain_recorded(&self, view: &View<'_>) -> Vec<RecordedExplanation> {
        if !self.records() {
            return Vec::new();
        }
        let layer = layer_of(view);
        let recorded = self.recorded_linear(view, layer, self.hit_tcp(view)).0;
        let explained = recorded.policies.iter().map(|said| {
            let of = said.policy();
            let permits = self.recorded.iter().filter(|policy| {
                let p = policy.policy();
                !policy.is_forbid() && policy.is_about(layer) && p.mode == of.mode && p.source == of.source
            });
            let mut nearest: Vec<NearMiss> = Vec::new();
            if !said.matched {
                nearest = permits
                    .filter(|policy| policy.policy().rule.is_some())
                    .map(|policy| NearMiss { policy: policy.policy().clone(), failed: failed_clauses(policy, view) })
                    .collect();
                nearest.sort_by_key(|miss| miss.failed.len());
                nearest.truncate(1);
            }
            RecordedExplanation {
                policy: of.clone(),
                matched: said.matched,
                allowed: said.allowed,
                nearest: nearest.pop(),
            }
        });
        explained.collect()
    }

    pub(super) fn explain_view(&self, view: &View<'_>) -> Explanation {
        if let Some(denies_all) = &self.denies_all {
            return Explanation {
                allowed: false,
                policies: vec![denies_all.policy.clone()],
                nearest: Vec::new(),
                message: Some(denies_all.message.clone()),
                recorded: Vec::new(),
            };
        }
        let said: Vec<(&PolicyRef, Outcome)> =
            self.enforced.iter().map(|p| (p.policy(), self.outcome(p, view))).collect();
        let matching = |effect: Effect| -> Vec<PolicyRef> {
            let is_hit = |outcome: Outcome| {
                if effect == Effect::Forbid { is_forbidding(outcome) } else { outcome == Outcome::True }
            };
            said.iter()
                .filter(|(p, outcome)| p.effect == effect && is_hit(*outcome))
                .map(|(p, _)| (*p).clone())
                .collect()
        };
        let forbids = matching(Effect::Forbid);
        if !forbids.is_empty() {
            return Explanation {
                allowed: false,
                policies: forbids,
                nearest: Vec::new(),
                message: None,
                recorded: Vec::new(),
            };
        }
        let permits = matching(Effect::Permit);
        if !permits.is_empty() {
            return Explanation {
                allowed: true,
                policies: permits,
                nearest: Vec::new(),
                message: None,
                recorded: Vec::new(),
            };
        }
        let layer = layer_of(view);
        let mut nearest: Vec<NearMiss> = self
            .enforced
            .iter()
            .filter(|p| !p.is_forbid() && p.is_about(layer))
            .map(|p| NearMiss { policy: p.policy().clone(), failed: failed_clauses(p, view) })
            .collect();
        nearest.sort_by_key(|miss| miss.failed.len());
        nearest.truncate(NearMiss::LIMIT);
        Explanation { allowed: false, policies: Vec::new(), nearest, message: None, recorded: Vec::new() }
    }
}

/// What policies about a view are asked by: both kinds of HTTP request are one.
fn layer_of(view: &View<'_>) -> Actions {
    match view.action {
        Actions::HTTP | Actions::GRPC => Actions::L7,
        other => other,
    }
}
