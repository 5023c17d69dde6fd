//! Weights of projections, dense or quantised.

use std::borrow::Cow;

use crate::{Dtype, KernelError, TensorView};

/// A projection's weight `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub enum WeightView<'a> {
    /// A number for each element.
    Dense(TensorView<'a>),
    /// A code for each element, and scales that many share.
    Quantized(&'a QuantizedWeight<'a>),
}

/// How a projection's weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// A number for each element.
    Dense(Dtype),
    /// Codes and scales.
    Quantized(CodeKind),
}

/// What a code of a quantised weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeKind {
    /// Eight bits: sign, four of exponent (bias 7), three of mantissa; no infinities (OCP 8-bit floating point, E4M3).
    Fp8,
    /// A number from 0 to 15, two in a byte, the even input in the low half.
    Int4,
    /// A number from 0 to 255.
    Int8,
}

/// A weight whose elements are `scale * value of the code`, or `scale * (code - zero)` for integer codes. Every format of the
/// Hub that is read is brought into this one order first.
#[derive(Clone, Debug)]
pub struct QuantizedWeight<'a> {
    /// The projection's name in the checkpoint, for errors.
    pub name: &'a str,
    /// Rows.
    pub outputs: usize,
    /// Columns; even when two share a byte.
    pub inputs: usize,
    /// What a code is.
    pub kind: CodeKind,
    /// `[outputs, inputs]`, row-major.
    pub codes: Cow<'a, [u8]>,
    /// `[outputs / outputs_per_scale, groups]`, row-major.
    pub scales: Vec<f32>,
    /// Of integer codes, those that stand for zero, shaped as `scales`. Empty for [`CodeKind::Fp8`].
    pub zeros: Vec<u8>,
    /// Neighbouring outputs that share scales; the last ones may be fewer.
    pub outputs_per_scale: usize,
    /// Inputs that share scales.
    pub groups: InputGroups,
}

/// Which column of the scales an input uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputGroups {
    /// So many neighbours share one; the last ones may be fewer.
    Even(usize),
    /// As listed, `[inputs]`: weights whose columns were quantised in another order.
    Listed(Vec<u32>),
}

impl CodeKind {
    /// The name in logs and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp8 => "fp8",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of `count` neighbouring codes, which begin with a byte.
    #[must_use]
    pub const fn bytes(self, count: usize) -> usize {
        match self {
            Self::Fp8 | Self::Int8 => count,
            Self::Int4 => count.div_ceil(2),
        }
    }
}

impl WeightFormat {
    /// The name in logs and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense(dtype) => dtype.name(),
            Self::Quantized(kind) => kind.name(),
        }
    }
}

impl<'a> WeightView<'a> {
    /// Its name in the checkpoint.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        match self {
            Self::Dense(tensor) => tensor.name,
            Self::Quantized(weight) => weight.name,
        }
    }

    /// How it is stored.
    #[must_use]
    pub const fn format(&self) -> WeightFormat {
        match self {
            Self::Dense(tensor) => WeightFormat::Dense(tensor.dtype),
            Self::Quantized(weight) => WeightFormat::Quantized(weight.kind),
        }
    }

    /// Outputs and inputs, unchecked: 0 for a dimension that a tensor lacks.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) => [0, 1].map(|axis| tensor.shape.get(axis).copied().unwrap_or(0)),
            Self::Quantized(weight) => [weight.outputs, weight.inputs],
        }
    }

    /// Bytes of codes, or of numbers.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.bytes.len(),
            Self::Quantized(weight) => weight.codes.len() + weight.scales.len() * 4 + weight.zeros.len(),
        }
    }

    /// Whether it holds as much as its shape says.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when not.
    pub fn check(&self) -> Result<(), KernelError> {
        match self {
            Self::Dense(tensor) => tensor.check_shape(&self.shape()),
            Self::Quantized(weight) => weight.check(),
        }
    }

    /// The numbers of one row: widened without loss, or dequantised in f32.
    ///
    /// # Panics
    /// When there is no such row or `into` is not one row.
    pub fn read_row(&self, row: usize, into: &mut [f32]) {
        match self {
            Self::Dense(tensor) => {
                assert_eq!(into.len(), tensor.shape[1], "one row of {}", tensor.name);
                tensor.widen_into(row * into.len(), into);
            }
            Self::Quantized(weight) => weight.read_row(row, into),
        }
    }

    /// All numbers, row after row, as [`Self::read_row`] has them.
    #[must_use]
    pub fn widen(&self) -> Vec<f32> {
        let [outputs, inputs] = self.shape();
        let mut wide = vec![0.0; outputs * inputs];
        for (row, into) in wide.chunks_exact_mut(inputs.max(1)).enumerate() {
            self.read_row(row, into);
        }
        wide
    }
}

