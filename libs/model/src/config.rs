//! config.json → [`ModelConfig`]: every fact resolved and checked, so that nothing after it has to guess.

use vlinders_types::TokenId;

use crate::fields::{Fields, parse_object};
use crate::{Architecture, ModelError, Quantization, Rope};

/// What the window is when a Mistral config does not speak of it; `null` there means none.
const MISTRAL_WINDOW: u32 = 4096;
/// What head_dim is when a Qwen3 config does not speak of it.
const QWEN3_HEAD_DIM: u32 = 128;

// Bounds far above published models, low enough that products of two of them fit into 32 bits where they must.
const MAX_LAYERS: u32 = 1024;
const MAX_HEADS: u32 = 4096;
const MAX_HEAD_DIM: u32 = 1024;
const MAX_HIDDEN: u32 = 1 << 20;
const MAX_INTERMEDIATE: u32 = 1 << 22;
const MAX_VOCABULARY: u32 = 1 << 24;
const MAX_POSITIONS: u32 = 1 << 28;

/// The shape of a model, all defaults resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Its family.
    pub architecture: Architecture,
    /// Size of the residual stream.
    pub hidden: u32,
    /// Inner size of the feed-forward.
    pub intermediate: u32,
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of one head; even. `query_heads * head_dim` need not be `hidden`.
    pub head_dim: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Tokens of the longest sequence.
    pub max_positions: u32,
    /// Of every normalisation.
    pub norm_epsilon: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// One entry per layer: how many tokens it sees, itself included; none means all before it.
    pub windows: Vec<Option<u32>>,
    /// Query, key and value projections have biases.
    pub query_key_value_bias: bool,
    /// The attention's output projection has a bias.
    pub output_bias: bool,
    /// The three feed-forward projections have biases.
    pub feed_forward_bias: bool,
    /// Query and key heads are normalised before rotation.
    pub query_key_norm: bool,
    /// The embedding serves as output head.
    pub tied_head: bool,
    /// The token a sequence begins with, if the config names one.
    pub begin_token: Option<TokenId>,
    /// Tokens that end a sequence, as the config names them.
    pub end_tokens: Vec<TokenId>,
    /// How its projections are quantised, where they are.
    pub quantization: Option<Quantization>,
}

impl ModelConfig {
    /// Reads config.json. `file` is the name used in errors.
    ///
    /// # Errors
    /// When it is malformed, inconsistent, or asks for what is not supported.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, ModelError> {
        let map = parse_object(file, bytes)?;
        let fields = Fields::new(file, "", &map);
        let architecture = Architecture::read(&fields)?;
        refuse_unsupported(&fields)?;

        let required = |field: &str, most| fields.required(field, fields.number(field, 1..=most)?);
        let hidden = required("hidden_size", MAX_HIDDEN)?;
        let layers = required("num_hidden_layers", MAX_LAYERS)?;
        let query_heads = required("num_attention_heads", MAX_HEADS)?;
        let kv_heads = read_kv_heads(&fields, query_heads)?;
        let vocabulary = required("vocab_size", MAX_VOCABULARY)?;
        let attention_bias = fields.flag("attention_bias")?.unwrap_or(false);
        let (query_key_value_bias, output_bias) = match architecture {
            Architecture::Llama | Architecture::Qwen3 => (attention_bias, attention_bias),
            Architecture::Mistral => (false, false),
            Architecture::Qwen2 => (true, false),
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "kernels compute with an f32 epsilon"
        )]
        let norm_epsilon = fields.real("rms_norm_eps", 1e-12..=1e-1)?.unwrap_or(1e-6) as f32;

        Ok(Self {
            architecture,
            hidden,
            intermediate: required("intermediate_size", MAX_INTERMEDIATE)?,
            query_heads,
            kv_heads,
            head_dim: read_head_dim(&fields, architecture, hidden, query_heads)?,
            vocabulary,
            max_positions: required("max_position_embeddings", MAX_POSITIONS)?,
            norm_epsilon,
            rope: Rope::read(file, &fields)?,
            windows: read_windows(&fields, architecture, layers)?,
            query_key_value_bias,
            output_bias,
            feed_forward_bias: architecture == Architecture::Llama
                && fields.flag("mlp_bias")?.unwrap_or(false),
            query_key_norm: architecture == Architecture::Qwen3,
            tied_head: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            begin_token: fields.token_ids("bos_token_id", vocabulary)?.first().copied(),
            end_tokens: fields.token_ids("eos_token_id", vocabulary)?,
            quantization: Quantization::read(file, &fields)?,
        })
    }

    /// Number of layers.
    #[must_use]
    pub fn layers(&self) -> u32 {
        u32::try_from(self.windows.len()).expect("one window for each of a 32-bit number of layers")
    }

    /// Width of the query heads together.
    #[must_use]
    pub const fn query_width(&self) -> u32 {
        self.query_heads * self.head_dim
    }

    /// Width of the key (or value) heads together.
    #[must_use]
    pub const fn kv_width(&self) -> u32 {
        self.kv_heads * self.head_dim
    }
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ModelError> {
    match fields.text("hidden_act")? {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(fields.unsupported(format!("hidden_act `{other}`"), "silu")),
    }
}

