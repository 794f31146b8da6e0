//! Mirrors `palisade_model::resource`: the union of all kinds, keys and provenance.

use palisade_model::resource::{Meta, Resource, ResourceKey, ResourceKind};

use crate::{
    field::{InvalidField, Problem, Wire, wire_enum, wire_struct},
    proto::v1::{self, resource},
};

wire_enum!(ResourceKind => v1::ResourceKind {
    Settings,
    Listener,
    Inbound,
    Service,
    Lookup,
    VirtualHost,
    Route,
    L4Route,
    Cluster,
    Endpoints,
    PolicySet,
    Policy,
    Secret,
    Authentication,
    ExternalAuthorization,
    Membership,
});
wire_struct!(ResourceKey => v1::ResourceKey { kind: plain, name: plain });
wire_struct!(Meta => v1::Meta { origins: list, requires: set });

/// A key as it travels.
pub fn encode_key(key: &ResourceKey) -> v1::ResourceKey {
    key.encode()
}

/// A key from its message.
///
/// # Errors
/// When the kind is not known.
pub fn decode_key(message: v1::ResourceKey) -> Result<ResourceKey, InvalidField> {
    ResourceKey::decode(message)
}

macro_rules! wire_resource {
    ($($variant:ident),+) => {
        impl Wire for Resource {
            type Message = v1::Resource;

            fn encode(&self) -> v1::Resource {
                let kind = match self {
                    $(Self::$variant(value) => resource::Kind::$variant(value.encode())),+
                };
                v1::Resource { kind: Some(kind) }
            }

            fn decode(message: v1::Resource) -> Result<Self, InvalidField> {
                let v1::Resource { kind } = message;
                match kind.ok_or(InvalidField::new(Problem::Missing))? {
                    $(resource::Kind::$variant(value) => Wire::decode(value).map(Self::$variant)),+
                }
            }
        }
    };
}

wire_resource!(
    Settings,
    Listener,
    Inbound,
    Service,
    Lookup,
    VirtualHost,
    Route,
    L4Route,
    Cluster,
    Endpoints,
    PolicySet,
    Policy,
    Secret,
    Authentication,
    ExternalAuthorization,
    Membership
);
