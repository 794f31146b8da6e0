//! HTTPRoute: how HTTP requests are routed. <https://gateway-api.sigs.k8s.io/reference/spec/#httproute>

use super::{BackendObjectReference, DefaultScope, HttpRouteFilter, ParentReference};
use crate::duration::Duration;
use crate::schema::Check::{Each, Format, GatewayDuration, Items, Length, Range, Unique};
use crate::schema::formats::{is_dns_label, is_dns_subdomain, is_group, is_hostname, is_http_token, is_kind, up_to};

mod rules;

use rules::{
    backend_has_port, header_values_are_plain, parents_are_distinct, path_is_plain, rule_is_consistent,
    session_is_consistent, timeouts_nest,
};
pub(super) use rules::{experimental_defaults, parents_differ, rules_fit_together};

record! {
    /// The spec of an HTTPRoute.
    pub struct HttpRoute {
        /// Gateways or Services it attaches to.
        parent_refs: Vec<ParentReference> = "parentRefs" [Items(0, 32)];
        /// Experimental: attach to default Gateways.
        use_default_gateways: Option<DefaultScope> = "useDefaultGateways";
        /// Hosts, perhaps with `*.` in front; empty is those of the listener.
        hostnames: Vec<String> = "hostnames" [Items(0, 16), Each(&[Length(1, 253), Format("a host name", is_hostname)])];
        /// Rules; absent is one that matches everything.
        rules: Vec<HttpRouteRule> = "rules" [Items(1, 16)] or vec![HttpRouteRule::default()];
    }
    verify parents_are_distinct;
}

record! {
    /// One rule: what it matches and what happens then.
    pub struct HttpRouteRule {
        /// Unique in its route; absent is none.
        name: Option<String> = "name" [Length(1, 253), Format("a section name", is_dns_subdomain)];
        /// Alternatives; absent is every path. Written as an empty list it stays empty, which also matches everything.
        matches: Vec<HttpRouteMatch> = "matches" [Items(0, 64)] or vec![HttpRouteMatch::default()];
        /// What is done to requests and responses.
        filters: Vec<HttpRouteFilter> = "filters" [Items(0, 16)];
        /// Weighted backends; empty answers 404 unless a filter answers.
        backend_refs: Vec<HttpBackendRef> = "backendRefs" [Items(0, 16)];
        /// Limits of time.
        timeouts: Option<HttpRouteTimeouts> = "timeouts";
        /// Experimental: when and how often a failed request is tried again.
        retry: Option<HttpRouteRetry> = "retry";
        /// Experimental: requests of one session go to one endpoint.
        session_persistence: Option<SessionPersistence> = "sessionPersistence";
    }
    verify rule_is_consistent;
}

impl Default for HttpRouteRule {
    fn default() -> Self {
        Self {
            name: None,
            matches: vec![HttpRouteMatch::default()],
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: None,
            session_persistence: None,
        }
    }
}

record! {
    /// One alternative; all that is written must hold.
    #[derive(Default)]
    pub struct HttpRouteMatch {
        /// Absent is every path.
        path: HttpPathMatch = "path" or HttpPathMatch::default();
        /// Headers, case of the name ignored.
        headers: Vec<HttpHeaderMatch> = "headers" [Items(0, 16), Unique(&["name"])];
        /// Query parameters.
        query_params: Vec<HttpQueryParamMatch> = "queryParams" [Items(0, 16), Unique(&["name"])];
        /// The method; absent is any.
        method: Option<HttpMethod> = "method";
    }
    verify header_values_are_plain;
}

record! {
    /// How the path is compared.
    pub struct HttpPathMatch {
        /// Absent is PathPrefix.
        match_type: PathMatchType = "type" or PathMatchType::PathPrefix;
        /// Absent is `/`.
        value: String = "value" [up_to(1024)] or "/".to_owned();
    }
    verify path_is_plain;
}

impl Default for HttpPathMatch {
    fn default() -> Self {
        Self { match_type: PathMatchType::PathPrefix, value: "/".to_owned() }
    }
}

choice! {
    /// How a path is compared.
    pub enum PathMatchType {
        /// Equal.
        Exact = "Exact",
        /// By whole path segments: `/foo` does not match `/foobar`.
        PathPrefix = "PathPrefix",
        /// By regular expression.
        RegularExpression = "RegularExpression",
    }
}

choice! {
    /// How a header or query parameter is compared.
    pub enum ValueMatchType {
        /// Equal.
        Exact = "Exact",
        /// By regular expression.
        RegularExpression = "RegularExpression",
    }
}