impl QuantizedWeight<'_> {
    /// Columns of the scales.
    #[must_use]
    pub fn group_count(&self) -> usize {
        match &self.groups {
            InputGroups::Even(size) => self.inputs.div_ceil(*size),
            InputGroups::Listed(groups) => groups.iter().max().map_or(0, |last| *last as usize + 1),
        }
    }

    fn check(&self) -> Result<(), KernelError> {
        let wrong = |what: &str, expected: usize, found: usize| KernelError::Shape {
            what: format!("{}: {what}", self.name),
            expected: vec![expected],
            found: vec![found],
        };
        let row_bytes = self.kind.bytes(self.inputs);
        let pairs = self.kind == CodeKind::Int4;
        if pairs && !self.inputs.is_multiple_of(2) {
            return Err(wrong("inputs", self.inputs + 1, self.inputs));
        }
        if self.codes.len() != self.outputs * row_bytes {
            return Err(wrong("codes", self.outputs * row_bytes, self.codes.len()));
        }
        let has_groups = match &self.groups {
            InputGroups::Even(size) => *size > 0,
            InputGroups::Listed(groups) => groups.len() == self.inputs,
        };
        if !has_groups || self.outputs_per_scale == 0 {
            return Err(wrong("groups", self.inputs, 0));
        }
        // A list need not use the last columns.
        let (rows, groups) = (self.outputs.div_ceil(self.outputs_per_scale), self.group_count());
        if self.scales.len() < rows * groups || !self.scales.len().is_multiple_of(rows.max(1)) {
            return Err(wrong("scales", rows * groups, self.scales.len()));
        }
        let zeros = if self.kind == CodeKind::Fp8 {
            0
        } else {
            self.scales.len()
        };
        if self.zeros.len() != zeros {
            return Err(wrong("zeros", zeros, self.zeros.len()));
        }
        Ok(())
    }

    fn read_row(&self, row: usize, into: &mut [f32]) {
        assert_eq!(into.len(), self.inputs, "one row of {}", self.name);
        let row_bytes = self.kind.bytes(self.inputs);
        let codes = &self.codes[row * row_bytes..][..row_bytes];
        match self.kind {
            CodeKind::Fp8 => {
                for (into, code) in into.iter_mut().zip(codes) {
                    *into = FP8[usize::from(*code)];
                }
            }
            CodeKind::Int8 => {
                for (into, code) in into.iter_mut().zip(codes) {
                    *into = f32::from(*code);
                }
            }
            CodeKind::Int4 => {
                for (into, code) in into.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                    *into = [f32::from(code & 15), f32::from(code >> 4)];
                }
            }
        }
        let columns = self.scales.len() / self.outputs.div_ceil(self.outputs_per_scale);
        let first = row / self.outputs_per_scale * columns;
        let scaled = |value: &mut f32, group: usize| {
            let zero = self.zeros.get(first + group).map_or(0.0, |zero| f32::from(*zero));
            *value = (*value - zero) * self.scales[first + group];
        };
        match &self.groups {
            InputGroups::Even(size) => {
                for (group, values) in into.chunks_mut(*size).enumerate() {
                    values.iter_mut().for_each(|value| scaled(value, group));
                }
            }
            InputGroups::Listed(groups) => {
                for (value, group) in into.iter_mut().zip(groups) {
                    scaled(value, *group as usize);
                }
            }
        }
    }
}

