//! Logits and greedy tokens of tiny random models against those of Hugging Face transformers, on every backend:
//! the whole prompt at once, in chunks, token by token, and beside another sequence.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fs;

#[path = "support/run.rs"]
mod run;

use safetensors::SafeTensors;
use vlinders_kernel_api::{Backend, Dtype, TensorView};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions, IsaLevel};
use vlinders_kernel_reference::ReferenceBackend;
use vlinders_types::{Batch, TokenId};

use self::run::{Run, TABLE, add_row, distance, folder};

const FAMILIES: [&str; 5] = ["llama", "llama31", "mistral", "qwen2", "qwen3"];
/// Largest allowed relative L2 over all positions. The order of sums alone moves f32 logits by about 1e-6.
const F32_TOLERANCE: f64 = 1e-4;
const HALF_TOLERANCE: f64 = 2e-2;
const OTHER_TABLE: [u32; 7] = [2, 31, 8, 4, 29, 5, 6];

struct Golden {
    prompt: Vec<TokenId>,
    greedy: Vec<TokenId>,
    logits: Vec<f32>,
}

impl Golden {
    /// `logits`: the tensor to compare with.
    fn read(family: &str, logits: &str) -> Self {
        let content = fs::read(folder(family).join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&content).unwrap();
        let ids = |name: &str| {
            let words = tensors.tensor(name).unwrap().data().chunks_exact(4);
            words
                .map(|word| TokenId::from_le_bytes(word.try_into().unwrap()))
                .collect()
        };
        let stored = tensors.tensor(logits).unwrap();
        let is_half = stored.dtype() == safetensors::Dtype::F16;
        let dtype = if is_half { Dtype::F16 } else { Dtype::F32 };
        let logits = TensorView {
            name: logits,
            dtype,
            shape: stored.shape(),
            bytes: stored.data(),
        }
        .widen();
        Self {
            prompt: ids("prompt"),
            greedy: ids("greedy"),
            logits,
        }
    }
}

fn greedy(run: &mut Run, prompt: &[TokenId], count: usize) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    let mut computed = 0;
    while tokens.len() < prompt.len() + count {
        let mut batch = Batch::default();
        add_row(&mut batch, 1, &tokens[computed..], computed, TABLE, 1);
        computed = tokens.len();
        run.forward(&batch);
        let drawn = run.executor.sample(&batch).unwrap();
        tokens.push(drawn[0].sampled.as_ref().unwrap().token);
    }
    tokens.split_off(prompt.len())
}

/// The golden prompt in every way it can be computed. Chunking and company change no bit.
fn check_logits(backend: Box<dyn Backend>, checkpoint: &str, golden: &Golden, tolerance: f64) -> Vec<f32> {
    let facts = backend.facts();
    let name = format!("{} ({})", facts.name, facts.detail);
    let mut run = Run::start(backend, checkpoint);
    let whole = run.prompt_logits(&golden.prompt, golden.prompt.len());
    let error = distance(&whole, &golden.logits);
    println!("{name} {checkpoint}: relative L2 {error:.2e}");
    assert!(
        error <= tolerance,
        "{name} {checkpoint}: relative L2 {error:.2e} > {tolerance:.0e}"
    );
    for chunk in [1, 7, 16, 47] {
        let chunked = run.prompt_logits(&golden.prompt, chunk);
        assert!(
            whole == chunked,
            "{name} {checkpoint}: chunks of {chunk} differ by {:.1e}",
            distance(&chunked, &whole)
        );
    }
    let reversed: Vec<TokenId> = golden.prompt.iter().rev().copied().collect();
    let (mut batch, split) = (Batch::default(), 20);
    add_row(&mut batch, 2, &reversed[..split], 0, OTHER_TABLE, 0);
    run.forward(&batch);
    batch.clear();
    add_row(&mut batch, 2, &reversed[split..], split, OTHER_TABLE, 1);
    add_row(&mut batch, 1, &golden.prompt, 0, TABLE, golden.prompt.len());
    run.forward(&batch);
    let together = run
        .executor
        .read_logits()
        .unwrap()
        .split_off(run.model.config().vocabulary as usize);
    assert!(
        whole == together,
        "{name} {checkpoint}: company changes the logits"
    );
    whole
}

type Make<'a> = &'a dyn Fn() -> Box<dyn Backend>;

/// The logits of every golden checkpoint, for comparing backends bit by bit.
fn check_every_family(make: Make<'_>) -> Vec<Vec<f32>> {
    let mut logits = Vec::new();
    for family in FAMILIES {
        let golden = Golden::read(family, "logits");
        let checkpoint = format!("{family}/f32");
        logits.push(check_logits(make(), &checkpoint, &golden, F32_TOLERANCE));
        let greedy = greedy(
            &mut Run::start(make(), &checkpoint),
            &golden.prompt,
            golden.greedy.len(),
        );
        assert_eq!(greedy, golden.greedy, "{checkpoint}");
        let golden = Golden::read(family, "bf16.logits");
        logits.push(check_logits(
            make(),
            &format!("{family}/bf16"),
            &golden,
            HALF_TOLERANCE,
        ));
    }
    let golden = Golden::read("llama", "f16.logits");
    logits.push(check_logits(make(), "llama/f16", &golden, HALF_TOLERANCE));
    logits
}

#[test]
fn the_reference_backend_matches_every_family() {
    check_every_family(&|| Box::new(ReferenceBackend::new()));
}

/// With every set of instructions this CPU has, and the same bits whatever the number of threads is.
#[test]
fn the_cpu_backend_matches_every_family() {
    for level in IsaLevel::ALL {
        let new = |threads| {
            CpuBackend::new(CpuOptions {
                threads: Some(threads),
                force: Some(level),
            })
        };
        if let Err(missing) = new(1) {
            println!("not tested: {missing}");
            continue;
        }
        let logits = [1, 2].map(|threads| check_every_family(&|| Box::new(new(threads).unwrap())));
        assert!(logits[0] == logits[1], "{level}: threads change the logits");
    }
}
