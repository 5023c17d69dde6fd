//! Numbers that look random and are the same for the same seed, so that a run can be repeated.

/// A generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

/// What numbers are drawn for. Each purpose has a sequence of its own, so that more draws for one do not change another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// When requests are due.
    Arrivals,
    /// How long prompts are.
    PromptLengths,
    /// How long answers may be.
    OutputLengths,
    /// The words that all prompts share.
    SharedWords,
    /// The words of one prompt alone.
    UniqueWords,
}

impl Random {
    /// The sequence of this seed for this purpose.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        // The first draw scatters neighbouring seeds and purposes over the whole range.
        let mut random = Self {
            state: seed ^ ((purpose as u64 + 1) << 56),
        };
        random.state = random.next_u64();
        random
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// At least 0 and below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From `least` to `most`, both included.
    ///
    /// # Panics
    /// When `most` is less than `least`.
    pub fn between(&mut self, least: u32, most: u32) -> u32 {
        assert!(least <= most, "an empty range has no numbers");
        let width = u64::from(most - least) + 1;
        // The high half of the product: every number's share differs by less than 2^-32.
        let scaled = (u128::from(self.next_u64()) * u128::from(width)) >> 64;
        least + u32::try_from(scaled).expect("less than a width of at most 2^32")
    }

    /// Exponentially distributed with mean 1: the time between two events of a Poisson process.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Normally distributed with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(count: u32, mut draw: impl FnMut() -> f64) -> f64 {
        (0..count).map(|_| draw()).sum::<f64>() / f64::from(count)
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_purposes_differ() {
        let draws = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            [random.next_u64(), random.next_u64()]
        };
        assert_eq!(draws(7, Purpose::Arrivals), draws(7, Purpose::Arrivals));
        assert_ne!(draws(7, Purpose::Arrivals), draws(8, Purpose::Arrivals));
        assert_ne!(draws(7, Purpose::Arrivals), draws(7, Purpose::UniqueWords));
    }

    #[test]
    fn distributions_have_their_means_and_ranges() {
        let mut random = Random::new(1, Purpose::Arrivals);
        assert!((mean(100_000, || random.exponential()) - 1.0).abs() < 0.02);
        assert!(mean(100_000, || random.normal()).abs() < 0.02);
        assert!((mean(100_000, || random.normal().powi(2)) - 1.0).abs() < 0.03);
        let drawn: Vec<u32> = (0..1000).map(|_| random.between(3, 6)).collect();
        assert_eq!(
            (drawn.iter().min(), drawn.iter().max()),
            (Some(&3), Some(&6)),
            "both ends are drawn"
        );
        assert_eq!(random.between(9, 9), 9);
    }
}
