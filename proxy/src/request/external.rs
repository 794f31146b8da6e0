//! External authorizers: which requests they are asked about, and what their answers do. The asking itself is elsewhere.
//!
//! The pipeline is pure: where an answer is needed that nobody has given yet, it stops with a [`Question`] and is run again with
//! the answer in its [`Testimony`].

pub mod answer;
pub mod kept;

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_model::{external_authorization::ExternalProvider, reason::Reason};
use palisade_policy::{ConnectionDecision, Decision, Denial, RequestFacts};
use serde_json::{Map, Value};

use super::{
    authority::Authority,
    changes::{HeaderChange, apply},
    connection::Admitted,
    egress::Underway,
    facts::{HttpVersion, Request},
    normalize::Target,
    status,
    verdict::{Action, Answer, Authorization, Verdict},
    view::HeaderView,
};
use crate::index::IndexedCheck;

/// What is known about a request beside its own bytes.
#[derive(Debug, Clone, Default)]
pub struct Testimony {
    /// Claims that count as a verified token's, whatever tokens the request carries.
    pub claims: Option<Map<String, Value>>,
    /// What providers answered so far, by provider.
    pub answers: Vec<(Arc<str>, CheckAnswer)>,
    /// The time at which tokens are judged; `None` = now.
    pub tokens_at: Option<SystemTime>,
    /// Where the request goes already, when it is judged again.
    pub underway: Option<Underway>,
}

/// A provider's word on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckAnswer {
    /// It may go on.
    Allowed(Allowance),
    /// It may not, and this is what its caller is told.
    Denied(Refusal),
    /// The provider did not answer, or not as agreed.
    Unavailable(Arc<str>),
    /// The request's body is longer than the check may carry.
    BodyTooLarge,
}

/// What an allowing answer changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Changes to the request's headers.
    pub request: Vec<HeaderChange>,
    /// Changes to the response's headers.
    pub response: Vec<HeaderChange>,
    /// Query parameters that are set: name and value as they stand in a query.
    pub parameters: Vec<(String, String)>,
    /// Query parameters that are removed.
    pub removed_parameters: Vec<String>,
}

/// A provider's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Headers beside content length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Body.
    pub body: Bytes,
}

/// A check of the connection's target, with what holds for the whole connection.
#[derive(Debug)]
pub struct AdmittedCheck {
    /// The check.
    pub check: Arc<IndexedCheck>,
    /// What its engine remembers of the connection.
    pub standing: ConnectionDecision,
}

/// What a provider is to be asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The check.
    pub check: Arc<IndexedCheck>,
    /// The request as it stands when the provider is asked; `None` for opaque bytes.
    pub head: Option<QuestionHead>,
    /// The body, where the check shows it. Whoever asks fills it in.
    pub body: Option<ShownBody>,
}

/// A body, or its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownBody {
    /// Its bytes.
    pub bytes: Bytes,
    /// There is more.
    pub is_partial: bool,
}

/// A request as a provider is told about it.
#[derive(Debug, Clone)]
pub struct QuestionHead {
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Authority.
    pub authority: String,
    /// Normalised path and query.
    pub target: Vec<u8>,
    /// Version.
    pub version: HttpVersion,
    /// Header lines.
    pub headers: HeaderMap,
}

/// What external authorization did to one request.
#[derive(Debug, Default)]
pub struct External {
    /// Providers that were asked, with whether they let it pass.
    pub said: Vec<(Arc<str>, bool)>,
    /// Dry runs: to be asked beside the request.
    pub beside: Vec<Question>,
    /// Changes to the response's headers.
    pub response: Vec<HeaderChange>,
}

impl External {
    /// Adds what providers said to the verdict on a request that was permitted.
    pub(super) fn onto(self, mut verdict: Verdict) -> Verdict {
        match &mut verdict.action {
            Action::Forward(plan) => plan.response.extend_from_slice(&self.response),
            Action::Respond(answer) => answer.headers.extend(super::injected::lines_of(&self.response)),
            Action::Close | Action::Ask(_) | Action::Check(_) => {}
        }
        Verdict { external: self, ..verdict }
    }
}

