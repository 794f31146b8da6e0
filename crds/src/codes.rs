//! The table of all diagnostic codes that reading documents can produce; the reference page is generated from it.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::issue::Severity;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $severity:ident, $title:literal, $explanation:literal;)*) => {
        /// A stable diagnostic code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as printed, such as `PLS0103`. Never reused for another meaning.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// A few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// How bad a finding with this code is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// What it means and what to do, in a sentence or two.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => $explanation,)* }
            }
        }
    };
}

codes! {
    InvalidText = "PLS0101", Error, "not YAML or JSON", "The text cannot be read as YAML or JSON. Other documents of the file are unaffected.";
    DuplicateKey = "PLS0102", Error, "key written twice", "A mapping names the same key twice; which one is meant cannot be known.";
    WrongType = "PLS0103", Error, "wrong type", "The value has another type than the schema of the kind asks for.";
    UnknownField = "PLS0104", Warning, "unknown field", "The field is not part of the kind. As in a cluster it is removed before the document is used: a misspelt field silently widens what it was meant to narrow.";
    UnknownTopLevelField = "PLS0105", Error, "unknown field beside spec", "Istio's webhook refuses documents with fields beside `metadata`, `spec` and `status`.";
    MissingField = "PLS0106", Error, "required field missing", "The schema of the kind requires this field.";
    UnknownValue = "PLS0107", Error, "value not in the enumeration", "The field takes one of a fixed list of values.";
    OutOfRange = "PLS0108", Error, "outside the allowed range", "A number, a length, or a count of items is below the minimum or above the maximum of the schema.";
    InvalidFormat = "PLS0109", Error, "malformed value", "The text does not have the form that the field asks for: a name, a host, a path, a duration, a header.";
    ConflictingFields = "PLS0110", Error, "fields exclude each other", "At most one of these fields may be set.";
    InvalidCombination = "PLS0111", Error, "fields do not fit together", "Each field is well-formed, but the schema forbids the combination.";
    InvalidMetadata = "PLS0112", Error, "invalid metadata", "The name, namespace, labels or annotations are not valid for the Kubernetes API.";
    ForeignKind = "PLS0113", Info, "kind not used", "Palisade does not use documents of this kind.";
    KindNotServed = "PLS0114", Warning, "kind not served yet", "The kind is known, but what it asks for is not enforced yet.";
    VersionNotServed = "PLS0115", Error, "version not served", "The kind exists, but not in this API version.";
    TooLarge = "PLS0116", Error, "document too large", "The document is larger, more deeply nested, or expands to more nodes than is accepted.";
    NotAnObject = "PLS0117", Error, "not a Kubernetes object", "A document is a mapping with `apiVersion` and `kind`.";
    DuplicateItem = "PLS0118", Error, "item listed twice", "The items of this list are told apart by a key, and two have the same.";
    ExperimentalField = "PLS0119", Warning, "field of the experimental channel", "Only the experimental channel of the Gateway API has this field; a cluster with the standard channel removes it.";
    DeprecatedField = "PLS0120", Warning, "deprecated field", "The field still works but has a successor.";
    MeshSettingIgnored = "PLS0121", Info, "mesh setting not used", "The key is a known key of Istio's mesh configuration that Palisade does not use.";
    UnknownMeshSetting = "PLS0122", Warning, "unknown mesh setting", "The key is not part of Istio's mesh configuration.";
    InvalidMeshConfig = "PLS0123", Error, "mesh configuration unreadable", "The `mesh` key of the ConfigMap is not valid mesh configuration.";
    VirtualServiceHosts = "PLS0131", Error, "VirtualService hosts or gateways", "Istio refuses the hosts, the gateways or their combination.";
    VirtualServiceRoute = "PLS0132", Error, "VirtualService route", "Istio refuses the route: conflicting actions, no action, a bad destination, weight or match.";
    VirtualServiceWarning = "PLS0133", Warning, "VirtualService works differently than it reads", "Istio admits the rule with a warning: it is unreachable, duplicated or deprecated.";
    DestinationRulePolicy = "PLS0134", Error, "DestinationRule", "Istio refuses the traffic policy or a subset.";
    DestinationRuleWarning = "PLS0135", Warning, "DestinationRule works differently than it reads", "Istio admits the rule with a warning.";
    GatewayServer = "PLS0136", Error, "Gateway server", "Istio refuses the server: its port, hosts or TLS settings.";
    GatewayWarning = "PLS0137", Warning, "Gateway works differently than it reads", "Istio admits the Gateway with a warning.";
    AuthorizationRule = "PLS0138", Error, "AuthorizationPolicy", "Istio refuses the policy. A refused policy fails closed: see the reference on broken policies.";
    AuthorizationWarning = "PLS0139", Warning, "AuthorizationPolicy works differently than it reads", "Istio admits the policy with a warning.";
    PeerAuthenticationRule = "PLS0140", Error, "PeerAuthentication", "Istio refuses the policy. STRICT applies to what it selects.";
    RequestAuthenticationRule = "PLS0141", Error, "RequestAuthentication", "Istio refuses the policy.";
    RequestAuthenticationWarning = "PLS0142", Warning, "RequestAuthentication works differently than it reads", "Istio admits the policy with a warning.";
    ServiceEntryRule = "PLS0143", Error, "ServiceEntry or WorkloadEntry", "Istio refuses the entry.";
    ServiceEntryWarning = "PLS0144", Warning, "ServiceEntry works differently than it reads", "Istio admits the entry with a warning.";
    SidecarRule = "PLS0145", Error, "Sidecar", "Istio refuses the Sidecar.";
    TelemetryRule = "PLS0146", Error, "Telemetry", "Istio refuses the Telemetry.";
    GatewayApiRule = "PLS0147", Error, "Gateway API rule", "The Gateway API's own validation rules refuse the document.";
    KubernetesRule = "PLS0148", Error, "Kubernetes core object", "The Kubernetes API refuses the object.";
    PolicyAttachment = "PLS0149", Warning, "policy attaches to nothing useful", "The selector or target reference is admitted, but does not do what it seems to.";
    ExtensionRule = "PLS0150", Error, "WorkloadGroup, ProxyConfig, EnvoyFilter or extension", "Istio refuses the document.";
    FieldNotServed = "PLS0301", Warning, "field not served", "The field is known and has no effect; the reference on compatibility says what happens instead.";
    FieldRefused = "PLS0302", Warning, "field not served, traffic refused", "The field is known and not served. Ignoring it could weaken security, so the traffic concerned is refused.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].id() < pair[1].id()));
    }
}
