//! Which of a pod's traffic goes through its proxy, and the packet filter rules that make it so.
//!
//! The order of the rules is Istio's (`tools/istio-iptables`); so are the annotations and their defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

mod annotations;
mod apply;
mod iptables;
mod nft;

pub use annotations::InvalidAnnotation;
pub use apply::{Applied, RedirectError, apply};
pub use iptables::{Hooked, restore_script};
pub use nft::nft_script;

pub use palisade_proxy::request::connection::{INBOUND_PORT, OUTBOUND_PORT};

/// Where the sidecar answers the pod's DNS queries, UDP and TCP.
pub const DNS_PORT: u16 = 15053;
/// HBONE connections, which are never redirected.
pub const HBONE_PORT: u16 = 15008;
/// User and group that the proxy runs as, and by which its own traffic is recognised.
pub const PROXY_ID: u32 = 1337;

/// Ports of the proxy itself which others call: metrics, health and Envoy's statistics. Never redirected.
pub(crate) const PROXY_INBOUND_PORTS: [u16; 3] = [15020, 15021, 15090];

/// The rules of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub owner: ProxyOwner,
    pub inbound: InboundPorts,
    pub outbound: Outbound,
    /// `None`: DNS queries go to the resolvers untouched.
    pub dns: Option<DnsCapture>,
    /// Traffic through these interfaces is left alone, in both directions.
    pub excluded_interfaces: BTreeSet<String>,
    /// What comes in through these interfaces, from virtual machines and the like within the pod, is the application's and goes
    /// out: to the outbound proxy, as far as its address is among [`Outbound::included`].
    pub virtual_interfaces: BTreeSet<String>,
}

/// How the proxy's own packets are told from the application's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyOwner {
    /// By user and group; either is enough.
    Ids { uid: u32, gid: u32 },
    /// By the mark that the proxy sets on its sockets: for places where both run as the only user there is.
    Mark(u32),
}

/// The pod's ports whose connections are redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboundPorts {
    AllExcept(BTreeSet<u16>),
    Only(BTreeSet<u16>),
}

/// The connections of the application that are redirected. A port in `excluded_ports` wins over everything, a range in
/// `excluded_ranges` over the inclusions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    pub excluded_ports: BTreeSet<u16>,
    pub excluded_ranges: BTreeSet<IpRange>,
    /// Redirected whatever their address.
    pub included_ports: BTreeSet<u16>,
    pub included: OutboundRanges,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboundRanges {
    All,
    /// Empty: none.
    Only(BTreeSet<IpRange>),
}

/// An address range in CIDR notation; bits beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpRange {
    address: IpAddr,
    prefix_length: u8,
}

/// Which DNS queries the proxy answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsCapture {
    /// Those to any server.
    All,
    /// Those to these servers, the ones in the pod's `resolv.conf`.
    Servers(BTreeSet<IpAddr>),
}

/// What one family of addresses looks like in rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    V4,
    V6,
}

impl Redirect {
    /// Everything is redirected but the proxy's own ports; `owner` says which packets are the proxy's.
    pub fn all(owner: ProxyOwner, dns: Option<DnsCapture>) -> Self {
        Self {
            owner,
            inbound: InboundPorts::AllExcept(BTreeSet::new()),
            outbound: Outbound {
                excluded_ports: BTreeSet::new(),
                excluded_ranges: BTreeSet::new(),
                included_ports: BTreeSet::new(),
                included: OutboundRanges::All,
            },
            dns,
            excluded_interfaces: BTreeSet::new(),
            virtual_interfaces: BTreeSet::new(),
        }
    }

    /// The rules that a pod's annotations `traffic.sidecar.istio.io/…` ask for; `None` where
    /// `sidecar.istio.io/interceptionMode` is `NONE`.
    ///
    /// # Errors
    /// A value that cannot be read, or a mode that is not served: such a pod must not start, since part of its traffic
    /// would go past its proxy.
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
        owner: ProxyOwner,
        dns: Option<DnsCapture>,
    ) -> Result<Option<Self>, InvalidAnnotation> {
        annotations::parse(annotations, owner, dns)
    }
}

impl OutboundRanges {
    /// Loopback addresses are included by name: then the application's calls to its own pod are redirected, too.
    pub(crate) fn has_loopback(&self) -> bool {
        match self {
            Self::All => false,
            Self::Only(ranges) => ranges.iter().any(IpRange::is_loopback),
        }
    }
}

impl IpRange {
    /// `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix_length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(address) => {
                let bits = u32::from(prefix_length);
                let mask = if bits > 32 { return None } else { u32::MAX.checked_shl(32 - bits).unwrap_or(0) };
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) => {
                let bits = u32::from(prefix_length);
                let mask = if bits > 128 { return None } else { u128::MAX.checked_shl(128 - bits).unwrap_or(0) };
                IpAddr::V6((u128::from(address) & mask).into())
            }
        };
        Some(Self { address, prefix_length })
    }

    /// Whether it is one of loopback addresses.
    pub(crate) fn is_loopback(&self) -> bool {
        self.address.is_loopback()
    }

    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.address)
    }
}

impl std::fmt::Display for IpRange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_length)
    }
}

impl std::str::FromStr for IpRange {
    type Err = ();

    /// `ADDRESS/LENGTH`, or an address alone.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(longest), |length| length.parse().map_err(|_| ()))?;
        Self::new(address, length).ok_or(())
    }
}

impl IpFamily {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Source of the inbound proxy's connections to its application.
    pub(crate) fn inbound_source(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6",
            Self::V6 => "::6",
        }
    }

    pub(crate) fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1",
            Self::V6 => "::1",
        }
    }
}

#[cfg(test)]
mod tests;
