//! What the worker's loop asks of an engine.

use std::sync::Arc;

use vlinders_kernel_api::{KernelError, KvMemory};
use vlinders_types::{Batch, StepOutput};

/// What a scheduler and a transfer must know of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineFacts {
    /// Blocks in its pool.
    pub block_count: u32,
    /// Bytes of one block.
    pub block_bytes: u64,
    /// Equal for engines whose blocks may be exchanged: hash of model identity, layout and dtype.
    pub layout_hash: u64,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Elements of a hidden state, and so of an embedding.
    pub hidden: u32,
    /// Tokens of the longest sequence.
    pub max_context_tokens: u32,
    /// New tokens in one step.
    pub max_batch_tokens: u32,
    /// Sequences in one step.
    pub max_rows: u32,
    /// For the log: device and code paths.
    pub detail: String,
}

/// An engine that cannot be made, or a step that failed as a whole. One sequence without a usable distribution is no
/// such failure: its [`vlinders_types::SampleResult`] says so.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// An option is out of range. Only when an engine is made.
    #[error("`{option}` {problem}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The backend refused or failed.
    #[error("the backend refused")]
    Kernel(#[from] KernelError),
}

/// Computes steps. Lives on one thread; its memory may be read and written by others under the rule of [`KvMemory`].
pub trait Engine: Send {
    /// Computes keys and values of all new tokens and draws what the batch asks for.
    ///
    /// # Errors
    /// When nothing of the step can be trusted. Blocks of its rows then hold rubbish beyond `first_position`.
    fn step(&mut self, batch: &Batch) -> Result<StepOutput, EngineError>;

    /// Sizes.
    fn facts(&self) -> &EngineFacts;

    /// The pool's memory.
    fn memory(&self) -> Arc<dyn KvMemory>;
}
