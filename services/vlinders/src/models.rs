//! From a model folder (or the built-in one) to what roles need: its text side, and engines on a backend.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use vlinders_engine::{
    Abandon, Engine, EngineOptions, KvBudget, ModelEngine, ModelShard, ShardedEngine, SimEngine, SimOptions,
    StepCost,
};
use vlinders_kernel_api::{Backend, Shard, Urgency};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions, Peers};
use vlinders_kernel_cuda::{CudaBackend, CudaOptions};
use vlinders_kernel_reference::ReferenceBackend;
use vlinders_model::{LoadedModel, ModelConfig, ModelSource};
use vlinders_text::{ModelText, TextFiles};
use vlinders_types::{Pooling, TokenId};

use crate::demo;
use crate::progress::LoadDisplay;
use crate::settings::{self, BackendKind};

/// Context of a simulated model that has no limit of its own.
pub(crate) const SIM_CONTEXT_TOKENS: u32 = 32_768;

/// Elements of a simulated model's hidden states.
pub(crate) const SIM_HIDDEN: u32 = 8;

/// Where a model folder says how its embeddings are made.
const POOLING_FOLDER: &str = "1_Pooling";

/// Where a model comes from and what computes it.
#[derive(Clone, Debug)]
pub(crate) struct ModelOrder {
    /// None is the built-in one.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) backend: settings::Backend,
    /// Slices of the model, each computed by itself.
    pub(crate) devices: u32,
    /// Of all devices together.
    pub(crate) threads: Option<usize>,
    /// Other processes of this host may read the blocks.
    pub(crate) shared_kv: bool,
    /// Share of a GPU's memory to use.
    pub(crate) gpu_memory_share: f64,
    pub(crate) sim_cost: StepCost,
    /// Steps after which a simulated device fails.
    pub(crate) sim_fail_after_steps: Option<u64>,
}

/// Sizes of one role's engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineSizes {
    pub(crate) kv: KvBudget,
    pub(crate) max_batch_tokens: u32,
    pub(crate) max_rows: u32,
    pub(crate) max_context_tokens: Option<u32>,
    pub(crate) urgency: Urgency,
}

/// A model that is ready to be computed.
pub(crate) enum Compute {
    /// Weights on one or several backends, shared by all engines.
    Real {
        /// In the order of their ranks.
        shards: Vec<ModelShard>,
        abandon: Abandon,
    },
    /// No weights.
    Sim {
        vocabulary: u32,
        hidden: u32,
        max_context_tokens: u32,
        never_drawn: Arc<[TokenId]>,
        cost: StepCost,
        fail_after_steps: Option<u64>,
    },
}

/// The files of a model.
pub(crate) fn source(folder: Option<&PathBuf>) -> ModelSource {
    match folder {
        Some(folder) => ModelSource::folder(folder),
        None => ModelSource::embedded(demo::FILES),
    }
}

/// The name a folder's model is served under unless another is given: the folder's own.
pub(crate) fn default_name(folder: Option<&PathBuf>) -> String {
    let Some(folder) = folder else {
        return demo::NAME.to_owned();
    };
    let full = folder.canonicalize().unwrap_or_else(|_| folder.clone());
    full.file_name()
        .map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Reads tokenizer, template and defaults.
///
/// # Errors
/// When the tokenizer is missing or a file is malformed.
pub(crate) fn load_text(source: &ModelSource) -> anyhow::Result<ModelText> {
    let tokenizer = source.read("tokenizer.json")?;
    let tokenizer = tokenizer.with_context(|| format!("model {} has no tokenizer.json", source.place()))?;
    let tokenizer_config = source.read("tokenizer_config.json")?;
    let template = source.read_text("chat_template.jinja")?;
    let generation = source.read("generation_config.json")?;
    let config = source.read("config.json")?;
    let files = TextFiles {
        tokenizer_json: &tokenizer,
        tokenizer_config: tokenizer_config.as_deref(),
        chat_template_jinja: template.as_deref(),
        generation_config: generation.as_deref(),
        config: config.as_deref(),
    };
    ModelText::load(&files).with_context(|| format!("model {}", source.place()))
}

/// How the model's makers turn its hidden states into an embedding: the last token's, unless they say otherwise.
///
/// # Errors
/// When the file is malformed or asks for something else than the last token or the mean.
pub(crate) fn load_pooling(folder: Option<&PathBuf>) -> anyhow::Result<Pooling> {
    let Some(folder) = folder else {
        return Ok(Pooling::default());
    };
    let source = ModelSource::folder(folder.join(POOLING_FOLDER));
    let Some(bytes) = source.read("config.json")? else {
        return Ok(Pooling::default());
    };
    let name = source.display_name("config.json");
    let settings: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes).with_context(|| name.clone())?;
    let modes = settings
        .iter()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && value.as_bool() == Some(true));
    let modes: Vec<&str> = modes.map(|(key, _)| key.as_str()).collect();
    match modes[..] {
        [] | ["pooling_mode_lasttoken"] => Ok(Pooling::LastToken),
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        _ => anyhow::bail!(
            "{name}: {} is not supported; only the last token or the mean of all are",
            modes.join(", ")
        ),
    }
}

