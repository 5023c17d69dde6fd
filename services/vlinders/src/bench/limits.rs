//! What the machine allows: measured memory and arithmetic rates, turned into tokens per second of a model.

use serde::Serialize;
use vlinders_kernel_api::Dtype;
use vlinders_kernel_cpu::probe;
use vlinders_model::LoadedModel;

/// Rates of the machine, measured in this run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct MachineLimits {
    /// Memory read by all compute threads.
    pub(crate) memory_read_gb_per_s: f64,
    /// Arithmetic in the type the model is computed in, by all compute threads.
    pub(crate) gflop_per_s: f64,
    /// That type.
    pub(crate) arithmetic: &'static str,
}

/// Weights a token goes through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelWork {
    /// Weights of the layers: every token meets each of them once.
    layer_weights: f64,
    /// Weights of the output head: only a token after which another is drawn meets them.
    head_weights: f64,
    /// Bytes of one weight as computed.
    weight_bytes: f64,
    /// Bytes of keys and values of one token.
    kv_bytes_per_token: f64,
    /// Query heads times head size times layers: multiply-adds of attention per pair of tokens, halved.
    attention_width: f64,
}

impl MachineLimits {
    /// Measures, with as many threads as the model is computed with.
    ///
    /// # Errors
    /// When there is not enough memory to read.
    pub(crate) fn measure(dtype: Dtype, threads: usize) -> anyhow::Result<Self> {
        let (flops, arithmetic) = match dtype {
            Dtype::Bf16 => match probe::bf16_flops(threads) {
                Some(flops) => (flops, "bf16"),
                // Without bf16 arithmetic in the chip, weights are widened and computed in f32.
                None => (probe::f32_flops(threads), "f32"),
            },
            Dtype::F16 | Dtype::F32 => (probe::f32_flops(threads), "f32"),
        };
        Ok(Self {
            memory_read_gb_per_s: probe::memory_read_bytes_per_s(threads)? / 1e9,
            gflop_per_s: flops / 1e9,
            arithmetic,
        })
    }
}

impl MachineLimits {
    /// A GPU's: memory as it copies now, arithmetic as given, without which it is no limit.
    ///
    /// # Errors
    /// When the device fails or has no memory left to copy.
    pub(crate) fn of_gpu(dtype: Dtype, gflop_per_s: Option<f64>) -> anyhow::Result<Self> {
        Ok(Self {
            memory_read_gb_per_s: vlinders_kernel_cuda::copied_bytes_per_s()? / 1e9,
            gflop_per_s: gflop_per_s.unwrap_or(f64::INFINITY),
            arithmetic: dtype.name(),
        })
    }
}

impl ModelWork {
    /// Counts a model's weights by its shape.
    pub(crate) fn of(model: &LoadedModel) -> Self {
        let config = model.config();
        let (hidden, head) = (f64::from(config.hidden), f64::from(config.head_dim));
        let (query, kv) = (
            f64::from(config.query_heads) * head,
            f64::from(config.kv_heads) * head,
        );
        let layers = f64::from(config.layers());
        let one_layer = hidden * (2.0 * query + 2.0 * kv + 3.0 * f64::from(config.intermediate));
        Self {
            layer_weights: layers * one_layer,
            head_weights: hidden * f64::from(config.vocabulary),
            weight_bytes: model.weight_dtype().bytes() as f64,
            kv_bytes_per_token: model.kv_layout().block_bytes() as f64
                / f64::from(vlinders_types::BLOCK_TOKENS),
            attention_width: layers * query,
        }
    }

    /// Tokens per second at which `batch` prompts of `prompt` tokens could be computed: arithmetic bound, attention
    /// counted (causal: half of all pairs; two multiply-adds per pair and element).
    pub(crate) fn prefill_limit(&self, limits: &MachineLimits, prompt: u32) -> f64 {
        let tokens = f64::from(prompt);
        let attention = 2.0 * self.attention_width * tokens / 2.0;
        let flop_per_token = 2.0 * (self.layer_weights + attention) + 2.0 * self.head_weights / tokens;
        limits.gflop_per_s * 1e9 / flop_per_token
    }

    /// Tokens per second, over all sequences, at which `batch` sequences of `context` tokens could go on: the lower of
    /// what memory and arithmetic allow.
    pub(crate) fn decode_limit(&self, limits: &MachineLimits, batch: u32, context: f64) -> f64 {
        let (batch, weights) = (f64::from(batch), self.layer_weights + self.head_weights);
        let bytes = weights * self.weight_bytes + batch * context * self.kv_bytes_per_token;
        let by_memory = batch * limits.memory_read_gb_per_s * 1e9 / bytes;
        let flop = 2.0 * (weights + 2.0 * self.attention_width * context);
        by_memory.min(limits.gflop_per_s * 1e9 / flop)
    }
}
