//! Mirrors `palisade_model::secret`.

use palisade_model::secret::{PrivateKey, Secret};

use crate::{
    field::{InvalidField, Wire, wire_struct},
    proto::v1,
};

wire_struct!(Secret => v1::Secret { key: plain, certificate: optional, private_key: optional, ca: optional });

impl Wire for PrivateKey {
    type Message = String;

    fn encode(&self) -> String {
        self.expose().to_owned()
    }

    fn decode(pem: String) -> Result<Self, InvalidField> {
        Ok(Self::new(&pem))
    }
}
