//! What a scheduler says.

use std::sync::Arc;

use vlinders_types::{BlockId, SequenceId, TokenId, TokenScore};

use crate::Phase;

/// What came of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a ready batch must be computed and applied"]
pub enum PlanOutcome {
    /// The batch has rows. `apply` or `step_failed` must come before the next plan.
    Ready,
    /// The batch is empty: nothing can be computed before another call changes something.
    Idle,
}

/// News of one sequence. There is none of a sequence that was finished before the call that returns the news.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token was drawn. Whether it ends the sequence is the caller's decision; `finish` may follow at once.
    Sampled {
        /// For whom.
        id: SequenceId,
        /// The token.
        token: TokenId,
        /// Index of the token in its sequence, which is the number of tokens before it.
        position: u32,
        /// When asked for: its log-probability, and the most likely tokens, most likely first.
        logprobs: Option<(f32, Vec<(TokenId, f32)>)>,
        /// Prompt tokens that were found in the prefix cache when the sequence was first admitted.
        cached_tokens: u32,
        /// It is the first one after the tokens the sequence came with.
        first: bool,
        /// `max_total_tokens` are reached: no further token will be drawn, `finish` must follow.
        last: bool,
    },
    /// Prompt tokens were scored. Parts of one sequence follow one another without gap or repetition, also across
    /// preemptions, and all of them come before its first token or its end.
    Scored {
        /// Whose.
        id: SequenceId,
        /// Position of the first of them.
        first: u32,
        /// At least one.
        scores: Vec<TokenScore>,
    },
    /// All tokens of a sequence that draws none are computed: `finish` must follow.
    PromptDone {
        /// Whose.
        id: SequenceId,
        /// Prompt tokens that were found in the prefix cache when the sequence was first admitted.
        cached_tokens: u32,
        /// The sum of the hidden states that were asked for.
        pooled: Option<Arc<[f64]>>,
    },
    /// The logits held nothing to draw from or to score by. No further token will be drawn, `finish` must follow.
    Failed {
        /// Whose.
        id: SequenceId,
    },
    /// The contents of these blocks are final and may be sent away. Only for sequences bound to hold after their first
    /// token. Ranges of one sequence follow one another without gap or repetition from index 0: such a sequence is never
    /// preempted. Prefix blocks that were found in the cache come with the first range.
    BlocksFilled {
        /// Whose.
        id: SequenceId,
        /// Index of the first one in the sequence's block table.
        first_block_index: u32,
        /// The blocks.
        blocks: Vec<BlockId>,
        /// All tokens the sequence came with are in now; the last block may be partly filled. Comes right after the
        /// `Sampled` with `first` of the same step. A caller that finishes the sequence on that token ignores it.
        last: bool,
    },
    /// It gave its blocks up for another one and waits at the head of the queue. It will go on where it was: no token is
    /// repeated or lost.
    Preempted {
        /// Who.
        id: SequenceId,
    },
}

/// Blocks for a sequence that was computed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Blocks before this index are in the prefix cache here and need no transfer.
    pub first_needed_block: u32,
    /// Where the blocks from that index on belong, in order; empty when all were found.
    pub blocks: Vec<BlockId>,
}

/// What a finished sequence leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The phase it was in.
    pub phase: Phase,
    /// Prompt tokens that were found in the prefix cache when the sequence was first admitted.
    pub cached_tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// All its tokens: prompt, given and drawn ones.
    pub total_tokens: u32,
}
