//! Unnormalised probabilities as integers. Integer sums are exact in any order, so totals, thresholds and the draw
//! do not depend on how a loop was vectorised.

/// The weight of the most likely token. A vocabulary of 2^23 tokens of this weight sums to 2^63, and what
/// rounds to zero is less than a 10^-12th as likely as the most likely token.
pub(crate) const FULL: u64 = 1 << 40;
const FULL_F64: f64 = 1_099_511_627_776.0;
/// Adding this to a smaller non-negative number leaves its rounded integer value in the low mantissa bits. Unlike a
/// cast it vectorises everywhere.
const MANTISSA: f64 = 4_503_599_627_370_496.0;
const MANTISSA_MASK: u64 = (1 << 52) - 1;

/// How logits become weights: `exp((logit - max) / temperature)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weigher {
    /// The largest logit, finite; its weight is [`FULL`].
    pub(crate) max: f32,
    /// Above zero.
    pub(crate) temperature: f32,
}

impl Weigher {
    #[inline]
    pub(crate) fn weight(self, logit: f32) -> u64 {
        fixed_point(exp_of_negative((logit - self.max) / self.temperature))
    }

    /// The sum over a run of logits.
    #[inline]
    pub(crate) fn sum(self, logits: &[f32]) -> u64 {
        logits.iter().map(|logit| self.weight(*logit)).sum()
    }
}

/// The smallest weight that is at least `share` of the full one.
pub(crate) fn at_least_share(share: f32) -> u64 {
    // NaN is read as 0, which keeps everything.
    fixed_point(if share > 0.0 { share.min(1.0) } else { 0.0 })
}

/// `value`, 0 to 1, in units of 1/[`FULL`], rounded to nearest.
#[inline]
fn fixed_point(value: f32) -> u64 {
    (f64::from(value) * FULL_F64 + MANTISSA).to_bits() & MANTISSA_MASK
}

/// `exp(x)` for `x <= 0` with an error below two units in the last place; 0 below -87 and for NaN. `exp(0)` is 1.
/// Written out because the platform's function is neither the same everywhere nor vectorised.
#[inline]
fn exp_of_negative(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    /// 1.5 x 2^23: adding it rounds to an integer that is then found in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few enough bits that its product with the exponent is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let in_range = x >= LOWEST;
    let x = if in_range { x } else { LOWEST };
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let exponent = rounded - ROUNDER;
    let rest = (x - exponent * LN2_HIGH) - exponent * LN2_LOW;
    let mut series = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        series = series * rest + coefficient;
    }
    let power = series * (rest * rest) + rest + 1.0;
    // The exponent is -126 to 0, so this is a normal number.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if in_range { power * scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close_to_the_true_one() {
        for step in 0_u16..=8_700 {
            let x = -f32::from(step) / 100.0;
            let (ours, truth) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            assert!(
                (ours - truth).abs() <= truth * 2.4e-7,
                "exp({x}) = {truth}, not {ours}"
            );
        }
    }

    #[test]
    fn the_ends_of_the_exponential_are_exact() {
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-0.0), 1.0);
        for none in [-87.1, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp_of_negative(none), 0.0);
        }
    }

    #[test]
    fn weights_are_rounded_to_nearest() {
        assert_eq!(fixed_point(1.0), FULL);
        assert_eq!(fixed_point(0.5), FULL / 2);
        assert_eq!(fixed_point(0.0), 0);
        assert_eq!(fixed_point(0.75 / 1_099_511_627_776.0), 1);
    }

    #[test]
    fn a_forbidden_logit_has_no_weight_at_any_temperature() {
        for temperature in [1e-40, 1.0, f32::INFINITY] {
            let weigher = Weigher {
                max: 3.0,
                temperature,
            };
            assert_eq!(weigher.weight(f32::NEG_INFINITY), 0);
            assert_eq!(weigher.weight(3.0), FULL);
        }
    }
}
