//! Addresses for objects that have none: a function of namespace and name, free of collisions.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sha2::{Digest, Sha256};

use crate::object::ObjectKey;

/// A range to assign from: 65,534 addresses under a 16-bit prefix (IPv4) or a 112-bit one (IPv6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// `10.244.0.0/16`, where pods live.
    Pods,
    /// `10.96.0.0/16`, the virtual addresses of services.
    Services,
    /// `fd00:10:96::/112`.
    Services6,
    /// `240.240.0.0/16`: hosts of ServiceEntries without an address (Istio's range).
    Entries,
    /// `2001:2::/112`, the first part of Istio's `2001:2::/48`: the same for IPv6.
    Entries6,
}

/// Addresses that are taken, and those given out so far.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    taken: BTreeSet<IpAddr>,
}

impl Range {
    fn address(self, offset: u16) -> IpAddr {
        let [high, low] = offset.to_be_bytes();
        match self {
            Self::Pods => Ipv4Addr::new(10, 244, high, low).into(),
            Self::Services => Ipv4Addr::new(10, 96, high, low).into(),
            Self::Entries => Ipv4Addr::new(240, 240, high, low).into(),
            Self::Entries6 => Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, offset).into(),
            Self::Services6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, offset).into(),
        }
    }
}

impl Addresses {
    /// Keeps a written address from being assigned.
    pub(crate) fn reserve(&mut self, address: IpAddr) {
        self.taken.insert(address);
    }

    /// The same; false if it is taken already.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        self.taken.insert(address)
    }

    /// The address of `key` in `range`: a hash of namespace and name, moved on while taken. Callers ask in key order, so that
    /// the result does not depend on the order of arrival. `None` only when the range is used up.
    pub(crate) fn assign(&mut self, range: Range, key: &ObjectKey) -> Option<IpAddr> {
        let digest = Sha256::digest(format!("{}/{}", key.namespace, key.name).as_bytes());
        let start = digest.iter().take(2).fold(0_u16, |sum, byte| (sum << 8) | u16::from(*byte));
        (0..=u16::MAX)
            .map(|step| start.wrapping_add(step))
            // The first address names the network, the last one broadcasts.
            .filter(|offset| *offset != 0 && *offset != u16::MAX)
            .map(|offset| range.address(offset))
            .find(|address| self.taken.insert(*address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_follows_from_the_name_alone() {
        let key = ObjectKey::new("default", "reviews");
        let a = Addresses::default().assign(Range::Services, &key);
        let mut busy = Addresses::default();
        for i in 0..100 {
            busy.assign(Range::Services, &ObjectKey::new("x", format!("s{i}")));
        }
        assert_eq!(a, Addresses::default().assign(Range::Services, &key));
        assert!(a.is_some());
    }

    #[test]
    fn no_two_objects_share_an_address_and_a_full_range_gives_none() {
        let mut addresses = Addresses::default();
        // All but two addresses are taken.
        for offset in 3..u16::MAX {
            addresses.reserve(Range::Pods.address(offset));
        }
        let mut assign = |name: &str| addresses.assign(Range::Pods, &ObjectKey::new("n", name));
        let (first, second) = (assign("a").unwrap(), assign("b").unwrap());
        assert_ne!(first, second);
        assert_eq!(assign("c"), None);
    }

    #[test]
    fn a_written_address_is_never_given_out() {
        let key = ObjectKey::new("default", "reviews");
        let first = Addresses::default().assign(Range::Services, &key).unwrap();
        let mut addresses = Addresses::default();
        addresses.reserve(first);
        assert_ne!(addresses.assign(Range::Services, &key), Some(first));
    }
}
