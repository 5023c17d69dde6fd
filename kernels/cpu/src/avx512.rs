//! The few AVX-512 operations that touch memory or reinterpret registers.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_loadu_si512, _mm512_storeu_ps,
};

/// How far ahead of its use a panel's line is asked for: a little more than memory's latency times one core's share
/// of its bandwidth.
const AHEAD_BYTES: usize = 2048;

/// Reads 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load(words: &[u32; 16]) -> __m512i {
    // SAFETY: the array is 16 words long.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Writes 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store(sums: &mut [f32; 16], vector: __m512) {
    // SAFETY: the array is 16 numbers long.
    unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), vector) };
}

/// The same bits as 16 pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(words) }
}

/// Asks for the two lines of a panel's row that will be needed soon.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn prefetch(step: &[u32; 32]) {
    let ahead = step.as_ptr().wrapping_byte_add(AHEAD_BYTES).cast();
    // A prefetch reads nothing and does not fault, wherever it points.
    _mm_prefetch::<_MM_HINT_T0>(ahead);
    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
}
