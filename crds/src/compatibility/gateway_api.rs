//! Rows of the Gateway API's kinds.

use super::Handling::{Ignored, Partly, Refused, Unsupported};
use super::{Exception, Record, all, some};

/// Records, each with all of its fields.
pub(super) const RECORDS: &[Record] = &[
    some(
        "BackendTlsPolicy",
        &["targetRefs", "validation"],
        &[("options", Ignored("its keys are those of other controllers"))],
    ),
    some(
        "BackendTlsTarget",
        &["group", "name", "sectionName"],
        &[("kind", Partly("only `Service`; other targets are left alone"))],
    ),
    some(
        "BackendTlsValidation",
        &["caCertificateRefs", "hostname", "subjectAltNames"],
        &[("wellKnownCACertificates", Partly("only `System`; with any other value connections are refused"))],
    ),
    all("SubjectAltName", &["type", "hostname", "uri"]),
    some(
        "HttpRouteFilter",
        &[
            "type",
            "requestHeaderModifier",
            "responseHeaderModifier",
            "requestMirror",
            "requestRedirect",
            "urlRewrite",
            "cors",
        ],
        &[("externalAuth", Refused("the rule answers 503")), ("extensionRef", Refused("the rule answers 503"))],
    ),
    all("HttpHeaderFilter", &["set", "add", "remove"]),
    all("HttpHeader", &["name", "value"]),
    all("HttpRequestMirrorFilter", &["backendRef", "percent", "fraction"]),
    all("Fraction", &["numerator", "denominator"]),
    all("HttpRequestRedirectFilter", &["scheme", "hostname", "path", "port", "statusCode"]),
    all("HttpPathModifier", &["type", "replaceFullPath", "replacePrefixMatch"]),
    all("HttpUrlRewriteFilter", &["hostname", "path"]),
    all(
        "HttpCorsFilter",
        &["allowOrigins", "allowCredentials", "allowMethods", "allowHeaders", "exposeHeaders", "maxAge"],
    ),
    some(
        "Gateway",
        &["gatewayClassName", "listeners", "tls", "infrastructure"],
        &[
            ("addresses", Partly("`IPAddress`, and `Hostname` with the name of a Service; only in a cluster")),
            ("allowedListeners", Unsupported("ListenerSets are not read")),
            ("defaultScope", Unsupported("routes attach to it by naming it")),
        ],
    ),
    some(
        "GatewayInfrastructure",
        &["labels"],
        &[
            ("annotations", Partly("only in a cluster, where something is made for the Gateway")),
            ("parametersRef", Partly("a ConfigMap; only in a cluster, where something is made for the Gateway")),
        ],
    ),
    all("Listener", &["name", "hostname", "port", "protocol", "tls", "allowedRoutes"]),
    some(
        "ListenerTlsConfig",
        &["mode", "certificateRefs"],
        &[(
            "options",
            Partly("only `gateway.istio.io/tls-terminate-mode`: `MUTUAL`, `OPTIONAL_MUTUAL` and `ISTIO_MUTUAL`"),
        )],
    ),
    all("AllowedRoutes", &["namespaces", "kinds"]),
    all("RouteNamespaces", &["from", "selector"]),
    all("RouteGroupKind", &["group", "kind"]),
    all("LabelSelector", &["matchLabels", "matchExpressions"]),
    all("LabelSelectorRequirement", &["key", "operator", "values"]),
    all("GatewayTlsConfig", &["backend", "frontend"]),
    all("GatewayBackendTls", &["clientCertificateRef"]),
    all("FrontendTlsConfig", &["default", "perPort"]),
    all("TlsPortConfig", &["port", "tls"]),
    all("TlsConfig", &["validation"]),
    all("FrontendTlsValidation", &["caCertificateRefs", "mode"]),
    some(
        "GatewayClass",
        &["controllerName"],
        &[("parametersRef", Partly("a ConfigMap; only in a cluster")), ("description", Ignored("it is for people"))],
    ),
    some(
        "GrpcRoute",
        &["parentRefs", "hostnames", "rules"],
        &[("useDefaultGateways", Unsupported("the route attaches to its `parentRefs` alone"))],
    ),
    all("GrpcRouteRule", &["name", "matches", "filters", "backendRefs", "sessionPersistence"]),
    all("GrpcRouteMatch", &["method", "headers"]),
    all("GrpcMethodMatch", &["type", "service", "method"]),
    some(
        "GrpcRouteFilter",
        &["type", "requestHeaderModifier", "responseHeaderModifier", "requestMirror"],
        &[("extensionRef", Refused("the rule answers 503"))],
    ),
    some(
        "GrpcBackendRef",
        &["group", "name", "namespace", "port", "weight", "filters"],
        &[("kind", Partly("`Service`, and `Hostname` of `networking.istio.io`; other backends answer UNAVAILABLE"))],
    ),
    some(
        "HttpRoute",
        &["parentRefs", "hostnames", "rules"],
        &[("useDefaultGateways", Unsupported("the route attaches to its `parentRefs` alone"))],
    ),
    all("HttpRouteRule", &["name", "matches", "filters", "backendRefs", "timeouts", "retry", "sessionPersistence"]),
    all("SessionPersistence", &["sessionName", "absoluteTimeout", "type", "cookieConfig"]),
    all("CookieConfig", &["lifetimeType"]),
    all("HttpRouteMatch", &["path", "headers", "queryParams", "method"]),
    all("HttpPathMatch", &["type", "value"]),
    all("HttpHeaderMatch", &["type", "name", "value"]),
    all("HttpQueryParamMatch", &["type", "name", "value"]),
    some(
        "HttpBackendRef",
        &["group", "name", "namespace", "port", "weight", "filters"],
        &[("kind", Partly("`Service`, and `Hostname` of `networking.istio.io`; other backends answer 500"))],
    ),
    all("HttpRouteTimeouts", &["request", "backendRequest"]),
    all("HttpRouteRetry", &["codes", "attempts", "backoff"]),
    some(
        "TlsRoute",
        &["parentRefs", "hostnames", "rules"],
        &[("useDefaultGateways", Unsupported("the route attaches to its `parentRefs` alone"))],
    ),
    some(
        "TcpRoute",
        &["parentRefs", "rules"],
        &[("useDefaultGateways", Unsupported("the route attaches to its `parentRefs` alone"))],
    ),
    some(
        "UdpRoute",
        &["parentRefs", "rules"],
        &[("useDefaultGateways", Unsupported("the route attaches to its `parentRefs` alone"))],
    ),
    all("L4RouteRule", &["name", "backendRefs"]),
    some(
        "BackendRef",
        &["group", "name", "namespace", "port", "weight"],
        &[(
            "kind",
            Partly("`Service`, and `Hostname` of `networking.istio.io`; connections to other backends are closed"),
        )],
    ),
    some(
        "ParentReference",
        &["group", "namespace", "name", "sectionName", "port"],
        &[(
            "kind",
            Partly(
                "`Gateway`, and for HTTPRoute and GRPCRoute `Service` and `ServiceEntry`; other parents are left alone",
            ),
        )],
    ),
    some(
        "BackendObjectReference",
        &["group", "name", "namespace", "port"],
        &[("kind", Partly("`Service`, and `Hostname` of `networking.istio.io`; nothing is sent to others"))],
    ),
    all("SecretObjectReference", &["group", "kind", "name", "namespace"]),
    all("ObjectReference", &["group", "kind", "name", "namespace"]),
    all("LocalObjectReference", &["group", "kind", "name"]),
    all("ReferenceGrant", &["from", "to"]),
    all("ReferenceGrantFrom", &["group", "kind", "namespace"]),
    all("ReferenceGrantTo", &["group", "kind", "name"]),
];

/// Fields that are handled otherwise in one place.
pub(super) const EXCEPTIONS: &[Exception] = &[
    ("HTTPRoute", "spec.rules[].backendRefs[].filters[].requestMirror", Unsupported("copies are a matter of the rule")),
    ("HTTPRoute", "spec.rules[].backendRefs[].filters[].requestRedirect", Refused("the backend answers 500")),
    ("HTTPRoute", "spec.rules[].backendRefs[].filters[].cors", Unsupported("origins are a matter of the rule")),
    ("HTTPRoute", "spec.rules[].backendRefs[].filters[].externalAuth", Refused("the backend answers 500")),
    ("HTTPRoute", "spec.rules[].backendRefs[].filters[].extensionRef", Refused("the backend answers 500")),
    ("GRPCRoute", "spec.rules[].backendRefs[].filters[].requestMirror", Unsupported("copies are a matter of the rule")),
    ("GRPCRoute", "spec.rules[].backendRefs[].filters[].extensionRef", Refused("the backend answers UNAVAILABLE")),
];