/// A request on its way to authorization: what providers and tokens have changed of it so far.
#[derive(Debug)]
pub(super) struct Passing<'a> {
    pub(super) headers: Cow<'a, HeaderMap>,
    /// What this hop strips and asserts; part of `headers` once they are owned.
    hop: &'a [HeaderChange],
    /// Beside what this hop changes.
    pub(super) changes: Vec<HeaderChange>,
    pub(super) query: Option<Vec<u8>>,
    /// Routes see the changes as well.
    pub(super) reroutes: bool,
    pub(super) external: External,
}

impl<'a> Passing<'a> {
    pub(super) fn new(headers: &'a HeaderMap, hop: &'a [HeaderChange]) -> Self {
        Self {
            headers: Cow::Borrowed(headers),
            hop,
            changes: Vec::new(),
            query: None,
            reroutes: false,
            external: External::default(),
        }
    }

    /// Changes the request's headers.
    pub(super) fn change(&mut self, changes: Vec<HeaderChange>) {
        if !changes.is_empty() {
            let mut headers = self.materialized();
            apply(&mut headers, &changes);
            self.headers = Cow::Owned(headers);
            self.changes.extend(changes);
        }
    }

    /// The lines as they are by now.
    pub(super) fn view(&self) -> HeaderView<'_> {
        match &self.headers {
            Cow::Borrowed(received) => HeaderView::new(received, self.hop),
            Cow::Owned(headers) => HeaderView::from(headers),
        }
    }

    fn materialized(&self) -> HeaderMap {
        let mut headers = self.headers.clone().into_owned();
        if matches!(self.headers, Cow::Borrowed(_)) {
            apply(&mut headers, self.hop);
        }
        headers
    }
}

/// What is the same for every check of one request.
pub(super) struct HttpCheck<'a> {
    pub(super) admitted: &'a Admitted,
    pub(super) request: &'a Request<'a>,
    pub(super) authority: &'a Authority<'a>,
    pub(super) target: &'a Target<'a>,
    pub(super) remote_ip: IpAddr,
    pub(super) is_grpc: bool,
    pub(super) now: SystemTime,
}

