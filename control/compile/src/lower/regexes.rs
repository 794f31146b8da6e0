//! Regular expressions of conditions in the syntax that proxies run.

use std::sync::Arc;

use palisade_crds::re2;
use palisade_model::route::{ClaimMatch, HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};

/// A condition with every RE2 expression translated. `None` when one of them is no expression: the condition then never
/// holds, and spoils nothing else.
pub(crate) fn translated(condition: RouteMatch) -> Option<RouteMatch> {
    let RouteMatch { source_index, path, scheme, method, authority, headers, query, claims } = condition;
    let headers: Option<Vec<HeaderMatch>> = headers
        .iter()
        .map(|header| {
            let HeaderMatch { name, value, is_inverted } = header.clone();
            Some(HeaderMatch { name, value: optional(value)?, is_inverted })
        })
        .collect();
    let query: Option<Vec<QueryMatch>> = query
        .iter()
        .map(|parameter| {
            let QueryMatch { name, value } = parameter.clone();
            Some(QueryMatch { name, value: optional(value)? })
        })
        .collect();
    let claims: Option<Vec<ClaimMatch>> = claims
        .iter()
        .map(|claim| {
            let ClaimMatch { path, value, is_inverted } = claim.clone();
            Some(ClaimMatch { path, value: optional(value)?, is_inverted })
        })
        .collect();
    let path = match path {
        Some(PathMatch::Regex { value }) => Some(PathMatch::Regex { value: expression(&value)? }),
        other => other,
    };
    Some(RouteMatch {
        source_index,
        path,
        scheme: optional(scheme)?,
        method: optional(method)?,
        authority: optional(authority)?,
        headers: headers?.into(),
        query: query?.into(),
        claims: claims?.into(),
    })
}

/// An expression; `None` when RE2 would refuse it.
pub(crate) fn expression(written: &str) -> Option<Arc<str>> {
    re2::translate(written).ok().map(Arc::from)
}

/// The outer `None` = not an expression; the inner one = present.
fn optional(value: Option<StringMatch>) -> Option<Option<StringMatch>> {
    Some(match value {
        Some(StringMatch::Regex(value)) => Some(StringMatch::Regex(expression(&value)?)),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_with_what_is_no_expression_never_holds() {
        let with =
            |path: &str| RouteMatch { path: Some(PathMatch::Regex { value: path.into() }), ..RouteMatch::default() };
        assert_eq!(translated(with("/a.*")), Some(with("/a.*")));
        assert_eq!(translated(with("/a(")), None);
    }
}
