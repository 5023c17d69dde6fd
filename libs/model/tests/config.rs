//! config.json: what each family resolves to, and how wrong files are refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use proptest::prelude::*;
use serde_json::{Value, json};
use vlinders_model::{Architecture, ModelConfig, ModelError, Rope, RopeScaling};

fn parse(config: &Value) -> Result<ModelConfig, ModelError> {
    ModelConfig::parse("config.json", config.to_string().as_bytes())
}

/// A small valid config with `changes` applied; a change to null takes the field away.
fn config(architecture: &str, changes: &Value) -> Value {
    let mut config = json!({
        "architectures": [architecture],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "max_position_embeddings": 256,
    });
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

fn read(architecture: &str, changes: &Value) -> ModelConfig {
    parse(&config(architecture, changes)).unwrap()
}

fn refusal(architecture: &str, changes: &Value) -> ModelError {
    parse(&config(architecture, changes)).unwrap_err()
}

const FAMILIES: [(&str, Architecture); 4] = [
    ("LlamaForCausalLM", Architecture::Llama),
    ("MistralForCausalLM", Architecture::Mistral),
    ("Qwen2ForCausalLM", Architecture::Qwen2),
    ("Qwen3ForCausalLM", Architecture::Qwen3),
];

#[test]
fn a_plain_config_gets_the_defaults_of_its_family() {
    for (name, architecture) in FAMILIES {
        let read = read(name, &json!({}));
        let qwen2 = architecture == Architecture::Qwen2;
        let expected = ModelConfig {
            architecture,
            hidden: 64,
            intermediate: 96,
            query_heads: 4,
            kv_heads: 2,
            head_dim: if architecture == Architecture::Qwen3 {
                128
            } else {
                16
            },
            vocabulary: 100,
            max_positions: 256,
            norm_epsilon: 1e-6,
            rope: Rope {
                theta: 10_000.0,
                scaling: RopeScaling::None,
            },
            windows: vec![(architecture == Architecture::Mistral).then_some(4096); 4],
            query_key_value_bias: qwen2,
            output_bias: false,
            feed_forward_bias: false,
            query_key_norm: architecture == Architecture::Qwen3,
            tied_head: false,
            begin_token: None,
            end_tokens: vec![],
            quantization: None,
        };
        assert_eq!(read, expected);
    }
}

#[test]
fn the_golden_configs_read_as_they_were_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens");
    let read = |family: &str| {
        let file = format!("{folder}/{family}/f32/config.json");
        ModelConfig::parse(&file, &std::fs::read(&file).unwrap()).unwrap()
    };
    let plain = |theta| Rope {
        theta,
        scaling: RopeScaling::None,
    };
    assert_eq!(read("llama").rope, plain(10_000.0));
    assert!(!read("llama").tied_head);
    let stretched = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_positions: 32.0,
    };
    assert_eq!(
        read("llama31").rope,
        Rope {
            theta: 500_000.0,
            scaling: stretched
        }
    );
    assert_eq!(
        (read("llama31").tied_head, read("llama31").end_tokens),
        (true, vec![2, 5])
    );
    assert_eq!(
        (read("mistral").windows, read("mistral").head_dim),
        (vec![Some(24); 2], 32)
    );
    assert_eq!(
        (read("qwen2").query_key_value_bias, read("qwen2").windows),
        (true, vec![None; 2])
    );
    let qwen3 = read("qwen3");
    assert_eq!(
        (qwen3.query_key_norm, qwen3.rope, qwen3.head_dim),
        (true, plain(1_000_000.0), 32)
    );
}

#[test]
fn older_and_newer_key_names_mean_the_same() {
    let scaling = json!({"rope_type": "linear", "factor": 4.0});
    let older = read(
        "LlamaForCausalLM",
        &json!({"rope_theta": 5e5, "rope_scaling": scaling, "torch_dtype": "bfloat16"}),
    );
    let newer = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 500_000});
    let newer = read(
        "LlamaForCausalLM",
        &json!({"rope_parameters": newer, "dtype": "bfloat16"}),
    );
    let oldest = json!({"rope_theta": 500_000, "rope_scaling": {"type": "linear", "factor": 4}});
    assert_eq!(older, newer);
    assert_eq!(older, read("LlamaForCausalLM", &oldest));
    assert_eq!(
        older.rope,
        Rope {
            theta: 5e5,
            scaling: RopeScaling::Linear { factor: 4.0 }
        }
    );
}

