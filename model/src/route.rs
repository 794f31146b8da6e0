//! HTTP routing: host tables, rules, matches and what a matched request gets.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::host::HostPattern;

/// The hosts of one route table that share a list of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualHost {
    /// Route table, for example `outbound:9080`, `outbound:reviews.default.svc.cluster.local:9080` (auto-detected
    /// ports), `gateway:NS/NAME:LISTENER`.
    pub table: Arc<str>,
    /// Unique inside the table.
    pub name: Arc<str>,
    /// Host patterns that it takes; ports in the request's authority are ignored. The most specific pattern of a table
    /// wins; no two virtual hosts of one table carry the same pattern.
    pub domains: Arc<[HostPattern]>,
    /// Every plaintext request is redirected (301) to https (`httpsRedirect`).
    pub https_redirect: bool,
    /// Entries in order: the first that matches wins.
    pub entries: Arc<[RouteEntry]>,
}

/// One alternative of one rule. The compiler decided the order; readers must not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEntry {
    /// Key of the [`RouteRule`].
    pub rule: Arc<str>,
    /// Index into the rule's `matches`; a rule without matches takes every request (index 0).
    pub alternative: u32,
}

/// One route rule of the user's document (`http[]` item of a VirtualService, `rules[]` item of an HTTPRoute).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// Unique key, for example `VirtualService/NS/NAME/http/0`, with a suffix where one rule lowers differently per scope.
    pub key: Arc<str>,
    /// `KIND NS/NAME` of the user's object (`Service NS/NAME` for the default route of a Service).
    pub source: Arc<str>,
    /// The rule's own name, if it has one.
    pub name: Option<Arc<str>>,
    /// Index in the source document's own list.
    pub rule: u32,
    /// Alternatives (OR). Empty = every request.
    pub matches: Arc<[RouteMatch]>,
    /// Fault injected before anything else happens.
    pub fault: Fault,
    /// Cross-origin rules: preflights are answered after the fault and before the action; `None` = none.
    pub cors: Option<Cors>,
    /// What the request gets.
    pub action: RouteAction,
    /// Changes to the response's headers, except to answers that the proxy refuses with.
    pub response_headers: HeaderMutations,
}

/// Conditions of one alternative; all must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RouteMatch {
    /// Index of the alternative in the source document (`match[]`, `matches[]`), which may differ from its index here
    /// where alternatives that cannot apply to this proxy were left out.
    pub source_index: u32,
    /// Normalised path without query.
    pub path: Option<PathMatch>,
    /// Request scheme.
    pub scheme: Option<StringMatch>,
    /// Request method.
    pub method: Option<StringMatch>,
    /// Authority as sent, port included.
    pub authority: Option<StringMatch>,
    /// Header conditions.
    pub headers: Arc<[HeaderMatch]>,
    /// Query parameter conditions; the first occurrence of a parameter counts.
    pub query: Arc<[QueryMatch]>,
    /// Conditions on claims of a verified token (`@request.auth.claims`).
    pub claims: Arc<[ClaimMatch]>,
}

/// A path condition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// The whole path.
    Exact {
        /// The path.
        value: Arc<str>,
        /// ASCII case is ignored.
        ignore_case: bool,
    },
    /// A plain string prefix: `/foo` takes `/foobar` (Istio `uri.prefix`).
    Prefix {
        /// The prefix.
        value: Arc<str>,
        /// ASCII case is ignored.
        ignore_case: bool,
    },
    /// A prefix of whole segments: `/foo` takes `/foo` and `/foo/x`, not `/foobar` (Gateway API `PathPrefix`).
    /// Without a trailing slash, except `/` itself.
    SegmentPrefix {
        /// The prefix.
        value: Arc<str>,
    },
    /// RE2 syntax, must match the whole path.
    Regex {
        /// The expression.
        value: Arc<str>,
    },
}

/// A string condition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// RE2 syntax, must match the whole value.
    Regex(Arc<str>),
}

/// A header condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Lower-case name.
    pub name: Arc<str>,
    /// Compared with the lines joined by `,` (Envoy, Gateway API); `None` = the header is present.
    pub value: Option<StringMatch>,
    /// Turns the result around; a missing header then satisfies it (`withoutHeaders`).
    pub is_inverted: bool,
}

