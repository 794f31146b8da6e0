//! Pages about proxies, as they are asked for here or by another replica: which page, and what this replica alone has to say.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use palisade_model::settings::WorkloadRef;
use palisade_wire::proto::v1::{AllProxies, OneProxy, PageAnswer, PageQuestion, page_question};
use serde::Serialize;
use serde_json::{Value, json};

use super::{EXPLAIN, describe, proxy, status};
use crate::serve::Shared;

/// Header that names replicas whose proxies are not in an answer.
pub(super) const MISSING: &str = "x-palisade-missing";

/// A page about proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// All proxies.
    Proxies,
    /// One proxy with its content.
    Proxy(WorkloadRef),
    /// A decision.
    Why(String),
    /// What is true of objects: a [`super::StatusQuestion`] in JSON.
    Status(Bytes),
}

/// A page as it is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Of HTTP.
    pub(crate) code: StatusCode,
    /// JSON, or a line of text.
    pub(crate) body: Bytes,
    /// Replicas whose proxies are not in the answer, each with the reason.
    pub(crate) missing: Vec<String>,
}

impl Page {
    /// The page that a replica asks for.
    pub(crate) fn of(question: PageQuestion) -> Option<Self> {
        Some(match question.page? {
            page_question::Page::Proxies(AllProxies {}) => Self::Proxies,
            page_question::Page::Proxy(OneProxy { namespace, name }) => {
                Self::Proxy(WorkloadRef { namespace: namespace.into(), name: name.into() })
            }
            page_question::Page::Why(decision) => Self::Why(decision),
            page_question::Page::Status(question) => Self::Status(question),
        })
    }

    /// As a replica is asked for it.
    pub(crate) fn question(&self) -> PageQuestion {
        let page = match self.clone() {
            Self::Proxies => page_question::Page::Proxies(AllProxies {}),
            Self::Proxy(WorkloadRef { namespace, name }) => {
                page_question::Page::Proxy(OneProxy { namespace: namespace.to_string(), name: name.to_string() })
            }
            Self::Why(decision) => page_question::Page::Why(decision),
            Self::Status(question) => page_question::Page::Status(question),
        };
        PageQuestion { page: Some(page) }
    }
}

impl Answer {
    /// JSON.
    pub(crate) fn json(code: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { code, body: body.into(), missing: Vec::new() },
            Err(error) => Self::line(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    /// A line of text.
    pub(crate) fn line(code: StatusCode, text: &str) -> Self {
        Self { code, body: format!("{text}\n").into(), missing: Vec::new() }
    }

    /// What another replica has answered.
    pub(crate) fn of(answer: PageAnswer) -> Self {
        let PageAnswer { code, body, missing } = answer;
        let code = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
        Self { code: code.unwrap_or(StatusCode::BAD_GATEWAY), body, missing }
    }

    pub(crate) fn into_message(self) -> PageAnswer {
        let Self { code, body, missing } = self;
        PageAnswer { code: u32::from(code.as_u16()), body, missing }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self { code, body, missing } = self;
        let is_json = body.first().is_some_and(|byte| matches!(byte, b'{' | b'['));
        let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
        let mut response = (code, [(header::CONTENT_TYPE, kind)], body).into_response();
        let told: String = missing.join("; ").chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
        if !missing.is_empty()
            && let Ok(value) = told.parse()
        {
            response.headers_mut().insert(MISSING, value);
        }
        response
    }
}

/// What this replica alone has to say.
pub(crate) async fn here(shared: &Shared, page: &Page) -> Answer {
    match page {
        Page::Proxies => {
            let proxies: Vec<Value> = shared.fleet().proxies().iter().map(describe).collect();
            Answer::json(StatusCode::OK, &proxies)
        }
        Page::Proxy(pod) => proxy::page(shared, pod),
        Page::Why(decision) => match shared.fleet().explain(decision, EXPLAIN).await {
            Some(json) => Answer { code: StatusCode::OK, body: json, missing: Vec::new() },
            None => {
                let error = format!("no connected proxy knows decision `{decision}`");
                Answer::json(StatusCode::NOT_FOUND, &json!({ "error": error }))
            }
        },
        Page::Status(question) => match status::of_own_proxies(shared, question.clone(), false).await {
            Ok(own) => Answer::json(StatusCode::OK, &own),
            Err(answer) => answer,
        },
    }
}
