//! Quantised weights that the kernels multiply as they are: which of them, and in what order of bits.

use vlinders_kernel_api::{CodeKind, InputGroups, LinearPart, QuantizedWeight, WeightView};

use crate::shape::count;

/// What the kernels read as codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    /// Two in a byte, with a scale and a zero.
    Int4,
    /// One in a byte, with a scale.
    Fp8,
}

/// How a projection's codes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coding {
    pub(crate) code: Code,
    /// Inputs that share scales, as the kernels count them.
    pub(crate) group: u32,
}

/// The lowest bits of an int4 scale hold the zero instead.
const ZERO_BITS: u32 = 8;
const LARGEST_ZERO: u8 = 15;

impl Code {
    /// In the kernels' names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Int4 => "int4",
            Self::Fp8 => "fp8",
        }
    }

    /// Inputs of a stage of a tile.
    pub(crate) fn stage_inputs(self) -> u32 {
        match self {
            Self::Int4 => 128,
            Self::Fp8 => 64,
        }
    }

    /// Bytes of a row of so many inputs.
    pub(crate) fn row_bytes(self, inputs: usize) -> usize {
        match self {
            Self::Int4 => inputs / 2,
            Self::Fp8 => inputs,
        }
    }

    /// Inputs must be a multiple of the first, and groups of the second.
    fn steps(self) -> (usize, usize) {
        match self {
            Self::Int4 => (32, 128),
            Self::Fp8 => (16, 64),
        }
    }
}

impl Coding {
    /// How the kernels read all of these parts, when they can. Other ones are dequantised.
    pub(crate) fn of(parts: &[LinearPart<'_>]) -> Option<Self> {
        let mut codings = parts.iter().map(|part| match part.weight {
            WeightView::Dense(_) => None,
            WeightView::Quantized(weight) => Self::of_weight(weight),
        });
        let first = codings.next()??;
        codings.all(|other| other == Some(first)).then_some(first)
    }

    fn of_weight(weight: &QuantizedWeight<'_>) -> Option<Self> {
        let code = match weight.kind {
            CodeKind::Int4 => Code::Int4,
            CodeKind::Fp8 => Code::Fp8,
            CodeKind::Int8 => return None,
        };
        let (input_step, group_step) = code.steps();
        let InputGroups::Even(size) = weight.groups else {
            return None;
        };
        let group = match size {
            size if size >= weight.inputs => weight.inputs.next_multiple_of(group_step),
            size if size.is_multiple_of(group_step) => size,
            _ => return None,
        };
        let fits = weight.inputs.is_multiple_of(input_step)
            && weight.zeros.iter().all(|zero| *zero <= LARGEST_ZERO)
            // Rounding a scale to make room for its zero must leave a number.
            && weight.scales.iter().all(|scale| scale.is_finite() && scale.abs() < f32::MAX / 2.0);
        fits.then_some(Self {
            code,
            group: count(group),
        })
    }

    /// Scales of a row, one for each group of inputs.
    pub(crate) fn groups(self, inputs: usize) -> usize {
        inputs.div_ceil(self.group as usize)
    }

    /// Writes a row's codes in the kernels' order.
    pub(crate) fn put_row(self, weight: &QuantizedWeight<'_>, row: usize, slot: &mut [u8]) {
        let codes = &weight.codes[row * slot.len()..][..slot.len()];
        match self.code {
            Code::Fp8 => slot.copy_from_slice(codes),
            Code::Int4 => {
                // Of eight inputs, the even ones fill the low half of a word and the odd ones its high half.
                for (slot, codes) in slot.chunks_exact_mut(4).zip(codes.chunks_exact(4)) {
                    let word = (0..).step_by(4).zip(codes).fold(0, |word, (shift, byte)| {
                        let (even, odd) = (u32::from(byte & 15), u32::from(byte >> 4));
                        word | even << shift | odd << (shift + 16)
                    });
                    slot.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }

    /// The scale of a row and group, as the kernels read it.
    pub(crate) fn scale(self, weight: &QuantizedWeight<'_>, row: usize, group: usize) -> u32 {
        let columns = weight.scales.len() / weight.outputs.div_ceil(weight.outputs_per_scale);
        let at = row / weight.outputs_per_scale * columns + group;
        let bits = weight.scales[at].to_bits();
        match self.code {
            Code::Fp8 => bits,
            Code::Int4 => {
                let rounded = (bits + (1 << (ZERO_BITS - 1))) >> ZERO_BITS << ZERO_BITS;
                rounded | u32::from(weight.zeros.get(at).copied().unwrap_or(0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn weight(kind: CodeKind, inputs: usize, size: usize) -> QuantizedWeight<'static> {
        let groups = inputs.div_ceil(size);
        QuantizedWeight {
            name: "w",
            outputs: 2,
            inputs,
            kind,
            codes: Cow::Owned((0..=250).cycle().take(2 * kind.bytes(inputs)).collect()),
            scales: vec![0.5; 2 * groups],
            zeros: match kind {
                CodeKind::Fp8 => Vec::new(),
                CodeKind::Int4 | CodeKind::Int8 => vec![8; 2 * groups],
            },
            outputs_per_scale: 1,
            groups: InputGroups::Even(size),
        }
    }

    #[test]
    fn what_the_kernels_do_not_take_is_dequantised() {
        let group = |weight: &QuantizedWeight<'_>| Coding::of_weight(weight).map(|coding| coding.group);
        assert_eq!(group(&weight(CodeKind::Int4, 256, 128)), Some(128));
        assert_eq!(group(&weight(CodeKind::Int4, 96, 96)), Some(128));
        assert_eq!(group(&weight(CodeKind::Int4, 256, 64)), None);
        assert_eq!(group(&weight(CodeKind::Int4, 144, 128)), None);
        assert_eq!(group(&weight(CodeKind::Fp8, 144, 64)), Some(64));
        assert_eq!(group(&weight(CodeKind::Fp8, 144, 144)), Some(192));
        assert_eq!(group(&weight(CodeKind::Int8, 256, 128)), None);
        let large_zero = QuantizedWeight {
            zeros: vec![16; 4],
            ..weight(CodeKind::Int4, 256, 128)
        };
        assert_eq!(group(&large_zero), None);
        let listed = QuantizedWeight {
            groups: InputGroups::Listed(vec![0; 256]),
            ..weight(CodeKind::Int4, 256, 128)
        };
        assert_eq!(group(&listed), None);
    }

    #[test]
    fn even_inputs_lie_before_odd_ones_and_a_zero_under_its_scale() {
        let mut weight = weight(CodeKind::Int4, 32, 32);
        weight.codes.to_mut()[..4].copy_from_slice(&[0x10, 0x32, 0x54, 0x76]);
        let coding = Coding::of_weight(&weight).unwrap();
        let mut row = [0; 16];
        coding.put_row(&weight, 0, &mut row);
        assert_eq!(u32::from_le_bytes(row[..4].try_into().unwrap()), 0x7531_6420);
        assert_eq!(coding.scale(&weight, 1, 0), 0.5_f32.to_bits() | 8);
        assert_eq!(coding.groups(32), 1);
    }
}
