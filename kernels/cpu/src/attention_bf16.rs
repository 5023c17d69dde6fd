//! Attention with bf16 dot products: queries and shares are rounded to bf16, sums are f32.

use std::arch::x86_64::{
    __m256bh, __m512, __m512i, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_loadu_si256,
    _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_mask_mov_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32,
    _mm512_storeu_si512, _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use crate::attention::{Attention, QueryRun, Running, SCORE_ROWS, Scratch, Seen, Steps, attend_with};
use crate::avx512::{load, load_numbers, pairs, store};
use crate::math::{self, Fused, LANES, bf16_pair};

/// See [`crate::attention::attend`], whose checks it relies on.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn attend(job: &Attention<'_>, run: QueryRun, kv_head: u32, scratch: &mut Scratch) {
    let steps = Steps {
        store_query,
        load_tile: |scratch: &mut Scratch, keys: &[u8], values: &[u8], valid: usize| {
            load_keys(scratch, keys, valid);
            load_values(scratch, values, valid);
        },
        scores: |scratch: &Scratch, row: usize, into: &mut [[f32; LANES]; SCORE_ROWS]| {
            scores(scratch, row, into)
        },
        softmax: |scores: &mut [f32; LANES], running: &mut Running, scale: f32, seen: Seen| {
            softmax_step(scores, running, scale, seen)
        },
        accumulate: |scratch: &mut Scratch, row: usize, shares: &[f32; LANES], correction: f32| {
            accumulate(scratch, row, shares, correction);
        },
    };
    attend_with(job, run, kv_head, scratch, &steps);
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
fn load_keys(scratch: &mut Scratch, keys: &[u8], valid: usize) {
    let token_bytes = scratch.head_dim * 2;
    let into = scratch.keys.as_chunks_mut::<LANES>().0;
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
fn load_values(scratch: &mut Scratch, values: &[u8], valid: usize) {
    let token_bytes = scratch.head_dim * 2;
    let rows = scratch.values.chunks_exact_mut(scratch.padded);
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
fn scores(scratch: &Scratch, first_row: usize, into: &mut [[f32; LANES]; SCORE_ROWS]) {
    let width = scratch.head_dim / 2;
    let queries: [&[u32]; SCORE_ROWS] =
        std::array::from_fn(|row| &scratch.queries[(first_row + row) * width..][..width]);
    let mut sums = [_mm512_setzero_ps(); SCORE_ROWS];
    for (pair, keys) in scratch.keys.as_chunks::<LANES>().0[..width].iter().enumerate() {
        let keys = pairs(load(keys));
        for row in 0..SCORE_ROWS {
            let query = pairs(_mm512_set1_epi32(queries[row][pair].cast_signed()));
            sums[row] = _mm512_dpbf16_ps(sums[row], query, keys);
        }
    }
    for (into, sums) in into.iter_mut().zip(sums) {
        store(into, sums);
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
fn accumulate(scratch: &mut Scratch, row: usize, shares: &[f32; LANES], correction: f32) {
    /// Vectors of the context that are summed at once.
    const AT_ONCE: usize = 2;
    let padded = scratch.padded;
    let rounded = words(_mm512_cvtneps_pbh(load_numbers(shares)));
    let correction = _mm512_set1_ps(correction);
    let context = scratch.context[row * padded..][..padded]
        .as_chunks_mut::<{ 16 * AT_ONCE }>()
        .0;
    for (part, context) in context.iter_mut().enumerate() {
        let [first, second] = context.as_chunks_mut::<16>().0 else {
            unreachable!("a part is two vectors")
        };
        let mut sums = [
            _mm512_mul_ps(load_numbers(first), correction),
            _mm512_mul_ps(load_numbers(second), correction),
        ];
        for (values, share) in scratch.values.chunks_exact(padded).zip(rounded) {
            let share = pairs(_mm512_set1_epi32(share.cast_signed()));
            let values = &values.as_chunks::<16>().0[part * AT_ONCE..][..AT_ONCE];
            sums[0] = _mm512_dpbf16_ps(sums[0], share, pairs(load(&values[0])));
            sums[1] = _mm512_dpbf16_ps(sums[1], share, pairs(load(&values[1])));
        }
        store(first, sums[0]);
        store(second, sums[1]);
    }
}

/// As `attention::softmax_step`.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
fn softmax_step(scores: &mut [f32; LANES], running: &mut Running, scale: f32, seen: Seen) -> f32 {
    let scaled = _mm512_mul_ps(load_numbers(scores), _mm512_set1_ps(scale));
    let seen = ((1_u32 << seen.end) - 1) & !((1_u32 << seen.first) - 1);
    let seen = u16::try_from(seen).expect("a tile has 16 tokens");
    let masked = _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), seen, scaled);
    let tile_largest = _mm512_reduce_max_ps(masked);
    let largest = if tile_largest > running.largest {
        tile_largest
    } else {
        running.largest
    };
    let correction = math::exp::<Fused>(running.largest - largest);
    let shares = exp(_mm512_sub_ps(masked, _mm512_set1_ps(largest)));
    store(scores, shares);
    running.largest = largest;
    running.sum = running.sum.mul_add(correction, _mm512_reduce_add_ps(shares));
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
