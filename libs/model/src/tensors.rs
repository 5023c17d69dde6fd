//! Which tensors a model needs: all of them found and checked before the first one is uploaded, so that a wrong
//! checkpoint is refused at once and not after minutes.

use std::collections::BTreeSet;

use vlinders_kernel_api::{Dtype, LinearPart, TensorView};

use crate::checkpoint::stored_name;
use crate::{Checkpoint, ModelConfig, ModelError};

/// The tensors of a whole model.
pub(crate) struct ModelTensors<'a> {
    /// `[vocabulary, hidden]`.
    pub(crate) embedding: TensorView<'a>,
    pub(crate) layers: Vec<LayerTensors<'a>>,
    /// `[hidden]`.
    pub(crate) final_norm: TensorView<'a>,
    /// `[vocabulary, hidden]`; none when the embedding is the head.
    pub(crate) head: Option<LinearPart<'a>>,
    /// Of the layers' projections; norms may be stored in another one.
    pub(crate) weight_dtype: Dtype,
    /// Bytes of all of the above.
    pub(crate) total_bytes: u64,
    /// Tensors in the files that the config has no use for.
    pub(crate) ignored: Vec<String>,
}

/// The tensors of one layer.
pub(crate) struct LayerTensors<'a> {
    pub(crate) attention_norm: TensorView<'a>,
    pub(crate) query_key_value: [LinearPart<'a>; 3],
    /// Query, key: `[head_dim]` each.
    pub(crate) query_key_norm: Option<[TensorView<'a>; 2]>,
    pub(crate) output: LinearPart<'a>,
    pub(crate) feed_forward_norm: TensorView<'a>,
    pub(crate) gate_up: [LinearPart<'a>; 2],
    pub(crate) down: LinearPart<'a>,
}

impl<'a> ModelTensors<'a> {
    /// Finds everything that `config` asks for.
    pub(crate) fn find(config: &ModelConfig, checkpoint: &'a Checkpoint) -> Result<Self, ModelError> {
        let mut finder = Finder {
            checkpoint,
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
        let weight_dtype = layers
            .first()
            .map_or(embedding.dtype, |layer| layer.output.weight.dtype);
        let unused = checkpoint.names().filter(|name| !finder.used.contains(name));
        let ignored = unused.map(str::to_owned).collect();
        Ok(Self {
            embedding,
            layers,
            final_norm,
            head,
            weight_dtype,
            total_bytes: finder.total_bytes,
            ignored,
        })
    }
}

struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    used: BTreeSet<&'a str>,
    total_bytes: u64,
}

impl<'a> Finder<'a> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<TensorView<'a>, ModelError> {
        let tensor = self.checkpoint.tensor(name, shape)?;
        self.used.insert(tensor.name);
        self.total_bytes += tensor.bytes.len() as u64;
        Ok(tensor)
    }

    /// `shape`: outputs, inputs.
    fn linear(
        &mut self,
        name: &str,
        shape: [usize; 2],
        has_bias: bool,
    ) -> Result<LinearPart<'a>, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), &shape)?;
        let bias = match has_bias {
            true => Some(self.tensor(&format!("{name}.bias"), &shape[..1])?),
            false => None,
        };
        Ok(LinearPart { weight, bias })
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
        self.check_one_dtype(&query_key_value)?;
        self.check_one_dtype(&gate_up)?;
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

    /// Parts that a backend stacks must be of one dtype.
    fn check_one_dtype(&self, parts: &[LinearPart<'_>]) -> Result<(), ModelError> {
        let first = parts[0].weight;
        match parts.iter().find(|part| part.weight.dtype != first.dtype) {
            Some(other) => Err(self.checkpoint.tensor_error(
                other.weight.name,
                format!(
                    "is stored as {}, but {} as {}: they must agree",
                    stored_name(other.weight.dtype),
                    first.name,
                    stored_name(first.dtype)
                ),
            )),
            None => Ok(()),
        }
    }
}
