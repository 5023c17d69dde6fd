//! Luck by counting: the n-th draw for an act on a subject is a function of the seed and nothing else. Traffic on one
//! subject does not change the luck of another.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What luck is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Act {
    Publish,
    Request,
    Enqueue,
    Settle,
    Fetch,
    Deliver,
    /// A message at the subscriber of this number.
    Receive(u64),
}

/// All luck of one seed.
pub(super) struct Draws {
    seed: u64,
    /// Draws so far. As many entries as the test has subjects.
    counts: Mutex<HashMap<(Act, String), u64>>,
}

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            counts: Mutex::default(),
        }
    }

    pub(super) fn next(&self, act: Act, subject: &str) -> Draw {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((act, subject.to_owned())).or_insert(0);
        *count += 1;
        let act = match act {
            Act::Publish => 1,
            Act::Request => 2,
            Act::Enqueue => 3,
            Act::Settle => 4,
            Act::Fetch => 5,
            Act::Deliver => 6,
            Act::Receive(subscriber) => 7 + subscriber,
        };
        let subject = subject.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        Draw {
            key: mix(mix(mix(self.seed ^ subject) ^ act) ^ *count),
            index: 0,
        }
    }
}

/// The luck of one act: as many independent numbers as it asks for.
pub(super) struct Draw {
    key: u64,
    index: u64,
}

impl Draw {
    fn number(&mut self) -> u64 {
        self.index += 1;
        mix(self.key ^ self.index)
    }

    /// Uniform, from 0 and below 1.
    fn share(&mut self) -> f64 {
        // The upper 53 bits are what an f64 holds exactly.
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    pub(super) fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.share())
    }
}

/// The finaliser of SplitMix64, a bijection in which every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luck(draws: &Draws, act: Act, subject: &str) -> Vec<u64> {
        (0..8).map(|_| draws.next(act, subject).number()).collect()
    }

    #[test]
    fn luck_is_a_function_of_seed_act_subject_and_count() {
        let (left, right) = (Draws::new(1), Draws::new(1));
        let _ = luck(&right, Act::Publish, "other");
        let _ = luck(&right, Act::Settle, "a");
        let expected = luck(&left, Act::Publish, "a");
        assert_eq!(expected, luck(&right, Act::Publish, "a"));
        assert_ne!(expected, luck(&left, Act::Publish, "a"));
        assert_ne!(expected, luck(&Draws::new(2), Act::Publish, "a"));
    }

    #[test]
    fn probabilities_are_kept() {
        let draws = Draws::new(7);
        let hits = (0..10_000)
            .filter(|_| draws.next(Act::Enqueue, "a").happens(0.25))
            .count();
        assert!((2300..2700).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| draws.next(Act::Enqueue, "b").happens(1.0)));
        assert!(!(0..1000).any(|_| draws.next(Act::Enqueue, "c").happens(0.0)));
    }
}
