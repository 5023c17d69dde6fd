//! What is done with the sums of a product: biases, residuals, activations, and where the results go.

use std::ops::Range;

use crate::activations::Packed;
use crate::gemm::{Output, Product, Tile};
use crate::math::{Arithmetic, silu};
use crate::pack::{PANEL, PackedWeights};
use crate::shared::SharedMut;

/// Passes the sums of one unit of panels and some groups of rows on.
#[inline(always)]
pub(crate) fn finish_unit<A: Arithmetic>(
    product: &Product<'_>,
    unit: usize,
    groups: Range<usize>,
    sums: &Tile,
) {
    let Product {
        weights,
        layout,
        output,
        ..
    } = product;
    let first_row = groups.start * layout.group_rows;
    let rows = (layout.rows - first_row).min(groups.len() * layout.group_rows);
    match output {
        Output::Store(matrix) => finish(weights, unit, &sums[..rows], *matrix, first_row, |_, sum| sum),
        Output::Add(matrix) => {
            finish(weights, unit, &sums[..rows], *matrix, first_row, |before, sum| {
                before + sum
            });
        }
        Output::SiluMul(packed) => {
            let (gates, ups) = sums.split_at(sums.len() / 2);
            finish_silu::<A>(weights, unit, (&gates[..rows], &ups[..rows]), *packed, first_row);
        }
    }
}

/// Adds the bias and combines a tile with the matrix it belongs to.
#[inline(always)]
fn finish(
    weights: &PackedWeights,
    panel: usize,
    sums: &Tile,
    matrix: SharedMut<'_, f32>,
    first_row: usize,
    combine: impl Fn(f32, f32) -> f32,
) {
    let columns = weights.outputs;
    let first_column = panel * PANEL;
    let width = (columns - first_column).min(PANEL);
    let bias = weights.bias(panel);
    for (row, sums) in sums.iter().enumerate() {
        let start = (first_row + row) * columns + first_column;
        // SAFETY: these columns belong to this panel, and each panel is dealt to one thread.
        let into = unsafe { matrix.part(start, width) };
        match (bias, <&mut [f32; PANEL]>::try_from(&mut *into)) {
            (None, Ok(into)) => {
                for (into, sum) in into.iter_mut().zip(sums) {
                    *into = combine(*into, *sum);
                }
            }
            (None, Err(_)) => {
                for (into, sum) in into.iter_mut().zip(sums) {
                    *into = combine(*into, *sum);
                }
            }
            (Some(bias), _) => {
                for ((into, sum), bias) in into.iter_mut().zip(sums).zip(bias) {
                    *into = combine(*into, *sum + *bias);
                }
            }
        }
    }
}

/// Makes the next left-hand side of a tile of gates and a tile of ups.
#[inline(always)]
fn finish_silu<A: Arithmetic>(
    weights: &PackedWeights,
    unit: usize,
    (gates, ups): (&Tile, &Tile),
    packed: Packed<'_>,
    first_row: usize,
) {
    const NO_BIAS: [f32; PANEL] = [0.0; PANEL];
    let first_column = unit * PANEL;
    let width = (weights.outputs - first_column).min(PANEL);
    let gate_bias = weights.bias(2 * unit).unwrap_or(&NO_BIAS);
    let up_bias = weights.bias(2 * unit + 1).unwrap_or(&NO_BIAS);
    for (row, (gates, ups)) in gates.iter().zip(ups).enumerate() {
        let mut products = [0.0; PANEL];
        for lane in 0..PANEL {
            products[lane] = silu::<A>(gates[lane] + gate_bias[lane]) * (ups[lane] + up_bias[lane]);
        }
        // SAFETY: these columns belong to this pair of panels, and each pair is dealt to one thread.
        unsafe { packed.write(first_row + row, first_column, &products[..width]) };
    }
}
