//! Money, exactly.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// So many of the smallest parts are a nano.
pub(super) const PARTS: u128 = 1_000_000_000;

/// An amount of money in billionths of a nano, so that no sum and no order of summing changes it.
///
/// Prices are nanos for a million tokens and factors are thousandths, so every price of a token is a whole number of these
/// parts. It is rounded where somebody is told, or charged, a number of nanos, and nowhere else: see [`Amount::nanos`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(u128);

impl Amount {
    /// So many billionths of a nano.
    pub(super) const fn of_parts(parts: u128) -> Self {
        Self(parts)
    }

    /// In nanos. The one rule of rounding: to the nearest one, and from the middle up.
    #[must_use]
    pub fn nanos(self) -> u64 {
        let whole = self.0 / PARTS;
        let up = u128::from(self.0 % PARTS >= PARTS / 2);
        u64::try_from(whole + up).unwrap_or(u64::MAX)
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_rounded_to_the_nearest_nano_and_from_the_middle_up() {
        let half = PARTS / 2;
        for (parts, nanos) in [
            (0, 0),
            (half - 1, 0),
            (half, 1),
            (PARTS, 1),
            (PARTS + half - 1, 1),
            (PARTS + half, 2),
            (u128::MAX, u64::MAX),
        ] {
            assert_eq!(Amount(parts).nanos(), nanos, "{parts}");
        }
    }
}
