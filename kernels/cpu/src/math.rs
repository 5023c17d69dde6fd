//! Arithmetic on lanes of numbers, written so that the compiler turns it into vectors of any width with the same bits:
//! every lane is computed alone, and lanes are folded in one fixed order.

/// How a product is added. Fixed per instruction set, so one path always gives the same bits.
pub(crate) trait Arithmetic {
    /// `a * b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding; only fast where the CPU has the instruction.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) struct Fused;
/// Two roundings.
pub(crate) struct Plain;

#[cfg(any(test, target_arch = "x86_64"))]
impl Arithmetic for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Arithmetic for Plain {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Lanes of attention scores: the tokens of one block.
pub(crate) const LANES: usize = 16;

/// Below this, `exp` is less than the smallest normal number and counts as zero.
const LOWEST: f32 = -87.3;
/// Above this, `exp` would overflow; it stays at about 2e38.
const HIGHEST: f32 = 88.0;
/// Adding this to a small number rounds it to an integer, found in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// `exp(x)` to about 1 unit in the last place; 0 below -87.3, about 2e38 above 88, NaN for NaN. Branch-free.
#[inline(always)]
pub(crate) fn exp<A: Arithmetic>(x: f32) -> f32 {
    // ln 2 in two parts: the first has few bits, so that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons that keep NaN.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let rounded = A::mul_add(clamped, std::f32::consts::LOG2_E, ROUNDER);
    let power = rounded - ROUNDER;
    let rest = A::mul_add(power, -LN_2_HIGH, clamped);
    let rest = A::mul_add(power, -LN_2_LOW, rest);
    // Minimax polynomial of exp on [-ln 2 / 2, ln 2 / 2].
    let mut sum = 1.987_569_1e-4;
    sum = A::mul_add(sum, rest, 1.398_199_9e-3);
    sum = A::mul_add(sum, rest, 8.333_452e-3);
    sum = A::mul_add(sum, rest, 4.166_579_6e-2);
    sum = A::mul_add(sum, rest, 1.666_666_5e-1);
    sum = A::mul_add(sum, rest, 0.5);
    let square = rest * rest;
    sum = A::mul_add(sum, square, rest) + 1.0;
    // 2^power: its bits are the rounded number's low ones plus the exponent's bias, shifted into place.
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < LOWEST { 0.0 } else { sum * scale }
}

/// `x / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn silu<A: Arithmetic>(x: f32) -> f32 {
    x / (1.0 + exp::<A>(-x))
}

/// The bits of `value` rounded to bf16, nearest even; NaN stays NaN.
#[inline(always)]
pub(crate) fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { 0x7FC0 } else { rounded }
}

/// Two numbers rounded to bf16 in one word, the first in the low half.
#[inline(always)]
pub(crate) fn bf16_pair(low: f32, high: f32) -> u32 {
    bf16_bits(low) | (bf16_bits(high) << 16)
}

/// The number whose upper half is `bits`.
#[inline(always)]
pub(crate) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Sum of the lanes, halves added to halves.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Largest lane.
#[inline(always)]
pub(crate) fn max_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = if lanes[lane] > lanes[lane + half] {
                lanes[lane]
            } else {
                lanes[lane + half]
            };
        }
    }
    lanes[0]
}

/// Sum of squares.
#[inline(always)]
pub(crate) fn sum_of_squares<A: Arithmetic>(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = A::mul_add(*value, *value, *sum);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum = A::mul_add(*value, *value, *sum);
    }
    sum_lanes(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(found: f32, expected: f64) -> bool {
        (f64::from(found) - expected).abs() <= expected.abs() * 2.5e-7
    }

    proptest! {
        #[test]
        fn exp_is_close_on_its_whole_range(x in -87.0_f32..88.0) {
            prop_assert!(close(exp::<Fused>(x), f64::from(x).exp()), "{x}");
        }

        #[test]
        fn exp_without_fused_products_is_close_where_softmax_needs_it(x in -20.0_f32..0.0) {
            prop_assert!(close(exp::<Plain>(x), f64::from(x).exp()), "{x}");
        }

        #[test]
        fn rounding_to_bf16_is_that_of_the_reference(bits: u32) {
            let value = f32::from_bits(bits);
            let expected = half::bf16::from_f32(value);
            prop_assert!(value.is_nan() || bf16_bits(value) == u32::from(expected.to_bits()));
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!((exp::<Fused>(0.0), exp::<Plain>(0.0)), (1.0, 1.0));
        assert_eq!((exp::<Fused>(f32::NEG_INFINITY), exp::<Fused>(-1e9)), (0.0, 0.0));
        assert!(exp::<Fused>(f32::NAN).is_nan() && exp::<Fused>(f32::INFINITY) > 1e38);
        assert_eq!(bf16_bits(f32::from_bits(0x7FFF_FFFF)), 0x7FC0);
    }

    #[test]
    fn folds_see_every_lane() {
        let lanes: [f32; LANES] = std::array::from_fn(|lane| lane as f32);
        assert_eq!((sum_lanes(lanes), max_lanes(lanes)), (120.0, 15.0));
        assert_eq!(sum_of_squares::<Plain>(&[1.0; 35]), 35.0);
    }
}
