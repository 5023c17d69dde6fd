//! From files to a model on a backend.

use std::ops::Range;

use vlinders_kernel_api::{
    AttentionSpec, Backend, Head, KernelError, KvLayout, LinearId, LinearKind, Norm, QkNorm, Shard,
    TensorView,
};

use crate::model::{Layer, LoadedModel};
use crate::slice::{Cut, ReadPart, Slice};
use crate::tensors::{LayerTensors, ModelTensors, Projection};
use crate::{Checkpoint, GenerationConfig, ModelConfig, ModelError, ModelSource};

const CONFIG_FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// How far the upload of weights has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of weights the backend has taken.
    pub done_bytes: u64,
    /// Bytes of all weights.
    pub total_bytes: u64,
}

impl LoadedModel {
    /// Reads the checkpoint in `source` and uploads its weights to `backend`. `progress` is called first with nothing
    /// done, then after every upload. Nothing is uploaded before every tensor is found and its shape is checked.
    ///
    /// # Errors
    /// When a file is missing, malformed or not supported, or the backend has no room.
    pub fn load(
        source: &ModelSource,
        backend: &mut dyn Backend,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        Self::load_shard(source, backend, Shard::WHOLE, progress)
    }

    /// As [`Self::load`], for one of several backends that hold slices of the model. Each loads from the same source.
    ///
    /// # Errors
    /// As [`Self::load`]; also when the model cannot be cut in so many slices.
    pub fn load_shard(
        source: &ModelSource,
        backend: &mut dyn Backend,
        shard: Shard,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let config_text = source
            .read(CONFIG_FILE)?
            .ok_or_else(|| source.missing_file(CONFIG_FILE))?;
        let config = ModelConfig::parse(&source.display_name(CONFIG_FILE), &config_text)?;
        let generation = match source.read(GENERATION_FILE)? {
            Some(text) => {
                GenerationConfig::parse(&source.display_name(GENERATION_FILE), &text, config.vocabulary)?
            }
            None => GenerationConfig::default(),
        };
        let checkpoint = Checkpoint::open(source)?;
        let tensors = ModelTensors::find(&config, &checkpoint)?;
        let kv_layout = KvLayout {
            layers: config.layers(),
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            dtype: backend.kv_dtype(tensors.weight_dtype),
        };
        let cut = Cut::of(&config, shard)?;
        let mut upload = Upload {
            backend,
            cut: &cut,
            epsilon: config.norm_epsilon,
            state: LoadProgress {
                done_bytes: 0,
                total_bytes: tensors.total_bytes,
            },
            progress,
        };
        (upload.progress)(upload.state);
        let embedding = upload.embedding(tensors.embedding, config.tied_head)?;
        let rotary = upload
            .backend
            .upload_rotary(&config.rope.frequencies(config.head_dim))?;
        let mut layers = Vec::with_capacity(tensors.layers.len());
        for (layer, window) in tensors.layers.iter().zip(&config.windows) {
            layers.push(upload.layer(layer, attention_spec(config.head_dim, *window))?);
        }
        let final_norm = upload.norm(tensors.final_norm)?;
        let head = match tensors.head {
            Some(part) => {
                let tokens = Slice::Outputs(cut.tokens.clone());
                Head::Separate(upload.linear(LinearKind::Head, &[(part, tokens)])?)
            }
            None => Head::Tied(embedding),
        };
        let mut end_tokens = [config.end_tokens.as_slice(), &generation.end_tokens].concat();
        end_tokens.sort_unstable();
        end_tokens.dedup();
        Ok(Self {
            fingerprint: checkpoint.fingerprint(),
            weight_dtype: tensors.weight_dtype,
            weight_format: tensors.weight_format,
            weight_bytes: tensors.total_bytes,
            ignored_tensors: tensors.ignored,
            config,
            generation,
            end_tokens,
            kv_layout,
            cut,
            embedding,
            rotary,
            layers,
            final_norm,
            head,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the format of the scale"
)]
fn attention_spec(head_dim: u32, window: Option<u32>) -> AttentionSpec {
    AttentionSpec {
        scale: f64::from(head_dim).sqrt().recip() as f32,
        window,
    }
}

/// The backend, with account of what it has taken.
struct Upload<'a> {
    backend: &'a mut dyn Backend,
    cut: &'a Cut,
    epsilon: f32,
    state: LoadProgress,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl Upload<'_> {
    fn layer(&mut self, tensors: &LayerTensors<'_>, attention: AttentionSpec) -> Result<Layer, KernelError> {
        let qk_norm = match tensors.query_key_norm {
            Some([query, key]) => Some(QkNorm {
                query: self.norm(query)?,
                key: self.norm(key)?,
            }),
            None => None,
        };
        let cut = self.cut;
        let query = || Slice::Outputs(cut.query.clone());
        let kv = || Slice::Outputs(cut.kv.clone());
        let neurons = || Slice::Outputs(cut.neurons.clone());
        let [q, k, v] = tensors.query_key_value;
        let [gate, up] = tensors.gate_up;
        Ok(Layer {
            attention_norm: self.norm(tensors.attention_norm)?,
            query_key_value: self.linear(LinearKind::Plain, &[(q, query()), (k, kv()), (v, kv())])?,
            qk_norm,
            attention,
            output: self.back(tensors.output, cut.query.clone())?,
            feed_forward_norm: self.norm(tensors.feed_forward_norm)?,
            gate_up: self.linear(LinearKind::GateUp, &[(gate, neurons()), (up, neurons())])?,
            down: self.back(tensors.down, cut.neurons.clone())?,
        })
    }

    fn embedding(
        &mut self,
        table: TensorView<'_>,
        tied: bool,
    ) -> Result<vlinders_kernel_api::EmbeddingId, KernelError> {
        let id = self.backend.upload_embedding(table, tied)?;
        self.took(table.bytes.len());
        Ok(id)
    }

    fn norm(&mut self, weight: TensorView<'_>) -> Result<Norm, KernelError> {
        let id = self.backend.upload_vector(weight)?;
        self.took(weight.bytes.len());
        Ok(Norm {
            weight: id,
            epsilon: self.epsilon,
        })
    }

    /// A projection back to the residual stream.
    fn back(&mut self, part: Projection<'_>, inputs: Range<usize>) -> Result<LinearId, KernelError> {
        let slice = Slice::Inputs(inputs, self.cut.shard);
        self.linear(LinearKind::Plain, &[(part, slice)])
    }

    fn linear(
        &mut self,
        kind: LinearKind,
        parts: &[(Projection<'_>, Slice)],
    ) -> Result<LinearId, KernelError> {
        let read: Vec<ReadPart<'_>> = parts
            .iter()
            .map(|(part, slice)| ReadPart::new(part, slice))
            .collect();
        let views: Vec<_> = read.iter().map(ReadPart::view).collect();
        let id = self.backend.upload_linear(kind, &views)?;
        self.took(parts.iter().map(|(part, _)| part.bytes()).sum());
        Ok(id)
    }

    fn took(&mut self, bytes: usize) {
        self.state.done_bytes += bytes as u64;
        (self.progress)(self.state);
    }
}