record! {
    /// A condition on a header.
    pub struct HttpHeaderMatch {
        /// Absent is Exact.
        match_type: ValueMatchType = "type" or ValueMatchType::Exact;
        /// Name of the header.
        name: String = "name" [Length(1, 256), Format("a header name", is_http_token)];
        /// Text or expression.
        value: String = "value" [Length(1, 4096)];
    }
}

record! {
    /// A condition on a query parameter.
    pub struct HttpQueryParamMatch {
        /// Absent is Exact.
        match_type: ValueMatchType = "type" or ValueMatchType::Exact;
        /// Name of the parameter.
        name: String = "name" [Length(1, 256), Format("a parameter name", is_http_token)];
        /// Text or expression.
        value: String = "value" [Length(1, 1024)];
    }
}

choice! {
    /// An HTTP method.
    pub enum HttpMethod {
        /// GET
        Get = "GET",
        /// HEAD
        Head = "HEAD",
        /// POST
        Post = "POST",
        /// PUT
        Put = "PUT",
        /// DELETE
        Delete = "DELETE",
        /// CONNECT
        Connect = "CONNECT",
        /// OPTIONS
        Options = "OPTIONS",
        /// TRACE
        Trace = "TRACE",
        /// PATCH
        Patch = "PATCH",
    }
}

record! {
    /// One weighted backend.
    pub struct HttpBackendRef {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)] or String::new();
        /// `Service` unless another is written.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)] or "Service".to_owned();
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// Absent is the route's own; another one needs a ReferenceGrant.
        namespace: Option<String> = "namespace" [Length(1, 63), Format("a namespace name", is_dns_label)];
        /// Service port; required for a Service.
        port: Option<u16> = "port" [Range(1, 65535)];
        /// Share; the sum of all is the whole. 0 gets nothing.
        weight: i32 = "weight" [Range(0, 1_000_000)] or 1;
        /// What is done to requests that go here.
        filters: Vec<HttpRouteFilter> = "filters" [Items(0, 16)];
    }
    verify backend_has_port;
}

impl HttpBackendRef {
    /// The object referred to.
    #[must_use]
    pub fn object(&self) -> BackendObjectReference {
        let Self { group, kind, name, namespace, port, weight: _, filters: _ } = self;
        BackendObjectReference {
            group: group.clone(),
            kind: kind.clone(),
            name: name.clone(),
            namespace: namespace.clone(),
            port: *port,
        }
    }
}

record! {
    /// Limits of time; absent or 0 is none.
    pub struct HttpRouteTimeouts {
        /// The whole request, retries included.
        request: Option<Duration> = "request" [GatewayDuration];
        /// One try.
        backend_request: Option<Duration> = "backendRequest" [GatewayDuration];
    }
    verify timeouts_nest;
}

record! {
    /// When and how often a failed request is tried again.
    pub struct HttpRouteRetry {
        /// Status codes; empty is the implementation's.
        codes: Vec<u16> = "codes" [Each(&[Range(400, 599)]), Unique(&[])];
        /// Tries after the first; absent is the implementation's.
        attempts: Option<i64> = "attempts" [Range(1, i64::MAX)];
        /// Least time between two tries; absent is the implementation's.
        backoff: Option<Duration> = "backoff" [GatewayDuration];
    }
}

record! {
    /// Requests of one session go to one endpoint.
    pub struct SessionPersistence {
        /// Name of the cookie or header; absent is the implementation's.
        session_name: Option<String> = "sessionName" [up_to(128)];
        /// Longest life of a session; absent is no limit.
        absolute_timeout: Option<Duration> = "absoluteTimeout" [GatewayDuration];
        /// Absent is Cookie.
        persistence_type: SessionPersistenceType = "type" or SessionPersistenceType::Cookie;
        /// Settings of the cookie.
        cookie_config: Option<CookieConfig> = "cookieConfig";
    }
    verify session_is_consistent;
}

choice! {
    /// What carries a session.
    pub enum SessionPersistenceType {
        /// A cookie.
        Cookie = "Cookie",
        /// A header.
        Header = "Header",
    }
}

record! {
    /// Settings of a session cookie.
    pub struct CookieConfig {
        /// Absent is Session.
        lifetime_type: CookieLifetimeType = "lifetimeType" or CookieLifetimeType::Session;
    }
}

choice! {
    /// How long a cookie lives.
    pub enum CookieLifetimeType {
        /// Until the absolute timeout.
        Permanent = "Permanent",
        /// As long as the client's session.
        Session = "Session",
    }
}
