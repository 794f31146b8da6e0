//! Mirrors `palisade_model::endpoint`.

use std::net::SocketAddr;

use palisade_model::endpoint::{Address, Endpoint, EndpointHealth, Endpoints, PeerProxy};

use crate::{
    field::{InvalidField, Problem, Wire, wire_enum, wire_struct},
    proto::v1::{self, address},
};

wire_struct!(Endpoints => v1::Endpoints { key: plain, endpoints: list, identities: set });
wire_struct!(Endpoint => v1::Endpoint {
    address: required,
    weight: same,
    priority: same,
    health: plain,
    labels: labels,
    locality: optional,
    peer: plain,
    workload: optional,
});
wire_enum!(EndpointHealth => v1::EndpointHealth { Healthy, Unhealthy, Draining });
wire_enum!(PeerProxy => v1::PeerProxy { None, Istio, Palisade });

impl Wire for Address {
    type Message = v1::Address;

    fn encode(&self) -> v1::Address {
        let kind = match self {
            Self::Socket(socket) => address::Kind::Socket(socket.encode()),
            Self::Unix(path) => address::Kind::Unix(path.encode()),
            Self::Name(host, port) => address::Kind::Name(address::Name { host: host.encode(), port: port.encode() }),
            Self::LogicalName(host, port) => {
                address::Kind::LogicalName(address::Name { host: host.encode(), port: port.encode() })
            }
        };
        v1::Address { kind: Some(kind) }
    }

    fn decode(message: v1::Address) -> Result<Self, InvalidField> {
        let v1::Address { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            address::Kind::Socket(socket) => {
                SocketAddr::decode(socket).map(Self::Socket).map_err(|error| error.inside("socket"))
            }
            address::Kind::Unix(path) => Ok(Self::Unix(path.into())),
            address::Kind::Name(address::Name { host, port }) => {
                Ok(Self::Name(host.into(), u16::decode(port).map_err(|error| error.inside("name.port"))?))
            }
            address::Kind::LogicalName(address::Name { host, port }) => Ok(Self::LogicalName(
                host.into(),
                u16::decode(port).map_err(|error| error.inside("logical_name.port"))?,
            )),
        }
    }
}
