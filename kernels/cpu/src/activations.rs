//! Left-hand sides of matrix products, stored in the order in which the kernels read them.
//!
//! Rows are taken in groups of [`Layout::group_rows`]; inside a group, the rows' numbers of one step along K lie side
//! by side: `[group][step][row]`. A step is one f32, or two bf16 in one word for kernels with bf16 dot products.

use crate::isa::{Isa, for_each_isa};
use crate::math::{Arithmetic, bf16_pair};
use crate::shared::SharedMut;
use crate::{IsaLevel, math};

/// Most rows that any kernel takes at once.
pub(crate) const MAX_GROUP_ROWS: usize = 12;

/// How numbers become words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The bits of one f32.
    Single,
    /// Two bf16 neighbours along K, the first in the low half.
    Bf16Pair,
}

/// The shape of a left-hand side `[rows, inputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) word: Word,
    pub(crate) group_rows: usize,
}

impl Layout {
    /// Steps along K. Weights of an odd K are padded with zeros, and so is this.
    pub(crate) fn steps(&self) -> usize {
        match self.word {
            Word::Single => self.inputs.next_multiple_of(2),
            Word::Bf16Pair => self.inputs.div_ceil(2),
        }
    }

    /// Words of the whole.
    pub(crate) fn words(&self) -> usize {
        self.rows * self.steps()
    }

    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(self.group_rows)
    }

    /// Rows of one group: all but the last are full.
    pub(crate) fn rows_in(&self, group: usize) -> usize {
        (self.rows - group * self.group_rows).min(self.group_rows)
    }

    /// Where the words of one group start.
    pub(crate) fn group_start(&self, group: usize) -> usize {
        group * self.group_rows * self.steps()
    }

    /// Words that hold `inputs` columns of `rows` rows in any word size.
    pub(crate) fn most_words(rows: usize, inputs: usize) -> usize {
        rows * inputs.next_multiple_of(2)
    }
}

/// Rows a kernel of this level takes at once.
pub(crate) fn group_rows(isa: Isa) -> usize {
    match isa.level() {
        IsaLevel::Portable => 4,
        IsaLevel::Avx2 => 3,
        IsaLevel::Avx512 | IsaLevel::Avx512Bf16 => MAX_GROUP_ROWS,
    }
}

/// Words in a cache line.
const RUN: usize = 16;

/// Makes the words of one row: as many as `layout` has steps.
///
/// # Panics
/// When the lengths do not fit.
pub(crate) fn encode(isa: Isa, layout: &Layout, row: &[f32], into: &mut [u32]) {
    assert_eq!(row.len(), layout.inputs, "a whole row");
    assert_eq!(into.len(), layout.steps(), "one word for each step");
    match layout.word {
        Word::Single => {
            for (into, value) in into.iter_mut().zip(row) {
                *into = value.to_bits();
            }
            into[row.len()..].fill(0);
        }
        Word::Bf16Pair => encode_pairs(isa, row, into),
    }
}

for_each_isa! {
    fn encode_pairs / encode_pair_lanes(row: &[f32], into: &mut [u32])
}

#[inline(always)]
fn encode_pair_lanes<A: Arithmetic>(row: &[f32], into: &mut [u32]) {
    let _: std::marker::PhantomData<A>;
    let (pairs, odd) = row.as_chunks::<2>();
    for (into, [low, high]) in into.iter_mut().zip(pairs) {
        *into = bf16_pair(*low, *high);
    }
    if let ([last], Some(into)) = (odd, into.last_mut()) {
        *into = math::bf16_bits(*last);
    }
}

/// A left-hand side to fill, shared by the threads of a run.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    words: SharedMut<'a, u32>,
    layout: Layout,
}

