//! Tiles with bf16 dot products: two inputs of 16 outputs in one instruction, summed in f32.

use std::arch::x86_64::{_mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};
use std::ops::Range;

use crate::avx512::{load, pairs, prefetch, store};
use crate::gemm::{Product, for_each_tile};
use crate::math::Fused;
use crate::pack::PANEL;

/// This level's share of a product of bf16 weights and bf16 activations.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn run_units(product: &Product<'_>, units: Range<usize>) {
    for_each_tile::<Fused>(product, units, |panel, left, sums| match sums.len() {
        1 => tile::<1>(panel, left, sums),
        2 => tile::<2>(panel, left, sums),
        3 => tile::<3>(panel, left, sums),
        4 => tile::<4>(panel, left, sums),
        5 => tile::<5>(panel, left, sums),
        6 => tile::<6>(panel, left, sums),
        7 => tile::<7>(panel, left, sums),
        8 => tile::<8>(panel, left, sums),
        9 => tile::<9>(panel, left, sums),
        10 => tile::<10>(panel, left, sums),
        11 => tile::<11>(panel, left, sums),
        12 => tile::<12>(panel, left, sums),
        rows => unreachable!("a group of {rows} rows"),
    });
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn tile<const ROWS: usize>(panel: &[[u32; PANEL]], left: &[u32], sums: &mut [[f32; PANEL]]) {
    let mut low = [_mm512_setzero_ps(); ROWS];
    let mut high = [_mm512_setzero_ps(); ROWS];
    for (step, left) in panel.iter().zip(left.as_chunks::<ROWS>().0) {
        prefetch(step);
        let [first, second] = step.as_chunks::<16>().0 else {
            unreachable!("a panel is two vectors")
        };
        let (first, second) = (pairs(load(first)), pairs(load(second)));
        for row in 0..ROWS {
            let left = pairs(_mm512_set1_epi32(left[row].cast_signed()));
            low[row] = _mm512_dpbf16_ps(low[row], left, first);
            high[row] = _mm512_dpbf16_ps(high[row], left, second);
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
