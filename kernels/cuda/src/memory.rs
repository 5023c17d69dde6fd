//! How much of each GPU's memory a model takes, and how many blocks the rest holds: before anything is allocated.

use vlinders_kernel_api::{Dtype, ExecutorSpec, KernelError, KvLayout, Urgency};
use vlinders_types::blocks_for_tokens;

use crate::buffers::BufferBytes;
use crate::shape::{INTERLEAVE, Sizes, check, unsupported};

/// Sizes of a dense model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Of the residual stream.
    pub hidden: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Query heads.
    pub query_heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Inner size of the feed-forward.
    pub intermediate: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// The embedding is the output head too.
    pub is_tied: bool,
    /// Of weights, activations and blocks.
    pub dtype: Dtype,
}

/// How large steps may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSizes {
    /// New tokens in one step.
    pub max_batch_tokens: u32,
    /// Sequences in one step.
    pub max_rows: u32,
    /// Tokens of the longest sequence.
    pub max_context_tokens: u32,
}

/// A GPU, as far as a plan asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceMemory {
    /// All of its memory.
    pub bytes: u64,
    /// Share of it that may be used.
    pub share: f64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

/// What lies on each GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Its part of the weights.
    pub weight_bytes: u64,
    /// Activations and workspaces.
    pub activation_bytes: u64,
    /// Its part of one block.
    pub block_bytes: u64,
    /// Blocks that fit beside them.
    pub block_count: u32,
}

impl MemoryPlan {
    /// Tokens whose keys and values fit.
    #[must_use]
    pub fn kv_tokens(&self) -> u64 {
        u64::from(self.block_count) * u64::from(vlinders_types::BLOCK_TOKENS)
    }
}

/// Plans a model on `parallel` GPUs that share every layer: heads, inner sizes and the vocabulary are cut, the residual stream and
/// its norms are everywhere. A key head is on several GPUs where there are more of them than heads.
///
/// # Errors
/// [`KernelError::Unsupported`] when the sizes cannot be cut like this, [`KernelError::OutOfMemory`] when the model does not fit.
pub fn plan_memory(
    shape: &ModelShape,
    steps: &StepSizes,
    device: &DeviceMemory,
    parallel: u32,
) -> Result<MemoryPlan, KernelError> {
    let spec = rank_spec(shape, steps, parallel)?;
    let weight_bytes = weight_bytes(shape, &spec);
    let room = room_for_blocks(&spec, usable(device), weight_bytes, 1, device.multiprocessors);
    let block_bytes = spec.kv.block_bytes() as u64;
    let block_count = u32::try_from(room / block_bytes).unwrap_or(u32::MAX);
    let with_blocks = ExecutorSpec { block_count, ..spec };
    let plan = MemoryPlan {
        weight_bytes,
        activation_bytes: activation_bytes(&with_blocks, device.multiprocessors),
        block_bytes,
        block_count,
    };
    // A model that cannot hold a single sequence serves nobody.
    if block_count < blocks_for_tokens(steps.max_context_tokens) {
        let needed = u64::from(blocks_for_tokens(steps.max_context_tokens)) * block_bytes;
        return Err(KernelError::OutOfMemory {
            what: format!(
                "one sequence of {} tokens beside the weights",
                steps.max_context_tokens
            ),
            bytes: weight_bytes + plan.activation_bytes + needed,
        });
    }
    Ok(plan)
}

fn usable(device: &DeviceMemory) -> u64 {
    share_of(device.bytes, device.share)
}

/// A share of so many bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number of bytes is one, to the byte or not"
)]
pub(crate) fn share_of(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share.clamp(0.0, 1.0)) as u64
}

/// What one of the GPUs computes.
fn rank_spec(shape: &ModelShape, steps: &StepSizes, parallel: u32) -> Result<ExecutorSpec, KernelError> {
    let cut = |what: &str, size: u32, unit: u32| match size.is_multiple_of(parallel.max(1) * unit) {
        true if parallel > 0 => Ok(size / parallel),
        true | false => unsupported(format!("{size} {what} on {parallel} devices")),
    };
    let kv_heads = match parallel {
        more if more > shape.kv_heads && more.is_multiple_of(shape.kv_heads.max(1)) => 1,
        _ => cut("key heads", shape.kv_heads, 1)?,
    };
    let spec = ExecutorSpec {
        kv: KvLayout {
            layers: shape.layers,
            kv_heads,
            head_dim: shape.head_dim,
            dtype: shape.dtype,
        },
        block_count: 0,
        hidden: shape.hidden,
        query_heads: cut("query heads", shape.query_heads, 1)?,
        intermediate: cut("inner elements", shape.intermediate, INTERLEAVE)?,
        // Draws need whole rows of logits, wherever their parts were made.
        vocabulary: shape.vocabulary,
        max_batch_tokens: steps.max_batch_tokens,
        max_rows: steps.max_rows,
        max_samples: steps.max_rows,
        max_context_tokens: steps.max_context_tokens,
        urgency: Urgency::Decode,
    };
    check(&spec)?;
    Ok(spec)
}

/// Bytes of the weights of one of the GPUs.
fn weight_bytes(shape: &ModelShape, rank: &ExecutorSpec) -> u64 {
    let size = Sizes::of(rank);
    let wide = u64::from;
    let hidden = wide(shape.hidden);
    let attention = hidden * (wide(size.qkv()) + wide(size.context_width()));
    let feed_forward = 3 * hidden * wide(size.intermediate);
    let parallel = wide(shape.query_heads / size.query_heads.max(1));
    let tables = if shape.is_tied { 1 } else { 2 };
    let vocabulary = wide(shape.vocabulary).div_ceil(parallel) * hidden * tables;
    // Norms are kept in f32.
    let norms = (2 * wide(shape.layers) + 1) * hidden * 4;
    (wide(shape.layers) * (attention + feed_forward) + vocabulary) * shape.dtype.bytes() as u64 + norms
}

