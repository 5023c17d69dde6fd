//! The few AVX-512 operations that touch memory or reinterpret registers.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_or_si512, _mm512_reduce_or_epi64, _mm512_setzero_si512, _mm512_storeu_ps,
};

/// How far ahead of its use a panel's line is asked for: about memory's latency times one core's share of its bandwidth.
/// Some machines prefetch little by themselves: without this, one row streams at a third of the speed.
const AHEAD_BYTES: usize = 4096;

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

/// Reads every word and returns something that depends on all of them.
#[target_feature(enable = "avx512f")]
pub(crate) fn read_all(words: &[u64]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 4];
    for words in words.as_chunks::<32>().0 {
        let ahead = words.as_ptr().wrapping_byte_add(AHEAD_BYTES).cast::<i8>();
        for line in 0..4 {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
        }
        for (sum, words) in sums.iter_mut().zip(words.as_chunks::<8>().0) {
            // SAFETY: the chunk is 64 bytes long.
            let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
            *sum = _mm512_or_si512(*sum, words);
        }
    }
    let sum = _mm512_or_si512(
        _mm512_or_si512(sums[0], sums[1]),
        _mm512_or_si512(sums[2], sums[3]),
    );
    _mm512_reduce_or_epi64(sum).cast_unsigned()
}

/// Reads 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_numbers(numbers: &[f32; 16]) -> __m512 {
    // SAFETY: the array is 16 numbers long.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}
