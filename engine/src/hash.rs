//! Consistent hashing: hashes that are the same in every process, and the table that maps them to endpoints.

use twox_hash::XxHash64;

/// Hashes bytes with xxHash64, as Envoy does. The result is the same in every proxy and after every restart.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// Draws from a hash that are independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Draw {
    Priority = 1,
    Share,
    Offset,
    Skip,
}

/// Another hash of the same thing (the finalizer of SplitMix64).
pub(crate) fn mix(hash: u64, salt: u64) -> u64 {
    let mut bits = hash ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number below `bound` for one of the draws.
pub(crate) fn below(hash: u64, draw: Draw, bound: u64) -> u64 {
    mix(hash, draw as u64) % bound.max(1)
}

/// The weighted score of a key for a hash: the highest one is chosen (rendezvous hashing). A key that leaves moves
/// nothing but its own share, and weights hold.
pub(crate) fn score(hash: u64, key: u64, weight: u64) -> f64 {
    // In (0, 1): 53 bits, the middle of each step.
    let unit = ((mix(hash, key) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    weight as f64 / -unit.ln()
}

/// A table of slots, filled by the keys in turn (Maglev, rule L5): each key has nearly the same number of slots, and
/// a change of the keys moves little more than its share.
#[derive(Debug)]
pub(crate) struct Table {
    keys: Vec<u64>,
    slots: Box<[u16]>,
}

impl Table {
    /// Builds the table of keys. `None` where there is nothing to choose. Keys beyond 65,535 have no slot.
    pub(crate) fn build(keys: Vec<u64>, size: u32) -> Option<Self> {
        const FREE: u16 = u16::MAX;
        let (count, size) = (keys.len().min(usize::from(FREE)), size.max(2) as usize);
        if count < 2 {
            return None;
        }
        // The order in which endpoints are listed says nothing.
        let mut order: Vec<u16> = (0..FREE).take(count).collect();
        order.sort_unstable_by_key(|&index| keys[usize::from(index)]);
        let mut steps: Vec<(usize, usize)> = order
            .iter()
            .map(|&index| {
                let below = |draw, bound: usize| below(keys[usize::from(index)], draw, bound as u64) as usize;
                (below(Draw::Offset, size), below(Draw::Skip, size - 1) + 1)
            })
            .collect();
        let mut slots = vec![FREE; size].into_boxed_slice();
        for turn in 0..size {
            let rank = turn % count;
            let (at, skip) = &mut steps[rank];
            // With a prime size every slot is met after at most `size` steps; with another one the next free is taken.
            let mut left = size;
            while slots[*at] != FREE {
                left -= 1;
                *at = (*at + if left == 0 { 1 } else { *skip }) % size;
                left = left.max(1);
            }
            slots[*at] = order[rank];
        }
        Some(Self { keys, slots })
    }

    /// Whether it is the table of these keys and this size.
    pub(crate) fn is_of(&self, keys: &[u64], size: u32) -> bool {
        self.keys == keys && self.slots.len() == size.max(2) as usize
    }

    /// Index of the key that the hash belongs to.
    pub(crate) fn home(&self, hash: u64) -> usize {
        usize::from(self.slots[(hash % self.slots.len() as u64) as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn keys(numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
        numbers.into_iter().map(|number| hash(&number.to_be_bytes())).collect()
    }

    fn counts(table: &Table) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for slot in &table.slots {
            *counts.entry(*slot).or_default() += 1;
        }
        counts
    }

    #[test]
    fn the_hash_is_xxhash64() {
        // The reference values of the algorithm: they must never change, or every client moves.
        assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
    }

    #[test]
    fn one_key_needs_no_table() {
        assert!(Table::build(keys([1]), 11).is_none());
        assert!(Table::build(Vec::new(), 11).is_none());
    }

    #[test]
    fn a_table_without_a_prime_size_is_filled_all_the_same() {
        for size in [2, 4, 6, 100, 1024] {
            let table = Table::build(keys(0..5), size).unwrap();
            assert!(table.slots.iter().all(|slot| *slot < 5));
        }
    }

    #[test]
    fn l5_a_leaving_endpoint_moves_little_more_than_its_share() {
        let (before, after) = (keys(0..20), keys(1..20));
        let (before, after) = (Table::build(before, 65_537).unwrap(), Table::build(after, 65_537).unwrap());
        let moved =
            (0..65_537).filter(|&slot| before.home(slot) != 0 && before.home(slot) != after.home(slot) + 1);
        assert!(moved.count() < 65_537 * 5 / 100, "beside the leaving one's 5 %, fewer than 5 % move");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn l5_slots_are_shared_evenly_whatever_the_keys(numbers in prop::collection::btree_set(any::<u64>(), 2..40)) {
            let count = numbers.len();
            let table = Table::build(keys(numbers), 1009).unwrap();
            let counts = counts(&table);
            prop_assert_eq!(counts.len(), count);
            let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
            prop_assert!(most - least <= 1, "in turn, so they differ by one at most: {:?}", counts);
        }

        #[test]
        fn l5_the_order_of_the_endpoints_says_nothing(
            numbers in prop::collection::btree_set(any::<u64>(), 2..20), seed in any::<u64>(),
        ) {
            let straight = keys(numbers.clone());
            let mut shuffled = straight.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let (one, other) = (Table::build(straight.clone(), 251).unwrap(), Table::build(shuffled.clone(), 251).unwrap());
            for slot in 0..251 {
                prop_assert_eq!(straight[one.home(slot)], shuffled[other.home(slot)]);
            }
        }

        #[test]
        fn a_key_that_leaves_a_rendezvous_moves_its_own_share_only(
            numbers in prop::collection::btree_set(any::<u64>(), 2..10), hashes in prop::collection::vec(any::<u64>(), 100),
        ) {
            let all = keys(numbers);
            let best = |keys: &[u64], hash: u64| {
                keys.iter().copied().max_by(|a, b| score(hash, *a, 1).total_cmp(&score(hash, *b, 1))).unwrap()
            };
            for hash in hashes {
                let before = best(&all, hash);
                if before != all[0] {
                    prop_assert_eq!(best(&all[1..], hash), before);
                }
            }
        }
    }
}
