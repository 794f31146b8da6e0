//! VirtualService: how requests to hosts are routed. <https://istio.io/latest/docs/reference/config/networking/virtual-service/>

use std::collections::BTreeMap;

use super::{Destination, Percent, StringMatch};
use crate::duration::Duration;
use crate::schema::Bytes;
use crate::schema::Check::Positive;

record! {
    /// The spec of a VirtualService. Without hosts it is a delegate that other VirtualServices name.
    pub struct VirtualService {
        /// Hosts routed, in the namespace of the rule if short. Empty: a delegate.
        hosts: Vec<String> = "hosts";
        /// Gateways it binds to (`name` or `namespace/name`), and `mesh` for sidecars. Empty means `mesh`.
        gateways: Vec<String> = "gateways";
        /// HTTP rules; the first match wins.
        http: Vec<HttpRoute> = "http";
        /// Rules for TLS that is not terminated, by SNI; the first match wins.
        tls: Vec<TlsRoute> = "tls";
        /// Rules for opaque TCP; the first match wins.
        tcp: Vec<TcpRoute> = "tcp";
        /// Namespaces that see it: `*`, `.`, or names. Empty: the mesh's default.
        export_to: Vec<String> = "exportTo";
    }
}

record! {
    /// One HTTP rule: what it matches and what happens then.
    pub struct HttpRoute {
        /// For logs; joined with the delegate's.
        name: String = "name" or String::new();
        /// Alternatives; empty matches everything.
        r#match: Vec<HttpMatchRequest> = "match";
        /// Weighted destinations.
        route: Vec<HttpRouteDestination> = "route";
        /// Answer with a redirect instead.
        redirect: Option<HttpRedirect> = "redirect";
        /// Answer with a fixed response instead.
        direct_response: Option<HttpDirectResponse> = "directResponse";
        /// Continue with the rules of another VirtualService.
        delegate: Option<Delegate> = "delegate";
        /// Changes to path and authority.
        rewrite: Option<HttpRewrite> = "rewrite";
        /// The whole request, retries included; absent is no limit.
        timeout: Option<Duration> = "timeout" [Positive];
        /// Absent is the mesh's default policy; present without attempts is none.
        retries: Option<HttpRetry> = "retries";
        /// Faults injected on purpose.
        fault: Option<HttpFaultInjection> = "fault";
        /// Where copies of requests go.
        mirror: Option<Destination> = "mirror";
        /// Several such places.
        mirrors: Vec<HttpMirrorPolicy> = "mirrors";
        /// Deprecated share of copies, in whole percent.
        mirror_percent: Option<u32> = "mirrorPercent";
        /// The same under its protobuf name.
        mirror_percent_proto: Option<u32> = "mirror_percent";
        /// Share of requests that are copied; absent is all.
        mirror_percentage: Option<Percent> = "mirrorPercentage";
        /// Cross-origin rules.
        cors_policy: Option<CorsPolicy> = "corsPolicy";
        /// Changes to headers, before those of the destination.
        headers: Option<Headers> = "headers";
    }
}

record! {
    /// One alternative of an HTTP match; all that is written must hold.
    pub struct HttpMatchRequest {
        /// For logs.
        name: String = "name" or String::new();
        /// The path, without query. A prefix is a plain text prefix.
        uri: Option<StringMatch> = "uri";
        /// `http` or `https`.
        scheme: Option<StringMatch> = "scheme";
        /// The HTTP method.
        method: Option<StringMatch> = "method";
        /// Host with port, as sent.
        authority: Option<StringMatch> = "authority";
        /// Header values, by lower-case name; also `@request.auth.claims…`.
        headers: BTreeMap<String, StringMatch> = "headers";
        /// The listener's port.
        port: Option<u32> = "port";
        /// Labels of the proxy that holds the rule.
        source_labels: BTreeMap<String, String> = "sourceLabels";
        /// Only at these gateways; source labels and namespace then do not count.
        gateways: Vec<String> = "gateways";
        /// Query parameter values, by name.
        query_params: BTreeMap<String, StringMatch> = "queryParams";
        /// Ignore case in `uri` exact and prefix matches.
        ignore_uri_case: bool = "ignoreUriCase";
        /// Headers that must not match; a missing one does not.
        without_headers: BTreeMap<String, StringMatch> = "withoutHeaders";
        /// Namespace of the proxy that holds the rule.
        source_namespace: String = "sourceNamespace" or String::new();
        /// Prefix for statistics.
        stat_prefix: String = "statPrefix" or String::new();
    }
}

