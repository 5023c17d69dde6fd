//! Tiles for AVX-512 in f32: 12 rows by 32 outputs are 24 of the 32 registers. bf16 weights are widened on the way.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::ops::Range;

use crate::avx512::{load, load_numbers, prefetch, store};
use crate::gemm::{Product, for_each_tile};
use crate::math::Fused;
use crate::pack::{PANEL, Storage};

/// This level's share of a product.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl")]
pub(crate) fn run_units(product: &Product<'_>, units: Range<usize>) {
    let storage = product.weights.storage;
    for_each_tile::<Fused>(product, units, |panel, left, sums, is_streamed| {
        match (sums.len(), is_streamed) {
            (1, true) => tile::<1, true>(storage, panel, left, sums),
            (1, false) => tile::<1, false>(storage, panel, left, sums),
            (2, true) => tile::<2, true>(storage, panel, left, sums),
            (2, false) => tile::<2, false>(storage, panel, left, sums),
            (3, true) => tile::<3, true>(storage, panel, left, sums),
            (3, false) => tile::<3, false>(storage, panel, left, sums),
            (4, true) => tile::<4, true>(storage, panel, left, sums),
            (4, false) => tile::<4, false>(storage, panel, left, sums),
            (5, true) => tile::<5, true>(storage, panel, left, sums),
            (5, false) => tile::<5, false>(storage, panel, left, sums),
            (6, true) => tile::<6, true>(storage, panel, left, sums),
            (6, false) => tile::<6, false>(storage, panel, left, sums),
            (7, true) => tile::<7, true>(storage, panel, left, sums),
            (7, false) => tile::<7, false>(storage, panel, left, sums),
            (8, true) => tile::<8, true>(storage, panel, left, sums),
            (8, false) => tile::<8, false>(storage, panel, left, sums),
            (9, true) => tile::<9, true>(storage, panel, left, sums),
            (9, false) => tile::<9, false>(storage, panel, left, sums),
            (10, true) => tile::<10, true>(storage, panel, left, sums),
            (10, false) => tile::<10, false>(storage, panel, left, sums),
            (11, true) => tile::<11, true>(storage, panel, left, sums),
            (11, false) => tile::<11, false>(storage, panel, left, sums),
            (12, true) => tile::<12, true>(storage, panel, left, sums),
            (12, false) => tile::<12, false>(storage, panel, left, sums),
            (rows, _) => unreachable!("a group of {rows} rows"),
        }
    });
}

#[inline(never)]
#[target_feature(enable = "avx512f")]
fn tile<const ROWS: usize, const STREAMED: bool>(
    storage: Storage,
    panel: &[[u32; PANEL]],
    left: &[u32],
    sums: &mut [[f32; PANEL]],
) {
    let left = left.as_chunks::<ROWS>().0;
    let sums = sums
        .first_chunk_mut::<ROWS>()
        .expect("one row of sums for each row");
    let mut low = [_mm512_setzero_ps(); ROWS];
    let mut high = [_mm512_setzero_ps(); ROWS];
    for (row, sums) in sums.iter().enumerate() {
        let [first, second] = sums.as_chunks::<16>().0 else {
            unreachable!("a panel is two vectors")
        };
        low[row] = load_numbers(first);
        high[row] = load_numbers(second);
    }
    match storage {
        Storage::F32 => {
            for (step, left) in panel.iter().zip(left) {
                if STREAMED {
                    prefetch(step);
                }
                let [first, second] = halves(step);
                add(_mm512_castsi512_ps(first), left, &mut low);
                add(_mm512_castsi512_ps(second), left, &mut high);
            }
        }
        Storage::Bf16 => {
            let mask = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
            for (step, left) in panel.iter().zip(left.as_chunks::<2>().0) {
                if STREAMED {
                    prefetch(step);
                }
                let [first, second] = halves(step);
                add(
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(first)),
                    &left[0],
                    &mut low,
                );
                add(
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(second)),
                    &left[0],
                    &mut high,
                );
                add(
                    _mm512_castsi512_ps(_mm512_and_si512(first, mask)),
                    &left[1],
                    &mut low,
                );
                add(
                    _mm512_castsi512_ps(_mm512_and_si512(second, mask)),
                    &left[1],
                    &mut high,
                );
            }
        }
    }
    for (row, sums) in sums.iter_mut().enumerate() {
        let [first, second] = &mut sums.as_chunks_mut::<16>().0 else {
            unreachable!("a panel is two vectors")
        };
        store(first, low[row]);
        store(second, high[row]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add<const ROWS: usize>(weights: __m512, left: &[u32; ROWS], sums: &mut [__m512; ROWS]) {
    for (sum, left) in sums.iter_mut().zip(left) {
        *sum = _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(*left)), weights, *sum);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves(step: &[u32; PANEL]) -> [__m512i; 2] {
    let [first, second] = step.as_chunks::<16>().0 else {
        unreachable!("a panel is two vectors")
    };
    [load(first), load(second)]
}
