//! Random checkpoints of shapes that the golden ones do not have.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use serde_json::json;

pub(crate) const VOCABULARY: u32 = 101;
const HIDDEN: usize = 64;
const QUERY_HEADS: usize = 8;
const HEAD_DIM: usize = 16;
const INTERMEDIATE: usize = 160;
const LAYERS: usize = 2;

/// What differs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) kv_heads: usize,
    /// All projections have biases.
    pub(crate) has_bias: bool,
    pub(crate) is_tied: bool,
}

struct Numbers(u64);

impl Numbers {
    /// Uniform in -1..1 (SplitMix64).
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let [low, high, ..] = bits.to_le_bytes();
        f32::from(i16::from_le_bytes([low, high])) / 32768.0
    }
}

/// Writes config.json and model.safetensors, in f32.
pub(crate) fn write_checkpoint(folder: &Path, shape: &Shape) {
    let (numbers, mut tensors) = (&mut Numbers(7), BTreeMap::new());
    let mut add = |name: String, sizes: Vec<usize>, scale: f32, middle: f32| {
        let count = sizes.iter().product();
        let bytes: Vec<u8> = (0..count)
            .flat_map(|_| (middle + scale * numbers.next()).to_le_bytes())
            .collect();
        tensors.insert(name, (sizes, bytes));
    };
    let vocabulary = VOCABULARY as usize;
    add(
        "model.embed_tokens.weight".to_owned(),
        vec![vocabulary, HIDDEN],
        1.0,
        0.0,
    );
    add("model.norm.weight".to_owned(), vec![HIDDEN], 0.3, 1.0);
    if !shape.is_tied {
        add("lm_head.weight".to_owned(), vec![vocabulary, HIDDEN], 0.5, 0.0);
    }
    let (query, kv) = (QUERY_HEADS * HEAD_DIM, shape.kv_heads * HEAD_DIM);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        add(name("input_layernorm.weight"), vec![HIDDEN], 0.3, 1.0);
        add(name("post_attention_layernorm.weight"), vec![HIDDEN], 0.3, 1.0);
        for (part, outputs, inputs) in [
            ("self_attn.q_proj", query, HIDDEN),
            ("self_attn.k_proj", kv, HIDDEN),
            ("self_attn.v_proj", kv, HIDDEN),
            ("self_attn.o_proj", HIDDEN, query),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            ("mlp.up_proj", INTERMEDIATE, HIDDEN),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE),
        ] {
            add(name(&format!("{part}.weight")), vec![outputs, inputs], 0.2, 0.0);
            if shape.has_bias {
                add(name(&format!("{part}.bias")), vec![outputs], 0.5, 0.0);
            }
        }
    }
    let views = tensors.iter().map(|(name, (sizes, bytes))| {
        (
            name,
            TensorView::new(safetensors::Dtype::F32, sizes.clone(), bytes).unwrap(),
        )
    });
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS, "num_attention_heads": QUERY_HEADS, "num_key_value_heads": shape.kv_heads,
        "head_dim": HEAD_DIM, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "attention_bias": shape.has_bias, "mlp_bias": shape.has_bias, "tie_word_embeddings": shape.is_tied,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}
