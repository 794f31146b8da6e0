//! Gateway: what a gateway listens on. <https://gateway-api.sigs.k8s.io/reference/spec/#gateway>

use std::collections::BTreeMap;

use super::{GROUP, LocalObjectReference, ObjectReference, SecretObjectReference};
use crate::schema::Check::{Each, EachKey, Entries, Format, Items, Length, Range, Unique};
use crate::schema::formats::{
    ANNOTATION_KEY_RULE, is_address_type, is_annotation_key, is_dns_subdomain, is_group, is_hostname, is_kind,
    is_label_value, is_protocol, up_to,
};

mod rules;

pub(super) use rules::listeners_are_consistent;
use rules::{address_fits_type, addresses_are_unique, certificates_or_options};

record! {
    /// The spec of a Gateway.
    pub struct Gateway {
        /// Name of the GatewayClass.
        gateway_class_name: String = "gatewayClassName" [Length(1, 253)];
        /// What it listens on.
        listeners: Vec<Listener> = "listeners" [Items(1, 64), Unique(&["name"])] or_required;
        /// Addresses asked for; empty lets them be assigned.
        addresses: Vec<GatewayAddress> = "addresses" [Items(0, 16)];
        /// What is put on the objects that are made for it.
        infrastructure: Option<GatewayInfrastructure> = "infrastructure";
        /// Who may attach ListenerSets; absent is nobody.
        allowed_listeners: Option<AllowedListeners> = "allowedListeners";
        /// TLS settings of the whole Gateway.
        tls: Option<GatewayTlsConfig> = "tls";
        /// Experimental: routes that attach without naming it.
        default_scope: Option<DefaultScope> = "defaultScope";
    }
    verify verify;
}

fn verify(gateway: &Gateway, cursor: &mut crate::schema::Cursor<'_>) {
    listeners_are_consistent(&gateway.listeners, cursor);
    addresses_are_unique(gateway, cursor);
    if gateway.default_scope.is_some() {
        cursor.report_at(
            "defaultScope",
            crate::codes::Code::ExperimentalField,
            "`defaultScope` belongs to the experimental channel",
        );
    }
}

choice! {
    /// Which routes attach to default Gateways.
    pub enum DefaultScope {
        /// All that ask for it.
        All = "All",
        /// None.
        None = "None",
    }
}

record! {
    /// A port, a protocol, and perhaps a host.
    pub struct Listener {
        /// Unique in its Gateway.
        name: String = "name" [Length(1, 253), Format("a section name", is_dns_subdomain)];
        /// Host served, perhaps with `*.` in front; absent is every host.
        hostname: Option<String> = "hostname" [Length(1, 253), Format("a host name", is_hostname)];
        /// Port that clients dial.
        port: u16 = "port" [Range(1, 65535)];
        /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, or a controller's own.
        protocol: String = "protocol" [Length(1, 255), Format("a protocol", is_protocol)];
        /// Required for HTTPS and TLS.
        tls: Option<ListenerTlsConfig> = "tls";
        /// Routes that may attach.
        allowed_routes: AllowedRoutes = "allowedRoutes" or AllowedRoutes::default();
    }
}

record! {
    /// TLS of a listener.
    pub struct ListenerTlsConfig {
        /// Absent is Terminate.
        mode: TlsMode = "mode" or TlsMode::Terminate;
        /// Certificates, at least one for Terminate unless options are given.
        certificate_refs: Vec<SecretObjectReference> = "certificateRefs" [Items(0, 64)];
        /// Controllers' own settings.
        options: BTreeMap<String, String> = "options" [Entries(0, 16), Each(&[up_to(4096)])];
    }
    verify certificates_or_options;
}

choice! {
    /// What happens to TLS at a listener.
    pub enum TlsMode {
        /// Terminated.
        Terminate = "Terminate",
        /// Relayed by server name.
        Passthrough = "Passthrough",
    }
}

record! {
    /// Routes that may attach to a listener.
    #[derive(Default)]
    pub struct AllowedRoutes {
        /// Namespaces of the routes.
        namespaces: RouteNamespaces = "namespaces" or RouteNamespaces::default();
        /// Kinds of the routes; empty is what the protocol suggests.
        kinds: Vec<RouteGroupKind> = "kinds" [Items(0, 8)];
    }
}

record! {
    /// Namespaces whose routes may attach.
    pub struct RouteNamespaces {
        /// Absent is the Gateway's own.
        from: FromNamespaces = "from" or FromNamespaces::Same;
        /// For `Selector`.
        selector: Option<LabelSelector> = "selector";
    }
}

impl Default for RouteNamespaces {
    fn default() -> Self {
        Self { from: FromNamespaces::Same, selector: None }
    }
}

choice! {
    /// Which namespaces.
    pub enum FromNamespaces {
        /// All.
        All = "All",
        /// Those with labels.
        Selector = "Selector",
        /// The Gateway's own.
        Same = "Same",
    }
}