/// The value of every fp8 code.
static FP8: [f32; 256] = fp8_values();

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a code has eight bits"
)]
const fn fp8_values() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = ((code >> 3) & 15, (code & 7) as f32);
        let magnitude = if code & 127 == 127 {
            f32::NAN
        } else if exponent == 0 {
            mantissa / 512.0
        } else {
            (8.0 + mantissa) * f32::from_bits((exponent as u32 + 127 - 10) << 23)
        };
        values[code] = if code >= 128 { -magnitude } else { magnitude };
        code += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(kind: CodeKind, codes: &[u8]) -> QuantizedWeight<'_> {
        QuantizedWeight {
            name: "w",
            outputs: 2,
            inputs: 4,
            kind,
            codes: Cow::Borrowed(codes),
            scales: vec![1.0, 10.0, 0.5, 2.0],
            zeros: vec![8, 0, 1, 15],
            outputs_per_scale: 1,
            groups: InputGroups::Even(2),
        }
    }

    #[test]
    fn fp8_codes_have_the_values_of_the_standard() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x3C, 1.5),
            (0x7E, 448.0),
            (0xFE, -448.0),
            (0x81, -1.0 / 512.0),
        ] {
            assert_eq!(FP8[code], value, "{code:#x}");
        }
        assert!(FP8[0x7F].is_nan() && FP8[0xFF].is_nan());
        let ordered = FP8[..127].windows(2).all(|pair| pair[0] < pair[1]);
        assert!(ordered, "magnitudes grow with their codes");
    }

    #[test]
    fn integers_are_counted_from_their_zero_and_scaled_by_their_group() {
        let codes = [0x9A, 0xF0, 0x10, 0xF2];
        let packed = weight(CodeKind::Int4, &codes);
        let view = WeightView::Quantized(&packed);
        view.check().unwrap();
        assert_eq!(view.widen(), [2.0, 1.0, 0.0, 150.0, -0.5, 0.0, -26.0, 0.0]);
        let codes = [10, 9, 0, 15, 0, 1, 2, 255];
        let bytes = weight(CodeKind::Int8, &codes);
        let wide = WeightView::Quantized(&bytes).widen();
        assert_eq!(wide, [2.0, 1.0, 0.0, 150.0, -0.5, 0.0, -26.0, 480.0]);
    }

    #[test]
    fn a_list_of_groups_overrides_the_order_of_inputs() {
        let codes = [0x9A, 0xF0, 0x10, 0xF2];
        let listed = QuantizedWeight {
            groups: InputGroups::Listed(vec![1, 0, 1, 0]),
            ..weight(CodeKind::Int4, &codes)
        };
        WeightView::Quantized(&listed).check().unwrap();
        let wide = WeightView::Quantized(&listed).widen();
        assert_eq!(wide, [100.0, 1.0, 0.0, 7.0, -30.0, 0.0, -26.0, 7.0]);
    }

    #[test]
    fn scales_may_be_shared_by_blocks_of_outputs_and_inputs_that_end_unevenly() {
        let blocks = QuantizedWeight {
            name: "w",
            outputs: 3,
            inputs: 3,
            kind: CodeKind::Fp8,
            codes: Cow::Owned(vec![0x38; 9]),
            scales: vec![1.0, 2.0, 3.0, 4.0],
            zeros: Vec::new(),
            outputs_per_scale: 2,
            groups: InputGroups::Even(2),
        };
        let view = WeightView::Quantized(&blocks);
        view.check().unwrap();
        assert_eq!(view.widen(), [1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
    }

    #[test]
    fn what_contradicts_its_shape_is_refused() {
        let codes = [0; 4];
        let good = weight(CodeKind::Int4, &codes);
        let broken = [
            QuantizedWeight {
                outputs: 3,
                ..good.clone()
            },
            QuantizedWeight {
                inputs: 3,
                ..good.clone()
            },
            QuantizedWeight {
                kind: CodeKind::Int8,
                ..good.clone()
            },
            QuantizedWeight {
                kind: CodeKind::Fp8,
                ..good.clone()
            },
            QuantizedWeight {
                scales: vec![1.0; 3],
                ..good.clone()
            },
            QuantizedWeight {
                zeros: vec![0; 3],
                ..good.clone()
            },
            QuantizedWeight {
                groups: InputGroups::Even(1),
                ..good.clone()
            },
            QuantizedWeight {
                groups: InputGroups::Even(0),
                ..good.clone()
            },
            QuantizedWeight {
                groups: InputGroups::Listed(vec![0, 0, 0]),
                ..good.clone()
            },
            QuantizedWeight {
                groups: InputGroups::Listed(vec![0, 0, 0, 2]),
                ..good.clone()
            },
            QuantizedWeight {
                outputs_per_scale: 0,
                ..good.clone()
            },
        ];
        for (index, weight) in broken.iter().enumerate() {
            assert!(WeightView::Quantized(weight).check().is_err(), "{index}");
        }
    }
}
