//! What to do about a finding, in half a sentence.

use palisade_crds::Code;

/// The cure for what this code stands for; `None` where the message itself says it.
pub(super) const fn cure(code: Code) -> Option<&'static str> {
    match code {
        Code::WrongType => Some("write a value of the expected type"),
        Code::MissingField => Some("add the field"),
        Code::UnknownValue => Some("use one of the listed values"),
        Code::OutOfRange => Some("stay within the limits"),
        Code::InvalidFormat => Some("correct the value"),
        Code::ConflictingFields => Some("keep one of them"),
        Code::InvalidCombination => Some("change one of the fields so that they fit together"),
        Code::InvalidMetadata => Some("correct or remove it"),
        Code::UnknownTopLevelField => Some("move the field into `spec`, or remove it"),
        Code::VersionNotServed => Some("use a version that is served"),
        Code::DuplicateItem | Code::DuplicateKey => Some("remove one of the two"),
        Code::AuthorizationRule | Code::PeerAuthenticationRule | Code::RequestAuthenticationRule => {
            Some("correct the rule: what stands in the cluster goes on being enforced")
        }
        Code::VirtualServiceHosts
        | Code::VirtualServiceRoute
        | Code::DestinationRulePolicy
        | Code::GatewayServer
        | Code::ServiceEntryRule
        | Code::SidecarRule
        | Code::TelemetryRule
        | Code::GatewayApiRule
        | Code::ExtensionRule => Some("correct the field: what stands in the cluster goes on being served"),
        _ => None,
    }
}