impl HttpCheck<'_> {
    /// Puts a request before the providers whose rules it matches, one after the other.
    ///
    /// # Errors
    /// The verdict, where the request ends here or a provider must be asked first.
    pub(super) fn run(&self, testimony: &Testimony, passing: &mut Passing<'_>) -> Result<(), Box<Verdict>> {
        for admitted in &self.admitted.checks {
            let said = self.decide(admitted, passing);
            let Some((denial, authorization)) = said else { continue };
            let check = &admitted.check.check;
            if check.is_dry_run {
                passing.external.beside.push(self.question(admitted, passing));
                continue;
            }
            if denial != Asked::Provider {
                let answer = Answer::refusal(Reason::AuthzDenied, self.is_grpc, None);
                return Err(denied(Reason::AuthzDenied, Action::Respond(answer), authorization, passing));
            }
            let service = match &check.asks {
                ExternalProvider::Missing { message: _ } => {
                    passing.external.said.push((Arc::clone(&check.provider), false));
                    let mut answer = Answer::refusal(Reason::ExtAuthzUnavailable, self.is_grpc, None);
                    answer.body = Bytes::from_static(b"RBAC: access denied");
                    answer.content_type = (!self.is_grpc).then(|| "text/plain".into());
                    let action = Action::Respond(answer);
                    return Err(denied(Reason::ExtAuthzUnavailable, action, authorization, passing));
                }
                ExternalProvider::Grpc(service) => service,
                ExternalProvider::Http(check) => &check.service,
            };
            let answer = testimony.answers.iter().find(|(provider, _)| *provider == check.provider);
            let Some((_, answer)) = answer else {
                let question = Box::new(self.question(admitted, passing));
                return Err(Box::new(Verdict::early(Reason::ExtAuthzUnavailable, Action::Check(question))));
            };
            let is_allowed = match answer {
                CheckAnswer::Allowed(_) => true,
                CheckAnswer::Unavailable(_) => service.fails_open,
                CheckAnswer::Denied(_) | CheckAnswer::BodyTooLarge => false,
            };
            passing.external.said.push((Arc::clone(&check.provider), is_allowed));
            let (reason, answer) = match answer {
                CheckAnswer::Allowed(allowance) => {
                    passing.reroutes |= service.clears_route;
                    self.allow(allowance, passing);
                    continue;
                }
                CheckAnswer::Unavailable(_) if service.fails_open => continue,
                CheckAnswer::Unavailable(_) => {
                    let mut answer =
                        Answer::refusal(Reason::ExtAuthzUnavailable, self.is_grpc, Some(service.status_on_error));
                    if self.is_grpc {
                        answer.grpc_status = Some(status::grpc_of_http(service.status_on_error));
                    }
                    (Reason::ExtAuthzUnavailable, answer)
                }
                CheckAnswer::BodyTooLarge => {
                    (Reason::BodyTooLarge, Answer::refusal(Reason::BodyTooLarge, self.is_grpc, None))
                }
                CheckAnswer::Denied(refusal) => (Reason::ExtAuthzDenied, refusal_answer(refusal, self.is_grpc)),
            };
            return Err(denied(reason, Action::Respond(answer), authorization, passing));
        }
        Ok(())
    }

    fn allow(&self, allowance: &Allowance, passing: &mut Passing<'_>) {
        let Allowance { request, response, parameters, removed_parameters } = allowance;
        passing.change(request.clone());
        passing.external.response.extend_from_slice(response);
        if !parameters.is_empty() || !removed_parameters.is_empty() {
            let query = passing.query.as_deref().or(self.target.query).unwrap_or_default();
            let is_gone = |pair: &&[u8]| {
                let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
                removed_parameters.iter().any(|removed| removed.as_bytes() == name)
                    || parameters.iter().any(|(set, _)| set.as_bytes() == name)
            };
            let mut pairs: Vec<Vec<u8>> = query
                .split(|byte| *byte == b'&')
                .filter(|pair| !pair.is_empty() && !is_gone(pair))
                .map(<[u8]>::to_vec)
                .collect();
            pairs.extend(parameters.iter().map(|(name, value)| format!("{name}={value}").into_bytes()));
            passing.query = Some(pairs.join(&b'&'));
        }
    }

    /// Whether a check is about this request; `None` = it is not.
    fn decide(&self, admitted: &AdmittedCheck, passing: &Passing<'_>) -> Option<(Asked, Authorization)> {
        let lines = passing.view();
        let facts = RequestFacts {
            method: self.request.method,
            scheme: self.request.scheme,
            authority: self.authority.text.as_bytes(),
            path: self.target.path.as_bytes(),
            query: passing.query.as_deref().or(self.target.query),
            headers: &lines,
            remote_ip: self.remote_ip,
            jwt: None,
            now: self.now,
        };
        let engine = &admitted.check.engine;
        let decision = engine.decide_http(&admitted.standing, &facts);
        let asked = Asked::of(&decision)?;
        let captured = engine.capture_http(&admitted.standing, &facts);
        Some((asked, Authorization::of(engine, &decision, Some(captured), None)))
    }

    fn question(&self, admitted: &AdmittedCheck, passing: &Passing<'_>) -> Question {
        let query = passing.query.as_deref().or(self.target.query);
        let head = QuestionHead {
            method: self.request.method.to_owned(),
            scheme: self.request.scheme.to_owned(),
            authority: self.authority.text.to_owned(),
            target: super::outgoing::with_query(self.target.path.as_bytes(), query),
            version: self.request.version,
            headers: passing.materialized(),
        };
        Question { check: Arc::clone(&admitted.check), head: Some(head), body: None }
    }
}

