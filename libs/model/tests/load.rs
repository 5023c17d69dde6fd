//! Whole checkpoints: what is uploaded in which order, and how broken ones are refused before anything is uploaded.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use support::{RecordingBackend, golden};
use vlinders_kernel_api::{Backend, Dtype, Urgency};
use vlinders_model::{LoadProgress, LoadedModel, ModelError, ModelSource, StepLimits};
use vlinders_types::{Batch, SampleRow, SequenceId, Span};

fn load(folder: &Path) -> Result<(LoadedModel, RecordingBackend, Vec<LoadProgress>), ModelError> {
    let (mut backend, mut seen) = (RecordingBackend::default(), Vec::new());
    let model = LoadedModel::load(&ModelSource::folder(folder), &mut backend, &mut |state| {
        seen.push(state)
    });
    if model.is_err() {
        assert!(
            backend.log.lock().unwrap().is_empty(),
            "a checkpoint is refused before anything is uploaded"
        );
    }
    Ok((model?, backend, seen))
}

/// A copy of a golden checkpoint to be broken.
fn copy_of(family: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(family)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is in {}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn error_of(folder: &Path) -> String {
    load(folder).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn qwen3_is_uploaded_and_run_in_the_order_of_its_layers() {
    let (model, backend, _) = load(&golden("qwen3/f32")).unwrap();
    let uploads: Vec<String> = backend.log.lock().unwrap().drain(..).collect();
    assert_eq!(
        uploads[..10],
        [
            "0 = embedding model.embed_tokens.weight tied=true",
            "1 = rotary of 16 pairs",
            "2 = vector model.layers.0.self_attn.q_norm.weight",
            "3 = vector model.layers.0.self_attn.k_norm.weight",
            "4 = vector model.layers.0.input_layernorm.weight",
            "5 = Plain model.layers.0.self_attn.q_proj.weight model.layers.0.self_attn.k_proj.weight \
         model.layers.0.self_attn.v_proj.weight",
            "6 = Plain model.layers.0.self_attn.o_proj.weight",
            "7 = vector model.layers.0.post_attention_layernorm.weight",
            "8 = GateUp model.layers.0.mlp.gate_proj.weight model.layers.0.mlp.up_proj.weight",
            "9 = Plain model.layers.0.mlp.down_proj.weight",
        ]
    );
    let limits = StepLimits {
        block_count: 1,
        max_batch_tokens: 1,
        max_rows: 1,
        max_samples: 1,
        max_context_tokens: 1,
        urgency: Urgency::Decode,
    };
    let mut executor = backend.executor(&model.executor_spec(&limits)).unwrap();
    let sample = SampleRow {
        sequence: SequenceId(1),
        token_index: 0,
        position: 1,
        params: Arc::default(),
        history: Span::default(),
        prompt_tokens: 1,
        banned: Arc::new([]),
        allowed: None,
    };
    model
        .forward(
            executor.as_mut(),
            &Batch {
                tokens: vec![7],
                samples: vec![sample],
                ..Batch::default()
            },
        )
        .unwrap();
    let calls = backend.log.lock().unwrap().clone();
    assert_eq!(
        calls,
        [
            "plan 1",
            "embed 0",
            "norm_project 4 5",
            "rotary_append 0 1 Some((2, 3))",
            "attention 0 0.17677669 None",
            "project_residual 6",
            "feed_forward 7 8 9",
            "norm_project 12 13",
            "rotary_append 1 1 Some((10, 11))",
            "attention 1 0.17677669 None",
            "project_residual 14",
            "feed_forward 15 16 17",
            "logits 18 Tied(EmbeddingId(0))",
        ]
    );
}

#[test]
fn a_step_without_samples_computes_no_logits() {
    let (model, backend, _) = load(&golden("llama/bf16")).unwrap();
    let limits = StepLimits {
        block_count: 1,
        max_batch_tokens: 1,
        max_rows: 1,
        max_samples: 1,
        max_context_tokens: 1,
        urgency: Urgency::Decode,
    };
    let mut executor = backend.executor(&model.executor_spec(&limits)).unwrap();
    backend.log.lock().unwrap().clear();
    model
        .forward(
            executor.as_mut(),
            &Batch {
                tokens: vec![7],
                ..Batch::default()
            },
        )
        .unwrap();
    assert!(
        backend
            .log
            .lock()
            .unwrap()
            .last()
            .unwrap()
            .starts_with("feed_forward")
    );
}

#[test]
fn every_golden_checkpoint_loads_with_all_of_its_tensors() {
    for (folder, dtype) in [
        ("llama/f32", Dtype::F32),
        ("llama/bf16", Dtype::Bf16),
        ("llama/f16", Dtype::F16),
        ("llama31/f32", Dtype::F32),
        ("llama31/bf16", Dtype::Bf16),
        ("mistral/f32", Dtype::F32),
        ("mistral/bf16", Dtype::Bf16),
        ("qwen2/f32", Dtype::F32),
        ("qwen2/bf16", Dtype::Bf16),
        ("qwen3/f32", Dtype::F32),
        ("qwen3/bf16", Dtype::Bf16),
    ] {
        let (model, backend, seen) = load(&golden(folder)).unwrap();
        assert_eq!(model.weight_dtype(), dtype, "{folder}");
        assert_eq!(model.kv_layout().dtype, dtype);
        assert!(
            model.ignored_tensors().is_empty(),
            "{folder}: {:?}",
            model.ignored_tensors()
        );
        let total_bytes = model.weight_bytes();
        assert_eq!(
            seen[0],
            LoadProgress {
                done_bytes: 0,
                total_bytes
            }
        );
        assert_eq!(
            seen.last(),
            Some(&LoadProgress {
                done_bytes: total_bytes,
                total_bytes
            })
        );
        assert!(seen.is_sorted_by_key(|state| state.done_bytes));
        // Biases belong to Qwen2 alone.
        let biases = backend
            .log
            .lock()
            .unwrap()
            .iter()
            .filter(|call| call.contains(".bias"))
            .count();
        assert_eq!(biases, if folder.starts_with("qwen2") { 2 } else { 0 });
    }
}

#[test]
fn end_tokens_of_both_files_are_joined() {
    let folder = copy_of("llama31/f32");
    edit(&folder.path().join("config.json"), "5\n  ],", "7\n  ],");
    let (model, ..) = load(folder.path()).unwrap();
    assert_eq!(model.end_tokens(), [2, 5, 7]);
}

#[test]
fn a_built_in_model_loads_like_a_folder() {
    let leaked = |name: &str| &*fs::read(golden("llama/f32").join(name)).unwrap().leak();
    let files = ["config.json", "model.safetensors"].map(|name| (name, leaked(name)));
    let files: &'static [(&str, &[u8])] = files.to_vec().leak();
    let source = ModelSource::embedded(files);
    let built_in = LoadedModel::load(&source, &mut RecordingBackend::default(), &mut |_| {}).unwrap();
    let (from_disk, ..) = load(&golden("llama/f32")).unwrap();
    assert_eq!(built_in.config(), from_disk.config());
    assert_eq!(built_in.fingerprint(), from_disk.fingerprint());
}

#[test]
fn fingerprints_tell_trainings_and_dtypes_apart() {
    let fingerprint = |folder: &Path| load(folder).unwrap().0.fingerprint();
    let original = fingerprint(&golden("llama/f32"));
    assert_ne!(original, fingerprint(&golden("llama/bf16")));
    assert_ne!(original, fingerprint(&golden("llama31/f32")));
    let folder = copy_of("llama/f32");
    assert_eq!(original, fingerprint(folder.path()));
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_ne!(original, fingerprint(folder.path()));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = copy_of("llama31/f32");
    let remove = |name: &str| fs::remove_file(folder.path().join(name)).unwrap();
    remove("generation_config.json");
    assert!(load(folder.path()).is_ok(), "recommended sampling is optional");
    remove("model-00002-of-00002.safetensors");
    assert!(error_of(folder.path()).starts_with("model-00002-of-00002.safetensors is missing in "));
    remove("model.safetensors.index.json");
    let error = error_of(folder.path());
    assert!(
        error.starts_with("model.safetensors (or model.safetensors.index.json) is missing"),
        "{error}"
    );
    remove("config.json");
    assert!(error_of(folder.path()).starts_with("config.json is missing"));
}

#[test]
fn a_truncated_file_is_refused_by_name_at_any_length() {
    let folder = copy_of("llama/bf16");
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, 1500, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = error_of(folder.path());
        assert!(error.contains("model.safetensors: "), "{error}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(error_of(folder.path()).contains("1 bytes that belong to no tensor"));
}

#[test]
fn wrong_shapes_missing_tensors_and_dtypes_name_the_tensor() {
    let changed = |from: &str, to: &str| {
        let folder = copy_of("llama/f32");
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(from.len(), to.len());
        let at = bytes
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .expect("it is in the header");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, bytes).unwrap();
        error_of(folder.path())
    };
    let error = changed("model.norm.weight", "model.morn.weight");
    assert!(
        error.starts_with("tensor `model.norm.weight` is missing"),
        "{error}"
    );
    // The first tensor of the file is the head, 320 by 64.
    let error = changed("[320,64]", "[64,320]");
    assert!(
        error.contains("`lm_head.weight` has shape [64, 320], but config.json asks for [320, 64]"),
        "{error}"
    );
    let error = changed("\"F32\"", "\"I32\"");
    assert!(
        error.contains("is stored as I32; supported: BF16, F16, F32"),
        "{error}"
    );
}

#[test]
fn a_config_that_does_not_fit_its_weights_names_the_tensor() {
    let folder = copy_of("mistral/f32");
    edit(
        &folder.path().join("config.json"),
        "\"intermediate_size\": 96",
        "\"intermediate_size\": 97",
    );
    let error = error_of(folder.path());
    assert!(
        error.contains("`model.layers.0.mlp.gate_proj.weight` has shape [96, 64]"),
        "{error}"
    );

    let folder = copy_of("llama/f32");
    edit(
        &folder.path().join("config.json"),
        "\"num_hidden_layers\": 2",
        "\"num_hidden_layers\": 1",
    );
    let (model, ..) = load(folder.path()).unwrap();
    assert_eq!(model.ignored_tensors().len(), 9);
    edit(
        &folder.path().join("config.json"),
        "\"num_hidden_layers\": 1",
        "\"num_hidden_layers\": 3",
    );
    assert!(error_of(folder.path()).starts_with("tensor `model.layers.2.input_layernorm.weight` is missing"));
}

#[test]
fn an_index_that_lies_is_refused() {
    let index = "model.safetensors.index.json";
    let broken = |from: &str, to: &str| {
        let folder = copy_of("llama31/f32");
        edit(&folder.path().join(index), from, to);
        error_of(folder.path())
    };
    let norm = "\"model.norm.weight\": \"model-00002-of-00002.safetensors\"";
    let error = broken(
        norm,
        "\"model.norm.weight\": \"model-00001-of-00002.safetensors\"",
    );
    assert!(
        error.contains("`model.norm.weight` is not in this file"),
        "{error}"
    );
    let error = broken(norm, "\"model.norm.weight\": \"../config.json\"");
    assert!(error.contains("is not a plain file name"), "{error}");
    let error = broken(norm, "\"model.norm.weight\": 2");
    assert!(
        error.contains("`weight_map.model.norm.weight` must be a file name"),
        "{error}"
    );
    let error = broken("\"weight_map\"", "\"weight_mop\"");
    assert!(error.contains("`weight_map` is missing"), "{error}");
}