record! {
    /// One weighted destination of an HTTP rule.
    pub struct HttpRouteDestination {
        /// Where to.
        destination: Destination = "destination";
        /// Share; the sum of all is the whole. Ignored when there is only one destination.
        weight: i32 = "weight" or 0;
        /// Changes to headers, after those of the rule.
        headers: Option<Headers> = "headers";
    }
}

record! {
    /// A VirtualService without hosts that takes over.
    pub struct Delegate {
        /// Its name.
        name: String = "name" or String::new();
        /// Its namespace; empty is that of the rule.
        namespace: String = "namespace" or String::new();
    }
}

record! {
    /// Changes to the headers of requests and responses.
    pub struct Headers {
        /// Before the request goes upstream.
        request: Option<HeaderOperations> = "request";
        /// Before the response goes downstream.
        response: Option<HeaderOperations> = "response";
    }
}

record! {
    /// Changes to headers, in the order remove, set, add.
    pub struct HeaderOperations {
        /// Replaces the values.
        set: BTreeMap<String, String> = "set";
        /// Appends a value.
        add: BTreeMap<String, String> = "add";
        /// Names to remove.
        remove: Vec<String> = "remove";
    }
}

record! {
    /// A redirect answer.
    pub struct HttpRedirect {
        /// The whole new path; empty keeps the path.
        uri: String = "uri" or String::new();
        /// Replaces the matched prefix of the path.
        prefix_rewrite: String = "prefixRewrite" or String::new();
        /// The new host; empty keeps it.
        authority: String = "authority" or String::new();
        /// The new port.
        port: Option<u32> = "port";
        /// Where the new port comes from when none is given.
        derive_port: Option<RedirectPortSelection> = "derivePort";
        /// `http` or `https`; empty keeps it.
        scheme: String = "scheme" or String::new();
        /// Absent or 0 is 301.
        redirect_code: Option<u32> = "redirectCode";
    }
    at_most_one ["port", "derivePort"];
}

choice! {
    /// Which port a redirect names when none is given.
    pub enum RedirectPortSelection {
        /// The default port of the scheme, that is none.
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        /// The port that the request came in on.
        FromRequestPort = "FROM_REQUEST_PORT",
    }
}

record! {
    /// A fixed answer.
    pub struct HttpDirectResponse {
        /// The status code.
        status: u32 = "status";
        /// The body; absent is empty.
        body: Option<HttpBody> = "body";
    }
}

one_of! {
    /// The body of a fixed answer.
    pub enum HttpBody {
        /// Text.
        String(String) = "string",
        /// Bytes.
        Bytes(Bytes) = "bytes",
    } otherwise {
        /// No body.
        Empty,
    }
}

record! {
    /// Changes to path and authority.
    pub struct HttpRewrite {
        /// New path, or new prefix if the match was by prefix; empty keeps it.
        uri: String = "uri" or String::new();
        /// New authority; empty keeps it.
        authority: String = "authority" or String::new();
        /// New path by regular expression.
        uri_regex_rewrite: Option<RegexRewrite> = "uriRegexRewrite";
    }
}

record! {
    /// A replacement by regular expression.
    pub struct RegexRewrite {
        /// RE2 expression.
        r#match: String = "match" or String::new();
        /// The replacement, with `\1` for groups.
        rewrite: String = "rewrite" or String::new();
    }
}

record! {
    /// When and how often a failed request is tried again.
    pub struct HttpRetry {
        /// Tries after the first; absent or 0 is none.
        attempts: i32 = "attempts" or 0;
        /// Limit of one try; absent is the route's timeout.
        per_try_timeout: Option<Duration> = "perTryTimeout" [Positive];
        /// Comma-separated conditions and status codes; empty is the mesh's default.
        retry_on: String = "retryOn" or String::new();
        /// Also endpoints in other localities; absent is no.
        retry_remote_localities: Option<bool> = "retryRemoteLocalities";
        /// Avoid hosts that failed this request; absent is yes.
        retry_ignore_previous_hosts: Option<bool> = "retryIgnorePreviousHosts";
        /// Base of the back-off; absent is 25 ms.
        backoff: Option<Duration> = "backoff" [Positive];
    }
}

record! {
    /// Faults injected on purpose; the delay comes first.
    pub struct HttpFaultInjection {
        /// Wait before forwarding.
        delay: Option<HttpFaultDelay> = "delay";
        /// Answer with an error.
        abort: Option<HttpFaultAbort> = "abort";
    }
}

record! {
    /// A delay for a share of requests.
    pub struct HttpFaultDelay {
        /// The wait.
        fixed_delay: Option<Duration> = "fixedDelay" [Positive];
        /// Not supported; validation refuses it.
        exponential_delay: Option<Duration> = "exponentialDelay" [Positive];
        /// Deprecated share in whole percent.
        percent: i32 = "percent" or 0;
        /// Share of requests; absent is none.
        percentage: Option<Percent> = "percentage";
    }
    at_most_one ["fixedDelay", "exponentialDelay"];
}