/// Puts an opaque connection before its gRPC providers.
///
/// # Errors
/// The verdict, where the connection ends here or a provider must be asked first.
pub(super) fn connection(admitted: &Admitted, testimony: &Testimony) -> Result<External, Box<Verdict>> {
    let mut external = External::default();
    for admitted in &admitted.checks {
        let check = &admitted.check.check;
        // As Istio: nothing can be put before an HTTP provider here.
        if matches!(check.asks, ExternalProvider::Http(_)) {
            continue;
        }
        let engine = &admitted.check.engine;
        let decision = engine.decide_tcp(&admitted.standing);
        let Some(asked) = Asked::of(&decision) else { continue };
        let question = || Question { check: Arc::clone(&admitted.check), head: None, body: None };
        if check.is_dry_run {
            external.beside.push(question());
            continue;
        }
        let captured = engine.capture_tcp(&admitted.standing);
        let authorization = Authorization::of(engine, &decision, Some(captured), None);
        let close = |reason| {
            let verdict = Verdict::early(reason, Action::Close);
            Box::new(Verdict { authorization: Some(authorization), ..verdict })
        };
        if asked != Asked::Provider {
            return Err(close(Reason::AuthzDenied));
        }
        let close = |reason| {
            let mut verdict = close(reason);
            verdict.external.said.push((Arc::clone(&check.provider), false));
            verdict
        };
        let Some(service) = check.asks.service() else { return Err(close(Reason::ExtAuthzUnavailable)) };
        let answer = testimony.answers.iter().find(|(provider, _)| *provider == check.provider);
        let Some((_, answer)) = answer else {
            let action = Action::Check(Box::new(question()));
            return Err(Box::new(Verdict::early(Reason::ExtAuthzUnavailable, action)));
        };
        match answer {
            CheckAnswer::Allowed(_) => external.said.push((Arc::clone(&check.provider), true)),
            CheckAnswer::Unavailable(_) if service.fails_open => {
                external.said.push((Arc::clone(&check.provider), true));
            }
            CheckAnswer::Unavailable(_) | CheckAnswer::BodyTooLarge => return Err(close(Reason::ExtAuthzUnavailable)),
            CheckAnswer::Denied(_) => return Err(close(Reason::ExtAuthzDenied)),
        }
    }
    Ok(external)
}

/// What an engine of checks said of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The provider decides.
    Provider,
    /// It is denied whatever the provider would say: a rule of the document cannot be read.
    Nobody,
}

impl Asked {
    fn of(decision: &Decision) -> Option<Self> {
        match decision {
            Decision::Allow(_) => None,
            Decision::Deny(Denial::Forbidden(_)) => Some(Self::Provider),
            Decision::Deny(Denial::Failed(_) | Denial::NoPermit | Denial::DenyAll) => Some(Self::Nobody),
        }
    }
}

fn denied(reason: Reason, action: Action, authorization: Authorization, passing: &mut Passing<'_>) -> Box<Verdict> {
    let external = std::mem::take(&mut passing.external);
    Box::new(Verdict { authorization: Some(authorization), external, ..Verdict::early(reason, action) })
}

fn refusal_answer(refusal: &Refusal, is_grpc: bool) -> Answer {
    let Refusal { status, headers, body } = refusal;
    if is_grpc {
        return Answer {
            status: 200,
            grpc_status: Some(status::grpc_of_http(*status)),
            headers: headers.iter().filter(|(name, _)| *name != http::header::CONTENT_TYPE).cloned().collect(),
            content_type: None,
            body: body.clone(),
        };
    }
    let is_typed = headers.iter().any(|(name, _)| *name == http::header::CONTENT_TYPE);
    let content_type = (!is_typed && !body.is_empty()).then(|| "text/plain".into());
    Answer { status: *status, grpc_status: None, headers: headers.clone(), content_type, body: body.clone() }
}
