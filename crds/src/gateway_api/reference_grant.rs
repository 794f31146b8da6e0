//! ReferenceGrant: who may refer across namespaces. <https://gateway-api.sigs.k8s.io/reference/spec/#referencegrant>

use crate::schema::Check::{Format, Items, Length};
use crate::schema::formats::{is_dns_label, is_group, is_kind, up_to};

record! {
    /// The spec of a ReferenceGrant: any of `from` may refer to any of `to` in the grant's namespace.
    pub struct ReferenceGrant {
        /// Who may refer.
        from: Vec<ReferenceGrantFrom> = "from" [Items(1, 16)] or_required;
        /// To what.
        to: Vec<ReferenceGrantTo> = "to" [Items(1, 16)] or_required;
    }
}

record! {
    /// Objects of a kind in a namespace.
    pub struct ReferenceGrantFrom {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)];
        /// Kind of the referrer.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)];
        /// Namespace of the referrer.
        namespace: String = "namespace" [Length(1, 63), Format("a namespace name", is_dns_label)];
    }
}

record! {
    /// Objects of a kind, or one of them.
    pub struct ReferenceGrantTo {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)];
        /// Kind of the object referred to.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)];
        /// Absent is all of the kind.
        name: Option<String> = "name" [Length(1, 253)];
    }
}
