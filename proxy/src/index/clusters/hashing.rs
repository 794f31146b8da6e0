//! Tables that lead a hash to an endpoint: Ketama rings and Maglev, as Envoy builds them, so that equal endpoints give equal
//! choices at every proxy.

use palisade_model::cluster::HashTable;
use twox_hash::XxHash64;

/// Points of a ring at most: 16 bytes each.
const MAX_POINTS: f64 = 1_048_576.0;
/// Size of a Maglev table where none is written (Envoy).
const MAGLEV_SIZE: u32 = 65_537;
/// Largest size of a Maglev table (Envoy).
const MAX_MAGLEV: u32 = 5_000_011;

/// The hash of all keys and points.
pub fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// The hash of bytes after others.
pub fn hash_after(seed: u64, bytes: &[u8]) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// One endpoint of a table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its position among the cluster's endpoints.
    pub(super) at: u32,
    /// What it is known by to every proxy: its address.
    pub(super) key: String,
    /// Its weight, above 0.
    pub(super) weight: f64,
}

/// From hashes to endpoints.
#[derive(Debug)]
pub(super) enum Table {
    /// Points on a circle with the endpoint behind each, by hash.
    Ring(Box<[(u64, u32)]>),
    /// Slots with the endpoint behind each.
    Maglev(Box<[u32]>),
}

impl Table {
    /// The table over some endpoints. O(size · log size).
    pub(super) fn build(kind: HashTable, entries: &[Entry]) -> Self {
        match kind {
            HashTable::Ring { minimum_size } => Self::Ring(ring(minimum_size, entries)),
            HashTable::Maglev { size } => Self::Maglev(maglev(size, entries)),
        }
    }

    /// The endpoint of a hash among those that are available: the next one on the way. What is not available moves its own
    /// keys and nobody else's. O(log size), with few unavailable.
    pub(super) fn find(&self, hash: u64, is_available: impl Fn(u32) -> bool) -> Option<u32> {
        match self {
            Self::Ring(points) => {
                let start = points.partition_point(|(point, _)| *point < hash);
                let (before, after) = points.split_at_checked(start)?;
                after.iter().chain(before).map(|(_, at)| *at).find(|at| is_available(*at))
            }
            Self::Maglev(slots) => {
                let size = u64::try_from(slots.len()).ok().filter(|size| *size > 0)?;
                let start = usize::try_from(hash % size).ok()?;
                let (before, after) = slots.split_at_checked(start)?;
                after.iter().chain(before).copied().find(|at| is_available(*at))
            }
        }
    }
}

/// Each endpoint has points in proportion to its weight, the lightest at least as many as the minimum asks for.
fn ring(minimum_size: u64, entries: &[Entry]) -> Box<[(u64, u32)]> {
    let total: f64 = entries.iter().map(|entry| entry.weight).sum();
    let lightest = entries.iter().map(|entry| entry.weight / total).fold(1.0, f64::min);
    #[expect(clippy::cast_precision_loss, reason = "sizes beyond 2^53 are cut to the largest ring")]
    let minimum = (minimum_size as f64).min(MAX_POINTS);
    let scale = ((lightest * minimum).ceil() / lightest).min(MAX_POINTS);
    let mut points = Vec::new();
    let (mut made, mut target) = (0.0, 0.0);
    for entry in entries {
        target += scale * entry.weight / total;
        let mut number = 0_u32;
        while made < target {
            points.push((hash(format!("{}_{number}", entry.key).as_bytes()), entry.at));
            number += 1;
            made += 1.0;
        }
    }
    points.sort_unstable();
    points.into()
}

struct Turn {
    at: u32,
    offset: u64,
    skip: u64,
    weight: f64,
    target: f64,
    next: u64,
}

/// The tables of the Maglev paper with Envoy's turns for weights.
fn maglev(size: u32, entries: &[Entry]) -> Box<[u32]> {
    let size = if is_prime(size) && (3..=MAX_MAGLEV).contains(&size) { size } else { MAGLEV_SIZE };
    let slots = u64::from(size);
    let mut turns: Vec<Turn> = entries
        .iter()
        .map(|entry| Turn {
            at: entry.at,
            offset: hash(entry.key.as_bytes()) % slots,
            skip: hash_after(1, entry.key.as_bytes()) % (slots - 1) + 1,
            weight: entry.weight,
            target: 0.0,
            next: 0,
        })
        .collect();
    let heaviest = turns.iter().map(|turn| turn.weight).fold(0.0, f64::max);
    let mut table: Vec<Option<u32>> = vec![None; usize::try_from(size).unwrap_or(0)];
    let mut left = if turns.is_empty() { 0 } else { table.len() };
    let mut round = 1.0;
    while left > 0 {
        for turn in &mut turns {
            if left == 0 {
                break;
            }
            // The heaviest has a slot in every round, others in their share of rounds.
            if round * turn.weight < turn.target {
                continue;
            }
            turn.target += heaviest;
            // A prime size makes each permutation go through every slot.
            loop {
                let slot = (turn.offset + turn.skip * turn.next) % slots;
                turn.next += 1;
                let slot = usize::try_from(slot).ok().and_then(|slot| table.get_mut(slot));
                match slot {
                    Some(free @ None) => {
                        *free = Some(turn.at);
                        left -= 1;
                        break;
                    }
                    Some(Some(_)) => {}
                    None => break,
                }
            }
        }
        round += 1.0;
    }
    table.into_iter().flatten().collect()
}

fn is_prime(number: u32) -> bool {
    number > 1
        && (2..)
            .take_while(|divisor| u64::from(*divisor).pow(2) <= u64::from(number))
            .all(|d| !number.is_multiple_of(d))
}

#[cfg(test)]
mod tests;
