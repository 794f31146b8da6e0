//! GatewayClass: which controller serves a Gateway. <https://gateway-api.sigs.k8s.io/reference/spec/#gatewayclass>

use crate::schema::Check::{Format, Length};
use crate::schema::formats::{is_dns_label, is_domain_prefixed_path, is_group, is_kind, up_to};

record! {
    /// The spec of a GatewayClass.
    pub struct GatewayClass {
        /// `domain/path` of the controller.
        controller_name: String = "controllerName" [Length(1, 253), Format("a controller name such as `example.com/gateways`", is_domain_prefixed_path)];
        /// Settings for the controller.
        parameters_ref: Option<ParametersReference> = "parametersRef";
        /// For people.
        description: Option<String> = "description" [up_to(64)];
    }
}

record! {
    /// Settings for a controller, in some namespace or in none.
    pub struct ParametersReference {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)];
        /// Kind of the object.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)];
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// Absent for objects without namespace.
        namespace: Option<String> = "namespace" [Length(1, 63), Format("a namespace name", is_dns_label)];
    }
}