#[test]
fn biases_follow_family_and_flags() {
    let both = json!({"attention_bias": true, "mlp_bias": true});
    for (name, expected) in [
        ("LlamaForCausalLM", [true, true, true]),
        ("MistralForCausalLM", [false, false, false]),
        ("Qwen2ForCausalLM", [true, false, false]),
        ("Qwen3ForCausalLM", [true, true, false]),
    ] {
        let read = read(name, &both);
        assert_eq!(
            [
                read.query_key_value_bias,
                read.output_bias,
                read.feed_forward_bias
            ],
            expected,
            "{name}"
        );
    }
}

#[test]
fn windows_follow_family_and_flags() {
    let windows = |name: &str, changes: Value| read(name, &changes).windows;
    let (on, off) = (Some(24), None);
    assert_eq!(
        windows("LlamaForCausalLM", json!({"sliding_window": 24})),
        [off; 4]
    );
    assert_eq!(
        windows("MistralForCausalLM", json!({"sliding_window": 24})),
        [on; 4]
    );
    assert_eq!(
        windows("MistralForCausalLM", json!({"sliding_window": null})),
        [off; 4]
    );
    for name in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        assert_eq!(
            windows(name, json!({"sliding_window": 24, "use_sliding_window": false})),
            [off; 4]
        );
        let later = json!({"sliding_window": 24, "use_sliding_window": true, "max_window_layers": 1});
        assert_eq!(windows(name, later), [off, on, on, on]);
        let kinds = json!([
            "sliding_attention",
            "full_attention",
            "full_attention",
            "sliding_attention"
        ]);
        let listed = json!({"sliding_window": 24, "use_sliding_window": true, "layer_types": kinds});
        assert_eq!(windows(name, listed), [on, off, off, on]);
    }
}

#[test]
fn one_end_token_or_several_may_be_named() {
    let ends = |value: Value| read("LlamaForCausalLM", &json!({"eos_token_id": value})).end_tokens;
    assert_eq!(ends(json!(2)), [2]);
    assert_eq!(ends(json!([2, 99])), [2, 99]);
    assert!(ends(Value::Null).is_empty());
    assert_eq!(
        read("LlamaForCausalLM", &json!({"bos_token_id": 1})).begin_token,
        Some(1)
    );
}

#[test]
fn key_value_heads_default_to_the_query_heads() {
    assert_eq!(
        read("LlamaForCausalLM", &json!({"num_key_value_heads": null})).kv_heads,
        4
    );
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    for (changes, named) in [
        (json!({"architectures": ["GPT2LMHeadModel"]}), "GPT2LMHeadModel"),
        (json!({"architectures": []}), "architecture none"),
        (json!({"hidden_act": "gelu"}), "hidden_act `gelu`"),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "rope scaling `dynamic`",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
            "rope scaling `yarn`",
        ),
        (
            json!({"rope_parameters": {"rope_type": "longrope"}}),
            "rope scaling `longrope`",
        ),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor 0.5"),
        (
            json!({"layer_types": vec!["chunked_attention"; 4]}),
            "layer type `chunked_attention`",
        ),
    ] {
        let error = refusal("LlamaForCausalLM", &changes);
        assert!(error.is_unsupported(), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("config.json: ") && text.contains(named),
            "{text}"
        );
    }
    let text = refusal("MambaForCausalLM", &json!({})).to_string();
    for (supported, _) in FAMILIES {
        assert!(text.contains(supported), "{text}");
    }
}

#[test]
fn weights_quantised_in_a_way_that_is_not_read_are_refused_by_name() {
    for (changes, named) in [
        (
            json!({"quantization_config": {"quant_method": "bitsandbytes"}}),
            "weights quantised by bitsandbytes",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq", "bits": 3}}),
            "weights of 3 bits",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}}),
            "GPTQ weights as marlin",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"}}),
            "AWQ weights in the version gemv",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq", "bits": 4, "zero_point": false}}),
            "AWQ weights without zero points",
        ),
        (
            json!({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}}),
            "fp8 weights in e5m2",
        ),
        (
            json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}}),
            "weights compressed as nvfp4-pack-quantized",
        ),
        (
            json!({"quantization_config": {"quant_method": "compressed-tensors", "config_groups":
                {"group_0": {"format": "marlin-24"}}}}),
            "weights compressed as marlin-24",
        ),
        (
            json!({"compression_config": {"quant_method": "compressed-tensors", "sparsity_config":
                {"format": "sparse-bitmask"}}}),
            "sparse weights compressed as sparse-bitmask",
        ),
    ] {
        let error = refusal("LlamaForCausalLM", &changes);
        assert!(error.is_unsupported(), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("config.json: ") && text.contains(named),
            "{text}"
        );
    }
}

