//! Things remembered by a digest of what they came from: bounded in number, never holding that itself.

use std::collections::VecDeque;

use ahash::AHashMap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

/// Independent parts, so that requests on different threads seldom meet.
const SHARDS: usize = 16;
/// Things in one part: 4096 in all.
const PER_SHARD: usize = 256;

/// At most 4096 things; their owner bounds the size of each.
#[derive(Debug)]
pub(crate) struct Remembered<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
}

#[derive(Debug)]
struct Shard<V> {
    things: AHashMap<Digest, V>,
    order: VecDeque<Digest>,
}

/// SHA-256 of what a thing came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

/// A digest in the making. Each part counts by itself: `ab`, `c` is not `a`, `bc`.
#[derive(Debug, Default)]
pub(crate) struct Digesting(Sha256);

impl Digesting {
    /// Adds a part.
    pub(crate) fn add(&mut self, part: &[u8]) {
        self.count(part.len());
        self.0.update(part);
    }

    /// Adds a number, for example of the parts that follow.
    pub(crate) fn count(&mut self, number: usize) {
        self.0.update(u64::try_from(number).unwrap_or(u64::MAX).to_le_bytes());
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self { things: AHashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<V: Clone> Remembered<V> {
    /// What is remembered by this digest.
    pub(crate) fn find(&self, digest: &Digest) -> Option<V> {
        self.shard(digest)?.lock().things.get(digest).cloned()
    }

    /// Remembers something; what is not alive any more makes room first, then the oldest.
    pub(crate) fn remember(&self, digest: Digest, thing: V, is_alive: impl Fn(&V) -> bool) {
        let Some(shard) = self.shard(&digest) else { return };
        let mut shard = shard.lock();
        let Shard { things, order } = &mut *shard;
        if order.len() >= PER_SHARD {
            order.retain(|known| {
                let keeps = things.get(known).is_some_and(&is_alive);
                if !keeps {
                    things.remove(known);
                }
                keeps
            });
        }
        if order.len() >= PER_SHARD
            && let Some(oldest) = order.pop_front()
        {
            things.remove(&oldest);
        }
        if things.insert(digest, thing).is_none() {
            order.push_back(digest);
        }
    }

    fn shard(&self, digest: &Digest) -> Option<&Mutex<Shard<V>>> {
        self.shards.get(usize::from(digest.0.first().copied().unwrap_or_default()) % SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> Digest {
        let mut digesting = Digesting::default();
        digesting.count(number);
        digesting.finish()
    }

    #[test]
    fn there_is_never_more_than_the_bound_and_the_oldest_goes_first() {
        let remembered = Remembered::default();
        (0..20_000).for_each(|number| remembered.remember(digest(number), number, |_| true));
        let held = (0..20_000).filter(|number| remembered.find(&digest(*number)).is_some()).count();
        assert!(held <= SHARDS * PER_SHARD, "{held}");
        assert_eq!(remembered.find(&digest(19_999)), Some(19_999));
        assert_eq!(remembered.find(&digest(0)), None);
    }

    #[test]
    fn the_dead_make_room_before_the_living() {
        let remembered = Remembered::default();
        remembered.remember(digest(0), 0, |_| true);
        // All but the first are dead at once.
        (1..20_000).for_each(|number| remembered.remember(digest(number), number, |known| *known == 0));
        assert_eq!(remembered.find(&digest(0)), Some(0));
    }

    #[test]
    fn parts_are_told_apart() {
        let of = |parts: &[&str]| {
            let mut digesting = Digesting::default();
            parts.iter().for_each(|part| digesting.add(part.as_bytes()));
            digesting.finish()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a", ""]), of(&["a"]));
    }
}
