//! A model on a backend as an engine.

use std::sync::Arc;

use vlinders_kernel_api::{Backend, Executor, KvLayout, KvMemory, Urgency};
use vlinders_model::{LoadedModel, StepLimits};
use vlinders_types::{BLOCK_TOKENS, Batch, StepOutput};
use xxhash_rust::xxh3::Xxh3;

use crate::{Engine, EngineError, EngineFacts};

/// Part of every layout hash. Goes up when the meaning of a block's bytes changes.
const LAYOUT_VERSION: u32 = 1;

/// How much memory the KV pool takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvBudget {
    /// This many blocks.
    Blocks(u32),
    /// As many blocks as fit into this many bytes.
    Bytes(u64),
    /// What the device has left for each of so many engines that are still to be made, this one among them; on a backend
    /// whose pools lie in the machine's memory, as many blocks as fit into so many bytes.
    Room {
        /// Engines, at least 1.
        among: u32,
        /// Bytes where the backend leaves the choice.
        or_bytes: u64,
    },
}

/// Sizes of one role's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Its KV pool.
    pub kv: KvBudget,
    /// New tokens in one step, over all rows.
    pub max_batch_tokens: u32,
    /// Sequences in one step; each may draw one token.
    pub max_rows: u32,
    /// Tokens of the longest sequence; none means as many as the model and the pool allow.
    pub max_context_tokens: Option<u32>,
    /// Whether its steps go before those of other engines on the same backend.
    pub urgency: Urgency,
}

/// Runs a model's steps. Several of them, one per role, may share one backend and its weights.
pub struct ModelEngine {
    model: Arc<LoadedModel>,
    executor: Box<dyn Executor>,
    facts: EngineFacts,
}

impl ModelEngine {
    /// Makes activations and a KV pool for `model`, which was loaded to `backend`.
    ///
    /// # Errors
    /// When an option is out of range or the backend has no room.
    pub fn new(
        model: Arc<LoadedModel>,
        backend: &dyn Backend,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let limits = limits(&model, backend, options)?;
        Ok(Self {
            executor: backend.executor(&model.executor_spec(&limits))?,
            facts: facts(&model, backend, &limits, ""),
            model,
        })
    }

    /// The model it runs.
    #[must_use]
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }
}

impl Engine for ModelEngine {
    fn step(&mut self, batch: &Batch) -> Result<StepOutput, EngineError> {
        let mut output = self.model.forward(self.executor.as_mut(), batch)?;
        // Also without samples: the end of the draw is what lets go of a shared device.
        output.samples = self.executor.sample(batch)?;
        Ok(output)
    }

    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        self.executor.memory()
    }
}

/// What an engine says of itself. `devices` goes before the backend's own words.
pub(crate) fn facts(
    model: &LoadedModel,
    backend: &dyn Backend,
    limits: &StepLimits,
    devices: &str,
) -> EngineFacts {
    let (backend, layout) = (backend.facts(), model.kv_layout());
    EngineFacts {
        block_count: limits.block_count,
        block_bytes: layout.block_bytes() as u64,
        layout_hash: layout_hash(model.fingerprint(), layout),
        vocabulary: model.config().vocabulary,
        hidden: model.config().hidden,
        max_context_tokens: limits.max_context_tokens,
        max_batch_tokens: limits.max_batch_tokens,
        max_rows: limits.max_rows,
        detail: format!("{}: {devices}{}", backend.name, backend.detail),
    }
}

/// Of an engine whose model, or slice of one, was loaded to `backend`.
pub(crate) fn limits(
    model: &LoadedModel,
    backend: &dyn Backend,
    options: &EngineOptions,
) -> Result<StepLimits, EngineError> {
    let wrong = |option, problem: String| Err(EngineError::Option { option, problem });
    if options.max_batch_tokens == 0 {
        return wrong("max_batch_tokens", "is 0, must be at least 1".to_owned());
    }
    if options.max_rows == 0 {
        return wrong("max_rows", "is 0, must be at least 1".to_owned());
    }
    let most = model.config().max_positions;
    let asked = options.max_context_tokens.unwrap_or(most);
    if asked == 0 || asked > most {
        return wrong(
            "max_context_tokens",
            format!("is {asked}, must be from 1 to {most}, the model's own limit"),
        );
    }
    let mut limits = StepLimits {
        block_count: 0,
        max_batch_tokens: options.max_batch_tokens,
        max_rows: options.max_rows,
        max_samples: options.max_rows,
        max_context_tokens: asked,
        urgency: options.urgency,
    };
    // A block lies on all devices that share the model.
    let devices = u64::from(model.shard().size);
    let block_bytes = model.shard_layout().block_bytes() as u64 * devices;
    // More blocks than 32 bits count are not used.
    let blocks_in = |bytes: u64| u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX);
    limits.block_count = match options.kv {
        KvBudget::Blocks(blocks) => blocks,
        KvBudget::Bytes(bytes) => blocks_in(bytes),
        KvBudget::Room { among, or_bytes } => {
            let room = backend.kv_room(&model.executor_spec(&limits), among)?;
            blocks_in(room.map_or(or_bytes, |room| room.saturating_mul(devices)))
        }
    };
    if limits.block_count == 0 {
        return wrong(
            "kv",
            format!("has no room for one block of {block_bytes} bytes; raise it"),
        );
    }
    limits.max_context_tokens = asked.min(limits.block_count.saturating_mul(BLOCK_TOKENS));
    Ok(limits)
}

fn layout_hash(fingerprint: u64, layout: &KvLayout) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&fingerprint.to_le_bytes());
    for number in [
        LAYOUT_VERSION,
        BLOCK_TOKENS,
        layout.layers,
        layout.kv_heads,
        layout.head_dim,
    ] {
        hash.update(&number.to_le_bytes());
    }
    hash.update(layout.dtype.name().as_bytes());
    hash.digest()
}
