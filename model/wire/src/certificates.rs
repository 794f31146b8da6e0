//! What the certificate service says beside its messages, which are Istio's.

/// Metadata of a refusal (`FAILED_PRECONDITION`): the one name that a certificate request must carry, where whoever signs takes names from
/// the request. It tells the caller who it was proven to be, and nothing that it could choose.
pub const IDENTITY_METADATA: &str = "palisade-identity";