/// Bytes of what an executor takes beside its blocks.
fn activation_bytes(spec: &ExecutorSpec, multiprocessors: u32) -> u64 {
    BufferBytes::of(&Sizes::of(spec), multiprocessors).total()
}

/// Bytes for the pool of each of `among` executors like this one, when `used` of the usable bytes are taken.
pub(crate) fn room_for_blocks(
    spec: &ExecutorSpec,
    usable: u64,
    used: u64,
    among: u32,
    multiprocessors: u32,
) -> u64 {
    let each = usable.saturating_sub(used) / u64::from(among.max(1));
    let beside = |block_count| {
        let spec = ExecutorSpec {
            block_count,
            ..spec.clone()
        };
        each.saturating_sub(activation_bytes(&spec, multiprocessors))
    };
    // A larger pool wants more room for attention's pieces: what the largest pool wants is kept free.
    let most = beside(0) / (spec.kv.block_bytes() as u64).max(1);
    beside(u32::try_from(most).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: DeviceMemory = DeviceMemory {
        bytes: 143_771 << 20,
        share: 0.9,
        multiprocessors: 132,
    };
    const H100: DeviceMemory = DeviceMemory {
        bytes: 81_559 << 20,
        ..H200
    };
    const STEPS: StepSizes = StepSizes {
        max_batch_tokens: 8192,
        max_rows: 256,
        max_context_tokens: 8192,
    };
    const SMALL: ModelShape = ModelShape {
        hidden: 4096,
        layers: 32,
        query_heads: 32,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 14_336,
        vocabulary: 128_256,
        is_tied: false,
        dtype: Dtype::Bf16,
    };
    const LARGE: ModelShape = ModelShape {
        hidden: 8192,
        layers: 80,
        query_heads: 64,
        intermediate: 28_672,
        ..SMALL
    };

    fn gib(bytes: u64) -> f64 {
        bytes as f64 / f64::from(1 << 30)
    }

    #[test]
    fn an_8b_model_takes_what_its_checkpoint_has() {
        let plan = plan_memory(&SMALL, &STEPS, &H200, 1).unwrap();
        // 8,030,261,248 weights of two bytes, the norms counted with four.
        assert_eq!(plan.weight_bytes, 2 * 8_030_261_248 + 2 * 65 * 4096);
        assert_eq!(plan.block_bytes, 2 << 20);
        assert!(gib(plan.activation_bytes) < 2.0, "{}", gib(plan.activation_bytes));
        // 126 GiB usable, 15 of them weights.
        assert!(
            (850_000..910_000).contains(&plan.kv_tokens()),
            "{}",
            plan.kv_tokens()
        );
    }

    #[test]
    fn a_70b_model_is_cut_into_two_four_and_eight() {
        assert!(matches!(
            plan_memory(&LARGE, &STEPS, &H100, 1),
            Err(KernelError::OutOfMemory { .. })
        ));
        let mut found = Vec::new();
        for parallel in [2, 4, 8] {
            let plan = plan_memory(&LARGE, &STEPS, &H200, parallel).unwrap();
            assert_eq!(plan.block_bytes * u64::from(parallel), 5 << 20);
            let used =
                plan.weight_bytes + plan.activation_bytes + plan.block_bytes * u64::from(plan.block_count);
            assert!(used <= usable(&H200));
            found.push((gib(plan.weight_bytes).round(), plan.kv_tokens() / 1000));
        }
        // 131.4 GiB in all; embedding and head are cut too. Thousands of tokens that fit:
        let weights: Vec<f64> = found.iter().map(|(weights, _)| *weights).collect();
        assert_eq!(weights, [66.0, 33.0, 16.0]);
        assert!(
            found[0].1 > 370 && found[1].1 > 1_150 && found[2].1 > 2_600,
            "{found:?}"
        );
    }

    #[test]
    fn a_pool_and_what_it_needs_beside_it_fit_together() {
        for share in [0.3, 0.5, 0.9] {
            let device = DeviceMemory { share, ..H100 };
            let plan = plan_memory(&SMALL, &STEPS, &device, 1).unwrap();
            let used =
                plan.weight_bytes + plan.activation_bytes + plan.block_bytes * u64::from(plan.block_count);
            let usable = usable(&device);
            assert!(used <= usable && usable - used < 64 << 20, "{share}");
        }
    }

    #[test]
    fn what_cannot_be_cut_or_does_not_fit_is_refused() {
        for parallel in [0, 3, 5] {
            let refused = plan_memory(&SMALL, &STEPS, &H200, parallel);
            assert!(
                matches!(refused, Err(KernelError::Unsupported { .. })),
                "{parallel}"
            );
        }
        // More devices than key heads: a head is on two of them.
        let few = ModelShape { kv_heads: 4, ..SMALL };
        let plan = plan_memory(&few, &STEPS, &H200, 8).unwrap();
        assert_eq!(plan.block_bytes, 2 * 32 * 16 * 128 * 2);
        let long = StepSizes {
            max_context_tokens: 131_072,
            ..STEPS
        };
        let small = DeviceMemory {
            bytes: 24 << 30,
            ..H200
        };
        let refused = plan_memory(&SMALL, &long, &small, 1).unwrap_err().to_string();
        assert!(
            refused.contains("131072 tokens") && refused.contains("lower"),
            "{refused}"
        );
    }
}
