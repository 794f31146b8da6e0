//! The HTTP rules of a VirtualService.

use super::{ROUTE, checked_duration, destination, gateway_names, weights};
use crate::codes::Code;
use crate::grpc_status;
use crate::istio::{
    CorsPolicy, HttpBody, HttpDirectResponse, HttpFaultAbort, HttpFaultDelay, HttpFaultInjection, HttpMatchRequest,
    HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, HttpRouteDestination, Percent, StringMatch,
};
use crate::re2;
use crate::schema::Cursor;
use crate::validate::{header, host, labels, port};

pub(super) fn check(route: &HttpRoute, is_delegate: bool, at_gateways: bool, cursor: &mut Cursor<'_>) {
    conflicts(route, is_delegate, cursor);
    cursor.within("match", |cursor| {
        for (index, item) in route.r#match.iter().enumerate() {
            cursor.within(index, |cursor| check_match(item, at_gateways, cursor));
        }
    });
    header::operations(route.headers.as_ref(), ROUTE, cursor);
    if let Some(cors) = &route.cors_policy {
        cursor.within("corsPolicy", |cursor| check_cors(cors, cursor));
    }
    if let Some(fault) = &route.fault {
        cursor.within("fault", |cursor| check_fault(fault, cursor));
    }
    check_mirrors(route, cursor);
    if let Some(redirect) = &route.redirect {
        cursor.within("redirect", |cursor| check_redirect(redirect, &route.r#match, cursor));
    }
    if let Some(response) = &route.direct_response {
        cursor.within("directResponse", |cursor| check_direct_response(response, cursor));
    }
    if let Some(retries) = &route.retries {
        cursor.within("retries", |cursor| check_retries(retries, cursor));
    }
    if let Some(rewrite) = &route.rewrite {
        cursor.within("rewrite", |cursor| check_rewrite(rewrite, cursor));
    }
    authority_once(route, cursor);
    cursor.within("route", |cursor| {
        for (index, HttpRouteDestination { destination: to, weight: _, headers }) in route.route.iter().enumerate() {
            cursor.within(index, |cursor| {
                cursor.within("destination", |cursor| destination(to, ROUTE, cursor));
                header::operations(headers.as_ref(), ROUTE, cursor);
            });
        }
        weights(route.route.iter().map(|destination| destination.weight), cursor);
    });
    checked_duration("timeout", route.timeout, cursor);
}

fn conflicts(route: &HttpRoute, is_delegate: bool, cursor: &mut Cursor<'_>) {
    if route.delegate.is_some() && !is_delegate {
        for (field, is_written) in [("redirect", route.redirect.is_some()), ("route", !route.route.is_empty())] {
            if is_written {
                cursor.report_at(field, ROUTE, format!("`delegate` and `{field}` exclude each other"));
            }
        }
        return;
    }
    if route.delegate.is_some() {
        cursor.report_at("delegate", ROUTE, "a delegate cannot delegate further");
    }
    let actions =
        [("route", !route.route.is_empty()), ("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())];
    let answer = match (&route.redirect, &route.direct_response) {
        (Some(_), Some(_)) => {
            cursor.report_at("directResponse", ROUTE, "`redirect` and `directResponse` exclude each other");
            Some("redirect")
        }
        (Some(_), None) => Some("redirect"),
        (None, Some(_)) => Some("directResponse"),
        (None, None) => None,
    };
    match answer {
        Some(answer) => {
            for (field, _) in actions.into_iter().filter(|(_, is_written)| *is_written) {
                cursor.report_at(field, ROUTE, format!("`{answer}` and `{field}` exclude each other"));
            }
        }
        None if route.route.is_empty() => cursor.report(ROUTE, "`route`, `redirect` or `directResponse` is required"),
        None => {}
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        cursor.report_at("mirrors", ROUTE, "`mirror` and `mirrors` exclude each other");
    }
}

fn check_match(item: &HttpMatchRequest, at_gateways: bool, cursor: &mut Cursor<'_>) {
    let HttpMatchRequest {
        name: _,
        uri,
        scheme,
        method,
        authority,
        headers,
        port: number,
        source_labels,
        gateways,
        query_params,
        ignore_uri_case: _,
        without_headers,
        source_namespace,
        stat_prefix: _,
    } = item;
    for (field, conditions, is_inverted) in [("headers", headers, false), ("withoutHeaders", without_headers, true)] {
        cursor.within(field, |cursor| {
            for (name, condition) in conditions {
                if let Err(message) = header::match_name(name) {
                    cursor.report_at(name.as_str(), ROUTE, message);
                }
                if !at_gateways && header::is_claim(name) {
                    cursor.report_at(name.as_str(), ROUTE, format!("`{name}`: claims can only be matched at gateways"));
                }
                // `*` is no expression; it asks for presence.
                if !(is_inverted && *condition == StringMatch::Regex("*".to_owned())) {
                    string_match(name, condition, cursor);
                }
            }
        });
    }
    // An empty prefix of the path is allowed, of the others not.
    if let Some(condition @ StringMatch::Regex(_)) = uri {
        string_match("uri", condition, cursor);
    }
    for (field, condition) in [("scheme", scheme), ("method", method), ("authority", authority)] {
        if let Some(condition) = condition {
            string_match(field, condition, cursor);
        }
    }
    cursor.within("queryParams", |cursor| {
        for (name, condition) in query_params {
            string_match(name, condition, cursor);
        }
    });
    if let Some(number) = number.filter(|number| *number != 0) {
        port("port", number, ROUTE, cursor);
    }
    labels("sourceLabels", source_labels, ROUTE, cursor);
    gateway_names(gateways, cursor);
    if !source_namespace.is_empty() && !host::is_label(source_namespace) {
        cursor.report_at("sourceNamespace", ROUTE, format!("`{source_namespace}` is not a namespace name"));
    }
}

fn string_match(field: &str, condition: &StringMatch, cursor: &mut Cursor<'_>) {
    match condition {
        StringMatch::Prefix(prefix) if prefix.is_empty() => {
            cursor.report_at(field, ROUTE, "the prefix must not be empty")
        }
        StringMatch::Regex(regex) => check_regex(field, regex, cursor),
        _ => {}
    }
}

fn check_regex(field: &str, regex: &str, cursor: &mut Cursor<'_>) {
    if regex.is_empty() {
        cursor.report_at(field, ROUTE, "the expression must not be empty");
    } else if let Err(error) = re2::translate(regex) {
        cursor.report_at(field, ROUTE, error.to_string());
    }
}

fn check_cors(cors: &CorsPolicy, cursor: &mut Cursor<'_>) {
    const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];
    cursor.within("allowOrigins", |cursor| {
        for (index, origin) in cors.allow_origins.iter().enumerate() {
            match origin {
                StringMatch::Regex(regex) => cursor.within(index, |cursor| check_regex("regex", regex, cursor)),
                StringMatch::Exact(text) | StringMatch::Prefix(text) if !text.is_empty() => {}
                _ => cursor.report_at(index, ROUTE, "an origin must not be empty"),
            }
        }
    });
    cursor.within("allowMethods", |cursor| {
        for (index, method) in
            cors.allow_methods.iter().enumerate().filter(|(_, method)| !METHODS.contains(&method.as_str()))
        {
            cursor.report_at(index, ROUTE, format!("`{method}` is not an HTTP method"));
        }
    });
    for (field, names) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        cursor.within(field, |cursor| {
            for (index, name) in names.iter().enumerate().filter(|(_, name)| !header::is_name(name)) {
                cursor.report_at(index, ROUTE, format!("`{name}` is not a header name"));
            }
        });
    }
    checked_duration("maxAge", cors.max_age, cursor);
    if cors.max_age.is_some_and(crate::duration::Duration::has_subseconds) {
        cursor.report_at("maxAge", ROUTE, "must be whole seconds");
    }
}

fn check_percentage(percentage: Option<&Percent>, cursor: &mut Cursor<'_>) {
    let Some(Percent { value }) = percentage else { return };
    if *value != 0.0 && !(0.0001..=100.0).contains(value) {
        cursor.report_at("percentage", ROUTE, format!("`{value}` is neither 0 nor between 0.0001 and 100"));
    }
}

fn check_fault(fault: &HttpFaultInjection, cursor: &mut Cursor<'_>) {
    let HttpFaultInjection { delay, abort } = fault;
    if delay.is_none() && abort.is_none() {
        cursor.report(ROUTE, "a fault must have `abort` or `delay`");
    }
    if let Some(HttpFaultAbort { http_status, grpc_status, http2_error, percentage }) = abort {
        cursor.within("abort", |cursor| {
            check_percentage(percentage.as_ref(), cursor);
            match (http_status, grpc_status, http2_error) {
                (Some(status), ..) => check_status("httpStatus", i64::from(*status), cursor),
                (_, Some(status), _) if grpc_status::code(status).is_none() => {
                    cursor.report_at("grpcStatus", ROUTE, format!("`{status}` is not a gRPC status name"))
                }
                (_, _, Some(_)) => cursor.report_at("http2Error", ROUTE, "`http2Error` is not supported"),
                (None, None, None) => {
                    cursor.report(Code::VirtualServiceWarning, "an abort without status does nothing")
                }
                _ => {}
            }
        });
    }
    if let Some(HttpFaultDelay { fixed_delay, exponential_delay, percent: _, percentage }) = delay {
        cursor.within("delay", |cursor| {
            check_percentage(percentage.as_ref(), cursor);
            checked_duration("fixedDelay", *fixed_delay, cursor);
            if exponential_delay.is_some() {
                cursor.report_at("exponentialDelay", ROUTE, "`exponentialDelay` is not supported");
            }
        });
    }
}

/// 600 is allowed, as in Istio.
fn check_status(field: &str, status: i64, cursor: &mut Cursor<'_>) {
    if !(200..=600).contains(&status) {
        cursor.report_at(field, ROUTE, format!("`{status}` is not a status between 200 and 599"));
    }
}

fn check_mirrors(route: &HttpRoute, cursor: &mut Cursor<'_>) {
    for (field, value) in [("mirrorPercent", route.mirror_percent), ("mirror_percent", route.mirror_percent_proto)] {
        let Some(value) = value else { continue };
        cursor.report_at(field, Code::DeprecatedField, format!("`{field}` is deprecated; use `mirrorPercentage`"));
        if value > 100 {
            cursor.report_at(field, ROUTE, format!("`{value}` is more than 100"));
        }
    }
    let in_range = |percentage: &Percent| (0.0..=100.0).contains(&percentage.value);
    if route.mirror_percentage.as_ref().is_some_and(|percentage| !in_range(percentage)) {
        cursor.report_at("mirrorPercentage", ROUTE, "must be between 0 and 100");
    }
    if let Some(mirror) = &route.mirror {
        cursor.within("mirror", |cursor| destination(mirror, ROUTE, cursor));
    }
    cursor.within("mirrors", |cursor| {
        for (index, mirror) in route.mirrors.iter().enumerate() {
            cursor.within(index, |cursor| {
                cursor.within("destination", |cursor| destination(&mirror.destination, ROUTE, cursor));
                if mirror.percentage.as_ref().is_some_and(|percentage| !in_range(percentage)) {
                    cursor.report_at("percentage", ROUTE, "must be between 0 and 100");
                }
            });
        }
    });
}

fn check_redirect(redirect: &HttpRedirect, matches: &[HttpMatchRequest], cursor: &mut Cursor<'_>) {
    let HttpRedirect { uri, prefix_rewrite, authority, port: number, derive_port, scheme, redirect_code } = redirect;
    if !uri.is_empty() && !prefix_rewrite.is_empty() {
        cursor.report_at("prefixRewrite", ROUTE, "`uri` and `prefixRewrite` exclude each other");
    }
    if !prefix_rewrite.is_empty()
        && matches.iter().filter_map(|item| item.uri.as_ref()).any(|uri| !matches!(uri, StringMatch::Prefix(_)))
    {
        cursor.report_at("prefixRewrite", ROUTE, "`prefixRewrite` needs all path matches to be by prefix");
    }
    if [uri, prefix_rewrite, authority, scheme].iter().all(|text| text.is_empty())
        && number.is_none()
        && derive_port.is_none()
    {
        cursor.report(ROUTE, "a redirect must change path, authority, scheme or port");
    }
    if let Some(status) = redirect_code.filter(|status| *status != 0 && !(300..=399).contains(status)) {
        cursor.report_at("redirectCode", ROUTE, format!("`{status}` is not a redirect status"));
    }
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        cursor.report_at("scheme", ROUTE, "the scheme must be `http` or `https`");
    }
    if let Some(number) = number.filter(|number| *number > 0) {
        port("port", number, ROUTE, cursor);
    }
}

