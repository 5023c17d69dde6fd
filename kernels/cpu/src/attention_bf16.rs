//! Attention with bf16 dot products: queries and shares are rounded to bf16, sums are f32.

use std::arch::x86_64::{
    __m256bh, __m512, __m512i, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_loadu_si256,
    _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_mask_mov_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32,
    _mm512_storeu_si512, _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use crate::attention::{Attention, QueryRun, ROWS_AT_ONCE, Scores, Scratch, Steps, attend_with};
use crate::avx512::{load, load_numbers, pairs, store};
use crate::math::{self, Fused, LANES, bf16_pair};
use crate::softmax::{Running, Seen, TILE, TILE_BLOCKS};

/// See [`crate::attention::attend`], whose checks it relies on.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn attend(job: &Attention<'_>, run: QueryRun, kv_head: u32, scratch: &mut Scratch) {
    attend_with(job, run, kv_head, scratch, &Pairs { _only_made_here: () });
}

/// Pairs of bf16. Made only by [`attend`], so where there is one the CPU has its instructions.
struct Pairs {
    _only_made_here: (),
}

impl Steps for Pairs {
    #[inline(always)]
    fn store_query(&self, scratch: &mut Scratch, row: usize, query: &[f32]) {
        store_query(scratch, row, query);
    }

    #[inline(always)]
    fn load_block(&self, scratch: &mut Scratch, index: usize, (keys, values): (&[u8], &[u8]), valid: usize) {
        // SAFETY: `attend` made `self`, and runs only where the CPU has these features.
        unsafe { load_keys(scratch, index, keys, valid) };
        // SAFETY: as above.
        unsafe { load_values(scratch, index, values, valid) };
    }

    #[inline(always)]
    fn scores(&self, scratch: &Scratch, first_row: usize, into: &mut Scores) {
        // SAFETY: `attend` made `self`, and runs only where the CPU has these features.
        unsafe { scores(scratch, first_row, into) };
    }

    #[inline(always)]
    fn softmax(&self, scores: &mut [f32; TILE], running: &mut Running, scale: f32, seen: Seen) -> f32 {
        // SAFETY: `attend` made `self`, and runs only where the CPU has these features.
        unsafe { softmax_step(scores, running, scale, seen) }
    }

    #[inline(always)]
    fn accumulate(
        &self,
        scratch: &mut Scratch,
        first_row: usize,
        blocks: usize,
        shares: &Scores,
        corrections: [f32; ROWS_AT_ONCE],
    ) {
        // SAFETY: `attend` made `self`, and runs only where the CPU has these features.
        unsafe { accumulate(scratch, first_row, blocks, shares, corrections) };
    }
}

#[inline(always)]
fn store_query(scratch: &mut Scratch, row: usize, query: &[f32]) {
    let pairs = query.len() / 2;
    let into = scratch.queries[row * pairs..][..pairs].iter_mut();
    for (into, [low, high]) in into.zip(query.as_chunks::<2>().0) {
        *into = bf16_pair(*low, *high);
    }
}

/// Turns `[token][head_dim]` into `[head_dim / 2][token]` pairs. Lanes of tokens that do not exist hold anything:
/// their scores are masked.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
fn load_keys(scratch: &mut Scratch, index: usize, keys: &[u8], valid: usize) {
    let token_bytes = scratch.head_dim * 2;
    let width = scratch.head_dim / 2;
    let into = &mut scratch.keys.as_chunks_mut::<LANES>().0[index * width..][..width];
    let whole = scratch.head_dim / 32;
    for part in 0..whole {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, key) in rows.iter_mut().zip(keys.chunks_exact(token_bytes)) {
            *row = load_bytes(&key.as_chunks::<64>().0[part]);
        }
        let columns = transpose(rows);
        for (into, column) in into[part * 16..][..16].iter_mut().zip(columns) {
            store_words(into, column);
        }
    }
    for (token, key) in keys.chunks_exact(token_bytes).take(valid).enumerate() {
        let rest = key.as_chunks::<4>().0.iter().enumerate().skip(whole * 16);
        for (pair, bytes) in rest {
            into[pair][token] = u32::from_le_bytes(*bytes);
        }
    }
}

