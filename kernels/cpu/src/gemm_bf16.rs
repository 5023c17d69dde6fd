//! Tiles with bf16 dot products: two inputs of 16 outputs in one instruction, summed in f32.

use std::arch::x86_64::{_mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};
use std::ops::Range;

use crate::avx512::{load, load_numbers, pairs, prefetch, store};
use crate::gemm::{Product, for_each_tile};
use crate::math::Fused;
use crate::pack::PANEL;

/// This level's share of a product of bf16 weights and bf16 activations.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn run_units(product: &Product<'_>, units: Range<usize>) {
    for_each_tile::<Fused>(product, units, |panel, left, sums, is_streamed| {
        match (sums.len(), is_streamed) {
            (1, true) => tile::<1, true>(panel, left, sums),
            (1, false) => tile::<1, false>(panel, left, sums),
            (2, true) => tile::<2, true>(panel, left, sums),
            (2, false) => tile::<2, false>(panel, left, sums),
            (3, true) => tile::<3, true>(panel, left, sums),
            (3, false) => tile::<3, false>(panel, left, sums),
            (4, true) => tile::<4, true>(panel, left, sums),
            (4, false) => tile::<4, false>(panel, left, sums),
            (5, true) => tile::<5, true>(panel, left, sums),
            (5, false) => tile::<5, false>(panel, left, sums),
            (6, true) => tile::<6, true>(panel, left, sums),
            (6, false) => tile::<6, false>(panel, left, sums),
            (7, true) => tile::<7, true>(panel, left, sums),
            (7, false) => tile::<7, false>(panel, left, sums),
            (8, true) => tile::<8, true>(panel, left, sums),
            (8, false) => tile::<8, false>(panel, left, sums),
            (9, true) => tile::<9, true>(panel, left, sums),
            (9, false) => tile::<9, false>(panel, left, sums),
            (10, true) => tile::<10, true>(panel, left, sums),
            (10, false) => tile::<10, false>(panel, left, sums),
            (11, true) => tile::<11, true>(panel, left, sums),
            (11, false) => tile::<11, false>(panel, left, sums),
            (12, true) => tile::<12, true>(panel, left, sums),
            (12, false) => tile::<12, false>(panel, left, sums),
            (rows, _) => unreachable!("a group of {rows} rows"),
        }
    });
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn tile<const ROWS: usize, const STREAMED: bool>(
    panel: &[[u32; PANEL]],
    left: &[u32],
    sums: &mut [[f32; PANEL]],
) {
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
    for (step, left) in panel.iter().zip(left.as_chunks::<ROWS>().0) {
        if STREAMED {
            prefetch(step);
        }
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
