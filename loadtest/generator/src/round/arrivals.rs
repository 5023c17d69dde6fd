//! When requests are due.

use std::time::Duration;

use tokio::time::Instant;

use crate::random::{Purpose, Random};

/// The load that is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Open loop: so many requests a second on average, whatever the server does (a Poisson process).
    Rate(f64),
    /// Closed loop: so many requests at once, the next one when one has ended.
    Concurrency(u32),
}

/// Points in time of a Poisson process.
#[derive(Debug)]
pub(crate) struct Arrivals {
    random: Random,
    mean_gap: Duration,
    next: Instant,
}

impl Arrivals {
    /// Arrivals from `start` on.
    pub(crate) fn new(rate: f64, start: Instant, seed: u64) -> Self {
        let mut arrivals = Self {
            random: Random::new(seed, Purpose::Arrivals),
            mean_gap: Duration::from_secs_f64(1.0 / rate),
            next: start,
        };
        arrivals.advance();
        arrivals
    }

    /// The next one.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }

    /// Goes on to the one after.
    pub(crate) fn advance(&mut self) {
        self.next += self.mean_gap.mul_f64(self.random.exponential());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_their_rate_and_the_spread_of_a_poisson_process() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(50.0, start, 1);
        let mut in_second = [0_u32; 400];
        for (second, count) in (1..).zip(&mut in_second) {
            while arrivals.next() < start + Duration::from_secs(second) {
                *count += 1;
                arrivals.advance();
            }
        }
        let mean = f64::from(in_second.iter().sum::<u32>()) / 400.0;
        let variance = in_second
            .iter()
            .map(|count| (f64::from(*count) - mean).powi(2))
            .sum::<f64>()
            / 400.0;
        assert!((mean / 50.0 - 1.0).abs() < 0.03, "{mean}");
        assert!((0.75..1.25).contains(&(variance / mean)), "{variance}");
    }
}
