//! Mirrors `palisade_model::listener`.

use std::sync::Arc;

use palisade_model::{
    host::HostPattern,
    listener::{
        Chain, ChainHandler, ClientValidation, InboundPort, Listener, MtlsMode, Protocol, ServerTls, ServerTlsMode,
        TlsAlgorithms, TlsLimits, TlsVersion,
    },
};

use crate::{
    field::{InvalidField, Problem, Wire, mapping, wire_enum, wire_struct},
    proto::v1::{self, chain_handler, server_tls_mode},
};

wire_struct!(Listener => v1::Listener {
    key: plain,
    address: optional,
    port: plain,
    declared_port: plain,
    chains: list,
    policies: plain,
    detects_misdirected: same,
    is_udp: same,
});
wire_struct!(Chain => v1::Chain { name: plain, sni: list, tls: optional, handler: required });
wire_struct!(ServerTls => v1::ServerTls {
    mode: required,
    min_version: plain,
    max_version: plain,
    alpn: list,
    algorithms: or_default,
});
wire_struct!(TlsAlgorithms => v1::TlsAlgorithms { cipher_suites: list, curves: list });
wire_struct!(TlsLimits => v1::TlsLimits { min_version: plain, algorithms: or_default });
wire_struct!(ClientValidation => v1::ClientValidation {
    ca: plain,
    is_required: same,
    subject_alt_names: list,
    tolerates_invalid: same,
});
wire_enum!(Protocol => v1::Protocol { Http, Http2, Tcp, Tls, Auto });
wire_struct!(InboundPort => v1::InboundPort {
    port: optional,
    protocol: plain,
    mtls: plain,
    cluster: plain,
    service: optional,
    policies: plain,
});
wire_enum!(MtlsMode => v1::MtlsMode { Disable, Permissive, Strict });

impl Wire for TlsVersion {
    type Message = i32;

    fn encode(&self) -> i32 {
        match self {
            Self::V1_2 => v1::TlsVersion::V12.into(),
            Self::V1_3 => v1::TlsVersion::V13.into(),
        }
    }

    fn decode(value: i32) -> Result<Self, InvalidField> {
        match v1::TlsVersion::try_from(value) {
            Ok(v1::TlsVersion::V12) => Ok(Self::V1_2),
            Ok(v1::TlsVersion::V13) => Ok(Self::V1_3),
            Ok(v1::TlsVersion::Unspecified) | Err(_) => Err(InvalidField::new(Problem::UnknownValue(value))),
        }
    }
}

impl Wire for (HostPattern, Arc<str>) {
    type Message = chain_handler::Table;

    fn encode(&self) -> chain_handler::Table {
        let (host, table) = self;
        chain_handler::Table { host: host.encode(), table: table.encode() }
    }

    fn decode(message: chain_handler::Table) -> Result<Self, InvalidField> {
        let chain_handler::Table { host, table } = message;
        Ok((HostPattern::decode(host).map_err(|error| error.inside("host"))?, table.into()))
    }
}

impl Wire for ChainHandler {
    type Message = v1::ChainHandler;

    fn encode(&self) -> v1::ChainHandler {
        let kind = match self {
            Self::Http { tables } => {
                chain_handler::Kind::Http(chain_handler::Http { tables: mapping::list().0(tables) })
            }
            Self::Tcp { routes } => chain_handler::Kind::Tcp(chain_handler::Tcp { routes: mapping::list().0(routes) }),
            Self::AutoPassthrough => chain_handler::Kind::AutoPassthrough(v1::Empty {}),
            Self::Refuse { message } => chain_handler::Kind::Refuse(message.encode()),
        };
        v1::ChainHandler { kind: Some(kind) }
    }

    fn decode(message: v1::ChainHandler) -> Result<Self, InvalidField> {
        let v1::ChainHandler { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            chain_handler::Kind::Http(chain_handler::Http { tables }) => {
                Ok(Self::Http { tables: mapping::list().1(tables).map_err(|error| error.inside("http.tables"))? })
            }
            chain_handler::Kind::Tcp(chain_handler::Tcp { routes }) => {
                Ok(Self::Tcp { routes: mapping::list().1(routes).map_err(|error| error.inside("tcp.routes"))? })
            }
            chain_handler::Kind::AutoPassthrough(v1::Empty {}) => Ok(Self::AutoPassthrough),
            chain_handler::Kind::Refuse(message) => Ok(Self::Refuse { message: message.into() }),
        }
    }
}

impl Wire for ServerTlsMode {
    type Message = v1::ServerTlsMode;

    fn encode(&self) -> v1::ServerTlsMode {
        let kind = match self {
            Self::Secrets { certificates, client } => server_tls_mode::Kind::Secrets(server_tls_mode::Secrets {
                certificates: mapping::list().0(certificates),
                client: mapping::optional().0(client),
            }),
            Self::Mesh => server_tls_mode::Kind::Mesh(v1::Empty {}),
        };
        v1::ServerTlsMode { kind: Some(kind) }
    }

    fn decode(message: v1::ServerTlsMode) -> Result<Self, InvalidField> {
        let v1::ServerTlsMode { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            server_tls_mode::Kind::Secrets(server_tls_mode::Secrets { certificates, client }) => Ok(Self::Secrets {
                certificates: mapping::list().1(certificates).map_err(|error| error.inside("secrets.certificates"))?,
                client: mapping::optional().1(client).map_err(|error| error.inside("secrets.client"))?,
            }),
            server_tls_mode::Kind::Mesh(v1::Empty {}) => Ok(Self::Mesh),
        }
    }
}
