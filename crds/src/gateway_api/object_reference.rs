//! References from one object to another.

use super::GROUP;
use crate::codes::Code;
use crate::schema::Check::{Format, Length, Range};
use crate::schema::Cursor;
use crate::schema::formats::{is_dns_label, is_dns_subdomain, is_group, is_kind, up_to};

record! {
    /// A Gateway or Service that a route attaches to.
    pub struct ParentReference {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)] or GROUP.to_owned();
        /// `Gateway` unless another is written.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)] or "Gateway".to_owned();
        /// Absent is the route's own.
        namespace: Option<String> = "namespace" [Length(1, 63), Format("a namespace name", is_dns_label)];
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// A listener of the Gateway; absent is all.
        section_name: Option<String> = "sectionName" [Length(1, 253), Format("a section name", is_dns_subdomain)];
        /// A port of the parent; absent is all.
        port: Option<u16> = "port" [Range(1, 65535)];
    }
}

record! {
    /// An object that requests are sent to, or a copy of them.
    pub struct BackendObjectReference {
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
    }
    verify service_has_port;
}

fn service_has_port(backend: &BackendObjectReference, cursor: &mut Cursor<'_>) {
    require_port(&backend.group, &backend.kind, backend.port, cursor);
}

pub(super) fn require_port(group: &str, kind: &str, port: Option<u16>, cursor: &mut Cursor<'_>) {
    if group.is_empty() && kind == "Service" && port.is_none() {
        cursor.report_at("port", Code::GatewayApiRule, "a reference to a Service must have a port");
    }
}

record! {
    /// A Secret with a certificate.
    pub struct SecretObjectReference {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)] or String::new();
        /// `Secret` unless another is written.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)] or "Secret".to_owned();
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// Absent is the Gateway's own; another one needs a ReferenceGrant.
        namespace: Option<String> = "namespace" [Length(1, 63), Format("a namespace name", is_dns_label)];
    }
}

record! {
    /// An object in some namespace.
    pub struct ObjectReference {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)];
        /// Kind of the object.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)];
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// Absent is the referrer's own; another one needs a ReferenceGrant.
        namespace: Option<String> = "namespace" [Length(1, 63), Format("a namespace name", is_dns_label)];
    }
}

record! {
    /// An object in the same namespace.
    pub struct LocalObjectReference {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)];
        /// Kind of the object.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)];
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
    }
}
