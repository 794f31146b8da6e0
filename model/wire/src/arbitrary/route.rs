//! Random virtual hosts and route rules.

use bytes::Bytes;
use palisade_model::route::{
    Backend, ClaimMatch, Cors, Fault, FaultAbort, Forward, HeaderMatch, HeaderMutations, Mirror, PathMatch,
    PathRewrite, Percent, QueryMatch, Redirect, RedirectPort, RetryOn, RetryPolicy, Rewrite, RouteAction, RouteEntry,
    RouteMatch, RouteRule, Session, StringMatch, VirtualHost,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::scalar::{duration, list, name, pattern, set, text};

pub(super) fn virtual_host() -> impl Strategy<Value = VirtualHost> {
    let entry = (name(), 0..3u32).prop_map(|(rule, alternative)| RouteEntry { rule, alternative });
    (name(), name(), list(pattern()), any::<bool>(), list(entry)).prop_map(
        |(table, name, domains, https_redirect, entries)| VirtualHost { table, name, domains, https_redirect, entries },
    )
}

pub(super) fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        (text(), any::<bool>()).prop_map(|(value, ignore_case)| PathMatch::Exact { value, ignore_case }),
        (text(), any::<bool>()).prop_map(|(value, ignore_case)| PathMatch::Prefix { value, ignore_case }),
        text().prop_map(|value| PathMatch::SegmentPrefix { value }),
        text().prop_map(|value| PathMatch::Regex { value })
    ]
}

pub(super) fn string_match() -> impl Strategy<Value = StringMatch> + Clone {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Regex)
    ]
}

pub(super) fn route_match() -> impl Strategy<Value = RouteMatch> {
    let header = (text(), option::of(string_match()), any::<bool>())
        .prop_map(|(name, value, is_inverted)| HeaderMatch { name, value, is_inverted });
    let query = (text(), option::of(string_match())).prop_map(|(name, value)| QueryMatch { name, value });
    let claim = (list(text()), option::of(string_match()), any::<bool>())
        .prop_map(|(path, value, is_inverted)| ClaimMatch { path, value, is_inverted });
    let one = || option::of(string_match());
    (any::<u32>(), option::of(path_match()), one(), one(), one(), list(header), list(query), list(claim)).prop_map(
        |(source_index, path, scheme, method, authority, headers, query, claims)| RouteMatch {
            source_index,
            path,
            scheme,
            method,
            authority,
            headers,
            query,
            claims,
        },
    )
}

pub(super) fn mutations() -> impl Strategy<Value = HeaderMutations> {
    (list(text()), list((text(), text())), list((text(), text()))).prop_map(|(remove, set, add)| HeaderMutations {
        remove,
        set,
        add,
    })
}

pub(super) fn path_rewrite() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![
        text().prop_map(PathRewrite::Full),
        text().prop_map(PathRewrite::Prefix),
        text().prop_map(PathRewrite::SegmentPrefix),
        (text(), text()).prop_map(|(pattern, substitution)| PathRewrite::Regex { pattern, substitution })
    ]
}

const RETRY_ON: [RetryOn; 16] = [
    RetryOn::ServerError,
    RetryOn::GatewayError,
    RetryOn::Reset,
    RetryOn::ResetBeforeRequest,
    RetryOn::ConnectFailure,
    RetryOn::EnvoyRatelimited,
    RetryOn::Retriable4xx,
    RetryOn::RefusedStream,
    RetryOn::RetriableStatusCodes,
    RetryOn::RetriableHeaders,
    RetryOn::Http3PostConnectFailure,
    RetryOn::Cancelled,
    RetryOn::DeadlineExceeded,
    RetryOn::Internal,
    RetryOn::ResourceExhausted,
    RetryOn::Unavailable,
];

pub(super) fn retries() -> impl Strategy<Value = RetryPolicy> {
    (
        any::<u32>(),
        option::of(duration()),
        set(select(RETRY_ON.to_vec())),
        set(any::<u16>()),
        duration(),
        duration(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(attempts, per_try, on, statuses, backoff, max_backoff, avoid_previous, leaves_locality)| {
            RetryPolicy { attempts, per_try, on, statuses, backoff, max_backoff, avoid_previous, leaves_locality }
        })
}

pub(super) fn action() -> impl Strategy<Value = RouteAction> {
    let backend =
        (name(), option::of(any::<u16>()), any::<u32>(), mutations(), mutations(), option::of(path_rewrite()))
            .prop_map(|(cluster, missing, weight, request_headers, response_headers, path)| Backend {
                cluster,
                missing,
                weight,
                request_headers,
                response_headers,
                path,
            });
    let rewrite =
        (option::of(path_rewrite()), option::of(text())).prop_map(|(path, authority)| Rewrite { path, authority });
    let mirror = (name(), 0..=Percent::ALWAYS.0).prop_map(|(cluster, share)| Mirror { cluster, share: Percent(share) });
    let times = (option::of(duration()), option::of(retries()));
    let session = (name(), any::<bool>(), any::<bool>(), option::of(duration()))
        .prop_map(|(name, is_header, is_permanent, timeout)| Session { name, is_header, is_permanent, timeout });
    let forward = (list(backend), mutations(), rewrite, times, list(mirror), option::of(session)).prop_map(
        |(backends, request_headers, rewrite, (timeout, retries), mirrors, session)| Forward {
            backends,
            request_headers,
            rewrite,
            timeout,
            retries,
            mirrors,
            session,
        },
    );
    let port = prop_oneof![
        any::<u16>().prop_map(RedirectPort::Explicit),
        Just(RedirectPort::ProtocolDefault),
        Just(RedirectPort::Request)
    ];
    let redirect = (option::of(text()), option::of(text()), port, option::of(path_rewrite()), any::<u16>())
        .prop_map(|(scheme, authority, port, path, status)| Redirect { scheme, authority, port, path, status });
    prop_oneof![
        forward.prop_map(RouteAction::Forward),
        redirect.prop_map(RouteAction::Redirect),
        (any::<u16>(), vec(any::<u8>(), 0..8), option::of(text())).prop_map(|(status, body, content_type)| {
            RouteAction::DirectResponse { status, body: Bytes::from(body), content_type }
        }),
        text().prop_map(|message| RouteAction::Refuse { message })
    ]
}

pub(super) fn cors() -> impl Strategy<Value = Cors> {
    let lists = (list(string_match()), list(text()), list(text()), list(text()));
    (lists, option::of(duration()), any::<bool>(), any::<bool>()).prop_map(
        |(lists, max_age, allows_credentials, forwards_unmatched_preflights)| {
            let (allow_origins, allow_methods, allow_headers, expose_headers) = lists;
            Cors {
                allow_origins,
                allow_methods,
                allow_headers,
                expose_headers,
                max_age,
                allows_credentials,
                forwards_unmatched_preflights,
            }
        },
    )
}

pub(super) fn route() -> impl Strategy<Value = RouteRule> {
    let share = || (0..=Percent::ALWAYS.0).prop_map(Percent);
    let abort = prop_oneof![any::<u16>().prop_map(FaultAbort::Http), any::<u32>().prop_map(FaultAbort::Grpc)];
    let fault = (option::of((duration(), share())), option::of((abort, share())))
        .prop_map(|(delay, abort)| Fault { delay, abort });
    let before = (fault, option::of(cors()));
    (name(), text(), option::of(text()), any::<u32>(), list(route_match()), before, action(), mutations()).prop_map(
        |(key, source, name, rule, matches, (fault, cors), action, response_headers)| RouteRule {
            key,
            source,
            name,
            rule,
            matches,
            fault,
            cors,
            action,
            response_headers,
        },
    )
}
