//! Mirrors `palisade_model::cluster`.

use palisade_model::cluster::{
    Cluster, Discovery, HashKey, HashTable, LoadBalancer, MeshTls, Originate, TcpKeepalive, UpstreamProtocol,
    UpstreamTls,
};

use crate::{
    field::{InvalidField, Problem, Wire, mapping, wire_enum, wire_struct},
    proto::v1::{self, discovery, hash_key, hash_table, load_balancer, upstream_tls},
};

mod traffic;

wire_struct!(Cluster => v1::Cluster {
    name: plain,
    discovery: required,
    protocol: plain,
    tls: required,
    load_balancer: required,
    connect_timeout: required,
    max_requests_per_connection: same,
    tcp_keepalive: optional,
    idle_timeout: optional,
    traffic: required,
    is_external: same,
});
wire_enum!(UpstreamProtocol => v1::UpstreamProtocol { Http1, Http2, Client, Tcp });
wire_struct!(MeshTls => v1::MeshTls { sni: plain, subject_alt_names: list });
wire_struct!(Originate => v1::Originate {
    sni: optional,
    subject_alt_names: list,
    ca: optional,
    client_certificate: optional,
    skip_verify: same,
    min_version: plain,
    algorithms: or_default,
});
wire_struct!(TcpKeepalive => v1::TcpKeepalive { time: optional, interval: optional, probes: optional });

impl Wire for Discovery {
    type Message = v1::Discovery;

    fn encode(&self) -> v1::Discovery {
        let kind = match self {
            Self::Endpoints { key, subset } => discovery::Kind::Endpoints(discovery::Endpoints {
                key: key.encode(),
                subset: mapping::labels().0(subset),
            }),
            Self::OriginalDestination => discovery::Kind::OriginalDestination(v1::Empty {}),
            Self::OriginalAddress { port } => {
                discovery::Kind::OriginalAddress(discovery::OriginalAddress { port: port.encode() })
            }
            Self::Workload { port } => {
                discovery::Kind::Workload(discovery::Workload { port: mapping::optional().0(port) })
            }
            Self::DynamicName { port } => discovery::Kind::DynamicName(discovery::DynamicName { port: port.encode() }),
            Self::BlackHole => discovery::Kind::BlackHole(v1::Empty {}),
        };
        v1::Discovery { kind: Some(kind) }
    }

    fn decode(message: v1::Discovery) -> Result<Self, InvalidField> {
        let v1::Discovery { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            discovery::Kind::Endpoints(discovery::Endpoints { key, subset }) => {
                Ok(Self::Endpoints { key: key.into(), subset: mapping::labels().1(subset)? })
            }
            discovery::Kind::OriginalDestination(v1::Empty {}) => Ok(Self::OriginalDestination),
            discovery::Kind::OriginalAddress(discovery::OriginalAddress { port }) => {
                let port = u16::decode(port).map_err(|error| error.inside("original_address.port"))?;
                Ok(Self::OriginalAddress { port })
            }
            discovery::Kind::Workload(discovery::Workload { port }) => {
                Ok(Self::Workload { port: mapping::optional().1(port).map_err(|error| error.inside("workload.port"))? })
            }
            discovery::Kind::DynamicName(discovery::DynamicName { port }) => {
                Ok(Self::DynamicName { port: u16::decode(port).map_err(|error| error.inside("dynamic_name.port"))? })
            }
            discovery::Kind::BlackHole(v1::Empty {}) => Ok(Self::BlackHole),
        }
    }
}

impl Wire for UpstreamTls {
    type Message = v1::UpstreamTls;

    fn encode(&self) -> v1::UpstreamTls {
        let kind = match self {
            Self::Off => upstream_tls::Kind::Off(v1::Empty {}),
            Self::Auto(tls) => upstream_tls::Kind::Auto(tls.encode()),
            Self::Mesh(tls) => upstream_tls::Kind::Mesh(tls.encode()),
            Self::Originate(tls) => upstream_tls::Kind::Originate(tls.encode()),
            Self::Refuse { message } => upstream_tls::Kind::Refuse(message.encode()),
        };
        v1::UpstreamTls { kind: Some(kind) }
    }

