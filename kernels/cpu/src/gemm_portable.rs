//! Tiles in plain Rust, left to the compiler to vectorise.

use std::ops::Range;

use crate::gemm::{Product, for_each_tile, widen_pairs};
use crate::math::{Arithmetic, Plain};
use crate::pack::{PANEL, Storage};

/// The portable level's share of a product.
pub(crate) fn run_units(product: &Product<'_>, units: Range<usize>) {
    let storage = product.weights.storage;
    for_each_tile::<Plain>(product, units, |panel, left, sums, _| match sums.len() {
        1 => tile::<1>(storage, panel, left, sums),
        2 => tile::<2>(storage, panel, left, sums),
        3 => tile::<3>(storage, panel, left, sums),
        4 => tile::<4>(storage, panel, left, sums),
        rows => unreachable!("a group of {rows} rows"),
    });
}

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
    let mut local = *sums;
    match storage {
        Storage::F32 => {
            for (step, left) in panel.iter().zip(left) {
                add(&step.map(f32::from_bits), left, &mut local);
            }
        }
        Storage::Bf16 => {
            for (step, left) in panel.iter().zip(left.as_chunks::<2>().0) {
                let [even, odd] = widen_pairs(step);
                add(&even, &left[0], &mut local);
                add(&odd, &left[1], &mut local);
            }
        }
    }
    *sums = local;
}

#[inline(always)]
fn add<const ROWS: usize>(weights: &[f32; PANEL], left: &[u32; ROWS], sums: &mut [[f32; PANEL]; ROWS]) {
    for (sums, left) in sums.iter_mut().zip(left) {
        let left = f32::from_bits(*left);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = Plain::mul_add(left, *weight, *sum);
        }
    }
}
