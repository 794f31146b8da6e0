//! GRPCRoute: how gRPC calls are routed. <https://gateway-api.sigs.k8s.io/reference/spec/#grpcroute>

use super::filter::filters_are_consistent;
use super::http_route::{experimental_defaults, parents_differ, rules_fit_together};
use super::object_reference::require_port;
use super::{
    DefaultScope, HttpHeaderFilter, HttpHeaderMatch, HttpRequestMirrorFilter, HttpRouteFilter, HttpRouteFilterType,
    LocalObjectReference, ParentReference, SessionPersistence,
};
use crate::codes::Code;
use crate::schema::Check::{Each, Format, Items, Length, Range, Unique};
use crate::schema::Cursor;
use crate::schema::formats::{is_dns_label, is_dns_subdomain, is_group, is_hostname, is_kind, up_to};

record! {
    /// The spec of a GRPCRoute.
    pub struct GrpcRoute {
        /// Gateways or Services it attaches to.
        parent_refs: Vec<ParentReference> = "parentRefs" [Items(0, 32)];
        /// Experimental: attach to default Gateways.
        use_default_gateways: Option<DefaultScope> = "useDefaultGateways";
        /// Hosts, perhaps with `*.` in front; empty is those of the listener.
        hostnames: Vec<String> = "hostnames" [Items(0, 16), Each(&[Length(1, 253), Format("a host name", is_hostname)])];
        /// Rules.
        rules: Vec<GrpcRouteRule> = "rules" [Items(0, 16)];
    }
    verify route_is_consistent;
}

fn route_is_consistent(route: &GrpcRoute, cursor: &mut Cursor<'_>) {
    parents_differ(&route.parent_refs, cursor);
    let rules = route.rules.iter().map(|rule| (rule.name.as_deref(), rule.matches.len()));
    rules_fit_together(rules, cursor);
    experimental_defaults(route.use_default_gateways, cursor);
}

record! {
    /// One rule: what it matches and what happens then.
    pub struct GrpcRouteRule {
        /// Unique in its route; absent is none.
        name: Option<String> = "name" [Length(1, 253), Format("a section name", is_dns_subdomain)];
        /// Alternatives; empty is every call.
        matches: Vec<GrpcRouteMatch> = "matches" [Items(0, 64)];
        /// What is done to calls and answers.
        filters: Vec<GrpcRouteFilter> = "filters" [Items(0, 16)];
        /// Weighted backends.
        backend_refs: Vec<GrpcBackendRef> = "backendRefs" [Items(0, 16)];
        /// Experimental: calls of one session go to one endpoint.
        session_persistence: Option<SessionPersistence> = "sessionPersistence";
    }
    verify rule_is_consistent;
}

fn rule_is_consistent(rule: &GrpcRouteRule, cursor: &mut Cursor<'_>) {
    cursor.within("filters", |cursor| filters_are_consistent(&as_http(&rule.filters), cursor));
}

record! {
    /// One alternative; all that is written must hold.
    pub struct GrpcRouteMatch {
        /// Service and method; absent is every one.
        method: Option<GrpcMethodMatch> = "method";
        /// Headers, case of the name ignored.
        headers: Vec<HttpHeaderMatch> = "headers" [Items(0, 16), Unique(&["name"])];
    }
}

record! {
    /// A condition on service and method.
    pub struct GrpcMethodMatch {
        /// Absent is Exact.
        match_type: GrpcMethodMatchType = "type" or GrpcMethodMatchType::Exact;
        /// The service with its package; absent is every one.
        service: Option<String> = "service" [up_to(1024)];
        /// The method; absent is every one.
        method: Option<String> = "method" [up_to(1024)];
    }
    verify names_something;
}

choice! {
    /// How service and method are compared.
    pub enum GrpcMethodMatchType {
        /// Equal.
        Exact = "Exact",
        /// By regular expression.
        RegularExpression = "RegularExpression",
    }
}

fn names_something(written: &GrpcMethodMatch, cursor: &mut Cursor<'_>) {
    if written.service.is_none() && written.method.is_none() {
        cursor.report(Code::GatewayApiRule, "one or both of `service` and `method` must be given");
    }
    if written.match_type == GrpcMethodMatchType::RegularExpression {
        return;
    }
    let is_name = |text: &str, dots: bool| {
        let parts: Vec<&str> =
            if dots { text.strip_prefix('.').unwrap_or(text).split('.').collect() } else { vec![text] };
        parts.iter().all(|part| {
            let mut characters = part.chars();
            characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
        })
    };
    for (field, text, dots) in [("service", &written.service, true), ("method", &written.method, false)] {
        if text.as_deref().is_some_and(|text| !is_name(text, dots)) {
            cursor.report_at(field, Code::GatewayApiRule, format!("`{field}` has characters that no name has"));
        }
    }
}

