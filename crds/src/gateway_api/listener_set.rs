//! ListenerSet: listeners that another team adds to a Gateway. <https://gateway-api.sigs.k8s.io/reference/spec/#listenerset>

use super::gateway::listeners_are_consistent;
use super::{GROUP, Listener};
use crate::schema::Check::{Format, Items, Length, Unique};
use crate::schema::Cursor;
use crate::schema::formats::{is_dns_label, is_group, is_kind, up_to};

record! {
    /// The spec of a ListenerSet.
    pub struct ListenerSet {
        /// The Gateway that they are added to.
        parent_ref: ParentGatewayReference = "parentRef";
        /// What is added.
        listeners: Vec<Listener> = "listeners" [Items(1, 64), Unique(&["name"])] or_required;
    }
    verify verify;
}

fn verify(set: &ListenerSet, cursor: &mut Cursor<'_>) {
    listeners_are_consistent(&set.listeners, cursor);
}

record! {
    /// A Gateway.
    pub struct ParentGatewayReference {
        /// API group.
        group: String = "group" [up_to(253), Format("an API group", is_group)] or GROUP.to_owned();
        /// `Gateway` unless another is written.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)] or "Gateway".to_owned();
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// Absent is the set's own.
        namespace: Option<String> = "namespace" [Length(1, 63), Format("a namespace name", is_dns_label)];
    }
}