fn check_direct_response(response: &HttpDirectResponse, cursor: &mut Cursor<'_>) {
    const LARGEST: usize = 1024 * 1024;
    const LARGE: usize = 100 * 1024;
    let HttpDirectResponse { status, body } = response;
    check_status("status", i64::from(*status), cursor);
    let size = match body {
        Some(HttpBody::String(text)) => text.len(),
        Some(HttpBody::Bytes(bytes)) => bytes.0.len(),
        Some(HttpBody::Empty) | None => 0,
    };
    if size > LARGEST {
        cursor.report_at("body", ROUTE, format!("the body has {size} bytes; at most {LARGEST} are allowed"));
    } else if size > LARGE {
        cursor.report_at("body", Code::VirtualServiceWarning, format!("a body of {size} bytes burdens every proxy"));
    }
}

fn check_retries(retries: &HttpRetry, cursor: &mut Cursor<'_>) {
    const CONDITIONS: [&str; 16] = [
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    ];
    let HttpRetry {
        attempts,
        per_try_timeout,
        retry_on,
        retry_remote_localities,
        retry_ignore_previous_hosts: _,
        backoff,
    } = retries;
    if *attempts < 0 {
        cursor.report_at("attempts", ROUTE, "must not be negative");
    }
    if *attempts == 0 && (per_try_timeout.is_some() || !retry_on.is_empty() || retry_remote_localities.is_some()) {
        cursor.report_at("attempts", ROUTE, "settings for retries need `attempts` of at least 1");
    }
    checked_duration("perTryTimeout", *per_try_timeout, cursor);
    checked_duration("backoff", *backoff, cursor);
    if !retry_on.is_empty() {
        for condition in
            retry_on.split(',').filter(|condition| !CONDITIONS.contains(condition) && !is_known_status(condition))
        {
            cursor.report_at("retryOn", ROUTE, format!("`{condition}` is not a condition for retries"));
        }
    }
}

