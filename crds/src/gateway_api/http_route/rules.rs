//! The rules between fields of an HTTPRoute that its CRD states in CEL.

use std::collections::BTreeSet;

use super::{CookieLifetimeType, DefaultScope, HttpRouteFilter, ParentReference};
use super::{
    HttpBackendRef, HttpPathMatch, HttpRoute, HttpRouteMatch, HttpRouteRule, HttpRouteTimeouts, PathMatchType,
    SessionPersistence, SessionPersistenceType,
};
use crate::codes::Code;
use crate::gateway_api::filter::{HttpPathModifierType, filters_are_consistent};
use crate::gateway_api::object_reference::require_port;
use crate::schema::formats::{is_header_value, is_uri_path};
use crate::schema::{Cursor, shorten};

/// The most matches of all rules together.
const MAX_MATCHES: usize = 128;

/// References to one parent name different parts of it.
pub(in crate::gateway_api) fn parents_differ(parents: &[ParentReference], cursor: &mut Cursor<'_>) {
    cursor.within("parentRefs", |cursor| {
        for (index, parent) in parents.iter().enumerate() {
            for other in parents.iter().take(index).filter(|other| same_object(other, parent)) {
                let (section, other_section) = (parent.section_name.as_deref(), other.section_name.as_deref());
                if section.is_some() != other_section.is_some() || parent.port.is_some() != other.port.is_some() {
                    cursor.report_at(
                        index,
                        Code::GatewayApiRule,
                        "`sectionName` or `port` must be given in all references to the same parent",
                    );
                } else if section == other_section && parent.port == other.port {
                    cursor.report_at(
                        index,
                        Code::GatewayApiRule,
                        "`sectionName` or `port` must differ between references to the same parent",
                    );
                }
            }
        }
    });
}

/// Names a field that only the experimental channel has.
pub(in crate::gateway_api) fn experimental_defaults(written: Option<DefaultScope>, cursor: &mut Cursor<'_>) {
    if written.is_some() {
        cursor.report_at(
            "useDefaultGateways",
            Code::ExperimentalField,
            "`useDefaultGateways` belongs to the experimental channel",
        );
    }
}

pub(super) fn parents_are_distinct(route: &HttpRoute, cursor: &mut Cursor<'_>) {
    parents_differ(&route.parent_refs, cursor);
    rules_fit_together(route.rules.iter().map(|rule| (rule.name.as_deref(), rule.matches.len())), cursor);
    experimental_defaults(route.use_default_gateways, cursor);
}

/// Names of rules differ, and all together have not too many matches.
pub(in crate::gateway_api) fn rules_fit_together<'a>(
    rules: impl Iterator<Item = (Option<&'a str>, usize)>,
    cursor: &mut Cursor<'_>,
) {
    cursor.within("rules", |cursor| {
        let mut names = BTreeSet::new();
        let mut matches = 0;
        for (index, (name, count)) in rules.enumerate() {
            matches += count;
            if name.is_some_and(|name| !names.insert(name)) {
                cursor.within(index, |cursor| {
                    cursor.report_at("name", Code::GatewayApiRule, "rule names must be unique within the route")
                });
            }
        }
        if matches > MAX_MATCHES {
            cursor.report(Code::GatewayApiRule, format!("all rules together may have {MAX_MATCHES} matches"));
        }
    });
}

fn same_object(a: &ParentReference, b: &ParentReference) -> bool {
    a.group == b.group && a.kind == b.kind && a.name == b.name && a.namespace == b.namespace
}

