//! Mirrors `palisade_model::trust`.

use palisade_model::trust::{Standing, Trust};

use crate::{field::wire_struct, proto::v1};

wire_struct!(Trust => v1::Trust { roots: plain, signing: optional, revoked: plain, refusal: optional });
wire_struct!(Standing => v1::Standing {
    trust: optional,
    roots: set,
    leaf_roots: set,
    not_after: same,
    problem: optional,
});
