//! What a case says beside the request itself: claims that count as verified, and providers' answers.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_model::external_authorization::ExternalProvider;
use palisade_proxy::request::external::{CheckAnswer, Question, Testimony, answer};

use super::case::{Case, ProviderCase};

/// What is known before any provider is asked.
pub(super) fn of(case: &Case) -> Testimony {
    Testimony { claims: case.http.as_ref().and_then(|http| http.claims.clone()), ..Testimony::default() }
}

/// Adds the answer of the provider that is asked.
///
/// # Errors
/// When the case gives headers that no answer can have.
pub(super) fn answer(case: &Case, question: &Question, testimony: &mut Testimony) -> Result<(), String> {
    let check = &question.check.check;
    let said = case.providers.get(&*check.provider);
    let answered = match said {
        None => CheckAnswer::Unavailable("the case gives no answer of this provider".into()),
        Some(ProviderCase { status: _, headers: _, error: Some(error) }) => {
            CheckAnswer::Unavailable(error.as_str().into())
        }
        Some(ProviderCase { status, headers, error: None }) => {
            let mut lines = HeaderMap::new();
            for (name, value) in headers {
                let name = HeaderName::from_bytes(&name.0).map_err(|error| format!("providers: {error}"))?;
                let value = HeaderValue::from_bytes(&value.0).map_err(|error| format!("providers: {error}"))?;
                lines.append(name, value);
            }
            let status = status.unwrap_or(200);
            match &check.asks {
                ExternalProvider::Http(check) => answer::of_http(check, status, &lines, bytes::Bytes::new()),
                ExternalProvider::Grpc(_) | ExternalProvider::Missing { message: _ } => {
                    let lines: Vec<_> = lines.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
                    answer::of_grpc_like(status, &lines)
                }
            }
        }
    };
    testimony.answers.push((Arc::clone(&check.provider), answered));
    Ok(())
}