/// A query parameter condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryMatch {
    /// Parameter name, case-sensitive.
    pub name: Arc<str>,
    /// Compared with the parameter's value; `None` = present.
    pub value: Option<StringMatch>,
}

/// A condition on a claim of a verified token. Without a token no claim is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimMatch {
    /// Names from the outermost claim inwards, case-sensitive; at least one.
    pub path: Arc<[Arc<str>]>,
    /// Compared with the claim's text, or with any text of its list; `None` = present.
    pub value: Option<StringMatch>,
    /// Turns the result around; a missing claim then satisfies it (`withoutHeaders`).
    pub is_inverted: bool,
}

/// Cross-origin rules (CORS) of a rule, as the Fetch standard has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Compared with the `Origin` header; empty = no origin is allowed.
    pub allow_origins: Arc<[StringMatch]>,
    /// `access-control-allow-methods`; empty = the header is left out; `*` answers with the method that was asked about.
    pub allow_methods: Arc<[Arc<str>]>,
    /// `access-control-allow-headers`; empty = the header is left out; `*` answers with the headers that were asked about.
    pub allow_headers: Arc<[Arc<str>]>,
    /// `access-control-expose-headers`; empty = the header is left out.
    pub expose_headers: Arc<[Arc<str>]>,
    /// `access-control-max-age`, whole seconds; `None` = the header is left out.
    pub max_age: Option<Duration>,
    /// Whether `access-control-allow-credentials: true` is sent.
    pub allows_credentials: bool,
    /// A preflight of an origin that is not allowed goes upstream; `false` = it is answered 200 without any of the headers.
    pub forwards_unmatched_preflights: bool,
}

/// What a matched request gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly all rules forward: a box would cost each an allocation")]
pub enum RouteAction {
    /// Goes to an upstream.
    Forward(Forward),
    /// Is answered with a redirect.
    Redirect(Redirect),
    /// Is answered with a fixed response.
    DirectResponse {
        /// Status code.
        status: u16,
        /// Body; empty = none.
        body: bytes::Bytes,
        /// Content type, if the document gives one.
        content_type: Option<Arc<str>>,
    },
    /// Is answered 503 because ignoring an unsupported setting of the rule could weaken security.
    Refuse {
        /// Which setting, for logs and explanations.
        message: Arc<str>,
    },
}

/// Forwarding to one of several backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Backends with non-zero weights in document order; the sum of weights is the denominator. Empty = 500 (Gateway API:
    /// a rule whose backends all have weight zero, or that has none).
    pub backends: Arc<[Backend]>,
    /// Rule-level request header changes, applied after the backend's, so that they win.
    pub request_headers: HeaderMutations,
    /// Path and authority rewrites.
    pub rewrite: Rewrite,
    /// From the end of the request's arrival to the end of the response; `None` = no limit.
    pub timeout: Option<Duration>,
    /// Retries; `None` = off.
    pub retries: Option<RetryPolicy>,
    /// Where copies of requests go; their answers are dropped.
    pub mirrors: Arc<[Mirror]>,
    /// Requests of one session go to one endpoint; `None` = each goes wherever it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// How the requests of one client are known: by what the first answer gave it (Gateway API, GEP-1619).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Name of the cookie or header; of a header in lower case.
    pub name: Arc<str>,
    /// A header carries it, and the client sends it by itself; `false` = a cookie for the whole site.
    pub is_header: bool,
    /// The cookie outlives the client's own session, as long as `timeout` allows.
    pub is_permanent: bool,
    /// Longest life; `None` = no limit.
    pub timeout: Option<Duration>,
}

/// A place that copies of requests go to. It never slows or alters the original.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Cluster name, given even when no such cluster exists: nothing is sent then.
    pub cluster: Arc<str>,
    /// Share of requests that are copied.
    pub share: Percent,
}

/// One weighted backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Cluster name, given even when no such cluster exists.
    pub cluster: Arc<str>,
    /// Set when the cluster does not exist: the status that answers (503 Istio, 500 Gateway API).
    pub missing: Option<u16>,
    /// Weight, at least 1.
    pub weight: u32,
    /// Backend-level request header changes.
    pub request_headers: HeaderMutations,
    /// Backend-level response header changes.
    pub response_headers: HeaderMutations,
    /// Backend-level path rewrite, instead of the rule's; `None` = the rule's.
    pub path: Option<PathRewrite>,
}

