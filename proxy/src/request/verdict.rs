//! What becomes of a request or connection: one type for the live proxy, for `eval` and for explanations.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use palisade_model::{
    reason::Reason,
    route::RetryPolicy,
    service::{L4Route, Query},
};
use palisade_policy::{CapturedRequest, Decision, Permit, PolicyEngine, PolicyRef, Recorded};

use super::{
    authority,
    changes::HeaderChange,
    external::{External, Question},
    session::Held,
    status,
};
use crate::index::{IndexedCluster, IndexedEntry};

/// The verdict on one request or connection.
#[derive(Debug)]
pub struct Verdict {
    /// Why it ends as it does, as far as is known before anybody upstream was asked.
    pub reason: Reason,
    /// What authorization said; `None` where it did not run.
    pub authorization: Option<Authorization>,
    /// The route that was found, also where the answer comes from elsewhere.
    pub route: Route,
    /// The cluster that was chosen, also when there is no such cluster.
    pub cluster: Option<Arc<str>>,
    /// Faults that the draw let happen.
    pub fault: Injected,
    /// What external authorizers did.
    pub external: External,
    /// What is done.
    pub action: Action,
}

/// What is done.
#[derive(Debug)]
pub enum Action {
    /// It goes to a configured cluster, or to where it was dialled.
    Forward(Box<ForwardPlan>),
    /// The proxy answers.
    Respond(Answer),
    /// The connection is closed without an answer.
    Close,
    /// The control plane must be asked first; without it, `config-unavailable`.
    Ask(Query),
    /// A provider must be asked first; without its word, `ext-authz-unavailable`.
    Check(Box<Question>),
}

/// What authorization said.
#[derive(Debug)]
pub struct Authorization {
    /// Whether it was allowed.
    pub is_allowed: bool,
    /// The policy that decided; `None` for the default deny.
    pub deciding: Option<PolicyRef>,
    /// Who judged.
    pub engine: Arc<PolicyEngine>,
    /// What a denial, or a sampled permission, is explained from.
    pub captured: Option<Box<CapturedRequest>>,
    /// What audited and dry-run documents say; `None` where there are none.
    pub recorded: Option<Box<Recorded>>,
}

/// The route that was found.
#[derive(Debug, Clone, Default)]
pub enum Route {
    /// None, or none was looked for.
    #[default]
    None,
    /// An HTTP rule.
    Rule(IndexedEntry),
    /// An L4 route.
    L4(Arc<L4Route>),
}

/// Faults that the draw let happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injected {
    /// Wait this long first.
    pub delay: Option<Duration>,
    /// The HTTP status of the abort.
    pub abort: Option<u16>,
}

/// How a permitted request or connection is forwarded.
#[derive(Debug)]
pub struct ForwardPlan {
    /// The proof that it may be.
    pub permit: Permit,
    /// The cluster.
    pub cluster: Arc<IndexedCluster>,
    /// What leads to the endpoint where the cluster hashes; `None` = any endpoint.
    pub hash: Option<u64>,
    /// The session that it belongs to or begins; `None` = none.
    pub session: Option<Held>,
    /// The cluster is one of the two passthrough clusters.
    pub is_passthrough: bool,
    /// The bytes are a mesh peer's own TLS: they go as they are, and only to endpoints that end it.
    pub passes_mesh_tls: bool,
    /// The request as it goes out; empty for opaque bytes.
    pub head: UpstreamHead,
    /// Changes to the response's headers.
    pub response: Vec<HeaderChange>,
    /// Limit of the whole request.
    pub timeout: Option<Duration>,
    /// Retries; `None` = off.
    pub retries: Option<RetryPolicy>,
    /// Names of the clusters that get a copy; one that does not exist gets none.
    pub mirrors: Vec<Arc<str>>,
    /// How many more the route asks for that nothing may be sent to.
    pub unsent_mirrors: usize,
}

/// The head of the request that goes upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamHead {
    /// `:authority` or `Host`.
    pub authority: String,
    /// Path and query.
    pub target: Vec<u8>,
    /// Changes to the headers as received.
    pub changes: Vec<HeaderChange>,
}

/// An answer of the proxy itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; 200 for a gRPC refusal.
    pub status: u16,
    /// gRPC status of a trailers-only answer; `None` = not gRPC.
    pub grpc_status: Option<u32>,
    /// Headers beside content type and length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Content type of the body.
    pub content_type: Option<Arc<str>>,
    /// Body; for a gRPC refusal its message.
    pub body: Bytes,
}