impl Compute {
    /// Loads the weights, or pretends to.
    ///
    /// # Errors
    /// When the checkpoint is malformed or not supported, or the backend has no room.
    pub(crate) fn load(order: &ModelOrder, source: &ModelSource, text: &ModelText) -> anyhow::Result<Self> {
        if let Some(reason) = &order.backend.no_gpu {
            tracing::info!(reason, "no CUDA device, using the CPU backend");
        }
        let (backends, abandon) = match order.backend.kind {
            BackendKind::Cuda => gpu(order)?,
            BackendKind::Cpu => cpus(order)?,
            BackendKind::Reference => alone(order, Box::new(ReferenceBackend::new()))?,
            BackendKind::Sim => return Self::pretend(order, source, text),
        };
        let mut shards = Vec::with_capacity(backends.len());
        for (rank, mut backend) in (0..).zip(backends) {
            let mut display = LoadDisplay::new();
            let shard = Shard {
                rank,
                size: order.devices,
            };
            let model = LoadedModel::load_shard(source, &mut *backend, shard, &mut |progress| {
                display.show(progress)
            })?;
            let model = Arc::new(model);
            shards.push(ModelShard { model, backend });
        }
        let first = &shards[0];
        let facts = first.backend.facts();
        tracing::info!(
            model = %source.place(),
            weight_bytes = first.model.weight_bytes(),
            dtype = first.model.weight_format().name(),
            devices = order.devices,
            backend = facts.name,
            detail = %facts.detail,
            "model loaded"
        );
        Ok(Self::Real { shards, abandon })
    }

    fn pretend(order: &ModelOrder, source: &ModelSource, text: &ModelText) -> anyhow::Result<Self> {
        let config = source.read("config.json")?;
        let config = config
            .map(|bytes| ModelConfig::parse(&source.display_name("config.json"), &bytes))
            .transpose()?;
        let vocabulary = u32::try_from(text.vocabulary_size())?;
        let specials = (0..vocabulary).filter(|id| text.is_special(*id));
        Ok(Self::Sim {
            vocabulary,
            hidden: config.as_ref().map_or(SIM_HIDDEN, |config| config.hidden),
            max_context_tokens: config.map_or(SIM_CONTEXT_TOKENS, |config| config.max_positions),
            never_drawn: specials.collect(),
            cost: order.sim_cost,
            fail_after_steps: order.sim_fail_after_steps,
        })
    }

    /// Whether a GPU computes it.
    pub(crate) fn is_on_gpu(&self) -> bool {
        match self {
            Self::Real { shards, .. } => shards.iter().any(|shard| shard.backend.facts().name == "cuda"),
            Self::Sim { .. } => false,
        }
    }

