//! The model of `vlinders up` and the engines of its roles.

use std::sync::Arc;

use anyhow::Context;
use vlinders_engine::{Engine, EngineFacts, StepCost};
use vlinders_kernel_api::Urgency;
use vlinders_text::ModelText;
use vlinders_types::ModelName;

use crate::models::{Compute, EngineSizes, ModelOrder, default_name, load_text, source};
use crate::settings::{UpArgs, UpRole};

/// The model as `up` serves it.
pub(super) struct Model {
    pub(super) name: ModelName,
    pub(super) text: Arc<ModelText>,
    compute: Compute,
}

impl Model {
    /// Reads the checkpoint and uploads it.
    ///
    /// # Errors
    /// When the model or a size does not allow it.
    pub(super) fn load(args: &UpArgs) -> anyhow::Result<Self> {
        let order = ModelOrder {
            folder: args.model.clone(),
            backend: args.backend,
            threads: args.threads,
            sim_cost: StepCost {
                base_us: args.sim_step_us,
                per_prefill_token_ns: args.sim_token_ns,
                ..StepCost::default()
            },
        };
        let source = source(&order);
        let text = load_text(&source)?;
        let compute = Compute::load(&order, &source, &text)?;
        let name = args
            .served_model_name
            .clone()
            .unwrap_or_else(|| default_name(&order));
        Ok(Self {
            name: ModelName::new(&name),
            text: Arc::new(text),
            compute,
        })
    }

    /// Makes the engines of all roles.
    ///
    /// # Errors
    /// When a size is out of range or there is no memory.
    pub(super) fn engines(&self, args: &UpArgs) -> anyhow::Result<Engines> {
        let decode = self.engine(args, Urgency::Decode)?;
        Ok(match args.role {
            UpRole::Split => Engines::Split {
                prefill: self.engine(args, Urgency::Prefill)?,
                decode,
            },
            UpRole::Both => Engines::Both(decode),
        })
    }

    fn engine(&self, args: &UpArgs, urgency: Urgency) -> anyhow::Result<Box<dyn Engine>> {
        let sizes = EngineSizes {
            kv_bytes: args.kv_memory_mib * 1024 * 1024,
            max_batch_tokens: args.max_num_batched_tokens,
            max_rows: args.max_num_seqs,
            max_context_tokens: args.max_model_len,
            urgency,
        };
        // The engine names its own options; whoever started us knows flags.
        self.compute.engine(&sizes).context(
            "--max-model-len, --max-num-seqs, --max-num-batched-tokens and --kv-memory-mib do not fit this model",
        )
    }
}

/// One engine per worker, over the same weights.
pub(super) enum Engines {
    Split {
        prefill: Box<dyn Engine>,
        decode: Box<dyn Engine>,
    },
    Both(Box<dyn Engine>),
}

impl Engines {
    /// The sizes of the engine that generates; those of all are alike.
    pub(super) fn facts(&self) -> &EngineFacts {
        match self {
            Self::Split { decode, .. } => decode.facts(),
            Self::Both(engine) => engine.facts(),
        }
    }
}
