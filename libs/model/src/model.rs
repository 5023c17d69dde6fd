//! A model whose weights a backend holds, and the order of its layers.

use vlinders_kernel_api::{
    AttentionSpec, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KernelError, KvLayout, LinearId, Norm,
    QkNorm, RotaryId, Shard, Urgency, WeightFormat,
};
use vlinders_types::{Batch, StepOutput, TokenId};

use crate::slice::Cut;
use crate::{GenerationConfig, ModelConfig};

/// A model on one backend. Any number of executors of that backend may run it at the same time.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    pub(crate) config: ModelConfig,
    pub(crate) generation: GenerationConfig,
    pub(crate) end_tokens: Vec<TokenId>,
    pub(crate) kv_layout: KvLayout,
    pub(crate) cut: Cut,
    pub(crate) weight_dtype: Dtype,
    pub(crate) weight_format: WeightFormat,
    pub(crate) weight_bytes: u64,
    pub(crate) fingerprint: u64,
    pub(crate) ignored_tensors: Vec<String>,
    pub(crate) embedding: EmbeddingId,
    pub(crate) rotary: RotaryId,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Norm,
    pub(crate) head: Head,
}

/// One decoder layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Norm,
    pub(crate) query_key_value: LinearId,
    pub(crate) qk_norm: Option<QkNorm>,
    pub(crate) attention: AttentionSpec,
    pub(crate) output: LinearId,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) gate_up: LinearId,
    pub(crate) down: LinearId,
}

/// How large the steps of one executor may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Blocks in its pool.
    pub block_count: u32,
    /// New tokens in one step, over all rows.
    pub max_batch_tokens: u32,
    /// Rows in one step.
    pub max_rows: u32,
    /// Tokens to draw in one step.
    pub max_samples: u32,
    /// Tokens of the longest sequence.
    pub max_context_tokens: u32,
    /// Whether its steps go before those of other executors.
    pub urgency: Urgency,
}

impl LoadedModel {
    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The sampling its makers recommend.
    #[must_use]
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Tokens that end a sequence, of both config files: sorted, none twice.
    #[must_use]
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.end_tokens
    }

    /// The shape of its KV blocks, all heads together.
    #[must_use]
    pub fn kv_layout(&self) -> &KvLayout {
        &self.kv_layout
    }

    /// Which slice of the model the backend holds.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.cut.shard
    }

    /// The shape of the KV blocks of this slice.
    #[must_use]
    pub fn shard_layout(&self) -> KvLayout {
        KvLayout {
            kv_heads: heads(self.cut.kv.len(), self.config.head_dim),
            ..self.kv_layout
        }
    }

    /// How its projections are stored.
    #[must_use]
    pub fn weight_format(&self) -> WeightFormat {
        self.weight_format
    }

    /// The dtype its projections are stored in; bf16 when they are quantised, since they are computed in it.
    #[must_use]
    pub fn weight_dtype(&self) -> Dtype {
        self.weight_dtype
    }

    /// Bytes of its weights as stored.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Equal for equal checkpoints; see [`crate::Checkpoint::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Tensors in its files that its config has no use for: usually none, worth a line in the log otherwise.
    #[must_use]
    pub fn ignored_tensors(&self) -> &[String] {
        &self.ignored_tensors
    }

    /// What an executor for steps within `limits` must be made for.
    #[must_use]
    pub fn executor_spec(&self, limits: &StepLimits) -> ExecutorSpec {
        ExecutorSpec {
            kv: self.shard_layout(),
            block_count: limits.block_count,
            hidden: self.config.hidden,
            query_heads: heads(self.cut.query.len(), self.config.head_dim),
            intermediate: u32::try_from(self.cut.neurons.len()).unwrap_or(u32::MAX),
            vocabulary: self.config.vocabulary,
            max_batch_tokens: limits.max_batch_tokens,
            max_rows: limits.max_rows,
            max_samples: limits.max_samples,
            max_context_tokens: limits.max_context_tokens,
            urgency: limits.urgency,
        }
    }

    /// Plans `batch` and runs every layer, up to the logits of its samples, which are not drawn: what comes back has the
    /// scores and the sums. `executor` is one of the backend's that this model was loaded to.
    ///
    /// # Errors
    /// When the batch is refused (nothing is computed then) or the device fails.
    pub fn forward(&self, executor: &mut dyn Executor, batch: &Batch) -> Result<StepOutput, KernelError> {
        executor.plan(batch)?;
        executor.embed(self.embedding)?;
        for (index, layer) in (0..).zip(&self.layers) {
            executor.norm_project(layer.attention_norm, layer.query_key_value)?;
            executor.rotary_append(index, self.rotary, layer.qk_norm)?;
            executor.attention(index, layer.attention)?;
            executor.project_residual(layer.output)?;
            executor.feed_forward(layer.feed_forward_norm, layer.gate_up, layer.down)?;
        }
        let mut output = StepOutput::default();
        // A head that was not cut is computed by one.
        if self.shard().rank > 0 && matches!(self.head, Head::Tied(_)) {
            return Ok(output);
        }
        if !batch.scores.is_empty() {
            output.scores = executor.score(self.final_norm, self.head, batch)?;
        }
        if !batch.pools.is_empty() {
            output.pools = executor.pool(self.final_norm, batch)?;
        }
        if !batch.samples.is_empty() {
            executor.logits(self.final_norm, self.head)?;
        }
        Ok(output)
    }
}

/// How many heads are so wide together.
fn heads(width: usize, head_dim: u32) -> u32 {
    u32::try_from(width).unwrap_or(u32::MAX) / head_dim.max(1)
}
