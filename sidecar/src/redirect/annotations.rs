//! A pod's annotations as redirection rules.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use thiserror::Error;

use super::{DnsCapture, InboundPorts, IpRange, Outbound, OutboundRanges, ProxyOwner, Redirect};

const PREFIX: &str = "traffic.sidecar.istio.io/";
const MODE: &str = "sidecar.istio.io/interceptionMode";
/// The younger name of `kubevirtInterfaces`; both may be there.
const REROUTE: &str = "istio.io/reroute-virtual-interfaces";

/// An annotation that does not say what to redirect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidAnnotation {
    #[error("annotation `{annotation}`: `{item}` is not {expected}")]
    Item { annotation: String, item: String, expected: &'static str },
    #[error("annotation `{annotation}`: `{value}` is not served")]
    Unserved { annotation: String, value: String },
}

pub(super) fn parse(
    annotations: &BTreeMap<String, String>,
    owner: ProxyOwner,
    dns: Option<DnsCapture>,
) -> Result<Option<Redirect>, InvalidAnnotation> {
    match annotations.get(MODE).map(String::as_str) {
        None | Some("" | "REDIRECT") => {}
        Some("NONE") => return Ok(None),
        Some(other) => {
            return Err(InvalidAnnotation::Unserved { annotation: MODE.to_owned(), value: other.to_owned() });
        }
    }
    let read = Annotations { annotations };
    let inbound = match read.list::<u16>("includeInboundPorts", PORT)? {
        Included::All => InboundPorts::AllExcept(read.items("excludeInboundPorts", PORT)?),
        Included::Only(ports) => InboundPorts::Only(ports),
    };
    let included_ports = match read.annotations.get(&format!("{PREFIX}includeOutboundPorts")) {
        None => BTreeSet::new(),
        Some(_) => read.items("includeOutboundPorts", PORT)?,
    };
    let included = match read.list::<IpRange>("includeOutboundIPRanges", RANGE)? {
        Included::All => OutboundRanges::All,
        Included::Only(ranges) => OutboundRanges::Only(ranges),
    };
    Ok(Some(Redirect {
        owner,
        inbound,
        outbound: Outbound {
            excluded_ports: read.items("excludeOutboundPorts", PORT)?,
            excluded_ranges: read.items("excludeOutboundIPRanges", RANGE)?,
            included_ports,
            included,
        },
        dns,
        excluded_interfaces: names(read.items("excludeInterfaces", INTERFACE)?),
        virtual_interfaces: names(read.items("kubevirtInterfaces", INTERFACE)?)
            .into_iter()
            .chain(names(read.items_of(REROUTE, INTERFACE)?))
            .collect(),
    }))
}

fn names(interfaces: BTreeSet<Interface>) -> BTreeSet<String> {
    interfaces.into_iter().map(|Interface(name)| name).collect()
}

const PORT: &str = "a port";
const INTERFACE: &str = "the name of a network interface";
const RANGE: &str = "an address range";

struct Annotations<'a> {
    annotations: &'a BTreeMap<String, String>,
}

enum Included<T> {
    All,
    Only(BTreeSet<T>),
}

/// A name that the kernel takes and that means nothing in a rule's syntax.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Interface(String);

impl FromStr for Interface {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        if name.is_empty() || name.len() > 15 || !name.bytes().all(is_plain) {
            return Err(());
        }
        Ok(Self(name.to_owned()))
    }
}

impl Annotations<'_> {
    /// Absent or `*`: all. Empty: none.
    fn list<T: FromStr + Ord>(&self, key: &str, expected: &'static str) -> Result<Included<T>, InvalidAnnotation> {
        match self.annotations.get(&format!("{PREFIX}{key}")).map(|value| value.trim()) {
            None | Some("*") => Ok(Included::All),
            Some(_) => self.items(key, expected).map(Included::Only),
        }
    }

    fn items<T: FromStr + Ord>(&self, key: &str, expected: &'static str) -> Result<BTreeSet<T>, InvalidAnnotation> {
        self.items_of(&format!("{PREFIX}{key}"), expected)
    }

    fn items_of<T: FromStr + Ord>(
        &self,
        annotation: &str,
        expected: &'static str,
    ) -> Result<BTreeSet<T>, InvalidAnnotation> {
        let Some(value) = self.annotations.get(annotation) else { return Ok(BTreeSet::new()) };
        value
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| {
                item.parse().map_err(|_| InvalidAnnotation::Item {
                    annotation: annotation.to_owned(),
                    item: item.to_owned(),
                    expected,
                })
            })
            .collect()
    }
}
