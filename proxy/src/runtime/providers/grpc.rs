//! Checks over gRPC: Envoy's `envoy.service.auth.v3.Authorization`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderName, HeaderValue};
use palisade_model::external_authorization::CheckService;
use palisade_wire::proto::ext_authz as v3;

use super::{
    AskError, Context,
    connect::Client,
    http::{PARTIAL_BODY, with_cause},
};
use crate::request::{
    changes::HeaderChange,
    external::{
        Allowance, CheckAnswer, Question, QuestionHead, Refusal, ShownBody,
        answer::{self, Wish},
    },
    facts::HttpVersion,
};

/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Header changes of an answer.
const MAX_CHANGES: usize = 256;

pub(super) async fn check(
    client: Client,
    service: &CheckService,
    context: &Context<'_>,
    question: &Question,
) -> Result<(CheckAnswer, http::HeaderMap), AskError> {
    let origin = http::Uri::builder()
        .scheme("http")
        .authority(&*service.host)
        .path_and_query("/")
        .build()
        .map_err(|error| AskError::Call(error.to_string()))?;
    let mut calls = v3::authorization_client::AuthorizationClient::with_origin(client, origin)
        .max_decoding_message_size(MAX_ANSWER_BYTES);
    let request = v3::CheckRequest { attributes: Some(attributes(context, service, question)) };
    let response = calls.check(request).await.map_err(|status| {
        let cause = std::error::Error::source(&status).map(with_cause).unwrap_or_default();
        AskError::Call(format!("gRPC status {}: {} {cause}", i32::from(status.code()), status.message()))
    })?;
    let (metadata, response, _) = response.into_parts();
    Ok((answer_of(response), metadata.into_headers()))
}

fn attributes(context: &Context<'_>, service: &CheckService, question: &Question) -> v3::AttributeContext {
    let facts = &context.admitted.facts;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = v3::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    };
    let is_mesh = context.admitted.peer_uri().is_some();
    v3::AttributeContext {
        source: Some(peer(facts.source, context.admitted.peer_uri().unwrap_or_default().to_owned())),
        destination: Some(peer(facts.destination, if is_mesh { context.identity.clone() } else { String::new() })),
        request: Some(v3::Request {
            time: Some(time),
            http: question.head.as_ref().map(|head| http_request(head, service, question.body.as_ref())),
        }),
        context_extensions: HashMap::default(),
        tls_session: facts
            .tls
            .as_ref()
            .and_then(|tls| tls.sni.as_ref())
            .map(|sni| v3::TlsSession { sni: sni.to_string() }),
    }
}

fn peer(address: SocketAddr, principal: String) -> v3::Peer {
    let socket = v3::SocketAddress {
        address: address.ip().to_canonical().to_string(),
        port_specifier: Some(v3::socket_address::PortSpecifier::PortValue(address.port().into())),
    };
    v3::Peer {
        address: Some(v3::Address { address: Some(v3::address::Address::SocketAddress(socket)) }),
        service: String::new(),
        labels: HashMap::default(),
        principal,
    }
}

fn http_request(head: &QuestionHead, service: &CheckService, shown: Option<&ShownBody>) -> v3::HttpRequest {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in &head.headers {
        let value = text(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&value);
            })
            .or_insert(value);
    }
    if let Some(shown) = shown {
        headers.insert(PARTIAL_BODY.as_str().to_owned(), shown.is_partial.to_string());
    }
    let is_bytes = service.body.is_some_and(|body| body.is_bytes);
    let bytes = shown.map(|shown| &*shown.bytes).unwrap_or_default();
    let (body, raw_body) = if is_bytes { (String::new(), bytes.to_vec()) } else { (text(bytes), Vec::new()) };
    let path = text(&head.target);
    headers.insert(":authority".to_owned(), head.authority.clone());
    headers.insert(":method".to_owned(), head.method.clone());
    headers.insert(":path".to_owned(), path.clone());
    headers.insert(":scheme".to_owned(), head.scheme.clone());
    let size = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(-1);
    v3::HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: head.method.clone(),
        headers,
        path,
        host: head.authority.clone(),
        scheme: head.scheme.clone(),
        size,
        protocol: match head.version {
            HttpVersion::Http10 => "HTTP/1.0",
            HttpVersion::Http11 => "HTTP/1.1",
            HttpVersion::Http2 => "HTTP/2",
        }
        .to_owned(),
        body,
        raw_body,
    }
}

