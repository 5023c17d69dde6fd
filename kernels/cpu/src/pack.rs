//! Right-hand sides of matrix products: weights, repacked once into panels that are read front to back.
//!
//! A panel holds [`PANEL`] outputs: `[panel][step][output]`, where a step along K is one f32, or two bf16 neighbours in
//! one word. So one 64-byte load feeds 16 outputs, and a product with few rows streams each panel once, in order.

use vlinders_kernel_api::{Dtype, KernelError, LinearKind, LinearPart, TensorView, WeightFormat, WeightView};

use crate::pool::Pool;
use crate::region::Region;
use crate::shared::SharedMut;

/// Outputs side by side in a panel.
pub(crate) const PANEL: usize = 32;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// Single precision; also for f16 checkpoints, widened without loss.
    F32,
    /// bf16 as in the checkpoint; also for quantised weights, whose dequantised numbers are rounded to it.
    Bf16,
}

impl Storage {
    /// How numbers of this dtype are stored.
    pub(crate) fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 | Dtype::F16 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }

    /// How a projection of this format is stored.
    fn of_weight(format: WeightFormat) -> Self {
        match format {
            WeightFormat::Dense(dtype) => Self::of(dtype),
            WeightFormat::Quantized(_) => Self::Bf16,
        }
    }

    /// Inputs that share a word.
    pub(crate) fn inputs_per_step(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// A projection in panels.
pub(crate) struct PackedWeights {
    words: Region,
    /// `[panels * PANEL]` in panel order; empty when there is none.
    bias: Vec<f32>,
    pub(crate) storage: Storage,
    pub(crate) inputs: usize,
    /// Outputs without padding; for gate and up, of one of the two.
    pub(crate) outputs: usize,
    pub(crate) panels: usize,
    pub(crate) kind: LinearKind,
}

/// Which checkpoint row is in which lane of which panel.
struct Rows<'a, 'b> {
    kind: LinearKind,
    parts: &'b [LinearPart<'a>],
}

impl<'a> Rows<'a, '_> {
    /// Part and row of an output; none for padding.
    fn find(&self, panel: usize, lane: usize) -> Option<(&LinearPart<'a>, usize)> {
        if self.kind == LinearKind::GateUp {
            // Panels alternate, gate and up, so that both are at hand when their product is made.
            let part = &self.parts[panel % 2];
            let row = panel / 2 * PANEL + lane;
            return (row < part.weight.shape()[0]).then_some((part, row));
        }
        let mut row = panel * PANEL + lane;
        for part in self.parts {
            if row < part.weight.shape()[0] {
                return Some((part, row));
            }
            row -= part.weight.shape()[0];
        }
        None
    }
}

impl PackedWeights {
    /// Packs checked parts (see `check_parts`, whose outputs and inputs are `shape`) with all threads.
    pub(crate) fn pack(
        pool: &Pool,
        kind: LinearKind,
        parts: &[LinearPart<'_>],
        (outputs, inputs): (usize, usize),
    ) -> Result<Self, KernelError> {
        let name = parts[0].weight.name();
        let storage = Storage::of_weight(parts[0].weight.format());
        let (outputs, panels) = match kind {
            LinearKind::GateUp => (outputs / 2, (outputs / 2).div_ceil(PANEL) * 2),
            LinearKind::Plain | LinearKind::Head => (outputs, outputs.div_ceil(PANEL)),
        };
        let steps = Self::steps_of(storage, inputs);
        let too_large = || KernelError::OutOfMemory {
            what: name.to_owned(),
            bytes: u64::MAX,
        };
        let words = panels
            .checked_mul(steps)
            .and_then(|words| words.checked_mul(PANEL))
            .ok_or_else(too_large)?;
        let mut region = Region::zeroed(words.checked_mul(4).ok_or_else(too_large)?, name)?;
        let rows = Rows { kind, parts };
        let shared = SharedMut::new(region.as_mut_slice::<u32>());
        pool.deal(panels, 4, &|_, panels| {
            let mut row = vec![0_u32; steps];
            let mut wide = vec![0.0; inputs];
            for panel in panels {
                // SAFETY: each panel is dealt to one thread.
                let panel_words = unsafe { shared.part(panel * steps * PANEL, steps * PANEL) };
                for lane in 0..PANEL {
                    if let Some((part, index)) = rows.find(panel, lane) {
                        match &part.weight {
                            WeightView::Dense(tensor) => read_row(tensor, index, inputs, &mut row),
                            WeightView::Quantized(_) => {
                                part.weight.read_row(index, &mut wide);
                                round_row(&wide, &mut row);
                            }
                        }
                        scatter(&row, lane, panel_words);
                    }
                }
            }
        });
        let bias = if parts.iter().any(|part| part.bias.is_some()) {
            let bias_of = |index: usize| match rows.find(index / PANEL, index % PANEL) {
                Some((LinearPart { bias: Some(bias), .. }, row)) => element(bias, row),
                Some((LinearPart { bias: None, .. }, _)) | None => 0.0,
            };
            (0..panels * PANEL).map(bias_of).collect()
        } else {
            Vec::new()
        };
        Ok(Self {
            words: region,
            bias,
            storage,
            inputs,
            outputs,
            panels,
            kind,
        })
    }

    fn steps_of(storage: Storage, inputs: usize) -> usize {
        // Kernels that widen bf16 take two steps of f32 activations at once, so f32 weights are padded to match.
        inputs.next_multiple_of(2) / storage.inputs_per_step()
    }

    /// Steps along K, padding included.
    pub(crate) fn steps(&self) -> usize {
        Self::steps_of(self.storage, self.inputs)
    }

    /// The words of one panel, `[steps][PANEL]`.
    pub(crate) fn panel(&self, panel: usize) -> &[[u32; PANEL]] {
        let words = self.steps() * PANEL;
        self.words.as_slice::<u32>()[panel * words..][..words]
            .as_chunks()
            .0
    }

    /// Bytes of one panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.steps() * PANEL * 4
    }

