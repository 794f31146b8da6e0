//! Cross-origin rules of VirtualServices and HTTPRoutes.

use std::{sync::Arc, time::Duration};

use palisade_crds::{
    gateway_api::HttpCorsFilter,
    istio::{CorsPolicy, StringMatch as WrittenMatch, UnmatchedPreflights},
};
use palisade_model::route::{Cors, StringMatch};

use crate::{lower::regexes, time};

/// Rules of a VirtualService. An origin whose expression is none allows nobody; the others stand.
pub(crate) fn of_virtual_service(written: &CorsPolicy) -> Cors {
    let CorsPolicy {
        allow_origin,
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        unmatched_preflights,
    } = written;
    // The older list counts only where the newer one is not written.
    let origins: Vec<StringMatch> = match allow_origins.as_slice() {
        [] => allow_origin.iter().map(|origin| StringMatch::Exact(origin.as_str().into())).collect(),
        written => written.iter().filter_map(origin).collect(),
    };
    Cors {
        allow_origins: origins.into(),
        allow_methods: texts(allow_methods),
        allow_headers: texts(allow_headers),
        expose_headers: texts(expose_headers),
        max_age: max_age.and_then(time::positive),
        allows_credentials: allow_credentials.unwrap_or(false),
        forwards_unmatched_preflights: !matches!(unmatched_preflights, Some(UnmatchedPreflights::Ignore)),
    }
}

/// Rules of an HTTPRoute filter. A preflight of another origin is answered without any of the headers.
pub(crate) fn of_http_route(written: &HttpCorsFilter) -> Cors {
    let HttpCorsFilter {
        allow_origins,
        allow_credentials,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age_seconds,
    } = written;
    Cors {
        allow_origins: allow_origins.iter().filter_map(|origin| wildcard_origin(origin)).collect(),
        allow_methods: allow_methods.iter().map(|method| Arc::from(method.as_str())).collect(),
        allow_headers: texts(allow_headers),
        expose_headers: texts(expose_headers),
        max_age: u64::try_from(*max_age_seconds).ok().map(Duration::from_secs),
        allows_credentials: allow_credentials.unwrap_or(false),
        forwards_unmatched_preflights: false,
    }
}

fn origin(written: &WrittenMatch) -> Option<StringMatch> {
    match written {
        WrittenMatch::Exact(value) => Some(StringMatch::Exact(value.as_str().into())),
        WrittenMatch::Prefix(value) => Some(StringMatch::Prefix(value.as_str().into())),
        WrittenMatch::Regex(value) => regexes::expression(value).map(StringMatch::Regex),
        WrittenMatch::Present => None,
    }
}

/// An origin in which `*` stands for any text (`https://*.example.com`).
fn wildcard_origin(written: &str) -> Option<StringMatch> {
    if !written.contains('*') {
        return Some(StringMatch::Exact(written.into()));
    }
    let quoted: Vec<String> = written.split('*').map(quote).collect();
    regexes::expression(&quoted.join(".*")).map(StringMatch::Regex)
}

/// A text that an expression takes as it is.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}

fn texts(written: &[String]) -> Arc<[Arc<str>]> {
    written.iter().map(|text| Arc::from(text.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_in_an_origin_is_an_expression() {
        assert_eq!(wildcard_origin("https://a.com"), Some(StringMatch::Exact("https://a.com".into())));
        assert_eq!(wildcard_origin("https://*.a.com"), Some(StringMatch::Regex(r"https://.*\.a\.com".into())));
        assert_eq!(wildcard_origin("*"), Some(StringMatch::Regex(".*".into())));
    }
}
