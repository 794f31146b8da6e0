//! Tokens whose signatures were verified already, bounded in number and by their own expiry.

use std::{collections::VecDeque, sync::Arc};

use ahash::AHashMap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::VerifiedToken;

/// Independent parts, so that requests on different threads seldom meet.
const SHARDS: usize = 16;
/// Tokens of one part: 4096 in all, at about 2 KiB each.
const PER_SHARD: usize = 256;

/// Verified tokens of one set of rules. It dies with the rules, so a change of keys or rules forgets everything.
#[derive(Debug, Default)]
pub(super) struct VerifiedTokens {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    tokens: AHashMap<Digest, Arc<VerifiedToken>>,
    order: VecDeque<Digest>,
}

/// What a token is remembered by: never the token itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    /// The digest of a token as seen by one rule.
    pub(super) fn of(rule: usize, token: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(rule.to_le_bytes());
        hash.update(token.as_bytes());
        Self(hash.finalize().into())
    }

    fn shard(&self) -> usize {
        usize::from(self.0.first().copied().unwrap_or_default()) % SHARDS
    }
}

impl VerifiedTokens {
    /// A token that was verified before.
    pub(super) fn find(&self, digest: &Digest) -> Option<Arc<VerifiedToken>> {
        self.shards.get(digest.shard())?.lock().tokens.get(digest).map(Arc::clone)
    }

    /// Remembers a token; the expired go first, then the oldest.
    pub(super) fn remember(&self, digest: Digest, token: &Arc<VerifiedToken>, now: u64) {
        let Some(shard) = self.shards.get(digest.shard()) else { return };
        let mut shard = shard.lock();
        let Shard { tokens, order } = &mut *shard;
        if order.len() >= PER_SHARD {
            order.retain(|known| {
                let is_alive = tokens.get(known).is_some_and(|token| token.expiry().is_none_or(|expiry| expiry >= now));
                if !is_alive {
                    tokens.remove(known);
                }
                is_alive
            });
        }
        if order.len() >= PER_SHARD
            && let Some(oldest) = order.pop_front()
        {
            tokens.remove(&oldest);
        }
        if tokens.insert(digest, Arc::clone(token)).is_none() {
            order.push_back(digest);
        }
    }
}
