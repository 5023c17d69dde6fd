//! The traits a device implements.

use std::sync::Arc;

use vlinders_types::{Batch, PoolResult, SampleResult, ScoreResult};

use crate::{Dtype, KernelError, KvLayout, KvMemory, TensorView, WeightView};

/// A token embedding `[vocabulary, hidden]` held by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddingId(pub u32);
/// A vector `[n]` held by a backend: norm weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VectorId(pub u32);
/// A linear projection `[outputs, inputs]` with optional bias held by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearId(pub u32);
/// Rotary frequencies `[head_dim / 2]` held by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RotaryId(pub u32);

/// One checkpoint tensor of a projection; several are stacked along the outputs (q, k, v; gate, up).
#[derive(Clone, Copy, Debug)]
pub struct LinearPart<'a> {
    /// `[outputs, inputs]`.
    pub weight: WeightView<'a>,
    /// `[outputs]`.
    pub bias: Option<TensorView<'a>>,
}

/// What a projection is used for, so that a backend can store it to suit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinearKind {
    /// Outputs are used as they come, parts one after the other.
    Plain,
    /// Exactly two parts of equal shape, gate and up, for [`Executor::feed_forward`].
    GateUp,
    /// The output head, for [`Executor::logits`].
    Head,
}

/// Root-mean-square normalisation: `x / sqrt(mean(x^2) + epsilon) * weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// `[n]`.
    pub weight: VectorId,
    /// Keeps the root away from zero.
    pub epsilon: f32,
}

/// Normalisation of each query and key head before rotation, weights `[head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// For query heads.
    pub query: Norm,
    /// For key heads.
    pub key: Norm,
}

/// How attention scores are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Multiplies query · key, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A token sees itself and the `window - 1` tokens before it; none means all before it.
    pub window: Option<u32>,
}

/// Where logits come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The embedding, transposed.
    Tied(EmbeddingId),
    /// A projection of kind [`LinearKind::Head`].
    Separate(LinearId),
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFacts {
    /// `cpu`, `reference`, `cuda`.
    pub name: &'static str,
    /// The code paths in use, for the log: `avx512-bf16, 2 threads`.
    pub detail: String,
}

/// Whose work goes first when executors of one backend want the device at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Urgency {
    /// Goes before a waiting prefill's next layer.
    Decode,
    /// Lets a waiting decode go first between its layers, but gets at least one layer after each of its steps.
    #[default]
    Prefill,
}

/// What an [`Executor`] is made for. Larger batches are refused by [`Executor::plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// Shape of its KV blocks.
    pub kv: KvLayout,
    /// Blocks in its pool.
    pub block_count: u32,
    /// Size of the residual stream.
    pub hidden: u32,
    /// Query heads; a multiple of the key/value heads.
    pub query_heads: u32,
    /// Inner size of the feed-forward.
    pub intermediate: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// New tokens in one batch, over all rows.
    pub max_batch_tokens: u32,
    /// Rows in one batch.
    pub max_rows: u32,
    /// Tokens to draw in one batch.
    pub max_samples: u32,
    /// Tokens of the longest sequence.
    pub max_context_tokens: u32,
    /// Whether its steps go first.
    pub urgency: Urgency,
}

/// A device that holds a model's weights. Uploads come first, executors after; an upload after the first executor
/// is an error. Ids are valid for this backend only; a foreign id is a bug and panics.
pub trait Backend: Send + Sync {
    /// Name and code paths.
    fn facts(&self) -> BackendFacts;

    /// The element type that weights of `stored` are kept in and computed with, which also becomes the dtype of the
    /// KV blocks: an f32 checkpoint is computed in f32.
    fn kv_dtype(&self, stored: Dtype) -> Dtype;

