//! Which decode worker gets a sequence: the less loaded of two that are picked at random.
//!
//! Beacons are old by up to half a second. Taking the best of all would send every sequence of that time to the same
//! worker; two random choices spread them and are nearly as good.

use std::cmp::Ordering;

use vlinders_types::{Beacon, Presence};

/// Index of the beacon to offer a sequence of `needed_blocks` to; none when no worker has room. The caller has removed
/// beacons of other models and pools, of the dead, and of those that refused already. `random` is any 64 random bits.
#[must_use]
pub fn choose(beacons: &[Beacon], needed_blocks: u32, random: u64) -> Option<usize> {
    let fit = || (0..beacons.len()).filter(|index| has_room(&beacons[*index], needed_blocks));
    let fit_count = u64::try_from(fit().count()).ok()?;
    if fit_count == 0 {
        return None;
    }
    let first = below(random >> 32, fit_count);
    // Another one than the first, each with the same chance.
    let second = (first + 1 + below(random & 0xFFFF_FFFF, (fit_count - 1).max(1))) % fit_count;
    let pick = |nth: u64| fit().nth(usize::try_from(nth).ok()?);
    let (first, second) = (pick(first)?, pick(second)?);
    match compare_load(&beacons[first], &beacons[second]) {
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

    fn beacon(running: u32, free_blocks: u32, is_draining: bool) -> Beacon {
        Beacon {
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
        }
    }

    #[test]
    fn nobody_with_room_means_no_choice() {
        let beacons = [beacon(10, 50, false), beacon(0, 3, false), beacon(0, 50, true)];
        assert_eq!(choose(&beacons, 4, 7), None);
        assert_eq!(choose(&beacons, 3, 7), Some(1));
        assert_eq!(choose(&[], 0, 7), None);
    }

    #[test]
    fn of_two_the_less_loaded_is_chosen_whatever_the_dice() {
        let by_blocks = [beacon(5, 20, false), beacon(5, 50, false)];
        let by_running = [beacon(9, 50, false), beacon(1, 40, false)];
        for random in [0, 1, u64::MAX, 1 << 63, 0x1234_5678_9ABC_DEF0] {
            assert_eq!(
                (choose(&by_blocks, 1, random), choose(&by_running, 1, random)),
                (Some(1), Some(1))
            );
        }
    }

    #[test]
    fn equals_are_all_chosen_sometimes() {
        let beacons: Vec<_> = (0..5).map(|_| beacon(1, 50, false)).collect();
        let mut random = 1u64;
        let mut counts = [0u32; 5];
        for _ in 0..5000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            counts[choose(&beacons, 1, random ^ (random >> 31)).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn only_workers_with_room_are_chosen(
            states in prop::collection::vec((0u32..12, 0u32..100, any::<bool>()), 0..8),
            needed in 0u32..100,
            random: u64,
        ) {
            let beacons: Vec<_> = states.iter().map(|(run, free, drain)| beacon(*run, *free, *drain)).collect();
            match choose(&beacons, needed, random) {
                Some(index) => prop_assert!(has_room(&beacons[index], needed)),
                None => prop_assert!(!beacons.iter().any(|beacon| has_room(beacon, needed))),
            }
        }
    }
}