/// The status codes that Go's `http.StatusText` has a text for.
fn is_known_status(text: &str) -> bool {
    let Ok(status) = text.parse::<u16>() else { return false };
    matches!(status, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511)
}

fn check_rewrite(rewrite: &HttpRewrite, cursor: &mut Cursor<'_>) {
    let HttpRewrite { uri, authority, uri_regex_rewrite } = rewrite;
    if !uri.is_empty() && uri_regex_rewrite.is_some() {
        cursor.report_at("uriRegexRewrite", ROUTE, "`uri` and `uriRegexRewrite` exclude each other");
    }
    if uri.is_empty() && authority.is_empty() && uri_regex_rewrite.is_none() {
        cursor.report(ROUTE, "a rewrite must have `uri`, `uriRegexRewrite` or `authority`");
    }
    if let Some(regex) = uri_regex_rewrite {
        cursor.within("uriRegexRewrite", |cursor| {
            if regex.r#match.is_empty() || regex.rewrite.is_empty() {
                cursor.report(ROUTE, "`match` and `rewrite` are both required");
            } else {
                check_regex("match", &regex.r#match, cursor);
            }
        });
    }
}

/// The authority may be set in one place only.
fn authority_once(route: &HttpRoute, cursor: &mut Cursor<'_>) {
    let request = route.headers.as_ref().and_then(|headers| headers.request.as_ref());
    let rewritten = route.rewrite.as_ref().map_or("", |rewrite| rewrite.authority.as_str());
    let changes = request
        .into_iter()
        .flat_map(|request| request.set.iter().chain(&request.add))
        .filter(|(name, _)| header::is_authority(name));
    let places = usize::from(!rewritten.is_empty()) + changes.filter(|(_, value)| !value.is_empty()).count();
    if places > 1 {
        cursor.report_at("headers", ROUTE, "the authority is set in more than one place");
    }
}