    /// Takes an embedding `[vocabulary, hidden]`; `tied` when it also serves as output head.
    ///
    /// # Errors
    /// On a wrong shape, an unsupported dtype or exhausted memory.
    fn upload_embedding(&mut self, table: TensorView<'_>, tied: bool) -> Result<EmbeddingId, KernelError>;

    /// Takes a vector `[n]`.
    ///
    /// # Errors
    /// As [`Backend::upload_embedding`].
    fn upload_vector(&mut self, vector: TensorView<'_>) -> Result<VectorId, KernelError>;

    /// Takes a projection whose outputs are those of `parts`, one after the other.
    ///
    /// # Errors
    /// As [`Backend::upload_embedding`]; parts must agree in inputs and dtype.
    fn upload_linear(&mut self, kind: LinearKind, parts: &[LinearPart<'_>]) -> Result<LinearId, KernelError>;

    /// Takes rotary frequencies in radians per position, `[head_dim / 2]`. Halves are rotated: element `i` with `i + head_dim / 2`.
    ///
    /// # Errors
    /// On exhausted memory.
    fn upload_rotary(&mut self, frequencies: &[f32]) -> Result<RotaryId, KernelError>;

    /// Bytes that the KV pool of each of `among` executors like `spec` may take, which are still to be made, on a device that has
    /// memory of its own. None where pools lie in the machine's memory: how much of that is free for them is not the backend's
    /// to know.
    ///
    /// # Errors
    /// When the device fails.
    fn kv_room(&self, spec: &ExecutorSpec, among: u32) -> Result<Option<u64>, KernelError> {
        let _ = (spec, among);
        Ok(None)
    }

    /// Makes activations and a KV pool that use these weights. Executors of one backend may run on different threads;
    /// the backend orders their use of the device.
    ///
    /// # Errors
    /// When the shapes are unsupported or memory is exhausted.
    fn executor(&self, spec: &ExecutorSpec) -> Result<Box<dyn Executor>, KernelError>;
}

/// One role's activations and KV pool. Calls per step, in this order: `plan`, `embed`, then per layer `norm_project`,
/// `rotary_append`, `attention`, `project_residual`, `feed_forward`, and last `score` and `pool` as the batch asks, `logits`,
/// `sample`.
///
/// Rows never influence one another: a row's results are the same bits in any batch and in any chunking of its prompt.
/// Buffers named below: residual `x [tokens, hidden]`, projected `qkv [tokens, (query_heads + 2 kv_heads) head_dim]`,
/// `context [tokens, query_heads head_dim]`, `logits [samples, vocabulary]`.
/// An executor that shares its device may hold it from `plan` to `sample`; a step given up in between is followed by another
/// `plan` or a drop, which both release it.
pub trait Executor: Send {
    /// Fixes everything that depends on the batch: positions, block tables, splits. All later calls follow it blindly.
    ///
    /// # Errors
    /// When the batch is larger than the spec, names a block or token that does not exist, or contradicts itself.
    fn plan(&mut self, batch: &Batch) -> Result<(), KernelError>;

    /// `x = table[tokens]`.
    ///
    /// # Errors
    /// Only when the device fails; so for all below.
    fn embed(&mut self, table: EmbeddingId) -> Result<(), KernelError>;

    /// `qkv = norm(x) · projection`, outputs ordered query heads, key heads, value heads.
    ///
    /// # Errors
    /// When the device fails.
    fn norm_project(&mut self, norm: Norm, projection: LinearId) -> Result<(), KernelError>;

    /// Normalises (if asked) and rotates query and key heads of `qkv`, and writes keys and values of `layer` into the blocks.
    ///
    /// # Errors
    /// When the device fails.
    fn rotary_append(
        &mut self,
        layer: u32,
        rotary: RotaryId,
        qk_norm: Option<QkNorm>,
    ) -> Result<(), KernelError>;

    /// `context = softmax(q · K^T * scale) · V`, causal, over the row's blocks of `layer`.
    ///
    /// # Errors
    /// When the device fails.
    fn attention(&mut self, layer: u32, spec: AttentionSpec) -> Result<(), KernelError>;

    /// `x += context · projection`.
    ///
    /// # Errors
    /// When the device fails.
    fn project_residual(&mut self, projection: LinearId) -> Result<(), KernelError>;

    /// `x += (silu(gate) * up) · down` with `[gate, up] = norm(x) · gate_up`.
    ///
    /// # Errors
    /// When the device fails.
    fn feed_forward(&mut self, norm: Norm, gate_up: LinearId, down: LinearId) -> Result<(), KernelError>;

    /// Scores the given tokens of the planned batch after `norm(x) · head`. Logits are made for some of them at a time: never
    /// `[tokens, vocabulary]` at once.
    ///
    /// # Errors
    /// When the device fails.
    fn score(&mut self, norm: Norm, head: Head, batch: &Batch) -> Result<Vec<ScoreResult>, KernelError>;

    /// Adds up `norm(x)` of the tokens that the planned batch names, in f64 and in order.
    ///
    /// # Errors
    /// When the device fails.
    fn pool(&mut self, norm: Norm, batch: &Batch) -> Result<Vec<PoolResult>, KernelError>;

    /// `logits = norm(x[token_index]) · head` for each sample of the batch.
    ///
    /// # Errors
    /// When the device fails.
    fn logits(&mut self, norm: Norm, head: Head) -> Result<(), KernelError>;

    /// Draws one token per sample of the planned batch. `batch` is the one given to `plan`.
    ///
    /// # Errors
    /// When the device fails.
    fn sample(&mut self, batch: &Batch) -> Result<Vec<SampleResult>, KernelError>;

    /// Ends a step that nobody draws from here, and lets go of a shared device: of several ranks the first one draws for all.
    fn end(&mut self) {}

    /// The logits of the last step, `[samples, vocabulary]`: for tests and tools, not for serving.
    ///
    /// # Errors
    /// When the device fails.
    fn read_logits(&mut self) -> Result<Vec<f32>, KernelError>;

    /// The pool's memory.
    fn memory(&self) -> Arc<dyn KvMemory>;
}