impl UpstreamHead {
    /// The host that it names, lower-case and without port; empty: none.
    pub fn host(&self) -> Cow<'_, str> {
        authority::host_of(&self.authority)
    }
}

impl Verdict {
    /// A verdict before any route was looked for.
    pub(super) fn early(reason: Reason, action: Action) -> Self {
        Self {
            reason,
            authorization: None,
            route: Route::None,
            cluster: None,
            fault: Injected::default(),
            external: External::default(),
            action,
        }
    }

    /// The status that goes downstream, where the proxy knows it.
    pub fn status(&self) -> Option<(u16, Option<u32>)> {
        match &self.action {
            Action::Respond(answer) => Some((answer.status, answer.grpc_status)),
            Action::Forward(_) | Action::Close | Action::Ask(_) | Action::Check(_) => None,
        }
    }
}

impl Authorization {
    /// Whether a dry-run document, enforced by itself, would change the answer.
    pub fn would_change(&self) -> bool {
        would_change(self.recorded.as_deref(), self.is_allowed)
    }

    /// Notes what an engine decided.
    pub(super) fn of(
        engine: &Arc<PolicyEngine>,
        decision: &Decision,
        captured: Option<CapturedRequest>,
        recorded: Option<Recorded>,
    ) -> Self {
        Self {
            is_allowed: decision.is_allowed(),
            deciding: engine.deciding(decision).cloned(),
            engine: Arc::clone(engine),
            captured: captured.map(Box::new),
            recorded: recorded.map(Box::new),
        }
    }
}

/// Whether a dry-run document, enforced by itself, would change an answer.
pub(super) fn would_change(recorded: Option<&Recorded>, is_allowed: bool) -> bool {
    let mut documents = recorded.into_iter().flat_map(|recorded| &recorded.policies);
    documents.any(|document| document.allowed.is_some_and(|allowed| allowed != is_allowed))
}

impl Answer {
    /// The refusal of a reason. `http` overrides the HTTP status that the table gives.
    pub fn refusal(reason: Reason, is_grpc: bool, http: Option<u16>) -> Self {
        let refusal = status::refusal(reason).unwrap_or(status::Refusal { http: 500, grpc: 2 });
        let body = Bytes::from_static(body_of(reason).as_bytes());
        let content_type = (!body.is_empty()).then(|| "text/plain".into());
        let status = http.unwrap_or(refusal.http);
        let headers = match reason {
            // Envoy's word for it, which callers behind another proxy know.
            Reason::Overflow => {
                vec![(HeaderName::from_static("x-envoy-overloaded"), HeaderValue::from_static("true"))]
            }
            _ => Vec::new(),
        };
        match is_grpc {
            true => Self { status: 200, grpc_status: Some(refusal.grpc), headers, content_type: None, body },
            false => Self { status, grpc_status: None, headers, content_type, body },
        }
    }

    /// An answer with a configured status, in gRPC's form for callers that speak it.
    pub(super) fn configured(status: u16, grpc: Option<u32>, body: &'static str) -> Self {
        let body = Bytes::from_static(body.as_bytes());
        match grpc {
            Some(grpc) => Self { status: 200, grpc_status: Some(grpc), headers: Vec::new(), content_type: None, body },
            None => Self {
                status,
                grpc_status: None,
                headers: Vec::new(),
                content_type: (!body.is_empty()).then(|| "text/plain".into()),
                body,
            },
        }
    }
}

/// What refusals say to the caller: never which policy, host or clause it was.
const fn body_of(reason: Reason) -> &'static str {
    match reason {
        Reason::AuthzDenied | Reason::EgressDenied => "RBAC: access denied",
        Reason::EgressUnknownHost => {
            "egress-unknown-host: the mesh knows no such host, and refuses calls to unknown hosts"
        }
        Reason::NoEndpoints => "no healthy upstream",
        Reason::UpstreamConnect | Reason::UpstreamReset => "upstream connect error or disconnect before headers",
        Reason::UpstreamProtocol => "upstream protocol error",
        Reason::Timeout => "upstream request timeout",
        Reason::ConfigUnavailable => "configuration unavailable",
        Reason::Draining => "draining",
        Reason::Overflow | Reason::Overloaded => "overloaded",
        _ => "",
    }
}
