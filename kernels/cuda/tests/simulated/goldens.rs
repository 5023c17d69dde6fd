//! Golden greedy tokens of real small models.

use std::path::PathBuf;
use std::sync::Arc;

use safetensors::SafeTensors;
use vlinders_engine::{Engine, EngineOptions, KvBudget, ModelEngine};
use vlinders_kernel_api::{Backend, Urgency};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions};
use vlinders_model::{LoadedModel, ModelSource};
use vlinders_types::TokenId;

use crate::support::Sequence;
use crate::{crate_folder, simulated};

const OPTIONS: EngineOptions = EngineOptions {
    kv: KvBudget::Blocks(32),
    max_batch_tokens: 64,
    max_rows: 4,
    max_context_tokens: None,
    urgency: Urgency::Decode,
};

fn folder(checkpoint: &str) -> PathBuf {
    crate_folder().join("../../tests/goldens").join(checkpoint)
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

fn engine(mut backend: Box<dyn Backend>, checkpoint: &str) -> ModelEngine {
    let source = ModelSource::folder(folder(checkpoint));
    let model = LoadedModel::load(&source, backend.as_mut(), &mut |_| {}).unwrap();
    ModelEngine::new(Arc::new(model), backend.as_ref(), &OPTIONS).unwrap()
}

fn on_simulator(checkpoint: &str) -> ModelEngine {
    engine(Box::new(simulated(true).1), checkpoint)
}

fn on_cpu(checkpoint: &str) -> ModelEngine {
    engine(
        Box::new(CpuBackend::new(CpuOptions::default()).unwrap()),
        checkpoint,
    )
}

fn check(family: &str) {
    let (prompt, greedy) = golden(family);
    let mut engine = on_simulator(&format!("{family}/f32"));
    let mut sequence = Sequence::new(&prompt, &[4, 0, 31, 17, 8, 2, 23]);
    let tokens = sequence.generate(&mut engine, 13, greedy.len());
    assert_eq!(tokens, greedy, "{family}");
}

#[test]
fn llama_generates_its_golden_tokens() {
    check("llama");
}

#[test]
fn llama_with_scaled_frequencies_generates_its_golden_tokens() {
    check("llama31");
}

#[test]
fn mistral_generates_its_golden_tokens_within_its_window() {
    check("mistral");
}

#[test]
fn qwen2_generates_its_golden_tokens() {
    check("qwen2");
}

#[test]
fn qwen3_generates_its_golden_tokens() {
    check("qwen3");
}

#[test]
fn golden_tokens_survive_a_hand_off_between_cpu_and_gpu() {
    let (prompt, greedy) = golden("llama");
    let engines = || (on_cpu("llama/f32"), on_simulator("llama/f32"));
    let ((mut cpu, mut other_gpu), (other_cpu, mut gpu)) = (engines(), engines());
    let mut other_cpu = other_cpu;
    let pairs: [(&mut dyn Engine, &mut dyn Engine); 2] =
        [(&mut cpu, &mut gpu), (&mut other_gpu, &mut other_cpu)];
    for (prefill, decode) in pairs {
        assert_eq!(prefill.facts().layout_hash, decode.facts().layout_hash);
        let mut sequence = Sequence::new(&prompt, &[4, 0, 31, 17, 8, 2, 23]);
        let mut tokens = sequence.generate(prefill, 13, 17);
        sequence.hand_off(prefill, decode, &[9, 3, 30, 1, 14, 0, 22]);
        tokens.extend(sequence.generate(decode, 13, greedy.len() - 17));
        assert_eq!(tokens, greedy);
    }
}

/// Tokens of the golden prompt, and of their continuation, from both backends.
fn generates_as_the_cpu(checkpoint: &str, family: &str) {
    let (prompt, greedy) = golden(family);
    let tokens = |engine: &mut dyn Engine| {
        Sequence::new(&prompt, &[4, 0, 31, 17, 8, 2, 23]).generate(engine, 64, greedy.len())
    };
    assert_eq!(
        tokens(&mut on_simulator(checkpoint)),
        tokens(&mut on_cpu(checkpoint)),
        "{checkpoint}"
    );
}

#[test]
fn bf16_models_generate_what_they_generate_on_the_cpu() {
    for family in ["llama", "mistral"] {
        generates_as_the_cpu(&format!("{family}/bf16"), family);
    }
}
