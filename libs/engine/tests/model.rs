//! Real models behind the engine: golden greedy tokens, also across a hand-off, and checked options.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use support::Sequence;
use vlinders_engine::{Engine, EngineError, EngineOptions, KvBudget, ModelEngine};
use vlinders_kernel_api::{Backend, Urgency};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions};
use vlinders_kernel_reference::ReferenceBackend;
use vlinders_model::{LoadedModel, ModelSource};
use vlinders_types::TokenId;

const FAMILIES: [&str; 5] = ["llama", "llama31", "mistral", "qwen2", "qwen3"];
const OPTIONS: EngineOptions = EngineOptions {
    kv: KvBudget::Blocks(32),
    max_batch_tokens: 64,
    max_rows: 4,
    max_context_tokens: None,
    urgency: Urgency::Decode,
};

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(family)
}

/// Prompt and greedy continuation.
fn golden(family: &str) -> (Vec<TokenId>, Vec<TokenId>) {
    let content = std::fs::read(folder(family).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&content).unwrap();
    let ids = |name: &str| {
        let words = tensors.tensor(name).unwrap().data().chunks_exact(4);
        words
            .map(|word| TokenId::from_le_bytes(word.try_into().unwrap()))
            .collect()
    };
    (ids("prompt"), ids("greedy"))
}

type Make = fn() -> Box<dyn Backend>;

fn reference() -> Box<dyn Backend> {
    Box::new(ReferenceBackend::new())
}

fn load(make: Make, checkpoint: &str) -> (Box<dyn Backend>, Arc<LoadedModel>) {
    let mut backend = make();
    let source = ModelSource::folder(folder(checkpoint));
    let model = LoadedModel::load(&source, backend.as_mut(), &mut |_| {}).unwrap();
    (backend, Arc::new(model))
}

/// Prefill and decode as two engines on one backend, whose sequence moves after `before` tokens.
fn check_hand_off(make: Make, family: &str, before: usize) {
    let (backend, model) = load(make, &format!("{family}/f32"));
    let prefill_options = EngineOptions {
        urgency: Urgency::Prefill,
        ..OPTIONS
    };
    let mut prefill = ModelEngine::new(model.clone(), backend.as_ref(), &prefill_options).unwrap();
    let mut decode = ModelEngine::new(model, backend.as_ref(), &OPTIONS).unwrap();
    assert_eq!(prefill.facts().layout_hash, decode.facts().layout_hash);
    let (prompt, greedy) = golden(family);
    let mut sequence = Sequence::new(&prompt, &[4, 0, 31, 17, 8, 2, 23]);
    let mut tokens = sequence.generate(&mut prefill, 13, before);
    sequence.hand_off(&prefill, &decode, &[9, 3, 30, 1, 14, 0, 22]);
    tokens.extend(sequence.generate(&mut decode, 13, greedy.len() - before));
    assert_eq!(tokens, greedy, "{family}, handed off after {before} tokens");
}

fn check_every_family(make: Make) {
    for family in FAMILIES {
        for before in [1, 17, 33] {
            check_hand_off(make, family, before);
        }
    }
}

#[test]
fn golden_tokens_survive_a_hand_off_on_the_reference_backend() {
    check_every_family(reference);
}

#[test]
fn golden_tokens_survive_a_hand_off_on_the_cpu_backend() {
    check_every_family(|| Box::new(CpuBackend::new(CpuOptions::default()).unwrap()));
}

#[test]
fn facts_follow_model_and_options() {
    let (backend, model) = load(reference, "llama/f32");
    let engine = ModelEngine::new(model.clone(), backend.as_ref(), &OPTIONS).unwrap();
    let facts = engine.facts();
    // Two heads, two layers, K and V, 16 tokens of 16 f32.
    assert_eq!(facts.block_bytes, 2 * 2 * 2 * 16 * 16 * 4);
    assert_eq!(
        (facts.block_count, facts.vocabulary, facts.max_context_tokens),
        (32, 320, 256)
    );
    assert_eq!(
        (
            engine.memory().block_count(),
            engine.memory().block_bytes() as u64
        ),
        (32, facts.block_bytes)
    );
    assert!(facts.detail.starts_with("reference: "));

    let bytes = EngineOptions {
        kv: KvBudget::Bytes(facts.block_bytes * 6 - 1),
        ..OPTIONS
    };
    let small = ModelEngine::new(model, backend.as_ref(), &bytes).unwrap();
    assert_eq!(
        (small.facts().block_count, small.facts().max_context_tokens),
        (5, 80)
    );
    assert_eq!(small.facts().layout_hash, facts.layout_hash);
    for other in ["llama/bf16", "llama31/f32"] {
        let (backend, model) = load(reference, other);
        let other = ModelEngine::new(model, backend.as_ref(), &OPTIONS).unwrap();
        assert_ne!(other.facts().layout_hash, facts.layout_hash);
    }
}

#[test]
fn an_option_out_of_range_is_named() {
    let (backend, model) = load(reference, "llama/bf16");
    let block_bytes = model.kv_layout().block_bytes() as u64;
    for (name, options) in [
        (
            "kv",
            EngineOptions {
                kv: KvBudget::Blocks(0),
                ..OPTIONS
            },
        ),
        (
            "kv",
            EngineOptions {
                kv: KvBudget::Bytes(block_bytes - 1),
                ..OPTIONS
            },
        ),
        (
            "max_batch_tokens",
            EngineOptions {
                max_batch_tokens: 0,
                ..OPTIONS
            },
        ),
        (
            "max_rows",
            EngineOptions {
                max_rows: 0,
                ..OPTIONS
            },
        ),
        (
            "max_context_tokens",
            EngineOptions {
                max_context_tokens: Some(0),
                ..OPTIONS
            },
        ),
        (
            "max_context_tokens",
            EngineOptions {
                max_context_tokens: Some(257),
                ..OPTIONS
            },
        ),
    ] {
        let refused = ModelEngine::new(model.clone(), backend.as_ref(), &options).map(|_| ());
        assert!(
            matches!(refused, Err(EngineError::Option { option, .. }) if option == name),
            "{refused:?}"
        );
    }
}

#[test]
fn a_step_without_draws_returns_none_and_the_next_one_draws() {
    let (backend, model) = load(reference, "llama/f32");
    let mut engine = ModelEngine::new(model, backend.as_ref(), &OPTIONS).unwrap();
    let (prompt, greedy) = golden("llama");
    let mut sequence = Sequence::new(&prompt, &[0, 1, 2, 3]);
    assert!(engine.step(&sequence.batch(20)).unwrap().samples.is_empty());
    sequence.computed = 20;
    assert_eq!(sequence.generate(&mut engine, 64, 1), greedy[..1]);
}
