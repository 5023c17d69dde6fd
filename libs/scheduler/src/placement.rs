//! Which decode worker gets a sequence: the less loaded of two that are picked at random, or the one that has the longest
//! beginning of it in its pool already, unless that one is much fuller.
//!
//! Beacons are old by up to half a second. Taking the best of all would send every sequence of that time to the same
//! worker; two random choices spread them and are nearly as good. Blocks that are there already need no transfer and no
//! second copy. That is worth some imbalance and not all of it: a prefix that everybody shares must not end up in one pool.

use std::cmp::Ordering;

use vlinders_types::{Beacon, Presence};

/// How much fuller, in 1/65536 of its capacity, a worker may be to be chosen for a prefix that is the whole prompt.
const WORTH_OF_A_PROMPT: u64 = 1 << 14;

/// A worker to offer a sequence to.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// How it stands.
    pub beacon: Beacon,
    /// Leading blocks of the sequence that are likely in its pool.
    pub cached_blocks: u32,
}

/// Index of the candidate to offer a sequence of `needed_blocks` to; none when no worker has room. The caller has removed
/// workers of other models and pools, the dead, and those that refused already. `random` is any 64 random bits.
#[must_use]
pub fn choose(candidates: &[Candidate], needed_blocks: u32, random: u64) -> Option<usize> {
    let less_loaded = choose_by_load(candidates, needed_blocks, random)?;
    let has_most = (0..candidates.len())
        .filter(|index| has_room(&candidates[*index].beacon, needed_blocks))
        .max_by(|left, right| {
            let (left, right) = (&candidates[*left], &candidates[*right]);
            let by_cached = left.cached_blocks.cmp(&right.cached_blocks);
            by_cached.then_with(|| compare_load(&right.beacon, &left.beacon))
        })?;
    let (plain, cached) = (&candidates[less_loaded], &candidates[has_most]);
    let saved_blocks = cached.cached_blocks.saturating_sub(plain.cached_blocks);
    let worth =
        WORTH_OF_A_PROMPT * u64::from(saved_blocks.min(needed_blocks)) / u64::from(needed_blocks.max(1));
    let is_worth_it = saved_blocks > 0 && load(&cached.beacon) <= load(&plain.beacon) + worth;
    Some(if is_worth_it { has_most } else { less_loaded })
}

fn choose_by_load(candidates: &[Candidate], needed_blocks: u32, random: u64) -> Option<usize> {
    let fit = || (0..candidates.len()).filter(|index| has_room(&candidates[*index].beacon, needed_blocks));
    let fit_count = u64::try_from(fit().count()).ok()?;
    if fit_count == 0 {
        return None;
    }
    let first = below(random >> 32, fit_count);
    // Another one than the first, each with the same chance.
    let second = (first + 1 + below(random & 0xFFFF_FFFF, (fit_count - 1).max(1))) % fit_count;
    let pick = |nth: u64| fit().nth(usize::try_from(nth).ok()?);
    let (first, second) = (pick(first)?, pick(second)?);
    match compare_load(&candidates[first].beacon, &candidates[second].beacon) {
        Ordering::Less | Ordering::Equal => Some(first),
        Ordering::Greater => Some(second),
    }
}

fn has_room(beacon: &Beacon, needed_blocks: u32) -> bool {
    beacon.presence == Presence::Serving
        && beacon.running < beacon.max_running
        && beacon.free_blocks >= needed_blocks
}

/// `bits` is 32 random bits; the result is below `bound`, which is less than 2^32.
fn below(bits: u64, bound: u64) -> u64 {
    (bits * bound) >> 32
}

/// The scarcer of its two resources is a worker's load; between equals the one with fewer queued tokens.
fn compare_load(left: &Beacon, right: &Beacon) -> Ordering {
    let (left_load, right_load) = (load(left), load(right));
    left_load
        .cmp(&right_load)
        .then(left.queued_tokens.cmp(&right.queued_tokens))
}

