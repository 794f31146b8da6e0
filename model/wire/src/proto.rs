//! The generated messages and services.

use std::fmt;

/// Package `palisade.v1`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    unused_qualifications,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("palisade.v1");
}

/// Package `istio.v1.auth`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated"
)]
pub mod istio_auth {
    tonic::include_proto!("istio.v1.auth");
}

/// Package `envoy.service.auth.v3`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated"
)]
pub mod ext_authz {
    tonic::include_proto!("envoy.service.auth.v3");
}

// Whatever may carry a private key says only how large it is.

impl fmt::Debug for v1::Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("key", &self.key).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("bytes", &self.resource.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::SavedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedIdentity").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("total_bytes", &self.total_bytes)
            .field("offset", &self.offset)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}
