//! Mirrors `palisade_model::authentication`.

use palisade_model::authentication::{Authentication, ClaimHeader, TokenLocation, TokenRule};

use crate::{
    field::{InvalidField, Problem, Wire, wire_struct},
    proto::v1::{self, token_location},
};

wire_struct!(Authentication => v1::Authentication { key: plain, rules: list, refuse_tokens: optional });
wire_struct!(TokenRule => v1::TokenRule {
    issuer: optional,
    audiences: list,
    keys: plain,
    locations: list,
    forwards_token: same,
    payload_header: optional,
    claim_headers: list,
    space_delimited: list,
    is_required: same,
});
wire_struct!(ClaimHeader => v1::ClaimHeader { header: plain, claim: plain });

impl Wire for TokenLocation {
    type Message = v1::TokenLocation;

    fn encode(&self) -> v1::TokenLocation {
        let place = match self {
            Self::Header { name, prefix } => {
                token_location::Place::Header(v1::TokenHeader { name: name.encode(), prefix: prefix.encode() })
            }
            Self::Query(name) => token_location::Place::Query(name.encode()),
            Self::Cookie(name) => token_location::Place::Cookie(name.encode()),
        };
        v1::TokenLocation { place: Some(place) }
    }

    fn decode(message: v1::TokenLocation) -> Result<Self, InvalidField> {
        let v1::TokenLocation { place } = message;
        Ok(match place.ok_or(InvalidField::new(Problem::Missing))? {
            token_location::Place::Header(v1::TokenHeader { name, prefix }) => {
                Self::Header { name: name.into(), prefix: prefix.into() }
            }
            token_location::Place::Query(name) => Self::Query(name.into()),
            token_location::Place::Cookie(name) => Self::Cookie(name.into()),
        })
    }
}
