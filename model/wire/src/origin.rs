//! Mirrors `palisade_model::origin`.

use palisade_model::origin::Origin;

use crate::{field::wire_struct, proto::v1};

wire_struct!(Origin => v1::Origin { group: plain, kind: plain, namespace: plain, name: plain, uid: plain, generation: same });
