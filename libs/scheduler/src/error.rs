//! Why a call was refused.

use vlinders_types::SequenceId;

use crate::{IllegalStep, Phase};

/// Why a sequence was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It has no token, or fewer than its prompt.
    #[error("a sequence needs its whole prompt, at least one token: has {tokens}, prompt {prompt_tokens}")]
    PromptMissing {
        /// Given tokens.
        tokens: u32,
        /// How many of them should be prompt.
        prompt_tokens: u32,
    },
    /// There is no token left to generate.
    #[error("{tokens} tokens are given and at most {max_total_tokens} allowed: nothing is left to generate")]
    NothingToDraw {
        /// Given tokens.
        tokens: u32,
        /// Its own limit.
        max_total_tokens: u32,
    },
    /// It can grow beyond the context.
    #[error("{needed_tokens} tokens are more than the context of {context_tokens}")]
    TooLong {
        /// Prompt and generated tokens at most.
        needed_tokens: u32,
        /// Tokens of the longest sequence.
        context_tokens: u32,
    },
    /// It can grow beyond the whole pool.
    #[error("{needed_blocks} blocks are more than the pool's {pool_blocks}")]
    TooManyBlocks {
        /// For all tokens but the last, which needs none.
        needed_blocks: u32,
        /// All blocks.
        pool_blocks: u32,
    },
    /// As many wait as may.
    #[error("{max_waiting} sequences are waiting already")]
    QueueFull {
        /// The limit.
        max_waiting: u32,
    },
}

impl SubmitError {
    /// Whether the same sequence may be accepted later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::QueueFull { .. } => true,
            Self::PromptMissing { .. }
            | Self::NothingToDraw { .. }
            | Self::TooLong { .. }
            | Self::TooManyBlocks { .. } => false,
        }
    }
}

/// Why a sequence was not adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// Too few blocks are available now, with room left for those that run and wait.
    #[error("{needed_blocks} blocks are needed and {available_blocks} available")]
    NoBlocks {
        /// For the tokens, for growth, and for those that wait.
        needed_blocks: u32,
        /// Free and cached ones.
        available_blocks: u32,
    },
    /// As many sequences hold blocks as may.
    #[error("{max_running} sequences are running already")]
    Full {
        /// The limit.
        max_running: u32,
    },
    /// It can never run here.
    #[error("it can never run here")]
    Unfit(#[source] SubmitError),
}

impl AdoptError {
    /// Whether the same sequence may be adopted later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoBlocks { .. } | Self::Full { .. } => true,
            Self::Unfit(_) => false,
        }
    }
}

/// Why a call about one sequence had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It was finished, or never accepted. Normal for news that comes late.
    #[error("sequence {} is not here", id.0)]
    Unknown {
        /// The sequence.
        id: SequenceId,
    },
    /// It is in a phase where this cannot happen.
    #[error("sequence {}: {step}", id.0)]
    Illegal {
        /// The sequence.
        id: SequenceId,
        /// What was tried.
        step: IllegalStep,
    },
}

impl CallError {
    /// The phase that did not allow the call; none when the sequence is unknown.
    #[must_use]
    pub const fn phase(&self) -> Option<Phase> {
        match self {
            Self::Unknown { .. } => None,
            Self::Illegal { step, .. } => Some(step.phase),
        }
    }
}
