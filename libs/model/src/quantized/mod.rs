//! Quantised projections of published checkpoints, brought into the one order that backends take.
//!
//! Weights are what is quantised here: how a checkpoint was meant to quantise activations is not followed, which is
//! slower on some devices and never less exact.

mod find;
mod scheme;
mod unpack;

use vlinders_kernel_api::{CodeKind, Dtype, TensorView, WeightFormat};

pub(crate) use self::find::Place;
pub use self::scheme::Quantization;
use crate::checkpoint::RawTensor;

/// A projection's weight as it lies in the files.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are a few hundred of them, while a model is loaded"
)]
pub(crate) enum StoredWeight<'a> {
    Dense(TensorView<'a>),
    Quantized(StoredCodes<'a>),
}

/// Codes with all that belongs to them, shapes checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredCodes<'a> {
    codes: RawTensor<'a>,
    outputs: usize,
    inputs: usize,
    kind: CodeKind,
    order: Order<'a>,
    scales: TensorView<'a>,
    /// Outputs and inputs that share a scale.
    block: [usize; 2],
    /// For each input its group, where that is not their order.
    groups: Option<RawTensor<'a>>,
}

/// In which order codes and zeros lie, and what is to be done to them.
#[derive(Clone, Copy, Debug)]
enum Order<'a> {
    /// `[outputs, inputs]`, a byte each; int8 with a sign.
    Rows,
    /// `[outputs, inputs]` in words whose lowest bits come first; zeros the same along outputs, `[outputs, groups]`.
    PackedRows { zeros: Option<RawTensor<'a>> },
    /// `[inputs, outputs]` in words along inputs; zeros `[groups, outputs]` along outputs, less this than they are.
    PackedColumns { zeros: RawTensor<'a>, zeros_lack: u8 },
    /// `[inputs, outputs]` in words along outputs, eight in the order 0 2 4 6 1 3 5 7; zeros the same.
    Interleaved { zeros: RawTensor<'a> },
}

impl<'a> StoredWeight<'a> {
    pub(crate) fn name(&self) -> &'a str {
        match self {
            Self::Dense(tensor) => tensor.name,
            Self::Quantized(stored) => stored.codes.name,
        }
    }

    pub(crate) fn format(&self) -> WeightFormat {
        match self {
            Self::Dense(tensor) => WeightFormat::Dense(tensor.dtype),
            Self::Quantized(stored) => WeightFormat::Quantized(stored.kind),
        }
    }

    /// What its numbers are computed in.
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Dense(tensor) => tensor.dtype,
            Self::Quantized(_) => Dtype::Bf16,
        }
    }

    /// Bytes in the files.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.bytes.len(),
            Self::Quantized(stored) => stored.codes.bytes.len() + stored.scales.bytes.len(),
        }
    }
}
