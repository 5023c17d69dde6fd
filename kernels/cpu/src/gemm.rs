//! Matrix products: the door, the distribution over threads, and what is done with finished tiles.
//!
//! Every output is one sum over K in ascending order in one accumulator, whatever the number of rows, the tile, the
//! group or the thread it falls into. So a row's results do not depend on its neighbours.

use std::cell::Cell;
use std::ops::Range;

use vlinders_kernel_api::LinearKind;

use crate::IsaLevel;
use crate::activations::{Layout, Packed, Word, group_rows};
use crate::gemm_finish::finish_unit;
use crate::isa::Isa;
use crate::math::Arithmetic;
use crate::pack::{PANEL, PackedWeights, Storage};
use crate::pool::Pool;
use crate::shared::SharedMut;

/// Weights that a thread streams before it asks for more, when there are few rows.
const CHUNK_BYTES: usize = 512 << 10;
/// Groups of rows that count as few: the second one finds the panel in the second-level cache.
const FEW_GROUPS: usize = 2;
/// With more rows, this many steps of a panel (32 KiB) stay in the first-level cache while a block of rows passes by ...
const BLOCK_STEPS: usize = 256;
/// ... of this many rows, whose 256 steps (144 KiB) stay in the second-level cache ...
const BLOCK_ROWS: usize = 144;
/// ... for this many panels, whose sums (72 KiB) do so as well.
const BLOCK_PANELS: usize = 4;
/// At least this many chunks for each thread, so that a late thread costs little.
const CHUNKS_PER_THREAD: usize = 4;

/// One matrix product.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) weights: &'a PackedWeights,
    /// The left-hand side, as `layout` says.
    pub(crate) left: &'a [u32],
    pub(crate) layout: Layout,
    pub(crate) output: Output<'a>,
}