#[test]
fn a_wrong_value_names_file_and_field() {
    for (changes, field) in [
        (json!({"hidden_size": null}), "hidden_size"),
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": -64}), "hidden_size"),
        (json!({"hidden_size": 64.5}), "hidden_size"),
        (json!({"hidden_size": "64"}), "hidden_size"),
        (json!({"hidden_size": 1u64 << 40}), "hidden_size"),
        (json!({"hidden_size": 66}), "num_attention_heads"),
        (json!({"intermediate_size": 0}), "intermediate_size"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        (json!({"num_hidden_layers": u32::MAX}), "num_hidden_layers"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 8}), "num_key_value_heads"),
        (json!({"head_dim": 0}), "head_dim"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"hidden_size": 60}), "head_dim"),
        (
            json!({"hidden_size": 1 << 20, "num_attention_heads": 1, "num_key_value_heads": 1}),
            "head_dim",
        ),
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"max_position_embeddings": 0}), "max_position_embeddings"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": -1e-5}), "rms_norm_eps"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_scaling": "linear"}), "rope_scaling"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            "rope_scaling.factor",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4}}),
            "rope_parameters.high_freq_factor",
        ),
        (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
        (json!({"eos_token_id": [2, 100]}), "eos_token_id"),
        (json!({"eos_token_id": -1}), "eos_token_id"),
        (json!({"bos_token_id": "<s>"}), "bos_token_id"),
        (json!({"layer_types": ["full_attention"]}), "layer_types"),
        (
            json!({"layer_types": vec!["sliding_attention"; 4]}),
            "layer_types",
        ),
        (json!({"architectures": null}), "architectures"),
        (json!({"architectures": "LlamaForCausalLM"}), "architectures"),
    ] {
        let error = refusal("LlamaForCausalLM", &changes);
        let ModelError::Field {
            file, field: named, ..
        } = &error
        else {
            panic!("{changes}: {error}")
        };
        assert_eq!((file.as_str(), named.as_str()), ("config.json", field), "{error}");
    }
}

#[test]
fn what_is_no_json_object_is_refused() {
    for text in [
        "",
        "[]",
        "{",
        "null",
        "{\"a\": NaN}",
        "\u{feff}{}",
        "{\"rms_norm_eps\": 1e999}",
    ] {
        let error = ModelConfig::parse("config.json", text.as_bytes()).unwrap_err();
        assert!(matches!(error, ModelError::Malformed { .. }), "{text}: {error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(ModelConfig::parse("config.json", deep.as_bytes()).is_err());
}

#[test]
fn a_long_wrong_value_is_cut_in_the_message() {
    let error = refusal("LlamaForCausalLM", &json!({"hidden_size": "é".repeat(5000)})).to_string();
    assert!(error.len() < 300, "{error}");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u32..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
        Just(json!("llama3")),
        Just(json!(["sliding_attention", "full_attention"])),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        let key = prop_oneof![
            Just("factor".to_owned()),
            Just("rope_type".to_owned()),
            "[a-z_]{0,10}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    /// One to three fields replaced by anything: an error or a config that keeps what the rest relies on.
    #[test]
    fn any_config_is_consistent_or_refused(
        family in 0..FAMILIES.len(),
        changes in prop::collection::vec(
            (prop::sample::select(vec![
                "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
                "rope_parameters", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
                "eos_token_id", "bos_token_id", "attention_bias", "tie_word_embeddings", "hidden_act", "architectures",
            ]), any_value()),
            1..4,
        ),
    ) {
        let changes = changes.into_iter().map(|(field, value)| (field.to_owned(), value)).collect();
        if let Ok(read) = parse(&config(FAMILIES[family].0, &Value::Object(changes))) {
            prop_assert_eq!(read.query_heads % read.kv_heads, 0);
            prop_assert_eq!(read.head_dim % 2, 0);
            prop_assert!(read.layers() > 0 && read.query_width() > 0 && read.kv_width() > 0);
            prop_assert!(read.end_tokens.iter().all(|token| *token < read.vocabulary));
            let frequencies = read.rope.frequencies(read.head_dim);
            prop_assert_eq!(frequencies.len() * 2, read.head_dim as usize);
            prop_assert!(frequencies.iter().all(|frequency| frequency.is_finite()));
        }
    }

    #[test]
    fn any_bytes_are_a_config_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ModelConfig::parse("config.json", &bytes);
    }
}
