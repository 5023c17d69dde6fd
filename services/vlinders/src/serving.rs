//! A model as processes serve it: with its name and text, and on those that compute, with its weights.

use std::sync::Arc;

use anyhow::{Context, ensure};
use vlinders_engine::{Engine, KvBudget};
use vlinders_frontend::{ModelFormats, ServedModel};
use vlinders_kernel_api::Urgency;
use vlinders_model::{ModelConfig, ModelSource};
use vlinders_text::ModelText;
use vlinders_types::{ModelName, Pooling};

use crate::models::{
    Compute, EngineSizes, ModelOrder, SIM_CONTEXT_TOKENS, SIM_HIDDEN, default_name, load_pooling, load_text,
    source,
};
use crate::settings::{EngineSettings, ModelChoice};

/// A model that is ready to be computed.
pub(crate) struct Model {
    pub(crate) name: ModelName,
    pub(crate) text: Arc<ModelText>,
    pub(crate) pooling: Pooling,
    compute: Compute,
    max_model_len: Option<u32>,
}

impl Model {
    /// Reads the checkpoint and uploads it. With `shared_kv`, other processes of this host may read its blocks.
    ///
    /// # Errors
    /// When the model does not allow it.
    pub(crate) fn load(
        choice: &ModelChoice,
        settings: &EngineSettings,
        shared_kv: bool,
    ) -> anyhow::Result<Self> {
        let order = ModelOrder {
            folder: choice.folder.clone(),
            backend: settings.backend.clone(),
            devices: choice.devices.unwrap_or(1),
            threads: settings.threads,
            shared_kv,
            gpu_memory_share: settings.gpu_memory_share,
            sim_cost: settings.sim_cost,
            sim_fail_after_steps: settings.sim_fail_after_steps,
        };
        let source = source(choice.folder.as_ref());
        let text = load_text(&source)?;
        let compute = Compute::load(&order, &source, &text)?;
        Ok(Self {
            name: name_of(choice),
            text: Arc::new(text),
            pooling: load_pooling(choice.folder.as_ref())?,
            compute,
            max_model_len: choice.max_model_len,
        })
    }

    /// Whether a GPU computes it.
    pub(crate) fn is_on_gpu(&self) -> bool {
        self.compute.is_on_gpu()
    }

    /// Makes one role's engine, one of `among` that are still to be made and share a GPU's memory.
    ///
    /// # Errors
    /// When a size is out of range or there is no memory.
    pub(crate) fn engine(
        &self,
        settings: &EngineSettings,
        urgency: Urgency,
        among: u32,
    ) -> anyhow::Result<Box<dyn Engine>> {
        let sizes = EngineSizes {
            kv: KvBudget::Room {
                among,
                or_bytes: settings.kv_memory_mib * 1024 * 1024,
            },
            max_batch_tokens: settings.max_num_batched_tokens,
            max_rows: settings.max_num_seqs,
            max_context_tokens: self.max_model_len,
            urgency,
        };
        // The engine names its own options; whoever started us knows flags.
        self.compute.engine(&sizes).context(
            "--max-model-len, --max-num-seqs, --max-num-batched-tokens and --kv-memory-mib (on a GPU --gpu-memory-utilization) do not \
             fit this model",
        )
    }
}

fn name_of(choice: &ModelChoice) -> ModelName {
    let name = choice.name.clone();
    ModelName::new(&name.unwrap_or_else(|| default_name(choice.folder.as_ref())))
}

/// What a frontend must know of a model, without its weights.
///
/// # Errors
/// When a file is missing or malformed, or the longest sequence is longer than the model's.
pub(crate) fn served(choice: &ModelChoice) -> anyhow::Result<ServedModel> {
    let source: ModelSource = source(choice.folder.as_ref());
    let text = load_text(&source)?;
    let config = source.read("config.json")?;
    let config = config
        .map(|bytes| ModelConfig::parse(&source.display_name("config.json"), &bytes))
        .transpose()?;
    let longest = config
        .as_ref()
        .map_or(SIM_CONTEXT_TOKENS, |config| config.max_positions);
    let asked = choice.max_model_len.unwrap_or(longest);
    ensure!(
        asked <= longest,
        "--max-model-len: {asked} is more than model {} allows ({longest})",
        source.place()
    );
    let (vocabulary, hidden) = match config {
        Some(config) => (config.vocabulary, config.hidden),
        None => (u32::try_from(text.vocabulary_size())?, SIM_HIDDEN),
    };
    Ok(ServedModel {
        name: name_of(choice),
        aliases: choice.aliases.clone(),
        formats: formats_of(choice, &text),
        text: Arc::new(text),
        max_context_tokens: asked,
        vocabulary,
        hidden,
        pooling: load_pooling(choice.folder.as_ref())?,
    })
}

/// How a model's text is read: as its settings say, or else its chat template.
pub(crate) fn formats_of(choice: &ModelChoice, text: &ModelText) -> ModelFormats {
    let told = ModelFormats::of_template(text);
    ModelFormats {
        tools: choice.formats.tools.unwrap_or(told.tools),
        reasoning: choice.formats.reasoning.unwrap_or(told.reasoning),
    }
}