    fn decode(message: v1::UpstreamTls) -> Result<Self, InvalidField> {
        let v1::UpstreamTls { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            upstream_tls::Kind::Off(v1::Empty {}) => Ok(Self::Off),
            upstream_tls::Kind::Auto(tls) => MeshTls::decode(tls).map(Self::Auto).map_err(|e| e.inside("auto")),
            upstream_tls::Kind::Mesh(tls) => MeshTls::decode(tls).map(Self::Mesh).map_err(|e| e.inside("mesh")),
            upstream_tls::Kind::Originate(tls) => {
                Originate::decode(tls).map(Self::Originate).map_err(|error| error.inside("originate"))
            }
            upstream_tls::Kind::Refuse(message) => Ok(Self::Refuse { message: message.into() }),
        }
    }
}

impl Wire for LoadBalancer {
    type Message = v1::LoadBalancer;

    fn encode(&self) -> v1::LoadBalancer {
        let kind = match self {
            Self::LeastRequest { choices } => {
                load_balancer::Kind::LeastRequest(load_balancer::LeastRequest { choices: *choices })
            }
            Self::RoundRobin => load_balancer::Kind::RoundRobin(v1::Empty {}),
            Self::Random => load_balancer::Kind::Random(v1::Empty {}),
            Self::Passthrough => load_balancer::Kind::Passthrough(v1::Empty {}),
            Self::ConsistentHash { key, table } => load_balancer::Kind::ConsistentHash(v1::ConsistentHash {
                key: mapping::required().0(key),
                table: mapping::required().0(table),
            }),
        };
        v1::LoadBalancer { kind: Some(kind) }
    }

    fn decode(message: v1::LoadBalancer) -> Result<Self, InvalidField> {
        let v1::LoadBalancer { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            load_balancer::Kind::LeastRequest(load_balancer::LeastRequest { choices }) => {
                Ok(Self::LeastRequest { choices })
            }
            load_balancer::Kind::RoundRobin(v1::Empty {}) => Ok(Self::RoundRobin),
            load_balancer::Kind::Random(v1::Empty {}) => Ok(Self::Random),
            load_balancer::Kind::Passthrough(v1::Empty {}) => Ok(Self::Passthrough),
            load_balancer::Kind::ConsistentHash(v1::ConsistentHash { key, table }) => Ok(Self::ConsistentHash {
                key: mapping::required().1(key).map_err(|error| error.inside("consistent_hash.key"))?,
                table: mapping::required().1(table).map_err(|error| error.inside("consistent_hash.table"))?,
            }),
        }
    }
}

impl Wire for HashKey {
    type Message = v1::HashKey;

    fn encode(&self) -> v1::HashKey {
        let kind = match self {
            Self::Nothing => hash_key::Kind::Nothing(v1::Empty {}),
            Self::Header { name } => hash_key::Kind::Header(name.encode()),
            Self::Cookie { name, path, ttl, attributes } => hash_key::Kind::Cookie(hash_key::Cookie {
                name: name.encode(),
                path: path.encode(),
                ttl: mapping::optional().0(ttl),
                attributes: mapping::list().0(attributes),
            }),
            Self::SourceIp => hash_key::Kind::SourceIp(v1::Empty {}),
            Self::Query { name } => hash_key::Kind::Query(name.encode()),
        };
        v1::HashKey { kind: Some(kind) }
    }

    fn decode(message: v1::HashKey) -> Result<Self, InvalidField> {
        let v1::HashKey { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            hash_key::Kind::Nothing(v1::Empty {}) => Ok(Self::Nothing),
            hash_key::Kind::Header(name) => Ok(Self::Header { name: name.into() }),
            hash_key::Kind::Cookie(hash_key::Cookie { name, path, ttl, attributes }) => Ok(Self::Cookie {
                name: name.into(),
                path: path.into(),
                ttl: mapping::optional().1(ttl).map_err(|error| error.inside("cookie.ttl"))?,
                attributes: mapping::list().1(attributes).map_err(|error| error.inside("cookie.attributes"))?,
            }),
            hash_key::Kind::SourceIp(v1::Empty {}) => Ok(Self::SourceIp),
            hash_key::Kind::Query(name) => Ok(Self::Query { name: name.into() }),
        }
    }
}

impl Wire for HashTable {
    type Message = v1::HashTable;

    fn encode(&self) -> v1::HashTable {
        let kind = match *self {
            Self::Ring { minimum_size } => hash_table::Kind::Ring(minimum_size),
            Self::Maglev { size } => hash_table::Kind::Maglev(size),
        };
        v1::HashTable { kind: Some(kind) }
    }

    fn decode(message: v1::HashTable) -> Result<Self, InvalidField> {
        let v1::HashTable { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            hash_table::Kind::Ring(minimum_size) => Ok(Self::Ring { minimum_size }),
            hash_table::Kind::Maglev(size) => Ok(Self::Maglev { size }),
        }
    }
}
