//! Random numbers that come again with the same seed.

/// A small generator.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(count).unwrap()).unwrap()
    }

    /// True once in so many times.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A part of the documents that a run checks.
pub fn documents(share: u64) -> u64 {
    let all = std::env::var("VLINDERS_GRAMMAR_DOCUMENTS").ok();
    let all: u64 = all.map_or(1500, |all| {
        all.parse().expect("VLINDERS_GRAMMAR_DOCUMENTS is a number")
    });
    all * share / 100
}

/// Where the seeds of a run begin.
pub fn first_seed() -> u64 {
    let seed = std::env::var("VLINDERS_GRAMMAR_SEED").ok();
    seed.map_or(0, |seed| seed.parse().expect("VLINDERS_GRAMMAR_SEED is a number"))
}