record! {
    /// One filter; exactly the field that its type names is set.
    pub struct GrpcRouteFilter {
        /// Which filter.
        filter_type: GrpcRouteFilterType = "type";
        /// Changes to request headers.
        request_header_modifier: Option<HttpHeaderFilter> = "requestHeaderModifier";
        /// Changes to response headers.
        response_header_modifier: Option<HttpHeaderFilter> = "responseHeaderModifier";
        /// Copies of calls.
        request_mirror: Option<HttpRequestMirrorFilter> = "requestMirror";
        /// A filter of the implementation's own.
        extension_ref: Option<LocalObjectReference> = "extensionRef";
    }
    verify field_fits_type;
}

choice! {
    /// Which filter.
    pub enum GrpcRouteFilterType {
        /// Changes to request headers.
        RequestHeaderModifier = "RequestHeaderModifier",
        /// Changes to response headers.
        ResponseHeaderModifier = "ResponseHeaderModifier",
        /// Copies of calls.
        RequestMirror = "RequestMirror",
        /// A filter of the implementation's own.
        ExtensionRef = "ExtensionRef",
    }
}

fn field_fits_type(filter: &GrpcRouteFilter, cursor: &mut Cursor<'_>) {
    use GrpcRouteFilterType as T;
    let fields = [
        ("requestHeaderModifier", T::RequestHeaderModifier, filter.request_header_modifier.is_some()),
        ("responseHeaderModifier", T::ResponseHeaderModifier, filter.response_header_modifier.is_some()),
        ("requestMirror", T::RequestMirror, filter.request_mirror.is_some()),
        ("extensionRef", T::ExtensionRef, filter.extension_ref.is_some()),
    ];
    for (field, of_type, is_written) in fields {
        if is_written != (filter.filter_type == of_type) {
            let text = format!("`{field}` must be set if and only if the type is {}", of_type.as_str());
            cursor.report_at(field, Code::GatewayApiRule, text);
        }
    }
}

impl GrpcRouteFilter {
    /// The same filter as HTTPRoutes write it.
    #[must_use]
    pub fn as_http(&self) -> HttpRouteFilter {
        let Self { filter_type, request_header_modifier, response_header_modifier, request_mirror, extension_ref } =
            self.clone();
        HttpRouteFilter {
            filter_type: match filter_type {
                GrpcRouteFilterType::RequestHeaderModifier => HttpRouteFilterType::RequestHeaderModifier,
                GrpcRouteFilterType::ResponseHeaderModifier => HttpRouteFilterType::ResponseHeaderModifier,
                GrpcRouteFilterType::RequestMirror => HttpRouteFilterType::RequestMirror,
                GrpcRouteFilterType::ExtensionRef => HttpRouteFilterType::ExtensionRef,
            },
            request_header_modifier,
            response_header_modifier,
            request_mirror,
            request_redirect: None,
            url_rewrite: None,
            cors: None,
            external_auth: None,
            extension_ref,
        }
    }
}

fn as_http(filters: &[GrpcRouteFilter]) -> Vec<HttpRouteFilter> {
    filters.iter().map(GrpcRouteFilter::as_http).collect()
}

record! {
    /// One weighted backend.
    pub struct GrpcBackendRef {
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
        /// What is done to calls that go here.
        filters: Vec<GrpcRouteFilter> = "filters" [Items(0, 16)];
    }
    verify backend_has_port;
}

fn backend_has_port(backend: &GrpcBackendRef, cursor: &mut Cursor<'_>) {
    require_port(&backend.group, &backend.kind, backend.port, cursor);
    cursor.within("filters", |cursor| filters_are_consistent(&as_http(&backend.filters), cursor));
}

impl GrpcBackendRef {
    /// The same backend as HTTPRoutes write it.
    #[must_use]
    pub fn as_http(&self) -> super::HttpBackendRef {
        let Self { group, kind, name, namespace, port, weight, filters } = self.clone();
        super::HttpBackendRef { group, kind, name, namespace, port, weight, filters: as_http(&filters) }
    }
}
