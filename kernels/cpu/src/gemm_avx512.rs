//! Tiles for AVX-512 in f32: 12 rows by 32 outputs are 24 of the 32 registers. bf16 weights are widened on the way.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::ops::Range;

use crate::avx512::{load, prefetch, store};
use crate::gemm::{Product, for_each_tile};
use crate::math::Fused;
use crate::pack::{PANEL, Storage};

/// This level's share of a product.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl")]
pub(crate) fn run_units(product: &Product<'_>, units: Range<usize>) {
    let storage = product.weights.storage;
    for_each_tile::<Fused>(product, units, |panel, left, sums| match sums.len() {
        1 => tile::<1>(storage, panel, left, sums),
        2 => tile::<2>(storage, panel, left, sums),
        3 => tile::<3>(storage, panel, left, sums),
        4 => tile::<4>(storage, panel, left, sums),
        5 => tile::<5>(storage, panel, left, sums),
        6 => tile::<6>(storage, panel, left, sums),
        7 => tile::<7>(storage, panel, left, sums),
        8 => tile::<8>(storage, panel, left, sums),
        9 => tile::<9>(storage, panel, left, sums),
        10 => tile::<10>(storage, panel, left, sums),
        11 => tile::<11>(storage, panel, left, sums),
        12 => tile::<12>(storage, panel, left, sums),
        rows => unreachable!("a group of {rows} rows"),
    });
}

#[target_feature(enable = "avx512f")]
fn tile<const ROWS: usize>(
    storage: Storage,
    panel: &[[u32; PANEL]],
    left: &[u32],
    sums: &mut [[f32; PANEL]],
) {
    let left = left.as_chunks::<ROWS>().0;
    let mut low = [_mm512_setzero_ps(); ROWS];
    let mut high = [_mm512_setzero_ps(); ROWS];
    match storage {
        Storage::F32 => {
            for (step, left) in panel.iter().zip(left) {
                prefetch(step);
                let [first, second] = halves(step);
                add(_mm512_castsi512_ps(first), left, &mut low);
                add(_mm512_castsi512_ps(second), left, &mut high);
            }
        }
        Storage::Bf16 => {
            let mask = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
            for (step, left) in panel.iter().zip(left.as_chunks::<2>().0) {
                prefetch(step);
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
