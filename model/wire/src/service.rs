//! Mirrors `palisade_model::service`.

use std::net::IpAddr;

use palisade_model::service::{DnsName, L4Backend, L4Route, Lookup, Query, Service, ServicePort};

use crate::{
    field::{InvalidField, Problem, Wire, wire_struct},
    proto::v1::{self, query},
};

wire_struct!(Service => v1::Service {
    host: plain,
    namespace: plain,
    addresses: list,
    is_headless: same,
    names: list,
    ports: list,
    is_external: same,
});
wire_struct!(DnsName => v1::DnsName { name: plain, addresses: list });
wire_struct!(ServicePort => v1::ServicePort {
    port: plain,
    protocol: plain,
    table: optional,
    l4_routes: list,
    takes_any_address: same,
});
wire_struct!(Lookup => v1::Lookup { query: required, services: list });
wire_struct!(L4Route => v1::L4Route {
    key: plain,
    source: plain,
    rule: same,
    alternative: same,
    sni: list,
    destinations: list,
    backends: list,
});
wire_struct!(L4Backend => v1::L4Backend { cluster: plain, is_missing: same, weight: same });

/// A query as it travels.
pub fn encode_query(query: &Query) -> v1::Query {
    query.encode()
}

/// A query from its message.
///
/// # Errors
/// When it names nothing, its address has another size than 4 or 16 bytes, or its host is empty or longer than 255 bytes.
pub fn decode_query(message: v1::Query) -> Result<Query, InvalidField> {
    let query = Query::decode(message)?;
    match &query {
        Query::Host(host) if host.is_empty() || host.len() > 255 => {
            Err(InvalidField::malformed("a host name has 1 to 255 bytes").inside("host"))
        }
        Query::Host(_) | Query::Address(_) => Ok(query),
    }
}

impl Wire for Query {
    type Message = v1::Query;

    fn encode(&self) -> v1::Query {
        let kind = match self {
            Self::Host(host) => query::Kind::Host(host.encode()),
            Self::Address(address) => query::Kind::Address(address.encode()),
        };
        v1::Query { kind: Some(kind) }
    }

    fn decode(message: v1::Query) -> Result<Self, InvalidField> {
        let v1::Query { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            query::Kind::Host(host) => Ok(Self::Host(host.into())),
            query::Kind::Address(address) => {
                Ok(Self::Address(IpAddr::decode(address).map_err(|error| error.inside("address"))?))
            }
        }
    }
}
