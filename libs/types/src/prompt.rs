//! What a step tells of given tokens, beside the ones it draws: how likely they were, and what the model made of them.

use std::sync::Arc;

use crate::{SequenceId, Span, TokenId};

/// Given tokens to score: how likely each was after those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreRow {
    /// Whose.
    pub sequence: SequenceId,
    /// Index into [`crate::Batch::tokens`] of the token before the first target; the others follow one by one.
    pub token_index: u32,
    /// Position of the first target in its sequence.
    pub position: u32,
    /// Into [`crate::Batch::targets`]; at least one. The last may lie behind the row's new tokens.
    pub targets: Span,
    /// Report so many of the most likely tokens at each position.
    pub top: u8,
}

/// How likely a given token was at its position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its unmodified probability, at most 0.
    pub logprob: f32,
    /// 1 for the most likely token; of equals the lowest id goes first.
    pub rank: u32,
    /// The most likely tokens there, most likely first, as many as asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// What came of one [`ScoreRow`].
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreResult {
    /// For whom.
    pub sequence: SequenceId,
    /// One for each target; none when some logits held no distribution, which ends this one sequence.
    pub scores: Option<Vec<TokenScore>>,
}

/// Hidden states to add up, as they are after the last norm.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRow {
    /// Whose.
    pub sequence: SequenceId,
    /// Into [`crate::Batch::tokens`]: those whose states are added, in order. At least one.
    pub tokens: Span,
    /// The sum of those before, `[hidden]`; empty before the first. Adding one after the other makes the same bits in any
    /// chunking of a prompt.
    pub so_far: Arc<[f64]>,
}

/// What came of one [`PoolRow`].
#[derive(Clone, Debug, PartialEq)]
pub struct PoolResult {
    /// For whom.
    pub sequence: SequenceId,
    /// `[hidden]`.
    pub sum: Arc<[f64]>,
}
