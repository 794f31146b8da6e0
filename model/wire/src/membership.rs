//! Mirrors `palisade_model::membership`.

use std::sync::Arc;

use palisade_model::membership::Membership;

use crate::{
    field::{InvalidField, Wire, mapping},
    proto::v1,
};

impl Wire for Membership {
    type Message = v1::Membership;

    fn encode(&self) -> v1::Membership {
        let Self { digests, patterns, networks } = self;
        v1::Membership {
            digests: digests.to_vec(),
            patterns: mapping::list().0(patterns),
            networks: mapping::list().0(networks),
        }
    }

    fn decode(message: v1::Membership) -> Result<Self, InvalidField> {
        let v1::Membership { digests, patterns, networks } = message;
        // In any other order a search would miss members, and what is missed counts as known not to exist.
        if digests.iter().zip(digests.iter().skip(1)).any(|(first, second)| first >= second) {
            return Err(InvalidField::malformed("digests ascend, each once").inside("digests"));
        }
        Ok(Self {
            digests: Arc::from(digests),
            patterns: mapping::list().1(patterns).map_err(|error| error.inside("patterns"))?,
            networks: mapping::list().1(networks).map_err(|error| error.inside("networks"))?,
        })
    }
}
