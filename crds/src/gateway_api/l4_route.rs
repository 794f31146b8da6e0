//! TLSRoute, TCPRoute and UDPRoute: how bytes are relayed, by server name or by port alone.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#tlsroute>

use super::http_route::{experimental_defaults, parents_differ};
use super::object_reference::require_port;
use super::{DefaultScope, ParentReference};
use crate::schema::Check::{Each, Format, Items, Length, Range};
use crate::schema::Cursor;
use crate::schema::formats::{is_dns_label, is_dns_subdomain, is_group, is_hostname, is_kind, up_to};

record! {
    /// The spec of a TLSRoute.
    pub struct TlsRoute {
        /// Gateways it attaches to.
        parent_refs: Vec<ParentReference> = "parentRefs" [Items(0, 32)];
        /// Experimental: attach to default Gateways.
        use_default_gateways: Option<DefaultScope> = "useDefaultGateways";
        /// Server names, perhaps with `*.` in front.
        hostnames: Vec<String> = "hostnames" [Items(0, 1024), Each(&[Length(1, 253), Format("a host name", is_hostname)])];
        /// The rule.
        rules: Vec<L4RouteRule> = "rules" [Items(1, 1)] or_required;
    }
    verify tls_is_consistent;
}

record! {
    /// The spec of a TCPRoute.
    pub struct TcpRoute {
        /// Gateways it attaches to.
        parent_refs: Vec<ParentReference> = "parentRefs" [Items(0, 32)];
        /// Experimental: attach to default Gateways.
        use_default_gateways: Option<DefaultScope> = "useDefaultGateways";
        /// The rule.
        rules: Vec<L4RouteRule> = "rules" [Items(1, 16)] or_required;
    }
    verify tcp_is_consistent;
}

record! {
    /// The spec of a UDPRoute.
    pub struct UdpRoute {
        /// Gateways it attaches to.
        parent_refs: Vec<ParentReference> = "parentRefs" [Items(0, 32)];
        /// Experimental: attach to default Gateways.
        use_default_gateways: Option<DefaultScope> = "useDefaultGateways";
        /// The rule.
        rules: Vec<L4RouteRule> = "rules" [Items(1, 16)] or_required;
    }
    verify udp_is_consistent;
}

fn tls_is_consistent(route: &TlsRoute, cursor: &mut Cursor<'_>) {
    parents_differ(&route.parent_refs, cursor);
    experimental_defaults(route.use_default_gateways, cursor);
}

fn tcp_is_consistent(route: &TcpRoute, cursor: &mut Cursor<'_>) {
    parents_differ(&route.parent_refs, cursor);
    experimental_defaults(route.use_default_gateways, cursor);
}

fn udp_is_consistent(route: &UdpRoute, cursor: &mut Cursor<'_>) {
    parents_differ(&route.parent_refs, cursor);
    experimental_defaults(route.use_default_gateways, cursor);
}

record! {
    /// One rule: where the bytes go.
    pub struct L4RouteRule {
        /// Unique in its route; absent is none.
        name: Option<String> = "name" [Length(1, 253), Format("a section name", is_dns_subdomain)];
        /// Weighted backends; connections that fall on one that does not exist are closed.
        backend_refs: Vec<BackendRef> = "backendRefs" [Items(1, 16)] or_required;
    }
}

record! {
    /// One weighted backend.
    pub struct BackendRef {
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
    }
    verify backend_has_port;
}

fn backend_has_port(backend: &BackendRef, cursor: &mut Cursor<'_>) {
    require_port(&backend.group, &backend.kind, backend.port, cursor);
}

impl BackendRef {
    /// The same backend as HTTPRoutes write it.
    #[must_use]
    pub fn as_http(&self) -> super::HttpBackendRef {
        let Self { group, kind, name, namespace, port, weight } = self.clone();
        super::HttpBackendRef { group, kind, name, namespace, port, weight, filters: Vec::new() }
    }
}