/// Header changes, applied in the order remove, set, add. Names are lower-case; `host` in `set` rewrites the authority.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeaderMutations {
    /// Names to remove.
    pub remove: Arc<[Arc<str>]>,
    /// Replaces every line of that name.
    pub set: Arc<[(Arc<str>, Arc<str>)]>,
    /// Appends a line.
    pub add: Arc<[(Arc<str>, Arc<str>)]>,
}

/// Rewrites of what goes upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rewrite {
    /// Path.
    pub path: Option<PathRewrite>,
    /// Host or `:authority`.
    pub authority: Option<Arc<str>>,
}

/// A path rewrite. The query is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// The whole path.
    Full(Arc<str>),
    /// The matched [`PathMatch::Prefix`], textually; with any other path match the whole path (Istio `rewrite.uri`).
    Prefix(Arc<str>),
    /// The matched [`PathMatch::SegmentPrefix`], by segments: never doubles or loses a slash (Gateway API
    /// `ReplacePrefixMatch`).
    SegmentPrefix(Arc<str>),
    /// Each match of an RE2 expression, with `\1` references (Istio `uriRegexRewrite`).
    Regex {
        /// Expression, searched for in the path.
        pattern: Arc<str>,
        /// Replacement.
        substitution: Arc<str>,
    },
}

/// A redirect; what is `None` is kept from the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Scheme of the location.
    pub scheme: Option<Arc<str>>,
    /// Host of the location, without port unless the document wrote one.
    pub authority: Option<Arc<str>>,
    /// Port of the location.
    pub port: RedirectPort,
    /// Path of the location.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The port of a redirect's location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectPort {
    /// Written always, except the scheme's default port.
    Explicit(u16),
    /// None is added. Without a new authority the port that the client wrote stays, unless it is the default of a scheme
    /// that is left behind (Envoy; Istio `FROM_PROTOCOL_DEFAULT`).
    ProtocolDefault,
    /// The port of the listener that took the request (Istio `FROM_REQUEST_PORT`; Gateway API without port and scheme).
    Request,
}

/// Retries of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Retries after the first try; at least 1.
    pub attempts: u32,
    /// Limit of each try; `None` = the rule's timeout.
    pub per_try: Option<Duration>,
    /// Conditions.
    pub on: BTreeSet<RetryOn>,
    /// Status codes that are retried when `on` contains [`RetryOn::RetriableStatusCodes`].
    pub statuses: BTreeSet<u16>,
    /// First back-off; doubles with each retry, full jitter.
    pub backoff: Duration,
    /// Ceiling of the back-off.
    pub max_backoff: Duration,
    /// Prefer endpoints that were not tried yet.
    pub avoid_previous: bool,
    /// Prefer priorities (localities) that were not tried yet (`retryRemoteLocalities`).
    pub leaves_locality: bool,
}

/// Envoy's retry conditions (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// Any 5xx, or no response at all.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// No response: disconnect, reset or read timeout.
    Reset,
    /// Reset before the request was sent in full.
    ResetBeforeRequest,
    /// The connection could not be made.
    ConnectFailure,
    /// Envoy's rate-limited header is present.
    EnvoyRatelimited,
    /// 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// HTTP/2 REFUSED_STREAM.
    RefusedStream,
    /// One of `statuses`.
    RetriableStatusCodes,
    /// A response header that the request names.
    RetriableHeaders,
    /// An HTTP/3 connection failed after its handshake.
    Http3PostConnectFailure,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 13.
    Internal,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 14.
    Unavailable,
}

/// Injected faults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fault {
    /// Wait this long, for this share of requests.
    pub delay: Option<(Duration, Percent)>,
    /// Answer instead of forwarding, for this share of requests.
    pub abort: Option<(FaultAbort, Percent)>,
}

/// The answer of an aborted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAbort {
    /// HTTP status.
    Http(u16),
    /// gRPC status, in a trailers-only answer.
    Grpc(u32),
}

/// A share in millionths: 1,000,000 = always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u32);

impl Percent {
    /// Always.
    pub const ALWAYS: Self = Self(1_000_000);

    /// Whether an event of this share happens for a draw in `0.0..1.0`.
    pub fn happens(self, draw: f64) -> bool {
        draw * 1_000_000.0 < f64::from(self.0)
    }
}

impl HeaderMutations {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}