/// Turns `[token][head_dim]` into `[token / 2][padded]` pairs of neighbouring tokens. What lies behind the last token
/// was left by somebody else and becomes zero, since even a share of 0 times NaN is NaN.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
fn load_values(scratch: &mut Scratch, index: usize, values: &[u8], valid: usize) {
    let token_bytes = scratch.head_dim * 2;
    let pairs = LANES / 2 * scratch.padded;
    let rows = scratch.values[index * pairs..][..pairs].chunks_exact_mut(scratch.padded);
    for (index, (into, both)) in rows.zip(values.chunks_exact(2 * token_bytes)).enumerate() {
        let (first, second) = both.split_at(token_bytes);
        let exists = [2 * index < valid, 2 * index + 1 < valid];
        let (into, into_rest) = into.as_chunks_mut::<16>();
        let _ = into_rest;
        let (first, first_rest) = first.as_chunks::<32>();
        let (second, second_rest) = second.as_chunks::<32>();
        for ((into, first), second) in into.iter_mut().zip(first).zip(second) {
            let low = if exists[0] {
                widen(first)
            } else {
                _mm512_setzero_si512()
            };
            let high = if exists[1] {
                widen(second)
            } else {
                _mm512_setzero_si512()
            };
            store_words(into, _mm512_or_si512(low, _mm512_slli_epi32::<16>(high)));
        }
        let rest = first_rest
            .as_chunks::<2>()
            .0
            .iter()
            .zip(second_rest.as_chunks::<2>().0);
        let Some(into) = into.get_mut(first.len()) else {
            continue;
        };
        for (into, (low, high)) in into.iter_mut().zip(rest) {
            let low = if exists[0] {
                u32::from(u16::from_le_bytes(*low))
            } else {
                0
            };
            let high = if exists[1] {
                u32::from(u16::from_le_bytes(*high))
            } else {
                0
            };
            *into = low | (high << 16);
        }
    }
}

/// Each score is one sum over the head's pairs in ascending order.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
fn scores(scratch: &Scratch, first_row: usize, into: &mut Scores) {
    let width = scratch.head_dim / 2;
    let queries: [&[u32]; ROWS_AT_ONCE] =
        std::array::from_fn(|row| &scratch.queries[(first_row + row) * width..][..width]);
    let all = scratch.keys.as_chunks::<LANES>().0;
    let keys: [&[[u32; LANES]]; TILE_BLOCKS] = std::array::from_fn(|block| &all[block * width..][..width]);
    let mut sums = [[_mm512_setzero_ps(); TILE_BLOCKS]; ROWS_AT_ONCE];
    for pair in 0..width {
        let mut query = [_mm512_setzero_si512(); ROWS_AT_ONCE];
        for row in 0..ROWS_AT_ONCE {
            query[row] = _mm512_set1_epi32(queries[row][pair].cast_signed());
        }
        for block in 0..TILE_BLOCKS {
            let keys = pairs(load(&keys[block][pair]));
            for row in 0..ROWS_AT_ONCE {
                sums[row][block] = _mm512_dpbf16_ps(sums[row][block], pairs(query[row]), keys);
            }
        }
    }
    for (into, sums) in into.iter_mut().zip(sums) {
        for (into, sums) in into.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            store(into, sums);
        }
    }
}

/// Each element of the context is one sum over the pairs of tokens in ascending order.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
fn accumulate(
    scratch: &mut Scratch,
    first_row: usize,
    blocks: usize,
    shares: &Scores,
    corrections: [f32; ROWS_AT_ONCE],
) {
    /// Vectors of each row's context that are summed at once.
    const VECTORS: usize = 2;
    let padded = scratch.padded;
    let mut rounded = [[0_u32; TILE / 2]; ROWS_AT_ONCE];
    for (rounded, shares) in rounded.iter_mut().zip(shares) {
        for (rounded, shares) in rounded
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(shares.as_chunks::<LANES>().0)
        {
            *rounded = words(_mm512_cvtneps_pbh(load_numbers(shares)));
        }
    }
    let contexts = scratch.context[first_row * padded..][..ROWS_AT_ONCE * padded]
        .as_chunks_mut::<16>()
        .0;
    let vectors = padded / 16;
    let values = scratch.values[..blocks * (LANES / 2) * padded]
        .as_chunks::<16>()
        .0;
    for first in (0..vectors).step_by(VECTORS) {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS_AT_ONCE];
        for row in 0..ROWS_AT_ONCE {
            let correction = _mm512_set1_ps(corrections[row]);
            for vector in 0..VECTORS {
                let before = load_numbers(&contexts[row * vectors + first + vector]);
                sums[row][vector] = _mm512_mul_ps(before, correction);
            }
        }
        for (pair, values) in values.chunks_exact(vectors).enumerate() {
            let values = [pairs(load(&values[first])), pairs(load(&values[first + 1]))];
            for row in 0..ROWS_AT_ONCE {
                let share = pairs(_mm512_set1_epi32(rounded[row][pair].cast_signed()));
                for vector in 0..VECTORS {
                    sums[row][vector] = _mm512_dpbf16_ps(sums[row][vector], share, values[vector]);
                }
            }
        }
        for row in 0..ROWS_AT_ONCE {
            for vector in 0..VECTORS {
                store(&mut contexts[row * vectors + first + vector], sums[row][vector]);
            }
        }
    }
}