fn answer_of(response: v3::CheckResponse) -> CheckAnswer {
    let v3::CheckResponse { status, http_response } = response;
    let Some(v3::Status { code, message: _ }) = status else {
        return CheckAnswer::Unavailable("the answer has no status".into());
    };
    use v3::check_response::HttpResponse;
    let answered = match (code, http_response) {
        (0, None) => Ok(CheckAnswer::Allowed(Allowance::default())),
        (0, Some(HttpResponse::OkResponse(ok))) => allowed(ok).map(CheckAnswer::Allowed),
        (0, Some(HttpResponse::DeniedResponse(_))) => Err("the answer allows and refuses at once".to_owned()),
        (_, Some(HttpResponse::DeniedResponse(denied))) => refusal(denied).map(CheckAnswer::Denied),
        (_, None | Some(HttpResponse::OkResponse(_))) => {
            Ok(CheckAnswer::Denied(Refusal { status: 403, headers: Vec::new(), body: bytes::Bytes::new() }))
        }
    };
    answered.unwrap_or_else(|message| CheckAnswer::Unavailable(message.into()))
}

fn allowed(ok: v3::OkHttpResponse) -> Result<Allowance, String> {
    let v3::OkHttpResponse {
        headers,
        headers_to_remove,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = ok;
    if headers.len() + headers_to_remove.len() + response_headers_to_add.len() > MAX_CHANGES {
        return Err("the answer has too many headers".to_owned());
    }
    let mut allowance = Allowance::default();
    for option in headers {
        let (name, value, wish) = line(option);
        allowance.request.push(answer::request_change(&name, &value, wish.unwrap_or(Wish::Set))?);
    }
    allowance.request.extend(headers_to_remove.iter().filter_map(|name| answer::removal(name)));
    for option in response_headers_to_add {
        let action = option.append_action;
        let (name, value, wish) = line(option);
        let Some((name, value)) = answer::response_line(&name, &value) else { continue };
        allowance.response.push(match wish.unwrap_or(if action == 2 { Wish::Set } else { Wish::Append }) {
            Wish::Set => HeaderChange::Set(name, value),
            Wish::Append => HeaderChange::Append(name, value),
        });
    }
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"&#".contains(&b));
    for v3::QueryParameter { key, value } in query_parameters_to_set {
        if !is_plain(&key) || key.contains('=') || !(value.is_empty() || is_plain(&value)) {
            return Err(format!("`{key}` is no query parameter"));
        }
        allowance.parameters.push((key, value));
    }
    allowance.removed_parameters = query_parameters_to_remove;
    Ok(allowance)
}

fn refusal(denied: v3::DeniedHttpResponse) -> Result<Refusal, String> {
    let v3::DeniedHttpResponse { status, headers, body } = denied;
    let code = status.map_or(0, |status| status.code);
    let status = match u16::try_from(code) {
        Ok(0) => 403,
        Ok(status @ 200..=599) => status,
        Ok(_) | Err(_) => return Err(format!("{code} is no status of a refusal")),
    };
    if headers.len() > MAX_CHANGES {
        return Err("the answer has too many headers".to_owned());
    }
    let lines = headers.into_iter().map(line).filter_map(|(name, value, _)| answer::response_line(&name, &value));
    let headers: Vec<(HeaderName, HeaderValue)> = lines.collect();
    Ok(Refusal { status, headers, body: body.into() })
}

/// Name, value, and what `append` says, if it says anything.
fn line(option: v3::HeaderValueOption) -> (String, Vec<u8>, Option<Wish>) {
    let v3::HeaderValueOption { header, append, append_action: _ } = option;
    let v3::HeaderValue { key, value, raw_value } = header.unwrap_or_default();
    let value = if value.is_empty() { raw_value } else { value.into_bytes() };
    let wish = append.map(|append| if append.value { Wish::Append } else { Wish::Set });
    (key.to_ascii_lowercase(), value, wish)
}
