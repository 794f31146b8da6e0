//! What the tables promise, for any set of endpoints.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::subsequence};

use super::*;

fn entries(addresses: &[u32]) -> Vec<Entry> {
    addresses
        .iter()
        .map(|at| Entry { at: *at, key: format!("10.0.{}.{}:80", at / 256, at % 256), weight: 1.0 })
        .collect()
}

fn tables() -> [HashTable; 2] {
    [HashTable::Ring { minimum_size: 1024 }, HashTable::Maglev { size: 251 }]
}

fn choices(kind: HashTable, entries: &[Entry]) -> Vec<Option<u32>> {
    let table = Table::build(kind, entries);
    (0..400_u64).map(|key| table.find(hash(&key.to_be_bytes()), |_| true)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_in_which_endpoints_come_does_not_matter(
        addresses in subsequence((0..40_u32).collect::<Vec<_>>(), 1..20).prop_shuffle()
    ) {
        let mut sorted = addresses.clone();
        sorted.sort_unstable();
        let kind = HashTable::Ring { minimum_size: 1024 };
        prop_assert_eq!(choices(kind, &entries(&addresses)), choices(kind, &entries(&sorted)));
    }

    #[test]
    fn on_a_ring_an_endpoint_that_goes_takes_its_own_keys_along_and_no_others(
        addresses in subsequence((0..40_u32).collect::<Vec<_>>(), 2..20), gone in any::<prop::sample::Index>()
    ) {
        let gone = *gone.get(&addresses);
        // As many points per endpoint whatever their number: the least that a minimum of 1 asks for is one each.
        let rest: Vec<u32> = addresses.iter().copied().filter(|at| *at != gone).collect();
        let table = Table::build(HashTable::Ring { minimum_size: 1024 }, &entries(&addresses));
        for key in 0..400_u64 {
            let key = hash(&key.to_be_bytes());
            let before = table.find(key, |_| true).unwrap();
            let after = table.find(key, |at| at != gone).unwrap();
            prop_assert!(rest.contains(&after));
            prop_assert!(before == gone || before == after);
        }
    }

    #[test]
    fn few_keys_move_when_an_endpoint_comes(
        addresses in subsequence((0..40_u32).collect::<Vec<_>>(), 5..20)
    ) {
        for kind in tables() {
            let more: Vec<u32> = addresses.iter().copied().chain([99]).collect();
            let (before, after) = (choices(kind, &entries(&addresses)), choices(kind, &entries(&more)));
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            // A fair share goes to the newcomer; tables of this size shuffle some more.
            let fair = 400 / more.len();
            prop_assert!(moved <= fair * 3 + 20, "{:?}: {} of 400 moved, a fair share is {}", kind, moved, fair);
        }
    }

    #[test]
    fn an_unavailable_endpoint_is_never_chosen_and_moves_nobody_elses_keys(
        addresses in subsequence((0..40_u32).collect::<Vec<_>>(), 2..20), gone in any::<prop::sample::Index>()
    ) {
        let gone = *gone.get(&addresses);
        for kind in tables() {
            let table = Table::build(kind, &entries(&addresses));
            for key in 0..400_u64 {
                let key = hash(&key.to_be_bytes());
                let (all, rest) = (table.find(key, |_| true).unwrap(), table.find(key, |at| at != gone).unwrap());
                prop_assert!(rest != gone && (all == gone || all == rest));
            }
        }
    }
}

#[test]
fn shares_follow_weights() {
    let mut weighted = entries(&[1, 2]);
    weighted[0].weight = 3.0;
    for kind in [HashTable::Ring { minimum_size: 4096 }, HashTable::Maglev { size: 65_537 }] {
        let table = Table::build(kind, &weighted);
        let mut counts = BTreeMap::<u32, u32>::new();
        for key in 0..10_000_u64 {
            *counts.entry(table.find(hash(&key.to_be_bytes()), |_| true).unwrap()).or_default() += 1;
        }
        assert!((7000..8000).contains(&counts[&1]), "{kind:?}: {counts:?}");
    }
}

#[test]
fn odd_sizes_and_no_endpoints_are_harmless() {
    for size in [0, 1, 2, 4, 250, u32::MAX] {
        let table = Table::build(HashTable::Maglev { size }, &entries(&[1, 2]));
        assert!(table.find(7, |_| true).is_some(), "{size}");
    }
    for kind in
        [HashTable::Maglev { size: 251 }, HashTable::Ring { minimum_size: 1024 }, HashTable::Ring { minimum_size: 0 }]
    {
        assert_eq!(Table::build(kind, &[]).find(7, |_| true), None);
    }
    let table = Table::build(HashTable::Ring { minimum_size: u64::MAX }, &entries(&[1]));
    assert_eq!(table.find(7, |_| true), Some(1));
    assert_eq!(table.find(7, |_| false), None);
}

#[test]
fn the_hash_is_envoys() {
    // Known answers of xxHash64 with seed 0.
    assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
    assert_eq!(hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
}
