//! What one step computes, fixed by `plan`.

use vlinders_kernel_api::RotaryId;
use vlinders_kernel_reference::ops::{narrow, rotation};
use vlinders_types::{BLOCK_TOKENS, Batch, BlockId, TokenId};

use crate::attention::{QueryRun, tokens_per_run};

/// A checked batch in the form the operations want.
#[derive(Default)]
pub(crate) struct Step {
    pub(crate) tokens: Vec<TokenId>,
    /// Where each token stands.
    pub(crate) places: Vec<Place>,
    /// All rows' block tables.
    pub(crate) blocks: Vec<BlockId>,
    /// Attention's items, the longest of a row first.
    pub(crate) runs: Vec<QueryRun>,
    /// Tokens after which one is drawn.
    pub(crate) sampled: Vec<usize>,
    turns: Turns,
}

/// Position of a token, and the block that takes its key and value.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) position: u32,
    pub(crate) block: BlockId,
}

/// Cosines and sines of the step's positions, made once a step.
#[derive(Default)]
struct Turns {
    made_for: Option<RotaryId>,
    /// `[tokens, head_dim / 2]`.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Step {
    /// Takes over a batch that the spec has passed. `group` query heads share a key head.
    pub(crate) fn set(&mut self, batch: &Batch, group: usize) {
        self.tokens.clone_from(&batch.tokens);
        self.blocks.clone_from(&batch.blocks);
        self.places.clear();
        self.runs.clear();
        let most = tokens_per_run(group);
        for row in &batch.rows {
            let table = &batch.blocks[row.blocks.range()];
            self.places.extend((0..row.tokens.count).map(|index| {
                let position = row.first_position + index;
                Place {
                    position,
                    block: table[(position / BLOCK_TOKENS) as usize],
                }
            }));
            let first_run = self.runs.len();
            for (index, start) in (0..row.tokens.count).step_by(most).enumerate() {
                let first = index * most;
                self.runs.push(QueryRun {
                    first_token: row.tokens.start as usize + first,
                    count: (row.tokens.count as usize - first).min(most),
                    first_position: row.first_position + start,
                    table: row.blocks.start as usize,
                });
            }
            // The last tokens see the most keys. Begun first, they do not leave a thread working alone at the end.
            self.runs[first_run..].reverse();
        }
        self.sampled.clear();
        self.sampled
            .extend(batch.samples.iter().map(|sample| sample.token_index as usize));
        self.turns.made_for = None;
    }

    /// Cosines and sines of one token's position, `[frequencies]`, after `prepare_turns`.
    pub(crate) fn turns(&self, token: usize, frequencies: usize) -> (&[f32], &[f32]) {
        let part = token * frequencies..(token + 1) * frequencies;
        (&self.turns.cosines[part.clone()], &self.turns.sines[part])
    }

    /// Makes the cosines and sines of the step's positions, once a step.
    pub(crate) fn prepare_turns(&mut self, rotary: RotaryId, frequencies: &[f32]) {
        let turns = &mut self.turns;
        if turns.made_for != Some(rotary) {
            turns.cosines.clear();
            turns.sines.clear();
            for place in &self.places {
                for frequency in frequencies {
                    let (cosine, sine) = rotation(place.position, *frequency);
                    turns.cosines.push(narrow(cosine));
                    turns.sines.push(narrow(sine));
                }
            }
            turns.made_for = Some(rotary);
        }
    }
}