/// As `softmax::softmax_step`.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
fn softmax_step(scores: &mut [f32; TILE], running: &mut Running, scale: f32, seen: Seen) -> f32 {
    // Not empty, so both shifts are less than 64.
    let seen = (u64::MAX >> (64 - seen.end)) & (u64::MAX << seen.first);
    let scale = _mm512_set1_ps(scale);
    let mut parts = [_mm512_setzero_ps(); TILE_BLOCKS];
    for (block, scores) in scores.as_chunks::<LANES>().0.iter().enumerate() {
        let [low, high, ..] = (seen >> (16 * block)).to_le_bytes();
        let scaled = _mm512_mul_ps(load_numbers(scores), scale);
        let hidden = _mm512_set1_ps(f32::NEG_INFINITY);
        parts[block] = _mm512_mask_mov_ps(hidden, u16::from_le_bytes([low, high]), scaled);
    }
    let tile_largest = _mm512_reduce_max_ps(_mm512_max_ps(
        _mm512_max_ps(parts[0], parts[1]),
        _mm512_max_ps(parts[2], parts[3]),
    ));
    let largest = if tile_largest > running.largest {
        tile_largest
    } else {
        running.largest
    };
    let correction = math::exp::<Fused>(running.largest - largest);
    let largest_lanes = _mm512_set1_ps(largest);
    for (part, scores) in parts.iter_mut().zip(scores.as_chunks_mut::<LANES>().0) {
        *part = exp(_mm512_sub_ps(*part, largest_lanes));
        store(scores, *part);
    }
    let sum = _mm512_add_ps(
        _mm512_add_ps(parts[0], parts[1]),
        _mm512_add_ps(parts[2], parts[3]),
    );
    running.largest = largest;
    running.sum = running.sum.mul_add(correction, _mm512_reduce_add_ps(sum));
    correction
}

/// As `math::exp`, for numbers that are not above zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let [one, two, three, four, five, six] = [
        0.5,
        1.666_666_5e-1,
        4.166_579_6e-2,
        8.333_452e-3,
        1.398_199_9e-3,
        1.987_569_1e-4,
    ]
    .map(|c| _mm512_set1_ps(c));
    // Written so that NaN is kept.
    let vanishes = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_set1_ps(-87.3));
    let scaled = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let power = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(scaled);
    let rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693_359_4), x);
    let rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(-2.121_944_4e-4), rest);
    let mut sum = _mm512_fmadd_ps(six, rest, five);
    for coefficient in [four, three, two, one] {
        sum = _mm512_fmadd_ps(sum, rest, coefficient);
    }
    let sum = _mm512_add_ps(
        _mm512_fmadd_ps(sum, _mm512_mul_ps(rest, rest), rest),
        _mm512_set1_ps(1.0),
    );
    _mm512_mask_mov_ps(_mm512_scalef_ps(sum, power), vanishes, _mm512_setzero_ps())
}

/// 16 bf16 as 8 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn words(numbers: __m256bh) -> [u32; LANES / 2] {
    // SAFETY: both are 32 bytes of which every pattern is valid.
    unsafe { std::mem::transmute::<__m256bh, [u32; LANES / 2]>(numbers) }
}

/// Rows become columns.
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Pairs of rows, then fours of rows, each within a quarter of a vector ...
    let mut twos = rows;
    for pair in 0..8 {
        let (upper, lower) = (rows[2 * pair], rows[2 * pair + 1]);
        twos[2 * pair] = _mm512_unpacklo_epi32(upper, lower);
        twos[2 * pair + 1] = _mm512_unpackhi_epi32(upper, lower);
    }
    let mut fours = rows;
    for four in 0..4 {
        let first = 4 * four;
        fours[first] = _mm512_unpacklo_epi64(twos[first], twos[first + 2]);
        fours[first + 1] = _mm512_unpackhi_epi64(twos[first], twos[first + 2]);
        fours[first + 2] = _mm512_unpacklo_epi64(twos[first + 1], twos[first + 3]);
        fours[first + 3] = _mm512_unpackhi_epi64(twos[first + 1], twos[first + 3]);
    }
    // ... then the quarters of all rows are brought together.
    let mut columns = rows;
    for column in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(fours[column], fours[column + 4]);
        let odd_low = _mm512_shuffle_i32x4::<0xDD>(fours[column], fours[column + 4]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(fours[column + 8], fours[column + 12]);
        let odd_high = _mm512_shuffle_i32x4::<0xDD>(fours[column + 8], fours[column + 12]);
        columns[column] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        columns[column + 4] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        columns[column + 8] = _mm512_shuffle_i32x4::<0xDD>(even_low, even_high);
        columns[column + 12] = _mm512_shuffle_i32x4::<0xDD>(odd_low, odd_high);
    }
    columns
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(values: &[u8; 32]) -> __m512i {
    // SAFETY: the array is 32 bytes long.
    let narrow = unsafe { _mm256_loadu_si256(values.as_ptr().cast()) };
    _mm512_cvtepu16_epi32(narrow)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_bytes(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array is 64 bytes long.
    unsafe { std::arch::x86_64::_mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_words(words: &mut [u32; 16], vector: __m512i) {
    // SAFETY: the array is 16 words long.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) };
}
