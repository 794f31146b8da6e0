//! The keys of `when`.

use std::rc::Rc;

use super::{
    expr::{Expr, quote},
    fields::{self, Context, Problems, has_any},
};
use crate::{facts::claim_key, form::Form, pattern::Pattern};

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    SourceTrustDomain,
    DestinationIp,
    DestinationPort,
    Sni,
    RequestPrincipal,
    /// Lower case.
    Header(String),
    /// Flattened.
    Claim(String),
}

impl Key {
    /// Parses a key.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(key: &str) -> Result<Self, String> {
        let inside = |prefix: &str| key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']');
        if let Some(name) = inside("request.headers") {
            return if name.is_empty() {
                Err(format!("`{key}` names no header"))
            } else {
                Ok(Self::Header(name.to_ascii_lowercase()))
            };
        }
        if let Some(path) = inside("request.auth.claims") {
            let path: Vec<&str> = path.split("][").collect();
            return if path.iter().any(|name| name.is_empty()) {
                Err(format!("`{key}` names no claim"))
            } else {
                Ok(Self::Claim(claim_key(&path)))
            };
        }
        Ok(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "source.trustDomain" => Self::SourceTrustDomain,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "request.auth.principal" => Self::RequestPrincipal,
            // One text or a list, as any other claim.
            "request.auth.audiences" => Self::Claim("aud".to_owned()),
            "request.auth.presenter" => Self::Claim("azp".to_owned()),
            _ if key.starts_with("experimental.envoy.filters.") => {
                return Err(format!("`{key}` is not supported: there are no Envoy filters to take metadata from"));
            }
            _ => return Err(format!("unknown key `{key}`")),
        })
    }

    pub(super) fn is_http_only(&self) -> bool {
        matches!(self, Self::RequestPrincipal | Self::Header(_) | Self::Claim(_))
    }

    /// "One of these values."
    pub(super) fn expr(
        &self,
        values: &[String],
        field: &Rc<str>,
        context: &Context<'_>,
        problems: &mut Problems,
    ) -> Expr {
        match self {
            Self::SourceIp => fields::blocks("context.source.ip", values, field, problems),
            Self::RemoteIp => fields::blocks("context.source.remoteIp", values, field, problems),
            Self::DestinationIp => fields::blocks("context.destination.ip", values, field, problems),
            Self::DestinationPort => fields::ports(values, field, problems),
            Self::SourceNamespace => fields::namespaces(values, field, problems),
            Self::SourcePrincipal => fields::principals(values, field, context, problems),
            Self::SourceServiceAccount => fields::service_accounts(values, field, context, problems),
            Self::SourceTrustDomain => fields::trust_domains(values, field, context, problems),
            Self::RequestPrincipal => fields::request_principals(values, field, problems),
            Self::Sni => Expr::all(vec![
                Expr::atom("context has tls".to_owned(), field),
                Expr::atom("context.tls has sni".to_owned(), field),
                fields::texts("context.tls.sni", values, field, problems),
            ]),
            Self::Header(name) => lines(
                "context.http.headers",
                name,
                values,
                field,
                |value| Pattern::Header { name: name.as_str().into(), value: value.into() },
                true,
            ),
            Self::Claim(key) => Expr::all(vec![
                Expr::atom("context has jwt".to_owned(), field),
                lines(
                    "context.jwt.claims",
                    key,
                    values,
                    field,
                    |value| Pattern::Claim { key: key.as_str().into(), value: value.into() },
                    false,
                ),
            ]),
        }
    }
}

/// One of several texts under a name matches. `is_presence`: `*` asks for the name alone, else for a text that is not empty.
fn lines(
    tags: &str,
    name: &str,
    values: &[String],
    field: &Rc<str>,
    pattern: impl Fn(&str) -> Pattern,
    is_presence: bool,
) -> Expr {
    let has = || Expr::atom(format!("{tags}.hasTag({})", quote(name)), field);
    let (mut exact, mut patterns, mut presence) = (Vec::new(), Vec::new(), Expr::Const(false));
    for value in values {
        match Form::of(value) {
            Form::Exact("") => {}
            Form::Exact(text) => exact.push(text),
            Form::Any if is_presence => presence = has(),
            _ => patterns.push(pattern(value).to_string()),
        }
    }
    let set = format!("{tags}.getTag({})", quote(name));
    let listed =
        if exact.is_empty() { Expr::Const(false) } else { Expr::all(vec![has(), has_any(&set, &exact, field)]) };
    Expr::any(vec![presence, listed, has_any("context.http.matched", &patterns, field)])
}
