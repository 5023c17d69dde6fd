//! Which tensors a model needs: all of them found and checked before the first one is uploaded, so that a wrong
//! checkpoint is refused at once and not after minutes.

use std::collections::BTreeSet;

use vlinders_kernel_api::{Dtype, TensorView, WeightFormat};

use crate::checkpoint::{RawTensor, stored_name};
use crate::quantized::{Place, Quantization, StoredWeight};
use crate::{Checkpoint, ModelConfig, ModelError};

/// The tensors of a whole model.
pub(crate) struct ModelTensors<'a> {
    /// `[vocabulary, hidden]`.
    pub(crate) embedding: TensorView<'a>,
    pub(crate) layers: Vec<LayerTensors<'a>>,
    /// `[hidden]`.
    pub(crate) final_norm: TensorView<'a>,
    /// `[vocabulary, hidden]`; none when the embedding is the head.
    pub(crate) head: Option<Projection<'a>>,
    /// Of the layers' projections; norms may be stored in another one. bf16 when they are quantised.
    pub(crate) weight_dtype: Dtype,
    /// How the layers' projections are stored.
    pub(crate) weight_format: WeightFormat,
    /// Bytes of all of the above.
    pub(crate) total_bytes: u64,
    /// Tensors in the files that the config has no use for.
    pub(crate) ignored: Vec<String>,
}

/// The tensors of one projection.
#[derive(Clone, Copy)]
pub(crate) struct Projection<'a> {
    /// `[outputs, inputs]`.
    pub(crate) weight: StoredWeight<'a>,
    /// `[outputs]`.
    pub(crate) bias: Option<TensorView<'a>>,
}

impl Projection<'_> {
    /// In the files.
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.map_or(0, |bias| bias.bytes.len())
    }
}