pub(super) fn rule_is_consistent(rule: &HttpRouteRule, cursor: &mut Cursor<'_>) {
    if !rule.backend_refs.is_empty() && rule.filters.iter().any(|filter| filter.request_redirect.is_some()) {
        cursor.report_at(
            "filters",
            Code::GatewayApiRule,
            "a RequestRedirect filter must not be used together with backendRefs",
        );
    }
    let single_prefix = matches!(rule.matches.as_slice(), [only] if only.path.match_type == PathMatchType::PathPrefix);
    let all_filters = rule.filters.iter().chain(rule.backend_refs.iter().flat_map(|backend| &backend.filters));
    if !single_prefix && all_filters.into_iter().any(replaces_prefix) {
        cursor.report_at(
            "filters",
            Code::GatewayApiRule,
            "`replacePrefixMatch` needs exactly one match, of type PathPrefix",
        );
    }
    cursor.within("filters", |cursor| filters_are_consistent(&rule.filters, cursor));
    for (field, is_written) in
        [("retry", rule.retry.is_some()), ("sessionPersistence", rule.session_persistence.is_some())]
    {
        if is_written {
            cursor.report_at(field, Code::ExperimentalField, format!("`{field}` belongs to the experimental channel"));
        }
    }
}

fn replaces_prefix(filter: &HttpRouteFilter) -> bool {
    let modifiers = [
        filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref()),
        filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()),
    ];
    modifiers.into_iter().flatten().any(|path| {
        path.modifier_type == HttpPathModifierType::ReplacePrefixMatch && path.replace_prefix_match.is_some()
    })
}

pub(super) fn backend_has_port(backend: &HttpBackendRef, cursor: &mut Cursor<'_>) {
    require_port(&backend.group, &backend.kind, backend.port, cursor);
    cursor.within("filters", |cursor| filters_are_consistent(&backend.filters, cursor));
}

pub(super) fn path_is_plain(path: &HttpPathMatch, cursor: &mut Cursor<'_>) {
    if path.match_type == PathMatchType::RegularExpression {
        return;
    }
    let value = path.value.as_str();
    if !value.starts_with('/') {
        cursor.report_at("value", Code::GatewayApiRule, "the path must start with `/`");
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().filter(|part| value.contains(part)) {
        cursor.report_at("value", Code::GatewayApiRule, format!("the path must not contain `{part}`"));
    }
    for end in ["/..", "/."].into_iter().filter(|end| value.ends_with(end)) {
        cursor.report_at("value", Code::GatewayApiRule, format!("the path must not end with `{end}`"));
    }
    if !is_uri_path(value) {
        cursor.report_at("value", Code::GatewayApiRule, "the path has characters that a URI path cannot have");
    }
}

/// Only HTTPRoutes have a form for the values; gRPC's may be any.
pub(super) fn header_values_are_plain(matched: &HttpRouteMatch, cursor: &mut Cursor<'_>) {
    cursor.within("headers", |cursor| {
        for (index, header) in matched.headers.iter().enumerate().filter(|(_, h)| !is_header_value(&h.value)) {
            cursor.within(index, |cursor| {
                let message = format!("`{}` is not a header value", shorten(&header.value));
                cursor.report_at("value", Code::InvalidFormat, message);
            });
        }
    });
}

pub(super) fn timeouts_nest(timeouts: &HttpRouteTimeouts, cursor: &mut Cursor<'_>) {
    if let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend_request)
        && !request.is_zero()
        && backend > request
    {
        cursor.report_at("backendRequest", Code::GatewayApiRule, "`backendRequest` cannot be longer than `request`");
    }
}

pub(super) fn session_is_consistent(session: &SessionPersistence, cursor: &mut Cursor<'_>) {
    let Some(cookie) = &session.cookie_config else { return };
    if cookie.lifetime_type == CookieLifetimeType::Permanent && session.absolute_timeout.is_none() {
        cursor.report_at(
            "absoluteTimeout",
            Code::GatewayApiRule,
            "`absoluteTimeout` must be set for a permanent cookie",
        );
    }
    if session.persistence_type != SessionPersistenceType::Cookie {
        cursor.report_at("cookieConfig", Code::GatewayApiRule, "`cookieConfig` can only be set with type Cookie");
    }
}