impl<'a> Packed<'a> {
    /// # Panics
    /// When `words` is too short for `layout`.
    pub(crate) fn new(words: &'a mut [u32], layout: Layout) -> Self {
        assert!(
            words.len() >= layout.words(),
            "the buffer holds the left-hand side"
        );
        Self {
            words: SharedMut::new(words),
            layout,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Writes all rows of `group`, whose words lie row by row in `rows`, as [`encode`] makes them.
    ///
    /// # Panics
    /// When there is no such group, or `rows` does not hold its words.
    ///
    /// # Safety
    /// No other thread writes this group during the run, and nobody reads it.
    pub(crate) unsafe fn write_group(&self, group: usize, rows: &[u32]) {
        let (count, steps) = (self.layout.rows_in(group), self.layout.steps());
        assert_eq!(rows.len(), count * steps, "all rows of the group");
        // SAFETY: the caller is the only user of the group.
        let into = unsafe { self.words.part(self.layout.group_start(group), count * steps) };
        if count == 1 {
            return into.copy_from_slice(rows);
        }
        // A line of each row at a time, so that lines are read and written whole.
        for first in (0..steps).step_by(RUN) {
            let end = (first + RUN).min(steps);
            for (row, words) in rows.chunks_exact(steps).enumerate() {
                let into = into[first * count..end * count].chunks_exact_mut(count);
                for (into, word) in into.zip(&words[first..end]) {
                    into[row] = *word;
                }
            }
        }
    }

    /// Writes `values` as columns `first_input..` of `row`. A part that ends at an odd K is padded with a zero.
    ///
    /// # Panics
    /// When they do not lie inside, or start or end in the middle of a pair.
    ///
    /// # Safety
    /// No other thread writes these columns of this row during the run, and nobody reads them.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, row: usize, first_input: usize, values: &[f32]) {
        let Layout {
            rows,
            inputs,
            word,
            group_rows,
        } = self.layout;
        let end = first_input + values.len();
        assert!(
            row < rows && end <= inputs,
            "the part lies inside the left-hand side"
        );
        assert!(
            first_input.is_multiple_of(2) && (end.is_multiple_of(2) || end == inputs),
            "pairs are whole"
        );
        let group = row / group_rows;
        let stride = self.layout.rows_in(group);
        let start = self.layout.group_start(group) + row % group_rows;
        match word {
            Word::Single => {
                for (index, value) in values.iter().enumerate() {
                    // SAFETY: the caller is the only user of this element.
                    unsafe {
                        self.words
                            .set(start + (first_input + index) * stride, value.to_bits())
                    };
                }
                if !end.is_multiple_of(2) {
                    // SAFETY: padding belongs to the last column, so to the same caller.
                    unsafe { self.words.set(start + end * stride, 0) };
                }
            }
            Word::Bf16Pair => {
                let (pairs, odd) = values.as_chunks::<2>();
                let first_step = first_input / 2;
                for (index, [low, high]) in pairs.iter().enumerate() {
                    // SAFETY: the caller is the only user of this element.
                    unsafe {
                        self.words
                            .set(start + (first_step + index) * stride, bf16_pair(*low, *high))
                    };
                }
                if let [last] = odd {
                    let step = first_step + pairs.len();
                    // SAFETY: the caller is the only user of this element.
                    unsafe { self.words.set(start + step * stride, math::bf16_bits(*last)) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: usize, inputs: usize, word: Word) -> Vec<u32> {
        let layout = Layout {
            rows,
            inputs,
            word,
            group_rows: 3,
        };
        let mut words = vec![u32::MAX; layout.words()];
        let packed = Packed::new(&mut words, layout);
        for row in 0..rows {
            let values: Vec<f32> = (0..inputs).map(|input| (10 * row + input + 1) as f32).collect();
            // SAFETY: one thread.
            unsafe { packed.write(row, 0, &values) };
        }
        words
    }

    #[test]
    fn rows_of_a_group_lie_side_by_side_and_the_last_group_is_narrow() {
        let found: Vec<f32> = filled(4, 2, Word::Single)
            .into_iter()
            .map(f32::from_bits)
            .collect();
        assert_eq!(found, [1.0, 11.0, 21.0, 2.0, 12.0, 22.0, 31.0, 32.0]);
    }

    #[test]
    fn groups_written_at_once_are_those_written_row_by_row() {
        for (rows, inputs) in [(1, 5), (2, 40), (7, 33), (3, 64)] {
            for word in [Word::Single, Word::Bf16Pair] {
                let layout = Layout {
                    rows,
                    inputs,
                    word,
                    group_rows: 3,
                };
                let mut words = vec![u32::MAX; layout.words()];
                let packed = Packed::new(&mut words, layout);
                for group in 0..layout.groups() {
                    let mut encoded = vec![u32::MAX; layout.rows_in(group) * layout.steps()];
                    for (index, into) in encoded.chunks_exact_mut(layout.steps()).enumerate() {
                        let row = group * layout.group_rows + index;
                        let values: Vec<f32> =
                            (0..inputs).map(|input| (10 * row + input + 1) as f32).collect();
                        encode(Isa::best(), &layout, &values, into);
                    }
                    // SAFETY: one thread.
                    unsafe { packed.write_group(group, &encoded) };
                }
                assert_eq!(words, filled(rows, inputs, word));
            }
        }
    }

    #[test]
    fn an_odd_length_is_padded_with_zeros() {
        let singles: Vec<f32> = filled(1, 3, Word::Single)
            .into_iter()
            .map(f32::from_bits)
            .collect();
        assert_eq!(singles, [1.0, 2.0, 3.0, 0.0]);
        let pairs = filled(1, 3, Word::Bf16Pair);
        assert_eq!(pairs, [bf16_pair(1.0, 2.0), bf16_pair(3.0, 0.0)]);
    }
}
