//! One sequence driven through any engine.

use std::sync::Arc;

use vlinders_engine::Engine;
use vlinders_types::{
    AwaitedMask, Batch, BatchRow, BlockId, SampleRow, Sampled, SamplingParams, SequenceId, Span, TokenId,
    blocks_for_tokens,
};

pub(crate) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

/// A sequence and where it lies.
#[derive(Clone)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) computed: usize,
    /// As many as its longest state needs.
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) params: Arc<SamplingParams>,
    pub(crate) banned: Arc<[TokenId]>,
    pub(crate) allowed: Option<Arc<AwaitedMask>>,
}

impl Sequence {
    pub(crate) fn new(tokens: &[TokenId], blocks: &[u32]) -> Self {
        let blocks = blocks.iter().copied().map(BlockId).collect();
        let params = Arc::new(SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        });
        Self {
            tokens: tokens.to_vec(),
            computed: 0,
            blocks,
            params,
            banned: Arc::new([]),
            allowed: None,
        }
    }

    /// A batch of the next `new` tokens; draws when they are the last ones.
    pub(crate) fn batch(&self, new: usize) -> Batch {
        let (sequence, end) = (SequenceId(1), self.computed + new);
        let table = &self.blocks[..blocks_for_tokens(count(end)) as usize];
        let row = BatchRow {
            sequence,
            tokens: Span {
                start: 0,
                count: count(new),
            },
            first_position: count(self.computed),
            blocks: Span {
                start: 0,
                count: count(table.len()),
            },
        };
        let sample = SampleRow {
            sequence,
            token_index: count(new) - 1,
            position: count(end),
            params: self.params.clone(),
            history: Span::default(),
            prompt_tokens: 0,
            banned: self.banned.clone(),
            allowed: self.allowed.clone(),
        };
        Batch {
            rows: vec![row],
            tokens: self.tokens[self.computed..end].to_vec(),
            blocks: table.to_vec(),
            samples: if end == self.tokens.len() {
                vec![sample]
            } else {
                vec![]
            },
            history: vec![],
            ..Batch::default()
        }
    }

    /// Computes all tokens that are not computed yet, `chunk` at a time, and draws the next.
    pub(crate) fn draw(&mut self, engine: &mut dyn Engine, chunk: usize) -> Option<Sampled> {
        loop {
            let new = chunk.min(self.tokens.len() - self.computed);
            let mut output = engine.step(&self.batch(new)).unwrap();
            self.computed += new;
            if let Some(result) = output.samples.pop() {
                return result.sampled;
            }
        }
    }

    /// Draws `more` tokens one after the other.
    pub(crate) fn generate(&mut self, engine: &mut dyn Engine, chunk: usize, more: usize) -> Vec<TokenId> {
        let start = self.tokens.len();
        for _ in 0..more {
            let sampled = self.draw(engine, chunk).expect("something can be drawn");
            self.tokens.push(sampled.token);
        }
        self.tokens[start..].to_vec()
    }

    /// Moves the computed blocks from one engine's memory into `blocks` of another's.
    pub(crate) fn hand_off(&mut self, from: &dyn Engine, to: &dyn Engine, blocks: &[u32]) {
        let (source, destination) = (from.memory(), to.memory());
        let blocks: Vec<BlockId> = blocks.iter().copied().map(BlockId).collect();
        let used = blocks_for_tokens(count(self.computed)) as usize;
        for (old, new) in self.blocks[..used].iter().zip(&blocks) {
            source.with_block(*old, &mut |bytes| destination.write_block(*new, bytes));
        }
        self.blocks = blocks;
    }
}
