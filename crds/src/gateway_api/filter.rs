//! Filters of HTTPRoutes: what is done to requests and responses.

use super::{BackendObjectReference, LocalObjectReference};
use crate::codes::Code;
use crate::schema::Check::{Each, Format, Items, Length, Range, Unique};
use crate::schema::Cursor;
use crate::schema::formats::{is_cors_origin, is_dns_subdomain, is_header_value, is_http_token, is_uri_path, up_to};

record! {
    /// One filter; exactly the field that its type names is set.
    pub struct HttpRouteFilter {
        /// Which filter.
        filter_type: HttpRouteFilterType = "type";
        /// Changes to request headers.
        request_header_modifier: Option<HttpHeaderFilter> = "requestHeaderModifier";
        /// Changes to response headers.
        response_header_modifier: Option<HttpHeaderFilter> = "responseHeaderModifier";
        /// Copies of requests.
        request_mirror: Option<HttpRequestMirrorFilter> = "requestMirror";
        /// A redirect answer.
        request_redirect: Option<HttpRequestRedirectFilter> = "requestRedirect";
        /// Changes to path and host.
        url_rewrite: Option<HttpUrlRewriteFilter> = "urlRewrite";
        /// Cross-origin rules.
        cors: Option<HttpCorsFilter> = "cors";
        /// Experimental: a service decides about requests.
        external_auth: Option<HttpExternalAuthFilter> = "externalAuth";
        /// A filter of the implementation's own.
        extension_ref: Option<LocalObjectReference> = "extensionRef";
    }
    verify field_fits_type;
}

choice! {
    /// Which filter.
    pub enum HttpRouteFilterType {
        /// Changes to request headers.
        RequestHeaderModifier = "RequestHeaderModifier",
        /// Changes to response headers.
        ResponseHeaderModifier = "ResponseHeaderModifier",
        /// Copies of requests.
        RequestMirror = "RequestMirror",
        /// A redirect answer.
        RequestRedirect = "RequestRedirect",
        /// Changes to path and host.
        UrlRewrite = "URLRewrite",
        /// A filter of the implementation's own.
        ExtensionRef = "ExtensionRef",
        /// Cross-origin rules.
        Cors = "CORS",
        /// Experimental: a service decides about requests.
        ExternalAuth = "ExternalAuth",
    }
}

fn field_fits_type(filter: &HttpRouteFilter, cursor: &mut Cursor<'_>) {
    use HttpRouteFilterType as T;
    let fields = [
        ("requestHeaderModifier", T::RequestHeaderModifier, filter.request_header_modifier.is_some()),
        ("responseHeaderModifier", T::ResponseHeaderModifier, filter.response_header_modifier.is_some()),
        ("requestMirror", T::RequestMirror, filter.request_mirror.is_some()),
        ("requestRedirect", T::RequestRedirect, filter.request_redirect.is_some()),
        ("urlRewrite", T::UrlRewrite, filter.url_rewrite.is_some()),
        ("extensionRef", T::ExtensionRef, filter.extension_ref.is_some()),
        ("cors", T::Cors, filter.cors.is_some()),
        ("externalAuth", T::ExternalAuth, filter.external_auth.is_some()),
    ];
    for (field, of_type, is_written) in fields {
        if is_written && filter.filter_type != of_type {
            cursor.report_at(
                field,
                Code::GatewayApiRule,
                format!("`{field}` must not be set for a filter of type {}", filter.filter_type.as_str()),
            );
        } else if !is_written && filter.filter_type == of_type {
            cursor.report_at(
                field,
                Code::GatewayApiRule,
                format!("`{field}` must be set for a filter of type {}", of_type.as_str()),
            );
        }
    }
    if filter.external_auth.is_some() {
        cursor.report_at("externalAuth", Code::ExperimentalField, "`externalAuth` belongs to the experimental channel");
    }
}

/// The rules for a list of filters: most types at most once, redirect and rewrite not together.
pub(super) fn filters_are_consistent(filters: &[HttpRouteFilter], cursor: &mut Cursor<'_>) {
    use HttpRouteFilterType as T;
    let count = |of_type| filters.iter().filter(|filter| filter.filter_type == of_type).count();
    if count(T::RequestRedirect) > 0 && count(T::UrlRewrite) > 0 {
        cursor.report(Code::GatewayApiRule, "RequestRedirect and URLRewrite must not be used together");
    }
    for of_type in [T::Cors, T::RequestHeaderModifier, T::ResponseHeaderModifier, T::RequestRedirect, T::UrlRewrite] {
        if count(of_type) > 1 {
            cursor.report(Code::GatewayApiRule, format!("a filter of type {} cannot be repeated", of_type.as_str()));
        }
    }
}