record! {
    /// An error answer for a share of requests.
    pub struct HttpFaultAbort {
        /// HTTP status code.
        http_status: Option<i32> = "httpStatus";
        /// gRPC status name, such as `UNAVAILABLE`.
        grpc_status: Option<String> = "grpcStatus";
        /// Not supported; validation refuses it.
        http2_error: Option<String> = "http2Error";
        /// Share of requests; absent is none.
        percentage: Option<Percent> = "percentage";
    }
    at_most_one ["httpStatus", "grpcStatus", "http2Error"];
}

record! {
    /// One place that copies of requests go to.
    pub struct HttpMirrorPolicy {
        /// Where to.
        destination: Destination = "destination";
        /// Share of requests that are copied; absent is all.
        percentage: Option<Percent> = "percentage";
    }
}

record! {
    /// Cross-origin rules.
    pub struct CorsPolicy {
        /// Deprecated: origins compared for equality.
        allow_origin: Vec<String> = "allowOrigin";
        /// Origins allowed.
        allow_origins: Vec<StringMatch> = "allowOrigins";
        /// For `access-control-allow-methods`.
        allow_methods: Vec<String> = "allowMethods";
        /// For `access-control-allow-headers`.
        allow_headers: Vec<String> = "allowHeaders";
        /// For `access-control-expose-headers`.
        expose_headers: Vec<String> = "exposeHeaders";
        /// For `access-control-max-age`; whole seconds.
        max_age: Option<Duration> = "maxAge" [Positive];
        /// For `access-control-allow-credentials`; absent leaves the header out.
        allow_credentials: Option<bool> = "allowCredentials";
        /// What happens to a preflight from another origin; absent forwards it.
        unmatched_preflights: Option<UnmatchedPreflights> = "unmatchedPreflights";
    }
}

choice! {
    /// What happens to a preflight request that no origin matches.
    pub enum UnmatchedPreflights {
        /// The default: forward.
        Unspecified = "UNSPECIFIED",
        /// It goes upstream.
        Forward = "FORWARD",
        /// It is answered without CORS headers.
        Ignore = "IGNORE",
    }
}

record! {
    /// One rule for TLS that is not terminated.
    pub struct TlsRoute {
        /// Alternatives; at least one.
        r#match: Vec<TlsMatchAttributes> = "match" or_required;
        /// Weighted destinations.
        route: Vec<RouteDestination> = "route";
    }
}

record! {
    /// One alternative of a TLS match; all that is written must hold.
    pub struct TlsMatchAttributes {
        /// Server names, each a subset of the VirtualService's hosts.
        sni_hosts: Vec<String> = "sniHosts" or_required;
        /// Original destination addresses, as CIDR.
        destination_subnets: Vec<String> = "destinationSubnets";
        /// The listener's port.
        port: Option<u32> = "port";
        /// Labels of the proxy that holds the rule.
        source_labels: BTreeMap<String, String> = "sourceLabels";
        /// Only at these gateways.
        gateways: Vec<String> = "gateways";
        /// Namespace of the proxy that holds the rule.
        source_namespace: String = "sourceNamespace" or String::new();
    }
}

record! {
    /// One rule for opaque TCP.
    pub struct TcpRoute {
        /// Alternatives; empty matches everything.
        r#match: Vec<L4MatchAttributes> = "match";
        /// Weighted destinations.
        route: Vec<RouteDestination> = "route";
    }
}

record! {
    /// One alternative of a TCP match; all that is written must hold.
    pub struct L4MatchAttributes {
        /// Original destination addresses, as CIDR.
        destination_subnets: Vec<String> = "destinationSubnets";
        /// The listener's port.
        port: Option<u32> = "port";
        /// Deprecated and without effect.
        source_subnet: String = "sourceSubnet" or String::new();
        /// Labels of the proxy that holds the rule.
        source_labels: BTreeMap<String, String> = "sourceLabels";
        /// Only at these gateways.
        gateways: Vec<String> = "gateways";
        /// Namespace of the proxy that holds the rule.
        source_namespace: String = "sourceNamespace" or String::new();
    }
}

record! {
    /// One weighted destination of a TLS or TCP rule.
    pub struct RouteDestination {
        /// Where to.
        destination: Destination = "destination";
        /// Share; the sum of all is the whole. Ignored when there is only one destination.
        weight: i32 = "weight" or 0;
    }
}