fn read_kv_heads(fields: &Fields<'_>, query_heads: u32) -> Result<u32, ModelError> {
    let field = "num_key_value_heads";
    let kv_heads = fields.number(field, 1..=MAX_HEADS)?.unwrap_or(query_heads);
    if query_heads.is_multiple_of(kv_heads) {
        return Ok(kv_heads);
    }
    Err(fields.wrong(
        field,
        format!("is {kv_heads}, must divide num_attention_heads {query_heads}"),
    ))
}

fn read_head_dim(
    fields: &Fields<'_>,
    architecture: Architecture,
    hidden: u32,
    query_heads: u32,
) -> Result<u32, ModelError> {
    let head_dim = match (fields.number("head_dim", 2..=MAX_HEAD_DIM)?, architecture) {
        (Some(head_dim), _) => head_dim,
        (None, Architecture::Qwen3) => QWEN3_HEAD_DIM,
        (None, Architecture::Llama | Architecture::Mistral | Architecture::Qwen2) => {
            if !hidden.is_multiple_of(query_heads) {
                let problem =
                    format!("is {query_heads}, must divide hidden_size {hidden} when head_dim is not given");
                return Err(fields.wrong("num_attention_heads", problem));
            }
            hidden / query_heads
        }
    };
    // Rotation pairs the two halves of a head.
    if head_dim.is_multiple_of(2) && (2..=MAX_HEAD_DIM).contains(&head_dim) {
        return Ok(head_dim);
    }
    Err(fields.wrong(
        "head_dim",
        format!("is {head_dim}, must be an even number from 2 to {MAX_HEAD_DIM}"),
    ))
}

/// The window of each layer. Newer files list `layer_types`; older ones say from which layer on the window holds.
fn read_windows(
    fields: &Fields<'_>,
    architecture: Architecture,
    layers: u32,
) -> Result<Vec<Option<u32>>, ModelError> {
    let given = fields.number("sliding_window", 1..=MAX_POSITIONS)?;
    let (window, first_layer) = match architecture {
        Architecture::Llama => (None, 0),
        Architecture::Mistral if fields.is_null("sliding_window") => (None, 0),
        Architecture::Mistral => (Some(given.unwrap_or(MISTRAL_WINDOW)), 0),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let in_use = fields.flag("use_sliding_window")?.unwrap_or(false);
            let first_layer = fields.number("max_window_layers", 0..=u32::MAX)?.unwrap_or(28);
            (
                if in_use {
                    Some(given.unwrap_or(MISTRAL_WINDOW))
                } else {
                    None
                },
                first_layer,
            )
        }
    };
    let Some(kinds) = fields.texts("layer_types")? else {
        return Ok((0..layers)
            .map(|layer| window.filter(|_| layer >= first_layer))
            .collect());
    };
    if kinds.len() != layers as usize {
        let problem = format!(
            "has {} entries, must have one for each of {layers} layers",
            kinds.len()
        );
        return Err(fields.wrong("layer_types", problem));
    }
    let window_of = |kind: &&str| match *kind {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        "sliding_attention" => Err(fields.wrong(
            "layer_types",
            "asks for sliding_attention without a sliding window",
        )),
        other => Err(fields.unsupported(
            format!("layer type `{other}`"),
            "full_attention, sliding_attention",
        )),
    };
    kinds.iter().map(window_of).collect()
}