record! {
    /// Changes to headers, in the order set, add, remove.
    pub struct HttpHeaderFilter {
        /// Replaces the values.
        set: Vec<HttpHeader> = "set" [Items(0, 16), Unique(&["name"])];
        /// Appends a value.
        add: Vec<HttpHeader> = "add" [Items(0, 16), Unique(&["name"])];
        /// Names to remove, case ignored.
        remove: Vec<String> = "remove" [Items(0, 16), Unique(&[])];
    }
}

record! {
    /// A header.
    pub struct HttpHeader {
        /// Its name, case ignored.
        name: String = "name" [Length(1, 256), Format("a header name", is_http_token)];
        /// Its value.
        value: String = "value" [Length(1, 4096), Format("a header value", is_header_value)];
    }
}

record! {
    /// Copies of requests.
    pub struct HttpRequestMirrorFilter {
        /// Where they go.
        backend_ref: BackendObjectReference = "backendRef";
        /// Share of requests in whole percent; absent is all.
        percent: Option<u32> = "percent" [Range(0, 100)];
        /// Share of requests as a fraction.
        fraction: Option<Fraction> = "fraction";
    }
    verify one_share;
}

fn one_share(filter: &HttpRequestMirrorFilter, cursor: &mut Cursor<'_>) {
    if filter.percent.is_some() && filter.fraction.is_some() {
        cursor.report_at("fraction", Code::GatewayApiRule, "only one of `percent` and `fraction` may be set");
    }
}

record! {
    /// A share.
    pub struct Fraction {
        /// The part.
        numerator: u32 = "numerator" [Range(0, 2_147_483_647)];
        /// Of this whole.
        denominator: u32 = "denominator" [Range(1, 2_147_483_647)] or 100;
    }
    verify part_of_whole;
}

fn part_of_whole(fraction: &Fraction, cursor: &mut Cursor<'_>) {
    if fraction.numerator > fraction.denominator {
        cursor.report_at("numerator", Code::GatewayApiRule, "`numerator` must not be larger than `denominator`");
    }
}

record! {
    /// A redirect answer.
    pub struct HttpRequestRedirectFilter {
        /// `http` or `https`; absent keeps it.
        scheme: Option<RedirectScheme> = "scheme";
        /// The new host; absent keeps it.
        hostname: Option<String> = "hostname" [Length(1, 253), Format("a host name", is_dns_subdomain)];
        /// The new path; absent keeps it.
        path: Option<HttpPathModifier> = "path";
        /// The new port; absent follows scheme and listener.
        port: Option<u16> = "port" [Range(1, 65535)];
        /// 301, 302, 303, 307 or 308; absent is 302.
        status_code: u16 = "statusCode" or 302;
    }
    verify redirect_status;
}

fn redirect_status(redirect: &HttpRequestRedirectFilter, cursor: &mut Cursor<'_>) {
    if !matches!(redirect.status_code, 301 | 302 | 303 | 307 | 308) {
        cursor.report_at(
            "statusCode",
            Code::UnknownValue,
            format!("`{}` is none of 301, 302, 303, 307, 308", redirect.status_code),
        );
    }
}

choice! {
    /// A scheme to redirect to.
    pub enum RedirectScheme {
        /// Plaintext.
        Http = "http",
        /// TLS.
        Https = "https",
    }
}

record! {
    /// How the path changes.
    pub struct HttpPathModifier {
        /// Which of the two is set.
        modifier_type: HttpPathModifierType = "type";
        /// The whole new path.
        replace_full_path: Option<String> = "replaceFullPath" [up_to(1024)];
        /// What takes the place of the matched prefix.
        replace_prefix_match: Option<String> = "replacePrefixMatch" [up_to(1024)];
    }
    verify modifier_fits_type;
}

choice! {
    /// How the path changes.
    pub enum HttpPathModifierType {
        /// As a whole.
        ReplaceFullPath = "ReplaceFullPath",
        /// The matched prefix.
        ReplacePrefixMatch = "ReplacePrefixMatch",
    }
}

fn modifier_fits_type(path: &HttpPathModifier, cursor: &mut Cursor<'_>) {
    use HttpPathModifierType as T;
    let fields = [
        ("replaceFullPath", T::ReplaceFullPath, path.replace_full_path.is_some()),
        ("replacePrefixMatch", T::ReplacePrefixMatch, path.replace_prefix_match.is_some()),
    ];
    for (field, of_type, is_written) in fields {
        if is_written != (path.modifier_type == of_type) {
            cursor.report_at(
                field,
                Code::GatewayApiRule,
                format!("`{field}` must be set if and only if the type is {}", of_type.as_str()),
            );
        }
    }
}

