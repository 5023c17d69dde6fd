//! The memory of one executor beside its blocks: activations and what kernels need to work.

use std::sync::Arc;

use vlinders_kernel_api::{Dtype, KernelError};

use crate::attention::most_partials;
use crate::device::{Device, Stream};
use crate::drawing::draw_bytes;
use crate::linear;
use crate::region::Region;
use crate::shape::Sizes;

/// Given tokens whose logits are made at one time: the head's weights are read once for all of them.
pub(crate) const SCORED_AT_ONCE: u32 = 64;

/// Bytes of each buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferBytes {
    x: u64,
    normed: u64,
    qkv: u64,
    queries: u64,
    context: u64,
    inner: u64,
    logits: u64,
    partial_sums: u64,
    partial_scales: u64,
    workspace: u64,
    counters: u64,
    /// Kept by whoever draws.
    draws: u64,
}

/// Activations and workspaces, as large as the largest step needs. All of f32 or of the weights' type `T`.
pub(crate) struct Buffers {
    /// The residual stream, f32 `[tokens, hidden]`.
    pub(crate) x: Region,
    /// T `[tokens or logit rows, hidden]`.
    pub(crate) normed: Region,
    /// f32 `[tokens, (query_heads + 2 kv_heads) head_dim]`.
    pub(crate) qkv: Region,
    /// Rotated, T `[tokens, query_heads head_dim]`.
    pub(crate) queries: Region,
    /// T `[tokens, query_heads head_dim]`.
    pub(crate) context: Region,
    /// T `[tokens, intermediate]`.
    pub(crate) inner: Region,
    /// f32 `[logit rows, vocabulary]`.
    pub(crate) logits: Region,
    /// f32 `[partials, query_heads, head_dim]`.
    pub(crate) partial_sums: Region,
    /// Largest score and sum, f32 `[partials, query_heads, 2]`.
    pub(crate) partial_scales: Region,
    /// Sums of split products.
    pub(crate) workspace: Region,
    /// Pieces of split products that are done, u32. Always zero between kernels.
    pub(crate) counters: Region,
}

/// Rows of logits: one for each draw, and enough for scores.
pub(crate) fn logit_rows(size: &Sizes) -> u32 {
    size.samples.max(size.tokens.min(SCORED_AT_ONCE))
}

/// Results of splits that there is memory for.
pub(crate) fn partials(size: &Sizes) -> u32 {
    match size.dtype {
        Dtype::F32 => 0,
        Dtype::F16 | Dtype::Bf16 => {
            let pool_tokens = u64::from(size.blocks) * u64::from(vlinders_types::BLOCK_TOKENS);
            most_partials(size.rows, size.context, pool_tokens)
        }
    }
}

impl BufferBytes {
    pub(crate) fn of(size: &Sizes, multiprocessors: u32) -> Self {
        let element = size.dtype.bytes() as u64;
        let table = |rows: u32, columns: u32, bytes: u64| {
            u64::from(rows)
                .saturating_mul(u64::from(columns))
                .saturating_mul(bytes)
        };
        let logit_rows = logit_rows(size);
        let partials = partials(size);
        let (workspace, counters) = match size.dtype {
            Dtype::F32 => (0, 0),
            Dtype::F16 | Dtype::Bf16 => linear::workspace(multiprocessors, size.tokens.max(logit_rows)),
        };
        Self {
            x: table(size.tokens, size.hidden, 4),
            normed: table(size.tokens.max(logit_rows), size.hidden, element),
            qkv: table(size.tokens, size.qkv(), 4),
            queries: table(size.tokens, size.context_width(), element),
            context: table(size.tokens, size.context_width(), element),
            inner: table(size.tokens, size.intermediate, element),
            logits: table(logit_rows, size.vocabulary, 4),
            partial_sums: table(partials, size.context_width(), 4),
            partial_scales: table(partials, size.query_heads, 8),
            workspace,
            counters: u64::from(counters) * 4,
            draws: draw_bytes(size).into_iter().sum(),
        }
    }

    pub(crate) fn total(&self) -> u64 {
        [
            self.x,
            self.normed,
            self.qkv,
            self.queries,
            self.context,
            self.inner,
            self.logits,
            self.partial_sums,
            self.partial_scales,
            self.workspace,
            self.counters,
            self.draws,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

impl Buffers {
    /// Takes the memory. What must be zero is zero once the stream is done.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        bytes: &BufferBytes,
        stream: Stream,
    ) -> Result<Self, KernelError> {
        let region = |bytes: u64, what: &str| {
            let too_large = |_| KernelError::OutOfMemory {
                what: what.to_owned(),
                bytes,
            };
            Region::new(device, usize::try_from(bytes).map_err(too_large)?, what)
        };
        let buffers = Self {
            x: region(bytes.x, "activations")?,
            normed: region(bytes.normed, "activations")?,
            qkv: region(bytes.qkv, "activations")?,
            queries: region(bytes.queries, "activations")?,
            context: region(bytes.context, "activations")?,
            inner: region(bytes.inner, "activations")?,
            logits: region(bytes.logits, "logits")?,
            partial_sums: region(bytes.partial_sums, "attention")?,
            partial_scales: region(bytes.partial_scales, "attention")?,
            workspace: region(bytes.workspace, "products")?,
            counters: region(bytes.counters, "products")?,
        };
        let counters = &buffers.counters;
        // SAFETY: the region has as many bytes and nobody uses it yet.
        unsafe { device.clear(stream, counters.address(), counters.bytes()) }?;
        Ok(buffers)
    }
}
