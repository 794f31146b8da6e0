//! Scalars: texts, numbers, addresses, durations.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ipnet::IpNet;
use palisade_model::{
    host::HostPattern,
    identity::{SpiffeId, TrustDomain},
    policy::PolicyId,
    resource::Feature,
    route::Percent,
};

use crate::{
    field::{InvalidField, Problem, Wire},
    proto::v1,
    shared,
};

impl Wire for Arc<str> {
    type Message = String;

    fn encode(&self) -> String {
        self.to_string()
    }

    fn decode(text: String) -> Result<Self, InvalidField> {
        Ok(shared::text(&text))
    }
}

impl Wire for u16 {
    type Message = u32;

    fn encode(&self) -> u32 {
        u32::from(*self)
    }

    fn decode(number: u32) -> Result<Self, InvalidField> {
        Self::try_from(number).map_err(|_| InvalidField::new(Problem::OutOfRange(number.into())))
    }
}

impl Wire for u8 {
    type Message = u32;

    fn encode(&self) -> u32 {
        u32::from(*self)
    }

    fn decode(number: u32) -> Result<Self, InvalidField> {
        Self::try_from(number).map_err(|_| InvalidField::new(Problem::OutOfRange(number.into())))
    }
}

impl Wire for u32 {
    type Message = Self;

    fn encode(&self) -> Self {
        *self
    }

    fn decode(number: Self) -> Result<Self, InvalidField> {
        Ok(number)
    }
}

impl Wire for bool {
    type Message = Self;

    fn encode(&self) -> Self {
        *self
    }

    fn decode(flag: Self) -> Result<Self, InvalidField> {
        Ok(flag)
    }
}

impl Wire for Percent {
    type Message = u32;

    fn encode(&self) -> u32 {
        self.0
    }

    fn decode(millionths: u32) -> Result<Self, InvalidField> {
        if millionths > Self::ALWAYS.0 {
            return Err(InvalidField::new(Problem::OutOfRange(millionths.into())));
        }
        Ok(Self(millionths))
    }
}

impl Wire for Duration {
    type Message = v1::Duration;

    fn encode(&self) -> v1::Duration {
        v1::Duration { seconds: self.as_secs(), nanos: self.subsec_nanos() }
    }

    fn decode(message: v1::Duration) -> Result<Self, InvalidField> {
        let v1::Duration { seconds, nanos } = message;
        if nanos >= 1_000_000_000 {
            return Err(InvalidField::new(Problem::OutOfRange(nanos.into())).inside("nanos"));
        }
        Ok(Self::new(seconds, nanos))
    }
}

impl Wire for IpAddr {
    type Message = Bytes;

    fn encode(&self) -> Bytes {
        match self {
            Self::V4(address) => Bytes::copy_from_slice(&address.octets()),
            Self::V6(address) => Bytes::copy_from_slice(&address.octets()),
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, InvalidField> {
        if let Ok(octets) = <[u8; 4]>::try_from(bytes.as_ref()) {
            return Ok(Self::V4(Ipv4Addr::from(octets)));
        }
        match <[u8; 16]>::try_from(bytes.as_ref()) {
            Ok(octets) => Ok(Self::V6(Ipv6Addr::from(octets))),
            Err(_) => Err(InvalidField::malformed(format!("an address has 4 or 16 bytes, not {}", bytes.len()))),
        }
    }
}

impl Wire for SocketAddr {
    type Message = v1::SocketAddress;

    fn encode(&self) -> v1::SocketAddress {
        let (flow_info, scope_id) = match self {
            Self::V4(_) => (0, 0),
            Self::V6(address) => (address.flowinfo(), address.scope_id()),
        };
        v1::SocketAddress { ip: self.ip().encode(), port: self.port().into(), flow_info, scope_id }
    }

    fn decode(message: v1::SocketAddress) -> Result<Self, InvalidField> {
        let v1::SocketAddress { ip, port, flow_info, scope_id } = message;
        let port = u16::decode(port).map_err(|error| error.inside("port"))?;
        match IpAddr::decode(ip).map_err(|error| error.inside("ip"))? {
            IpAddr::V4(ip) if flow_info == 0 && scope_id == 0 => Ok(Self::V4(SocketAddrV4::new(ip, port))),
            IpAddr::V4(_) => Err(InvalidField::malformed("an IPv4 address has neither flow nor scope")),
            IpAddr::V6(ip) => Ok(Self::V6(SocketAddrV6::new(ip, port, flow_info, scope_id))),
        }
    }
}

impl Wire for IpNet {
    type Message = v1::Network;

    fn encode(&self) -> v1::Network {
        v1::Network { address: self.addr().encode(), prefix_length: self.prefix_len().into() }
    }

    fn decode(message: v1::Network) -> Result<Self, InvalidField> {
        let v1::Network { address, prefix_length } = message;
        let address = IpAddr::decode(address).map_err(|error| error.inside("address"))?;
        let out_of_range = || InvalidField::new(Problem::OutOfRange(prefix_length.into())).inside("prefix_length");
        let length = u8::try_from(prefix_length).map_err(|_| out_of_range())?;
        Self::new(address, length).map_err(|_| out_of_range())
    }
}

macro_rules! wire_text {
    ($($model:ty),+) => {
        $(impl Wire for $model {
            type Message = String;

            fn encode(&self) -> String {
                self.to_string()
            }

            fn decode(text: String) -> Result<Self, InvalidField> {
                text.parse().map_err(InvalidField::malformed)
            }
        })+
    };
}

wire_text!(HostPattern, SpiffeId, TrustDomain);

impl Wire for PolicyId {
    type Message = String;

    fn encode(&self) -> String {
        self.0.to_string()
    }

    fn decode(text: String) -> Result<Self, InvalidField> {
        Ok(Self(shared::text(&text)))
    }
}

impl Wire for Feature {
    type Message = String;

    fn encode(&self) -> String {
        self.0.to_string()
    }

    fn decode(text: String) -> Result<Self, InvalidField> {
        Ok(Self(shared::text(&text)))
    }
}
