//! The memory of one executor: activations, and what each thread needs for itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vlinders_kernel_api::{ExecutorSpec, KernelError};
use vlinders_sampling::Sampler;

use crate::activations::{Layout, MAX_GROUP_ROWS};
use crate::attention::Scratch;
use crate::region::Region;

/// Given tokens whose logits are made at one time. The head's weights are read once for all of them; more would cost memory
/// (33 MiB with a vocabulary of 128k) and gain nothing.
const SCORED_AT_ONCE: usize = 64;

/// Activations, as large as the largest batch needs.
pub(crate) struct Buffers {
    /// `[tokens, hidden]`.
    pub(crate) x: Region,
    /// `[tokens, (query_heads + 2 kv_heads) head_dim]`.
    pub(crate) qkv: Region,
    /// `[tokens, query_heads head_dim]`.
    pub(crate) context: Region,
    /// Left-hand sides made of the residual stream or of the context.
    pub(crate) left: Region,
    /// Left-hand side of the second product of the feed-forward.
    pub(crate) inner: Region,
    /// `[logit_rows, vocabulary]`.
    pub(crate) logits: Region,
    /// `[tokens, hidden]` and `[logit_rows, slice of the vocabulary]`: a rank's own part of what all make together. None for
    /// whoever computes alone.
    pub(crate) part: Option<Region>,
}

/// What each thread needs for itself.
pub(crate) struct ThreadMemory {
    /// One normalised row.
    pub(crate) row: Vec<f32>,
    /// One group of a left-hand side, row by row.
    pub(crate) words: Vec<u32>,
    pub(crate) attention: Scratch,
    pub(crate) sampler: Sampler,
    /// One row of logits, for the sampler to change.
    pub(crate) logits: Vec<f32>,
}

/// The spec's sizes, for indexing.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) query_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    pub(crate) tokens: usize,
    pub(crate) samples: usize,
}

impl Sizes {
    pub(crate) fn of(spec: &ExecutorSpec) -> Self {
        Self {
            hidden: spec.hidden as usize,
            query_heads: spec.query_heads as usize,
            kv_heads: spec.kv.kv_heads as usize,
            head_dim: spec.kv.head_dim as usize,
            intermediate: spec.intermediate as usize,
            vocabulary: spec.vocabulary as usize,
            tokens: spec.max_batch_tokens as usize,
            samples: spec.max_samples as usize,
        }
    }

    /// Columns of `qkv`.
    pub(crate) fn qkv(&self) -> usize {
        (self.query_heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of `context`.
    pub(crate) fn context(&self) -> usize {
        self.query_heads * self.head_dim
    }
}

impl Sizes {
    /// Rows of `logits`: one for each sample, and enough for scores to keep all threads busy.
    pub(crate) fn logit_rows(&self) -> usize {
        self.samples.max(self.tokens.min(SCORED_AT_ONCE))
    }

    /// Columns of the widest left-hand side that is made of rows of `x` or `context`.
    fn widest(&self) -> usize {
        self.hidden.max(self.context())
    }
}

impl Buffers {
    pub(crate) fn new(size: &Sizes, ranks: usize) -> Result<Self, KernelError> {
        let numbers = |rows: usize, columns: usize, what: &str| {
            let bytes = rows.checked_mul(columns).and_then(|count| count.checked_mul(4));
            let too_large = || KernelError::OutOfMemory {
                what: what.to_owned(),
                bytes: u64::MAX,
            };
            Region::zeroed(bytes.ok_or_else(too_large)?, what)
        };
        let rows = size.tokens.max(size.samples);
        Ok(Self {
            x: numbers(size.tokens, size.hidden, "activations")?,
            qkv: numbers(size.tokens, size.qkv(), "activations")?,
            context: numbers(size.tokens, size.context(), "activations")?,
            left: numbers(1, Layout::most_words(rows, size.widest()), "activations")?,
            inner: numbers(
                1,
                Layout::most_words(size.tokens, size.intermediate),
                "activations",
            )?,
            logits: numbers(size.logit_rows(), size.vocabulary, "logits")?,
            part: match ranks {
                1 => None,
                _ => {
                    let logits = size.logit_rows() * size.vocabulary.div_ceil(ranks);
                    Some(numbers(
                        1,
                        (size.tokens * size.hidden).max(logits),
                        "activations",
                    )?)
                }
            },
        })
    }
}

impl ThreadMemory {
    pub(crate) fn new(size: &Sizes) -> Self {
        Self {
            row: vec![0.0; size.hidden],
            words: vec![0; Layout::most_words(MAX_GROUP_ROWS, size.widest())],
            attention: Scratch::new(size.head_dim, size.query_heads / size.kv_heads),
            sampler: Sampler::new(),
            logits: Vec::new(),
        }
    }
}

/// Locks memory that only one thread uses at a time; it is scratch, so a panic leaves nothing invalid.
pub(crate) fn lock(memory: &Mutex<ThreadMemory>) -> MutexGuard<'_, ThreadMemory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
