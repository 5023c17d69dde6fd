//! Tiles for AVX2 with fused multiply-add: 3 rows by 32 outputs are 12 of the 16 registers.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};
use std::ops::Range;

use crate::gemm::{Product, for_each_tile};
use crate::math::Fused;
use crate::pack::{PANEL, Storage};

/// Vectors of one panel row.
const VECTORS: usize = PANEL / 8;

/// This level's share of a product.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn run_units(product: &Product<'_>, units: Range<usize>) {
    let storage = product.weights.storage;
    for_each_tile::<Fused>(product, units, |panel, left, sums, _| match sums.len() {
        1 => tile::<1>(storage, panel, left, sums),
        2 => tile::<2>(storage, panel, left, sums),
        3 => tile::<3>(storage, panel, left, sums),
        rows => unreachable!("a group of {rows} rows"),
    });
}

#[inline(never)]
#[target_feature(enable = "avx2,fma")]
#[expect(
    clippy::needless_range_loop,
    reason = "loops of constant length keep the sums in registers"
)]
fn tile<const ROWS: usize>(
    storage: Storage,
    panel: &[[u32; PANEL]],
    left: &[u32],
    sums: &mut [[f32; PANEL]],
) {
    let left = left.as_chunks::<ROWS>().0;
    let sums = sums
        .first_chunk_mut::<ROWS>()
        .expect("one row of sums for each row");
    let mut local = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    for row in 0..ROWS {
        for vector in 0..VECTORS {
            local[row][vector] = load_numbers(&sums[row], vector);
        }
    }
    match storage {
        Storage::F32 => {
            for (step, left) in panel.iter().zip(left) {
                let left = broadcast(left);
                for vector in 0..VECTORS {
                    let weights = _mm256_castsi256_ps(load(step, vector));
                    for row in 0..ROWS {
                        local[row][vector] = _mm256_fmadd_ps(left[row], weights, local[row][vector]);
                    }
                }
            }
        }
        Storage::Bf16 => {
            let high_half = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
            for (step, left) in panel.iter().zip(left.as_chunks::<2>().0) {
                let even = broadcast(&left[0]);
                for vector in 0..VECTORS {
                    let weights = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(load(step, vector)));
                    for row in 0..ROWS {
                        local[row][vector] = _mm256_fmadd_ps(even[row], weights, local[row][vector]);
                    }
                }
                let odd = broadcast(&left[1]);
                for vector in 0..VECTORS {
                    let weights = _mm256_castsi256_ps(_mm256_and_si256(load(step, vector), high_half));
                    for row in 0..ROWS {
                        local[row][vector] = _mm256_fmadd_ps(odd[row], weights, local[row][vector]);
                    }
                }
            }
        }
    }
    for row in 0..ROWS {
        for vector in 0..VECTORS {
            let into = &mut sums[row].as_chunks_mut::<8>().0[vector];
            // SAFETY: the chunk is 8 numbers long.
            unsafe { _mm256_storeu_ps(into.as_mut_ptr(), local[row][vector]) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn broadcast<const ROWS: usize>(left: &[u32; ROWS]) -> [__m256; ROWS] {
    let mut vectors = [_mm256_setzero_ps(); ROWS];
    for row in 0..ROWS {
        vectors[row] = _mm256_set1_ps(f32::from_bits(left[row]));
    }
    vectors
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(step: &[u32; PANEL], vector: usize) -> __m256i {
    let words = &step.as_chunks::<8>().0[vector];
    // SAFETY: the chunk is 8 words long.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_numbers(sums: &[f32; PANEL], vector: usize) -> __m256 {
    let numbers = &sums.as_chunks::<8>().0[vector];
    // SAFETY: the chunk is 8 numbers long.
    unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
}