/// The larger share of running sequences or used blocks, in 1/65536.
fn load(beacon: &Beacon) -> u64 {
    let share = |used: u32, all: u32| (u64::from(used) << 16) / u64::from(all.max(1));
    let used_blocks = beacon.total_blocks.saturating_sub(beacon.free_blocks);
    share(beacon.running, beacon.max_running).max(share(used_blocks, beacon.total_blocks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vlinders_types::{Epoch, ModelName, Pool, WorkerId};

    fn candidate(running: u32, free_blocks: u32, is_draining: bool) -> Candidate {
        let beacon = Beacon {
            pool: Pool::Decode,
            worker: WorkerId::new("d"),
            epoch: Epoch(1),
            model: ModelName::new("m"),
            free_blocks,
            total_blocks: 100,
            running,
            max_running: 10,
            queued_tokens: 0,
            last_batch_seq: Vec::new(),
            presence: if is_draining {
                Presence::Draining
            } else {
                Presence::Serving
            },
            recent_prefixes: [].into(),
        };
        Candidate {
            beacon,
            cached_blocks: 0,
        }
    }

    #[test]
    fn nobody_with_room_means_no_choice() {
        let candidates = [
            candidate(10, 50, false),
            candidate(0, 3, false),
            candidate(0, 50, true),
        ];
        assert_eq!(choose(&candidates, 4, 7), None);
        assert_eq!(choose(&candidates, 3, 7), Some(1));
        assert_eq!(choose(&[], 0, 7), None);
    }

    #[test]
    fn of_two_the_less_loaded_is_chosen_whatever_the_dice() {
        let by_blocks = [candidate(5, 20, false), candidate(5, 50, false)];
        let by_running = [candidate(9, 50, false), candidate(1, 40, false)];
        for random in [0, 1, u64::MAX, 1 << 63, 0x1234_5678_9ABC_DEF0] {
            assert_eq!(
                (choose(&by_blocks, 1, random), choose(&by_running, 1, random)),
                (Some(1), Some(1))
            );
        }
    }

    #[test]
    fn equals_are_all_chosen_sometimes() {
        let candidates: Vec<_> = (0..5).map(|_| candidate(1, 50, false)).collect();
        let mut random = 1u64;
        let mut counts = [0u32; 5];
        for _ in 0..5000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            counts[choose(&candidates, 1, random ^ (random >> 31)).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_prefix_draws_its_sequence_unless_its_worker_is_much_fuller() {
        let holds = |running, cached_blocks| Candidate {
            cached_blocks,
            ..candidate(running, 90, false)
        };
        for random in [0, 1, u64::MAX, 1 << 63, 0x1234_5678_9ABC_DEF0] {
            let chosen = |candidates: &[Candidate]| choose(candidates, 8, random);
            // A quarter fuller is what a whole prompt is worth; three tenths are too much.
            assert_eq!(chosen(&[holds(1, 0), holds(3, 8)]), Some(1));
            assert_eq!(chosen(&[holds(1, 0), holds(4, 8)]), Some(0));
            // Half a prompt is worth half as much.
            assert_eq!(chosen(&[holds(1, 0), holds(2, 4)]), Some(1));
            assert_eq!(chosen(&[holds(1, 0), holds(3, 4)]), Some(0));
            // What both have says nothing; of equals the emptier one.
            assert_eq!(chosen(&[holds(1, 8), holds(2, 8)]), Some(0));
            // No room, no choice.
            assert_eq!(chosen(&[holds(10, 8), holds(9, 0)]), Some(1));
        }
    }

    #[test]
    fn the_longest_prefix_is_found_among_many() {
        let mut candidates: Vec<_> = (0..50).map(|_| candidate(1, 90, false)).collect();
        candidates[17].cached_blocks = 3;
        candidates[33].cached_blocks = 5;
        for random in 0..100u64 {
            assert_eq!(
                choose(&candidates, 8, random.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                Some(33)
            );
        }
    }

    proptest! {
        #[test]
        fn only_workers_with_room_are_chosen(
            states in prop::collection::vec((0u32..12, 0u32..100, any::<bool>()), 0..8),
            needed in 0u32..100,
            random: u64,
        ) {
            let candidates: Vec<_> = states.iter().map(|(run, free, drain)| candidate(*run, *free, *drain)).collect();
            match choose(&candidates, needed, random) {
                Some(index) => prop_assert!(has_room(&candidates[index].beacon, needed)),
                None => prop_assert!(!candidates.iter().any(|one| has_room(&one.beacon, needed))),
            }
        }
    }
}