/// The tensors of one layer.
pub(crate) struct LayerTensors<'a> {
    pub(crate) attention_norm: TensorView<'a>,
    pub(crate) query_key_value: [Projection<'a>; 3],
    /// Query, key: `[head_dim]` each.
    pub(crate) query_key_norm: Option<[TensorView<'a>; 2]>,
    pub(crate) output: Projection<'a>,
    pub(crate) feed_forward_norm: TensorView<'a>,
    pub(crate) gate_up: [Projection<'a>; 2],
    pub(crate) down: Projection<'a>,
}

impl<'a> ModelTensors<'a> {
    /// Finds everything that `config` asks for.
    pub(crate) fn find(config: &ModelConfig, checkpoint: &'a Checkpoint) -> Result<Self, ModelError> {
        let mut finder = Finder {
            checkpoint,
            quantization: config.quantization,
            used: BTreeSet::new(),
            total_bytes: 0,
        };
        let (hidden, vocabulary) = (config.hidden as usize, config.vocabulary as usize);
        let embedding = finder.tensor("model.embed_tokens.weight", &[vocabulary, hidden])?;
        let mut layers = Vec::with_capacity(config.windows.len());
        for layer in 0..config.windows.len() {
            layers.push(finder.layer(config, layer)?);
        }
        let final_norm = finder.tensor("model.norm.weight", &[hidden])?;
        let head = match config.tied_head {
            true => None,
            false => Some(finder.linear("lm_head", [vocabulary, hidden], false)?),
        };
        let first = layers.first().map(|layer| layer.output.weight);
        let weight_dtype = first.map_or(embedding.dtype, |weight| weight.dtype());
        let dense = WeightFormat::Dense(embedding.dtype);
        let weight_format = first.map_or(dense, |weight| weight.format());
        let unused = checkpoint.names().filter(|name| !finder.used.contains(name));
        let ignored = unused.map(str::to_owned).collect();
        Ok(Self {
            embedding,
            layers,
            final_norm,
            head,
            weight_dtype,
            weight_format,
            total_bytes: finder.total_bytes,
            ignored,
        })
    }
}

pub(crate) struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    quantization: Option<Quantization>,
    used: BTreeSet<&'a str>,
    total_bytes: u64,
}

impl<'a> Finder<'a> {
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<TensorView<'a>, ModelError> {
        let tensor = self.checkpoint.tensor(name, shape)?;
        self.used.insert(tensor.name);
        self.total_bytes += tensor.bytes.len() as u64;
        Ok(tensor)
    }

    /// A tensor of codes.
    pub(crate) fn coded(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[usize],
    ) -> Result<RawTensor<'a>, ModelError> {
        let raw = self.checkpoint.coded(name, dtype, shape)?;
        self.used.insert(raw.name);
        self.total_bytes += raw.bytes.len() as u64;
        Ok(raw)
    }

    /// A tensor of whatever kind, if there is one.
    pub(crate) fn raw(&self, name: &str) -> Option<RawTensor<'a>> {
        self.checkpoint.raw(name)
    }

    /// Nothing need be said of a tensor that is known and of no use.
    pub(crate) fn pass_over(&mut self, name: &str) {
        if let Some(raw) = self.checkpoint.raw(name) {
            self.used.insert(raw.name);
        }
    }

    /// An error about a tensor, or about the projection it should belong to.
    pub(crate) fn problem(&self, name: &str, problem: String) -> ModelError {
        self.checkpoint.tensor_error(name, problem)
    }

    /// Whether all scales are finite.
    pub(crate) fn check_scales(&self, scales: &TensorView<'_>) -> Result<(), ModelError> {
        match scales.widen().iter().find(|scale| !scale.is_finite()) {
            Some(scale) => Err(self.problem(scales.name, format!("has the scale {scale}"))),
            None => Ok(()),
        }
    }

    /// `shape`: outputs, inputs.
    fn linear(
        &mut self,
        name: &str,
        shape: [usize; 2],
        has_bias: bool,
    ) -> Result<Projection<'a>, ModelError> {
        let [outputs, inputs] = shape;
        let place = Place {
            name,
            outputs,
            inputs,
        };
        let weight = place.find(self, self.quantization)?;
        let bias = match has_bias {
            true => Some(self.tensor(&format!("{name}.bias"), &shape[..1])?),
            false => None,
        };
        Ok(Projection { weight, bias })
    }

    fn layer(&mut self, config: &ModelConfig, layer: usize) -> Result<LayerTensors<'a>, ModelError> {
        let (hidden, intermediate) = (config.hidden as usize, config.intermediate as usize);
        let (query, kv) = (config.query_width() as usize, config.kv_width() as usize);
        let head_dim = config.head_dim as usize;
        let name = |suffix: &str| format!("model.layers.{layer}.{suffix}");

        let attention_norm = self.tensor(&name("input_layernorm.weight"), &[hidden])?;
        let bias = config.query_key_value_bias;
        let query_key_value = [
            self.linear(&name("self_attn.q_proj"), [query, hidden], bias)?,
            self.linear(&name("self_attn.k_proj"), [kv, hidden], bias)?,
            self.linear(&name("self_attn.v_proj"), [kv, hidden], bias)?,
        ];
        let query_key_norm = match config.query_key_norm {
            true => Some([
                self.tensor(&name("self_attn.q_norm.weight"), &[head_dim])?,
                self.tensor(&name("self_attn.k_norm.weight"), &[head_dim])?,
            ]),
            false => None,
        };
        let output = self.linear(&name("self_attn.o_proj"), [hidden, query], config.output_bias)?;
        let feed_forward_norm = self.tensor(&name("post_attention_layernorm.weight"), &[hidden])?;
        let bias = config.feed_forward_bias;
        let gate_up = [
            self.linear(&name("mlp.gate_proj"), [intermediate, hidden], bias)?,
            self.linear(&name("mlp.up_proj"), [intermediate, hidden], bias)?,
        ];
        let down = self.linear(&name("mlp.down_proj"), [hidden, intermediate], bias)?;
        self.check_one_format(&query_key_value)?;
        self.check_one_format(&gate_up)?;
        Ok(LayerTensors {
            attention_norm,
            query_key_value,
            query_key_norm,
            output,
            feed_forward_norm,
            gate_up,
            down,
        })
    }

    /// Parts that a backend stacks must be of one format.
    fn check_one_format(&self, parts: &[Projection<'_>]) -> Result<(), ModelError> {
        let first = parts[0].weight;
        match parts.iter().find(|part| part.weight.format() != first.format()) {
            Some(other) => Err(self.checkpoint.tensor_error(
                other.weight.name(),
                format!(
                    "is stored as {}, but {} as {}: they must agree",
                    format_name(other.weight.format()),
                    first.name(),
                    format_name(first.format())
                ),
            )),
            None => Ok(()),
        }
    }
}

/// As files name it, or what its codes are.
fn format_name(format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::Dense(dtype) => stored_name(dtype),
        WeightFormat::Quantized(kind) => kind.name(),
    }
}
