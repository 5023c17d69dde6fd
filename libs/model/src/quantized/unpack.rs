//! From the orders of files to the one of backends.

use std::borrow::Cow;

use vlinders_kernel_api::{CodeKind, InputGroups, QuantizedWeight};

use super::{Order, StoredCodes};
use crate::checkpoint::RawTensor;

/// Which neighbour a word's n-th code belongs to, in the interleaved order.
const INTERLEAVED: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Words of a row that are taken apart together: as many as a cache line has.
const TILE: usize = 16;

impl<'a> StoredCodes<'a> {
    /// Brought into the order that backends take.
    pub(crate) fn read(&self) -> QuantizedWeight<'a> {
        let scales = self.scales.widen();
        let (codes, scales, zeros) = match self.order {
            Order::Rows => (self.rows(), scales.clone(), self.middle_zeros(scales.len())),
            Order::PackedRows { zeros } => {
                let zeros = match zeros {
                    Some(zeros) => self.zeros_along_outputs(&zeros),
                    None => self.middle_zeros(scales.len()),
                };
                (Cow::Borrowed(self.codes.bytes), scales, zeros)
            }
            Order::PackedColumns { zeros, zeros_lack } => {
                let zeros = self.zeros_of_columns(&zeros, |code| code, zeros_lack);
                (Cow::Owned(self.packed_columns()), self.transposed(&scales), zeros)
            }
            Order::Interleaved { zeros } => {
                let zeros = self.zeros_of_columns(&zeros, |code| INTERLEAVED[code], 0);
                (Cow::Owned(self.interleaved()), self.transposed(&scales), zeros)
            }
        };
        QuantizedWeight {
            name: self.codes.name,
            outputs: self.outputs,
            inputs: self.inputs,
            kind: self.kind,
            codes,
            scales,
            zeros,
            outputs_per_scale: self.block[0],
            groups: match self.groups {
                Some(list) => InputGroups::Listed(list.words().collect()),
                None => InputGroups::Even(self.block[1]),
            },
        }
    }

    /// Integers with a sign are counted from the middle.
    fn rows(&self) -> Cow<'a, [u8]> {
        match self.kind {
            CodeKind::Fp8 | CodeKind::Int4 => Cow::Borrowed(self.codes.bytes),
            CodeKind::Int8 => self.codes.bytes.iter().map(|code| code ^ 0x80).collect(),
        }
    }

    fn middle_zeros(&self, count: usize) -> Vec<u8> {
        match self.kind {
            CodeKind::Fp8 => Vec::new(),
            CodeKind::Int4 => vec![8; count],
            CodeKind::Int8 => vec![128; count],
        }
    }

    fn bits(&self) -> usize {
        match self.kind {
            CodeKind::Int4 => 4,
            CodeKind::Int8 | CodeKind::Fp8 => 8,
        }
    }

    fn mask(&self) -> u8 {
        match self.kind {
            CodeKind::Int4 => 15,
            CodeKind::Int8 | CodeKind::Fp8 => 255,
        }
    }

    /// The n-th code of a word, from its lowest bits up.
    fn code(&self, word: u32, index: usize) -> u8 {
        let bits = self.bits();
        (word >> (bits * index)).to_le_bytes()[0] & self.mask()
    }

    /// `[words along outputs, groups]` → `[outputs, groups]`.
    fn zeros_along_outputs(&self, zeros: &RawTensor<'_>) -> Vec<u8> {
        let (per_word, groups) = (32 / self.bits(), zeros.shape[1]);
        let zero = |output: usize, group: usize| {
            self.code(zeros.word(output / per_word * groups + group), output % per_word)
        };
        let all = (0..self.outputs).flat_map(|output| (0..groups).map(move |group| (output, group)));
        all.map(|(output, group)| zero(output, group)).collect()
    }

    /// `[groups, words along outputs]` → `[outputs, groups]`. `place`: which neighbour a word's n-th code belongs to.
    fn zeros_of_columns(&self, zeros: &RawTensor<'_>, place: impl Fn(usize) -> usize, lack: u8) -> Vec<u8> {
        let [groups, words] = [zeros.shape[0], zeros.shape[1]];
        let per_word = 32 / self.bits();
        let mut found = vec![0; self.outputs * groups];
        for (index, word) in zeros.words().enumerate() {
            let (group, first) = (index / words, index % words * per_word);
            for code in 0..per_word {
                // One less than nothing wraps where such weights are made, and one more wraps back.
                let zero = self.code(word, code).wrapping_add(lack) & self.mask();
                found[(first + place(code)) * groups + group] = zero;
            }
        }
        found
    }

    /// `[groups, outputs]` → `[outputs, groups]`.
    fn transposed(&self, scales: &[f32]) -> Vec<f32> {
        let groups = scales.len() / self.outputs;
        let all =
            (0..self.outputs).flat_map(|output| (0..groups).map(move |group| group * self.outputs + output));
        all.map(|index| scales[index]).collect()
    }

    /// A word holds neighbouring inputs of one output, in the order they have here too.
    fn packed_columns(&self) -> Vec<u8> {
        let row_bytes = self.kind.bytes(self.inputs);
        let mut codes = vec![0; self.outputs * row_bytes];
        for (tile, rows) in codes.chunks_mut(TILE * row_bytes).enumerate() {
            for step in 0..row_bytes / 4 {
                for (lane, row) in rows.chunks_mut(row_bytes).enumerate() {
                    let word = self.codes.word(step * self.outputs + tile * TILE + lane);
                    row[step * 4..][..4].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        codes
    }

    /// A word holds eight neighbouring outputs of one input.
    fn interleaved(&self) -> Vec<u8> {
        let (row_bytes, words) = (self.kind.bytes(self.inputs), self.outputs / 8);
        let mut codes = vec![0; self.outputs * row_bytes];
        for (tile, rows) in codes.chunks_mut(TILE * 8 * row_bytes).enumerate() {
            for input in 0..self.inputs {
                for (lane, eight) in rows.chunks_mut(8 * row_bytes).enumerate() {
                    let word = self.codes.word(input * words + tile * TILE + lane);
                    for (index, output) in INTERLEAVED.into_iter().enumerate() {
                        eight[output * row_bytes + input / 2] |= self.code(word, index) << (input % 2 * 4);
                    }
                }
            }
        }
        codes
    }
}
