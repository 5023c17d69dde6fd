//! Passes over single rows: normalisation, rotation, rounding.

use crate::isa::{Isa, for_each_isa};
use crate::math::{Arithmetic, LANES, bf16_bits, sum_of_squares};

/// `into = x / sqrt(mean(x^2) + epsilon) * weight`.
///
/// # Panics
/// When the lengths differ.
pub(crate) fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], epsilon: f32, into: &mut [f32]) {
    assert_eq!(x.len(), weight.len(), "a norm has one weight per element");
    assert_eq!(x.len(), into.len(), "a norm keeps the length");
    rms_norm_fast(isa, x, weight, epsilon, into);
}

for_each_isa! {
    fn rms_norm_fast / rms_norm_lanes(x: &[f32], weight: &[f32], epsilon: f32, into: &mut [f32])
}

#[inline(always)]
fn rms_norm_lanes<A: Arithmetic>(x: &[f32], weight: &[f32], epsilon: f32, into: &mut [f32]) {
    let scale = norm_scale::<A>(x, epsilon);
    for ((into, x), weight) in into.iter_mut().zip(x).zip(weight) {
        *into = x * scale * weight;
    }
}

/// [`rms_norm`] onto itself.
///
/// # Panics
/// When the lengths differ.
pub(crate) fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], epsilon: f32) {
    assert_eq!(x.len(), weight.len(), "a norm has one weight per element");
    rms_norm_in_place_fast(isa, x, weight, epsilon);
}

for_each_isa! {
    fn rms_norm_in_place_fast / rms_norm_in_place_lanes(x: &mut [f32], weight: &[f32], epsilon: f32)
}

#[inline(always)]
fn rms_norm_in_place_lanes<A: Arithmetic>(x: &mut [f32], weight: &[f32], epsilon: f32) {
    let scale = norm_scale::<A>(x, epsilon);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

#[inline(always)]
fn norm_scale<A: Arithmetic>(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum_of_squares::<A>(x) / x.len() as f32 + epsilon).sqrt()
}

/// Rotates element `i` of `head` with element `i + head.len() / 2`.
///
/// # Panics
/// When there is not one cosine and one sine for each pair.
pub(crate) fn rotate(isa: Isa, head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    assert_eq!(head.len(), 2 * cosines.len(), "one cosine turns two elements");
    assert_eq!(head.len(), 2 * sines.len(), "one sine turns two elements");
    let (low, high) = head.split_at_mut(cosines.len());
    rotate_fast(isa, low, high, cosines, sines);
}

for_each_isa! {
    fn rotate_fast / rotate_lanes(low: &mut [f32], high: &mut [f32], cosines: &[f32], sines: &[f32])
}

#[inline(always)]
fn rotate_lanes<A: Arithmetic>(low: &mut [f32], high: &mut [f32], cosines: &[f32], sines: &[f32]) {
    for (((low, high), cosine), sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
        let (first, second) = (*low, *high);
        *low = A::mul_add(first, *cosine, -(second * sine));
        *high = A::mul_add(second, *cosine, first * sine);
    }
}

/// Rounds `values` to little-endian bf16.
///
/// # Panics
/// When `into` is not two bytes for each value.
pub(crate) fn store_bf16(isa: Isa, values: &[f32], into: &mut [u8]) {
    assert_eq!(into.len(), 2 * values.len(), "a bf16 has two bytes");
    store_bf16_fast(isa, values, into);
}

for_each_isa! {
    fn store_bf16_fast / store_bf16_lanes(values: &[f32], into: &mut [u8])
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "bf16_bits returns 16 bits")]
fn store_bf16_lanes<A: Arithmetic>(values: &[f32], into: &mut [u8]) {
    let _: std::marker::PhantomData<A>;
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (into_chunks, into_rest) = into.as_chunks_mut::<{ 2 * LANES }>();
    for (chunk, into) in chunks.iter().zip(into_chunks) {
        for (value, into) in chunk.iter().zip(into.as_chunks_mut::<2>().0) {
            *into = (bf16_bits(*value) as u16).to_le_bytes();
        }
    }
    for (value, into) in rest.iter().zip(into_rest.as_chunks_mut::<2>().0) {
        *into = (bf16_bits(*value) as u16).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{levels, numbers};
    use proptest::prelude::*;
    use vlinders_kernel_reference::ops;

    proptest! {
        #[test]
        fn a_norm_is_that_of_the_reference(length in 1_usize..400, offset in 0_usize..5, seed: u64) {
            let x = &numbers(seed, offset + length)[offset..];
            let weight = &numbers(seed ^ 1, offset + length)[offset..];
            let expected = ops::rms_norm(x, weight, 1e-5);
            for isa in levels() {
                let mut found = vec![f32::NAN; length];
                rms_norm(isa, x, weight, 1e-5, &mut found);
                prop_assert!(ops::relative_l2(&found, &expected) < 1e-6);
                let mut in_place = x.to_vec();
                rms_norm_in_place(isa, &mut in_place, weight, 1e-5);
                prop_assert_eq!(in_place, found);
            }
        }

        #[test]
        fn a_rotation_is_that_of_the_reference(half in 1_usize..70, position in 0_u32..5_000, seed: u64) {
            let frequencies: Vec<f32> = numbers(seed, half).iter().map(|value| value.abs()).collect();
            let head = numbers(seed ^ 1, 2 * half);
            let mut expected = head.clone();
            ops::rotate(&mut expected, &frequencies, position);
            let angles = || frequencies.iter().map(|frequency| ops::rotation(position, *frequency));
            let cosines: Vec<f32> = angles().map(|(cosine, _)| ops::narrow(cosine)).collect();
            let sines: Vec<f32> = angles().map(|(_, sine)| ops::narrow(sine)).collect();
            for isa in levels() {
                let mut found = head.clone();
                rotate(isa, &mut found, &cosines, &sines);
                prop_assert!(ops::relative_l2(&found, &expected) < 1e-6);
            }
        }

        #[test]
        fn stored_bf16_are_rounded(length in 0_usize..70, seed: u64) {
            let values = numbers(seed, length);
            for isa in levels() {
                let mut found = vec![0xAA; 2 * length];
                store_bf16(isa, &values, &mut found);
                for (value, bytes) in values.iter().zip(found.as_chunks::<2>().0) {
                    prop_assert_eq!(half::bf16::from_f32(*value), half::bf16::from_le_bytes(*bytes));
                }
            }
        }
    }
}
