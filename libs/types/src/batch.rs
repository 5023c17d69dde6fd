//! One engine step: what to compute ([`Batch`]) and what came of it ([`StepOutput`]).

use std::sync::Arc;

use crate::{
    AwaitedMask, BlockId, PoolResult, PoolRow, SamplingParams, ScoreResult, ScoreRow, SequenceId, TokenId,
};

/// A run of entries in one of a batch's flat arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// Index of the first entry.
    pub start: u32,
    /// Number of entries.
    pub count: u32,
}

impl Span {
    /// As a range for slicing.
    #[must_use]
    pub const fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.count) as usize
    }
}

/// What one step computes. Arrays are flat and shared by all rows so that a batch is cheap to build and to copy.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// One entry per sequence in the step; no sequence twice.
    pub rows: Vec<BatchRow>,
    /// New tokens of all rows, `[sum of rows' token counts]`.
    pub tokens: Vec<TokenId>,
    /// Block tables of all rows. A row's table covers its context and its new tokens.
    pub blocks: Vec<BlockId>,
    /// Tokens to draw after the forward pass.
    pub samples: Vec<SampleRow>,
    /// Prompt and generated tokens of the samples that need them for penalties.
    pub history: Vec<TokenId>,
    /// Given tokens to score. Usually empty, as all below.
    pub scores: Vec<ScoreRow>,
    /// The given tokens of all scores.
    pub targets: Vec<TokenId>,
    /// Hidden states to add up.
    pub pools: Vec<PoolRow>,
}

impl Batch {
    /// Empties every array and keeps its memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
        self.blocks.clear();
        self.samples.clear();
        self.history.clear();
        self.scores.clear();
        self.targets.clear();
        self.pools.clear();
    }
}

/// One sequence's share of a step: `tokens.count` new tokens at positions `first_position..`.
/// Keys and values of positions below `first_position` are already in its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// Whose row it is.
    pub sequence: SequenceId,
    /// Into [`Batch::tokens`]; at least one.
    pub tokens: Span,
    /// Position of the first new token, which is the number of tokens before it.
    pub first_position: u32,
    /// Into [`Batch::blocks`]: at least `blocks_for_tokens(first_position + tokens.count)`.
    pub blocks: Span,
}

/// One token to draw.
#[derive(Clone, Debug)]
pub struct SampleRow {
    /// For whom.
    pub sequence: SequenceId,
    /// Index into [`Batch::tokens`] of the token after which it is drawn.
    pub token_index: u32,
    /// Position the drawn token will have in its sequence. Keys the generator with the seed.
    pub position: u32,
    /// How to draw it.
    pub params: Arc<SamplingParams>,
    /// Into [`Batch::history`]: all tokens before `position`, or empty when `params` need none.
    pub history: Span,
    /// How many of the history's tokens are prompt.
    pub prompt_tokens: u32,
    /// Tokens that may not be drawn now: ends of sequence before `min_tokens`. Sorted; usually empty.
    pub banned: Arc<[TokenId]>,
    /// When given, only these tokens may be drawn. It may come while the step is computed; the draw waits for it.
    /// Where all its tokens are banned, the bans do not count.
    pub allowed: Option<Arc<AwaitedMask>>,
}

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// When asked for: the token's log-probability, and the most likely tokens, most likely first.
    pub logprobs: Option<(f32, Vec<(TokenId, f32)>)>,
}

/// What came of one [`SampleRow`].
#[derive(Clone, Debug, PartialEq)]
pub struct SampleResult {
    /// For whom.
    pub sequence: SequenceId,
    /// The token; none when the logits held no number to draw from, which ends this one sequence.
    pub sampled: Option<Sampled>,
}

/// What came of one step: one entry for each row of the batch's array of the same name, in that order.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct StepOutput {
    /// The draws.
    pub samples: Vec<SampleResult>,
    /// The scores.
    pub scores: Vec<ScoreResult>,
    /// The sums.
    pub pools: Vec<PoolResult>,
}
