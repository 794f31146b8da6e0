//! Decisions about what leaves the mesh, beside the caller: the principal is the caller itself, the resource a host outside.

use super::{ConnectionDecision, PolicyEngine, Recorded};
use crate::{
    Decision, RequestFacts,
    eval::{RequestState, RequestView, Target, View},
    ir::Actions,
};

impl PolicyEngine {
    /// Decides a request to `host`, a name or an address outside the mesh, and says what dry-run documents make of it; `is_counted`:
    /// and counts that. The connection's peer must be the caller's own identity.
    pub fn judge_egress_http(
        &self,
        connection: &ConnectionDecision,
        request: &RequestFacts<'_>,
        host: &str,
        is_counted: bool,
    ) -> (Decision, Option<Recorded>) {
        let target = Target::external(host);
        let mut lowered = Vec::new();
        let request = RequestView::of(request, &mut lowered);
        let request = RequestState::Known(&request);
        let view = View { action: Actions::EGRESS_HTTP, target: &target, connection: &connection.view, request };
        self.judge_egress(&view, is_counted)
    }

    /// As [`PolicyEngine::judge_egress_http`], of an opaque connection.
    pub fn judge_egress_tcp(
        &self,
        connection: &ConnectionDecision,
        host: &str,
        is_counted: bool,
    ) -> (Decision, Option<Recorded>) {
        let target = Target::external(host);
        let request = RequestState::Opaque;
        let view = View { action: Actions::EGRESS_TCP, target: &target, connection: &connection.view, request };
        self.judge_egress(&view, is_counted)
    }

    fn judge_egress(&self, view: &View<'_>, is_counted: bool) -> (Decision, Option<Recorded>) {
        let hit = self.hit_tcp(view);
        let recorded = self.records().then(|| {
            let (recorded, standing) = self.recorded_linear(view, view.action, hit);
            if is_counted {
                self.count(&recorded, standing);
            }
            recorded
        });
        (self.decision(hit), recorded)
    }
}