record! {
    /// A kind of route.
    pub struct RouteGroupKind {
        /// API group; absent is the Gateway API's.
        group: String = "group" [up_to(253), Format("an API group", is_group)] or GROUP.to_owned();
        /// The kind.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)];
    }
}

record! {
    /// A Kubernetes label selector. All that is written must hold; empty selects everything.
    pub struct LabelSelector {
        /// Labels compared for equality.
        match_labels: BTreeMap<String, String> = "matchLabels";
        /// Further conditions.
        match_expressions: Vec<LabelSelectorRequirement> = "matchExpressions";
    }
}

record! {
    /// A condition on a label.
    pub struct LabelSelectorRequirement {
        /// The label.
        key: String = "key";
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        operator: String = "operator";
        /// For `In` and `NotIn`.
        values: Vec<String> = "values";
    }
}

record! {
    /// An address asked for.
    pub struct GatewayAddress {
        /// `IPAddress`, `Hostname`, `NamedAddress`, or a controller's own.
        address_type: String = "type" [Length(1, 253), Format("an address type", is_address_type)] or "IPAddress".to_owned();
        /// Absent asks for any of the type.
        value: Option<String> = "value" [up_to(253)];
    }
    verify address_fits_type;
}

record! {
    /// What is put on the objects that are made for a Gateway.
    pub struct GatewayInfrastructure {
        /// Labels.
        labels: BTreeMap<String, String> = "labels" [
            Entries(0, 8), EachKey("a label key", is_annotation_key, ANNOTATION_KEY_RULE), Each(&[up_to(63), Format("a label value", is_label_value)]),
        ];
        /// Annotations.
        annotations: BTreeMap<String, String> = "annotations" [Entries(0, 16), EachKey("an annotation key", is_annotation_key, ANNOTATION_KEY_RULE), Each(&[up_to(4096)])];
        /// Settings for the controller.
        parameters_ref: Option<LocalObjectReference> = "parametersRef";
    }
}

record! {
    /// Who may attach ListenerSets.
    pub struct AllowedListeners {
        /// Absent is nobody.
        namespaces: ListenerNamespaces = "namespaces" or ListenerNamespaces::default();
    }
}

record! {
    /// Namespaces whose ListenerSets may attach.
    pub struct ListenerNamespaces {
        /// Absent is none.
        from: FromListenerNamespaces = "from" or FromListenerNamespaces::None;
        /// For `Selector`.
        selector: Option<LabelSelector> = "selector";
    }
}

impl Default for ListenerNamespaces {
    fn default() -> Self {
        Self { from: FromListenerNamespaces::None, selector: None }
    }
}

choice! {
    /// Which namespaces.
    pub enum FromListenerNamespaces {
        /// All.
        All = "All",
        /// Those with labels.
        Selector = "Selector",
        /// The Gateway's own.
        Same = "Same",
        /// None.
        None = "None",
    }
}

record! {
    /// TLS settings of a whole Gateway.
    pub struct GatewayTlsConfig {
        /// Towards backends.
        backend: Option<GatewayBackendTls> = "backend";
        /// Towards clients.
        frontend: Option<FrontendTlsConfig> = "frontend";
    }
}

record! {
    /// TLS towards backends.
    pub struct GatewayBackendTls {
        /// The certificate that the Gateway shows.
        client_certificate_ref: Option<SecretObjectReference> = "clientCertificateRef";
    }
}

record! {
    /// TLS towards clients.
    pub struct FrontendTlsConfig {
        /// For all ports.
        default: TlsConfig = "default";
        /// For single ports, instead.
        per_port: Vec<TlsPortConfig> = "perPort" [Items(0, 64), Unique(&["port"])];
    }
}

record! {
    /// TLS towards clients on one port.
    pub struct TlsPortConfig {
        /// The port.
        port: u16 = "port" [Range(1, 65535)];
        /// Its settings.
        tls: TlsConfig = "tls";
    }
}

record! {
    /// How clients prove themselves.
    pub struct TlsConfig {
        /// Absent asks for no client certificate.
        validation: Option<FrontendTlsValidation> = "validation";
    }
}

record! {
    /// How client certificates are checked.
    pub struct FrontendTlsValidation {
        /// Trusted roots.
        ca_certificate_refs: Vec<ObjectReference> = "caCertificateRefs" [Items(1, 16)] or_required;
        /// Absent is AllowValidOnly.
        mode: FrontendValidationMode = "mode" or FrontendValidationMode::AllowValidOnly;
    }
}

choice! {
    /// What happens without a valid client certificate.
    pub enum FrontendValidationMode {
        /// The connection is refused.
        AllowValidOnly = "AllowValidOnly",
        /// The connection is taken all the same.
        AllowInsecureFallback = "AllowInsecureFallback",
    }
}