    /// The bias of one panel's outputs.
    pub(crate) fn bias(&self, panel: usize) -> Option<&[f32; PANEL]> {
        self.bias.as_chunks().0.get(panel)
    }

    /// Copies the weights of one output, widened: a row of the checkpoint's matrix. For embeddings that are also the
    /// output head, so that the table is kept once.
    ///
    /// # Panics
    /// When there is no such output or `into` is not one row.
    pub(crate) fn gather_row(&self, output: usize, into: &mut [f32]) {
        assert!(
            output < self.outputs && into.len() == self.inputs,
            "a row of the matrix"
        );
        let steps = self.panel(output / PANEL).iter().map(|step| step[output % PANEL]);
        match self.storage {
            Storage::F32 => {
                for (into, word) in into.iter_mut().zip(steps) {
                    *into = f32::from_bits(word);
                }
            }
            Storage::Bf16 => {
                for (into, word) in into.chunks_mut(2).zip(steps) {
                    into[0] = f32::from_bits(word << 16);
                    if let [_, high] = into {
                        *high = f32::from_bits(word & 0xFFFF_0000);
                    }
                }
            }
        }
    }
}

/// Reads a row of a matrix as the words its panel needs.
fn read_row(weight: &TensorView<'_>, row: usize, inputs: usize, into: &mut [u32]) {
    match weight.dtype {
        Dtype::Bf16 => {
            let bytes = &weight.bytes[row * inputs * 2..][..inputs * 2];
            let (pairs, odd) = bytes.as_chunks::<4>();
            for (into, pair) in into.iter_mut().zip(pairs) {
                *into = u32::from_le_bytes(*pair);
            }
            if let [low, high] = odd {
                into[pairs.len()] = u32::from(u16::from_le_bytes([*low, *high]));
            }
        }
        Dtype::F32 => {
            let bytes = &weight.bytes[row * inputs * 4..][..inputs * 4];
            for (into, value) in into.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *into = u32::from_le_bytes(*value);
            }
        }
        Dtype::F16 => {
            let bytes = &weight.bytes[row * inputs * 2..][..inputs * 2];
            for (into, value) in into.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *into = half::f16::from_le_bytes(*value).to_f32().to_bits();
            }
        }
    }
}

/// Rounds a dequantised row to bf16, as the words its panel needs.
fn round_row(wide: &[f32], into: &mut [u32]) {
    let bits = |value: f32| u32::from(half::bf16::from_f32(value).to_bits());
    for (into, pair) in into.iter_mut().zip(wide.chunks(2)) {
        *into = bits(pair[0]) | pair.get(1).map_or(0, |high| bits(*high) << 16);
    }
}

/// Puts a row's words into its lane of a panel.
fn scatter(row: &[u32], lane: usize, panel: &mut [u32]) {
    for (word, step) in row.iter().zip(panel.as_chunks_mut::<PANEL>().0) {
        step[lane] = *word;
    }
}

/// One element of a vector.
fn element(vector: &TensorView<'_>, index: usize) -> f32 {
    let mut value = [0.0];
    vector.widen_into(index, &mut value);
    value[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers;

    fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| match dtype {
                Dtype::F32 => value.to_le_bytes().to_vec(),
                Dtype::F16 => half::f16::from_f32(*value).to_le_bytes().to_vec(),
                Dtype::Bf16 => half::bf16::from_f32(*value).to_le_bytes().to_vec(),
            })
            .collect()
    }

    #[test]
    fn every_row_comes_back_from_the_panels() {
        let pool = Pool::new(2);
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            for (outputs, inputs) in [(1, 1), (70, 7), (32, 64), (257, 33)] {
                let data = bytes(&numbers(1, outputs * inputs), dtype);
                let shape = [outputs, inputs];
                let weight = TensorView {
                    name: "w",
                    dtype,
                    shape: &shape,
                    bytes: &data,
                };
                let parts = [LinearPart {
                    weight: WeightView::Dense(weight),
                    bias: None,
                }];
                let packed = PackedWeights::pack(&pool, LinearKind::Head, &parts, (outputs, inputs)).unwrap();
                let wide = weight.widen();
                for (output, expected) in wide.chunks_exact(inputs).enumerate() {
                    let mut row = vec![f32::NAN; inputs];
                    packed.gather_row(output, &mut row);
                    assert_eq!(row, expected);
                }
            }
        }
    }
}
