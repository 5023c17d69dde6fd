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

#[target_feature(enable = "avx2,fma")]
fn tile<const ROWS: usize>(
    storage: Storage,
    panel: &[[u32; PANEL]],
    left: &[u32],
    sums: &mut [[f32; PANEL]],
) {
    let left = left.as_chunks::<ROWS>().0;
    let mut local = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    for (sums, local) in sums.iter().zip(&mut local) {
        for (sums, local) in sums.as_chunks::<8>().0.iter().zip(local) {
            // SAFETY: the chunk is 8 numbers long.
            *local = unsafe { _mm256_loadu_ps(sums.as_ptr()) };
        }
    }
    match storage {
        Storage::F32 => {
            for (step, left) in panel.iter().zip(left) {
                for vector in 0..VECTORS {
                    add(_mm256_castsi256_ps(load(step, vector)), left, &mut local, vector);
                }
            }
        }
        Storage::Bf16 => {
            let high_half = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
            for (step, left) in panel.iter().zip(left.as_chunks::<2>().0) {
                for vector in 0..VECTORS {
                    let words = load(step, vector);
                    add(
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
                        &left[0],
                        &mut local,
                        vector,
                    );
                    add(
                        _mm256_castsi256_ps(_mm256_and_si256(words, high_half)),
                        &left[1],
                        &mut local,
                        vector,
                    );
                }
            }
        }
    }
    for (sums, local) in sums.iter_mut().zip(&local) {
        for (sums, local) in sums.as_chunks_mut::<8>().0.iter_mut().zip(local) {
            // SAFETY: the chunk is 8 numbers long.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), *local) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add<const ROWS: usize>(
    weights: __m256,
    left: &[u32; ROWS],
    sums: &mut [[__m256; VECTORS]; ROWS],
    vector: usize,
) {
    for (sums, left) in sums.iter_mut().zip(left) {
        sums[vector] = _mm256_fmadd_ps(_mm256_set1_ps(f32::from_bits(*left)), weights, sums[vector]);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(step: &[u32; PANEL], vector: usize) -> __m256i {
    let words = &step.as_chunks::<8>().0[vector];
    // SAFETY: the chunk is 8 words long.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}