record! {
    /// Changes to path and host.
    pub struct HttpUrlRewriteFilter {
        /// The new host; absent keeps it.
        hostname: Option<String> = "hostname" [Length(1, 253), Format("a host name", is_dns_subdomain)];
        /// The new path; absent keeps it.
        path: Option<HttpPathModifier> = "path";
    }
}

record! {
    /// Cross-origin rules.
    pub struct HttpCorsFilter {
        /// Origins, perhaps with a wildcard; `*` alone is all.
        allow_origins: Vec<String> = "allowOrigins" [Items(0, 64), Unique(&[]), Each(&[Length(1, 253), Format("an origin", is_cors_origin)])];
        /// Whether credentials may be sent.
        allow_credentials: Option<bool> = "allowCredentials";
        /// Methods; `*` alone is all.
        allow_methods: Vec<CorsMethod> = "allowMethods" [Items(0, 9), Unique(&[])];
        /// Request headers; `*` alone is all.
        allow_headers: Vec<String> = "allowHeaders" [Items(0, 64), Unique(&[]), Each(&[Length(1, 256), Format("a header name", is_http_token)])];
        /// Response headers that scripts may read.
        expose_headers: Vec<String> = "exposeHeaders" [Items(0, 64), Unique(&[]), Each(&[Length(1, 256), Format("a header name", is_http_token)])];
        /// Seconds that a preflight's answer may be kept.
        max_age_seconds: i32 = "maxAge" [Range(1, 2_147_483_647)] or 5;
    }
    verify wildcards_stand_alone;
}

choice! {
    /// A method in cross-origin rules.
    pub enum CorsMethod {
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
        /// Every method.
        Any = "*",
    }
}

fn wildcards_stand_alone(cors: &HttpCorsFilter, cursor: &mut Cursor<'_>) {
    let any = |values: &[String]| values.len() > 1 && values.iter().any(|value| value == "*");
    let lists = [
        ("allowOrigins", any(&cors.allow_origins)),
        ("allowHeaders", any(&cors.allow_headers)),
        ("allowMethods", cors.allow_methods.len() > 1 && cors.allow_methods.contains(&CorsMethod::Any)),
    ];
    for (field, is_mixed) in lists {
        if is_mixed {
            cursor.report_at(field, Code::GatewayApiRule, format!("`{field}` cannot contain `*` beside other values"));
        }
    }
}

record! {
    /// A service decides about requests.
    pub struct HttpExternalAuthFilter {
        /// How it is asked.
        protocol: ExternalAuthProtocol = "protocol";
        /// Where it is.
        backend_ref: BackendObjectReference = "backendRef";
        /// Settings for gRPC.
        grpc: Option<GrpcAuthConfig> = "grpc";
        /// Settings for HTTP.
        http: Option<HttpAuthConfig> = "http";
        /// The body in the check; absent is none.
        forward_body: Option<ForwardBodyConfig> = "forwardBody";
    }
    verify protocol_has_settings;
}

choice! {
    /// How a service is asked.
    pub enum ExternalAuthProtocol {
        /// Over HTTP.
        Http = "HTTP",
        /// Over gRPC.
        Grpc = "GRPC",
    }
}

fn protocol_has_settings(auth: &HttpExternalAuthFilter, cursor: &mut Cursor<'_>) {
    let fields = [
        ("grpc", ExternalAuthProtocol::Grpc, auth.grpc.is_some()),
        ("http", ExternalAuthProtocol::Http, auth.http.is_some()),
    ];
    for (field, protocol, is_written) in fields {
        if is_written != (auth.protocol == protocol) {
            cursor.report_at(
                field,
                Code::GatewayApiRule,
                format!("`{field}` must be set if and only if the protocol is {}", protocol.as_str()),
            );
        }
    }
}

record! {
    /// Settings for asking over gRPC.
    pub struct GrpcAuthConfig {
        /// Request headers in the check; empty is all.
        allowed_headers: Vec<String> = "allowedHeaders" [Items(0, 64), Unique(&[])];
    }
}

record! {
    /// Settings for asking over HTTP.
    pub struct HttpAuthConfig {
        /// Put before the path.
        path: Option<String> = "path" [up_to(1024), Format("a path", is_uri_path)];
        /// Request headers in the check, beside a few that always are.
        allowed_headers: Vec<String> = "allowedHeaders" [Items(0, 64), Unique(&[])];
        /// Headers of the answer that go upstream; empty is all.
        allowed_response_headers: Vec<String> = "allowedResponseHeaders" [Items(0, 64), Unique(&[])];
    }
}

record! {
    /// The body in a check.
    pub struct ForwardBodyConfig {
        /// Bytes; 0 or absent sends none.
        max_size: i64 = "maxSize" or 0;
    }
}