    /// Makes one role's engine.
    ///
    /// # Errors
    /// When a size is out of range or there is no memory for it.
    pub(crate) fn engine(&self, sizes: &EngineSizes) -> anyhow::Result<Box<dyn Engine>> {
        match self {
            Self::Real { shards, abandon } => {
                let options = EngineOptions {
                    kv: sizes.kv,
                    max_batch_tokens: sizes.max_batch_tokens,
                    max_rows: sizes.max_rows,
                    max_context_tokens: sizes.max_context_tokens,
                    urgency: sizes.urgency,
                };
                Ok(match &shards[..] {
                    [ModelShard { model, backend }] => {
                        Box::new(ModelEngine::new(Arc::clone(model), &**backend, &options)?)
                    }
                    several => Box::new(ShardedEngine::new(several, abandon, &options)?),
                })
            }
            Self::Sim {
                vocabulary,
                hidden,
                max_context_tokens,
                never_drawn,
                cost,
                fail_after_steps,
            } => {
                let asked = sizes.max_context_tokens.unwrap_or(*max_context_tokens);
                Ok(Box::new(SimEngine::new(SimOptions {
                    vocabulary: *vocabulary,
                    hidden: *hidden,
                    // A simulated block is a few bytes: enough of them for every sequence at full length.
                    block_count: vlinders_types::blocks_for_tokens(asked).saturating_mul(sizes.max_rows),
                    max_batch_tokens: sizes.max_batch_tokens,
                    max_rows: sizes.max_rows,
                    max_context_tokens: asked,
                    never_drawn: Arc::clone(never_drawn),
                    cost: *cost,
                    fail_after_steps: *fail_after_steps,
                    ..SimOptions::default()
                })))
            }
        }
    }
}

/// A backend that holds the whole model or nothing.
fn alone(order: &ModelOrder, backend: Box<dyn Backend>) -> anyhow::Result<(Vec<Box<dyn Backend>>, Abandon)> {
    let size = order.devices;
    ensure!(
        size == 1,
        "tensor_parallel_size: {size} devices cannot share a model on this backend; use 1, or --backend cpu"
    );
    Ok((vec![backend], Arc::new(|| ())))
}

/// The GPU that was found. Where it cannot be used after all and nobody asked for it by name, the processor.
fn gpu(order: &ModelOrder) -> anyhow::Result<(Vec<Box<dyn Backend>>, Abandon)> {
    let options = CudaOptions {
        memory_share: order.gpu_memory_share,
        ..CudaOptions::default()
    };
    match CudaBackend::checked(options) {
        Ok(backend) => alone(order, Box::new(backend)),
        Err(error) if order.backend.is_named => {
            Err(error).context("--backend cuda: the GPU cannot be used; `--backend cpu` does without")
        }
        Err(error) => {
            tracing::warn!(%error, "the CUDA device cannot be used, using the CPU backend");
            cpus(order)
        }
    }
}

/// One backend for each slice, all on the processor, which share its threads.
fn cpus(order: &ModelOrder) -> anyhow::Result<(Vec<Box<dyn Backend>>, Abandon)> {
    let cpu = |threads| CpuBackend::new(CpuOptions { threads, force: None });
    if order.devices == 1 {
        let backend = cpu(order.threads)?.with_shared_kv(order.shared_kv);
        return Ok((vec![Box::new(backend)], Arc::new(|| ())));
    }
    let size = usize::try_from(order.devices)?;
    let usable = || std::thread::available_parallelism().map_or(1, usize::from);
    let each = (order.threads.unwrap_or_else(usable) / size).max(1);
    let seats = Peers::of(size);
    let first = seats[0].clone();
    let backend =
        |seat| -> anyhow::Result<Box<dyn Backend>> { Ok(Box::new(cpu(Some(each))?.with_peers(seat))) };
    let backends = seats.into_iter().map(backend).collect::<anyhow::Result<_>>()?;
    Ok((backends, Arc::new(move || first.abandon())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_how_its_embeddings_are_made_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let found = || load_pooling(Some(&path)).map_err(|error| error.to_string());
        assert_eq!(load_pooling(None).unwrap(), Pooling::LastToken);
        assert_eq!(found(), Ok(Pooling::LastToken));
        std::fs::create_dir(path.join(POOLING_FOLDER)).unwrap();
        let says =
            |settings: &str| std::fs::write(path.join(POOLING_FOLDER).join("config.json"), settings).unwrap();
        says(
            r#"{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}"#,
        );
        assert_eq!(found(), Ok(Pooling::Mean));
        says(r#"{"pooling_mode_lasttoken": true}"#);
        assert_eq!(found(), Ok(Pooling::LastToken));
        says(r#"{"pooling_mode_cls_token": true}"#);
        assert!(
            found()
                .unwrap_err()
                .contains("pooling_mode_cls_token is not supported")
        );
    }
}
