//! Decision ids: short names by which a denial can be asked about later.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

/// Digits of an id: Crockford's base 32 in lower case, without letters that are read as digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PROXY_BITS: u32 = 40;

/// The short id of a proxy: 8 characters, made from its stable name (`NAMESPACE/NAME`). Two proxies share one with a chance of 2⁻⁴⁰.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(u64);

/// One decision's id, `PROXY-SERIAL`: 8 and 13 characters. Says nothing about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId {
    proxy: ShortId,
    serial: u64,
}

/// A text that is not a decision id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a decision id: `PROXY-SERIAL` with 8 and 13 characters is expected")]
pub struct InvalidDecisionId(String);

/// Hands out ids: unique in one process, and unlike one another. They are names, not secrets.
#[derive(Debug)]
pub struct DecisionIds {
    proxy: ShortId,
    seed: u64,
    next: AtomicU64,
}

impl ShortId {
    /// The short id of a proxy's stable name. The same name gives the same id in every version (FNV-1a, folded to 40 bits).
    pub fn of(name: &str) -> Self {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Self((hash ^ (hash >> PROXY_BITS)) & ((1 << PROXY_BITS) - 1))
    }
}

impl DecisionId {
    /// The proxy that decided.
    pub fn proxy(self) -> ShortId {
        self.proxy
    }
}

impl DecisionIds {
    /// Ids of one proxy process. `seed` should be random: it keeps ids of successive processes apart.
    pub fn new(proxy: ShortId, seed: u64) -> Self {
        Self { proxy, seed, next: AtomicU64::new(0) }
    }

    /// A new id.
    pub fn next(&self) -> DecisionId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        DecisionId { proxy: self.proxy, serial: scramble(count ^ self.seed) }
    }
}

/// A bijection on 64-bit numbers (the finalizer of splitmix64), so that different counts give different serials.
fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn write_digits(f: &mut fmt::Formatter<'_>, value: u64, digits: u32) -> fmt::Result {
    for position in (0..digits).rev() {
        let digit = usize::try_from((value >> (5 * position)) & 31).unwrap_or(0);
        fmt::Write::write_char(f, char::from(*ALPHABET.get(digit).unwrap_or(&b'0')))?;
    }
    Ok(())
}

fn read_digits(text: &str, digits: usize) -> Option<u64> {
    if text.len() != digits {
        return None;
    }
    text.bytes().try_fold(0_u64, |value, byte| {
        let digit = ALPHABET.iter().position(|d| *d == byte)?;
        value.checked_mul(32)?.checked_add(u64::try_from(digit).ok()?)
    })
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(f, self.0, 8)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.proxy)?;
        write_digits(f, self.serial, 13)
    }
}

impl FromStr for ShortId {
    type Err = InvalidDecisionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read_digits(text, 8).map(Self).ok_or_else(|| InvalidDecisionId(text.to_owned()))
    }
}

impl FromStr for DecisionId {
    type Err = InvalidDecisionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDecisionId(text.to_owned());
        let (proxy, serial) = text.split_once('-').ok_or_else(invalid)?;
        Ok(Self { proxy: proxy.parse()?, serial: read_digits(serial, 13).ok_or_else(invalid)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_round_trip() {
        let ids = DecisionIds::new(ShortId::of("foo/httpbin-1"), 0x1234);
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a, b);
        assert_eq!(a.to_string().len(), 22);
        assert_eq!(a.to_string().parse::<DecisionId>().unwrap(), a);
        assert_eq!(a.proxy(), ShortId::of("foo/httpbin-1"));
        assert_ne!(ShortId::of("foo/httpbin-1"), ShortId::of("foo/httpbin-2"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "-", "abc", "00000000-", "00000000-zzzzzzzzzzzzz", "0000000u-0000000000000", "00000000-0000000000000x"]
        {
            assert!(text.parse::<DecisionId>().is_err(), "{text}");
        }
    }
}