/// Where the results go.
#[derive(Clone, Copy)]
pub(crate) enum Output<'a> {
    /// Overwrites `[rows, outputs]`.
    Store(SharedMut<'a, f32>),
    /// Adds to `[rows, outputs]`.
    Add(SharedMut<'a, f32>),
    /// `silu(gate) * up` becomes the left-hand side of the next product.
    SiluMul(Packed<'a>),
}

impl Product<'_> {
    /// Panels that must be finished together.
    fn panels_per_unit(&self) -> usize {
        match self.output {
            Output::Store(_) | Output::Add(_) => 1,
            Output::SiluMul(_) => 2,
        }
    }

    fn has_few_rows(&self) -> bool {
        self.layout.groups() <= FEW_GROUPS
    }
}

/// Sums, `[rows][PANEL]`.
pub(crate) type Tile = [[f32; PANEL]];

/// How a left-hand side for weights of this storage is written.
pub(crate) fn left_layout(isa: Isa, storage: Storage, rows: usize, inputs: usize) -> Layout {
    let word = match (isa.level(), storage) {
        (IsaLevel::Avx512Bf16, Storage::Bf16) => Word::Bf16Pair,
        (_, Storage::F32 | Storage::Bf16) => Word::Single,
    };
    Layout {
        rows,
        inputs,
        word,
        group_rows: group_rows(isa),
    }
}

/// Computes `product` with all threads.
///
/// # Panics
/// When the shapes do not fit together.
pub(crate) fn multiply(pool: &Pool, isa: Isa, product: &Product<'_>) {
    let Product {
        weights,
        left,
        layout,
        output,
    } = product;
    assert_eq!(
        *layout,
        left_layout(isa, weights.storage, layout.rows, weights.inputs),
        "left-hand side"
    );
    assert!(left.len() >= layout.words(), "the left-hand side is complete");
    let panels_per_unit = product.panels_per_unit();
    match output {
        Output::Store(matrix) | Output::Add(matrix) => {
            assert_ne!(
                weights.kind,
                LinearKind::GateUp,
                "gate and up are multiplied, not stored"
            );
            assert!(
                matrix.len() >= layout.rows * weights.outputs,
                "the result has room"
            );
        }
        Output::SiluMul(packed) => {
            assert_eq!(weights.kind, LinearKind::GateUp, "two parts are needed");
            let next = packed.layout();
            assert!(
                next.rows == layout.rows && next.inputs == weights.outputs,
                "the next left-hand side fits"
            );
        }
    }
    let units = weights.panels / panels_per_unit;
    let at_once = if product.has_few_rows() {
        (CHUNK_BYTES / (weights.panel_bytes() * panels_per_unit)).max(1)
    } else {
        BLOCK_PANELS / panels_per_unit
    };
    let balanced = units.div_ceil(pool.threads() * CHUNKS_PER_THREAD).max(1);
    pool.deal(units, at_once.min(balanced), &|_, units| {
        run_units(isa, product, units)
    });
}

fn run_units(isa: Isa, product: &Product<'_>, units: Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    match isa.level() {
        IsaLevel::Portable => {}
        IsaLevel::Avx2 => {
            // SAFETY: an `Isa` of this level exists only where the CPU has avx2 and fma.
            return unsafe { crate::gemm_avx2::run_units(product, units) };
        }
        IsaLevel::Avx512 => {
            // SAFETY: an `Isa` of this level exists only where the CPU has avx512f.
            return unsafe { crate::gemm_avx512::run_units(product, units) };
        }
        IsaLevel::Avx512Bf16 => {
            if product.layout.word == Word::Bf16Pair {
                // SAFETY: an `Isa` of this level exists only where the CPU has avx512f and avx512bf16.
                return unsafe { crate::gemm_bf16::run_units(product, units) };
            }
            // SAFETY: an `Isa` of this level exists only where the CPU has avx512f.
            return unsafe { crate::gemm_avx512::run_units(product, units) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    crate::gemm_portable::run_units(product, units);
}

/// Calls `tile(steps of a panel, the same steps of a group, sums)`, which adds to the sums, until the panels of `units` are
/// summed over all of K for every row, and passes the sums on. Inlined into each level's own function, so that it is
/// compiled with that level's instructions.
#[inline(always)]
pub(crate) fn for_each_tile<A: Arithmetic>(
    product: &Product<'_>,
    units: Range<usize>,
    tile: impl Fn(&[[u32; PANEL]], &[u32], &mut Tile, bool),
) {
    let groups = product.layout.groups();
    let blocking = Blocking::of(product);
    let mut sums = SUMS.take();
    for first_group in (0..groups).step_by(blocking.groups) {
        let groups = first_group..(first_group + blocking.groups).min(groups);
        let rows = groups.len() * product.layout.group_rows;
        for first_unit in units.clone().step_by(blocking.units) {
            let units = first_unit..(first_unit + blocking.units).min(units.end);
            let panels = units.start * product.panels_per_unit()..units.end * product.panels_per_unit();
            sums.clear();
            sums.resize(panels.len() * rows, [0.0; PANEL]);
            add_panels(product, panels, groups.clone(), blocking.steps, &mut sums, &tile);
            for (unit, sums) in units.zip(sums.chunks_exact(rows * product.panels_per_unit())) {
                finish_unit::<A>(product, unit, groups.clone(), sums);
            }
        }
    }
    SUMS.set(sums);
}

thread_local! {
    /// Sums of the panels and rows a thread works on, `[panel][row]`. Kept, so that a product allocates nothing.
    static SUMS: Cell<Vec<[f32; PANEL]>> = const { Cell::new(Vec::new()) };
}

/// How much of a product is done at a time.
struct Blocking {
    groups: usize,
    units: usize,
    steps: usize,
}

impl Blocking {
    fn of(product: &Product<'_>) -> Self {
        let groups = product.layout.groups();
        if product.has_few_rows() {
            // Each panel is streamed from memory once, front to back.
            return Self {
                groups,
                units: 1,
                steps: usize::MAX,
            };
        }
        // Blocks of equal size.
        let most = BLOCK_ROWS / product.layout.group_rows;
        let groups = groups.div_ceil(groups.div_ceil(most));
        Self {
            groups,
            units: BLOCK_PANELS / product.panels_per_unit(),
            steps: BLOCK_STEPS,
        }
    }
}

/// Sums `panels` and `groups` over all of K, `block_steps` at a time.
#[inline(always)]
fn add_panels(
    product: &Product<'_>,
    panels: Range<usize>,
    groups: Range<usize>,
    block_steps: usize,
    sums: &mut Tile,
    tile: &impl Fn(&[[u32; PANEL]], &[u32], &mut Tile, bool),
) {
    let Product {
        weights,
        left,
        layout,
        ..
    } = product;
    let steps = weights.steps();
    let words_per_step = layout.steps() / steps;
    for first_step in (0..steps).step_by(block_steps) {
        let count = block_steps.min(steps - first_step);
        let sums = sums.chunks_exact_mut(groups.len() * layout.group_rows);
        for (panel, sums) in panels.clone().zip(sums) {
            let panel = &weights.panel(panel)[first_step..first_step + count];
            for (group, sums) in groups.clone().zip(sums.chunks_exact_mut(layout.group_rows)) {
                let rows = layout.rows_in(group);
                let start = layout.group_start(group) + first_step * words_per_step * rows;
                let left = &left[start..start + count * words_per_step * rows];
                // The first group brings the panel in; the others find it in the cache.
                tile(panel, left, &mut sums[..rows], group == groups.start);
            }
        }
    }
}

/// The widened weights of one step of bf16 pairs: of the even input, then of the odd one.
#[inline(always)]
pub(crate) fn widen_pairs(step: &[u32; PANEL]) -> [[f32; PANEL]; 2] {
    [
        step.map(|word| f32::from_bits(word << 16)),
        step.map(|word| f32::from_bits(word & 0xFFFF_0000)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{levels, numbers};
    use proptest::prelude::*;
    use vlinders_kernel_api::{Dtype, LinearPart, TensorView, WeightView};
    use vlinders_kernel_reference::ops;

    /// A random matrix as a checkpoint holds it, at an odd address.
    struct Matrix {
        shape: [usize; 2],
        dtype: Dtype,
        bytes: Vec<u8>,
        wide: Vec<f32>,
    }

    impl Matrix {
        fn new(seed: u64, outputs: usize, inputs: usize, dtype: Dtype) -> Self {
            let mut bytes = vec![0];
            for value in numbers(seed, outputs * inputs) {
                match dtype {
                    Dtype::F32 => bytes.extend(value.to_le_bytes()),
                    Dtype::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                    Dtype::Bf16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
                }
            }
            let mut matrix = Self {
                shape: [outputs, inputs],
                dtype,
                bytes,
                wide: Vec::new(),
            };
            matrix.wide = matrix.view().widen();
            matrix
        }

        fn view(&self) -> TensorView<'_> {
            TensorView {
                name: "w",
                dtype: self.dtype,
                shape: &self.shape,
                bytes: &self.bytes[1..],
            }
        }
    }

    fn left_of(isa: Isa, weights: &PackedWeights, rows: &[Vec<f32>]) -> (Layout, Vec<u32>) {
        let layout = left_layout(isa, weights.storage, rows.len(), weights.inputs);
        let mut words = vec![u32::MAX; layout.words()];
        let packed = Packed::new(&mut words, layout);
        for (row, values) in rows.iter().enumerate() {
            // SAFETY: one thread.
            unsafe { packed.write(row, 0, values) };
        }
        (layout, words)
    }

    fn product(
        pool: &Pool,
        isa: Isa,
        weights: &PackedWeights,
        rows: &[Vec<f32>],
        before: &[f32],
    ) -> Vec<f32> {
        let (layout, left) = left_of(isa, weights, rows);
        let mut into = if before.is_empty() {
            vec![f32::NAN; rows.len() * weights.outputs]
        } else {
            before.to_vec()
        };
        let shared = SharedMut::new(&mut into);
        let output = if before.is_empty() {
            Output::Store(shared)
        } else {
            Output::Add(shared)
        };
        multiply(
            pool,
            isa,
            &Product {
                weights,
                left: &left,
                layout,
                output,
            },
        );
        into
    }

    fn tolerance(dtype: Dtype) -> f64 {
        match dtype {
            Dtype::F32 | Dtype::F16 => 1e-5,
            Dtype::Bf16 => 5e-3,
        }
    }

    /// So many values are not all near zero by chance, so their error relative to them means something.
    const MANY: usize = 64;

    /// The most that a sum of `inputs` products may be off, as a share of the sum of their absolute values: rounded inputs
    /// (bf16 has 8 bits) and the additions in f32 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    /// A bound relative to the sum itself does not exist: products may cancel.
    fn sum_error(dtype: Dtype, inputs: usize) -> f64 {
        let additions = inputs as f64 * 2f64.powi(-23);
        match dtype {
            Dtype::F32 | Dtype::F16 => additions,
            Dtype::Bf16 => 2f64.powi(-8) + 2f64.powi(-16) + additions,
        }
    }

    /// Sums of absolute products, `[outputs]`.
    fn magnitudes(weights: &[f32], left: &[f32], outputs: usize) -> Vec<f32> {
        let absolute = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
        ops::matvec(&absolute(weights), None, &absolute(left), outputs)
    }

    /// Every value is within its bound, and many of them together are close.
    fn is_close(found: &[f32], expected: &[f32], bounds: &[f64], tolerance: f64) -> bool {
        assert_eq!((found.len(), expected.len()), (bounds.len(), bounds.len()));
        let pairs = found.iter().zip(expected).zip(bounds);
        let each = pairs.into_iter().all(|((found, expected), bound)| {
            // Below every number that counts here.
            (f64::from(*found) - f64::from(*expected)).abs() <= bound + 1e-30
        });
        each && (found.len() < MANY || ops::relative_l2(found, expected) < tolerance)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn products_are_those_of_the_reference_and_rows_do_not_depend_on_their_neighbours(
            rows in prop_oneof![1_usize..30, 25_usize..60, 145_usize..160],
            outputs in prop_oneof![1_usize..5, 30_usize..35, 60_usize..200],
            inputs in prop_oneof![1_usize..4, 14_usize..18, 60_usize..300, 510_usize..700],
            dtype in prop_oneof![Just(Dtype::F32), Just(Dtype::F16), Just(Dtype::Bf16)],
            has_bias: bool,
            seed: u64,
        ) {
            let (matrix, bias) = (Matrix::new(seed, outputs, inputs, dtype), Matrix::new(seed ^ 9, outputs, 1, dtype));
            let bias_view = TensorView { shape: &bias.shape[..1], ..bias.view() };
            let parts = [LinearPart { weight: WeightView::Dense(matrix.view()), bias: has_bias.then_some(bias_view) }];
            let pool = Pool::new(2);
            let weights = PackedWeights::pack(&pool, LinearKind::Plain, &parts, (outputs, inputs)).unwrap();
            let lefts: Vec<Vec<f32>> = (0..rows as u64).map(|row| numbers(seed ^ (row << 8), inputs)).collect();
            let before = numbers(seed ^ 5, rows * outputs);
            let bias = has_bias.then_some(bias.wide.as_slice());
            let expected: Vec<f32> =
                lefts.iter().flat_map(|left| ops::matvec(&matrix.wide, bias, left, outputs)).collect();
            let added: Vec<f32> = expected.iter().zip(&before).map(|(sum, before)| sum + before).collect();
            let error = sum_error(dtype, inputs + 2);
            let sizes = lefts.iter().flat_map(|left| magnitudes(&matrix.wide, left, outputs));
            let bounds: Vec<f64> = sizes.enumerate().map(|(index, size)| {
                let bias = bias.map_or(0.0, |bias| bias[index % outputs].abs());
                error * f64::from(size + bias + before[index].abs())
            }).collect();
            for isa in levels() {
                let found = product(&pool, isa, &weights, &lefts, &[]);
                prop_assert!(is_close(&found, &expected, &bounds, tolerance(dtype)), "{isa:?}");
                let found_added = product(&pool, isa, &weights, &lefts, &before);
                prop_assert!(is_close(&found_added, &added, &bounds, tolerance(dtype)), "{isa:?}");
                for (row, left) in lefts.iter().enumerate().step_by(1 + rows / 16) {
                    let alone = product(&pool, isa, &weights, std::slice::from_ref(left), &[]);
                    prop_assert_eq!(&found[row * outputs..][..outputs], alone.as_slice());
                }
            }
        }

        #[test]
        fn gates_times_ups_feed_the_next_product(
            rows in 1_usize..16,
            outputs in prop_oneof![1_usize..5, 30_usize..35, 60_usize..100],
            inputs in 1_usize..80,
            dtype in prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16)],
            seed: u64,
        ) {
            let (gate, up) = (Matrix::new(seed, outputs, inputs, dtype), Matrix::new(seed ^ 1, outputs, inputs, dtype));
            let parts = [gate.view(), up.view()].map(|weight| LinearPart { weight: WeightView::Dense(weight), bias: None });
            let pool = Pool::new(2);
            let weights = PackedWeights::pack(&pool, LinearKind::GateUp, &parts, (2 * outputs, inputs)).unwrap();
            let lefts: Vec<Vec<f32>> = (0..rows as u64).map(|row| numbers(seed ^ (row << 8), inputs)).collect();
            let expected: Vec<f32> = lefts.iter().flat_map(|left| {
                let gates = ops::matvec(&gate.wide, None, left, outputs);
                let ups = ops::matvec(&up.wide, None, left, outputs);
                gates.into_iter().zip(ups).map(|(gate, up)| ops::narrow(ops::silu(gate) * f64::from(up))).collect::<Vec<_>>()
            }).collect();
            let error = sum_error(dtype, inputs);
            let bounds: Vec<f64> = lefts.iter().flat_map(|left| {
                let [gates, ups] = [&gate, &up].map(|part| ops::matvec(&part.wide, None, left, outputs));
                let [gate_sizes, up_sizes] = [&gate, &up].map(|part| magnitudes(&part.wide, left, outputs));
                (0..outputs).map(|index| {
                    let (gate_error, up_error) = (error * f64::from(gate_sizes[index]), error * f64::from(up_sizes[index]));
                    let (silu, up) = (ops::silu(gates[index]), f64::from(ups[index]));
                    // The slope of silu is below 1.1; the product is rounded once more, to bf16 or by the product with the identity.
                    let before = 1.1 * gate_error * (up.abs() + up_error) + silu.abs() * up_error;
                    let rounded = 2.0 * sum_error(dtype, outputs + 8) * ((silu * up).abs() + before);
                    before + rounded
                }).collect::<Vec<_>>()
            }).collect();
            for isa in levels() {
                let (layout, left) = left_of(isa, &weights, &lefts);
                let next = left_layout(isa, weights.storage, rows, outputs);
                let mut words = vec![u32::MAX; next.words()];
                let output = Output::SiluMul(Packed::new(&mut words, next));
                multiply(&pool, isa, &Product { weights: &weights, left: &left, layout, output });
                // Read back through a product with the identity.
                let identity: Vec<u8> = (0..outputs * outputs)
                    .flat_map(|index| f32::from(u8::from(index % (outputs + 1) == 0)).to_le_bytes())
                    .collect();
                let shape = [outputs, outputs];
                let found: Vec<f32> = if next.word == Word::Single {
                    let weight = TensorView { name: "identity", dtype: Dtype::F32, shape: &shape, bytes: &identity };
                    let parts = [LinearPart { weight: WeightView::Dense(weight), bias: None }];
                    let identity = PackedWeights::pack(&pool, LinearKind::Plain, &parts, (outputs, outputs)).unwrap();
                    let mut found = vec![f32::NAN; rows * outputs];
                    let output = Output::Store(SharedMut::new(&mut found));
                    multiply(&pool, isa, &Product { weights: &identity, left: &words, layout: next, output });
                    found
                } else {
                    (0..rows * outputs).map(|index| {
                        let (row, input) = (index / outputs, index % outputs);
                        let group = row / next.group_rows;
                        let at = next.group_start(group) + input / 2 * next.rows_in(group) + row % next.group_rows;
                        f32::from_bits((words[at] >> (16 * (input % 2))) << 16)
                    }).collect()
                };
                prop_assert!(is_close(&found, &expected, &bounds, 2.0 * tolerance(dtype)), "{isa:?}");
            }
        }
    }
}
