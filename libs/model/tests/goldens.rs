//! Logits and greedy tokens of tiny random models against those of Hugging Face transformers, on every backend:
//! the whole prompt at once, in chunks, token by token, and beside another sequence.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use vlinders_kernel_api::{Backend, Dtype, Executor, TensorView, Urgency};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions, IsaLevel};
use vlinders_kernel_reference::ReferenceBackend;
use vlinders_model::{LoadedModel, ModelSource, StepLimits};
use vlinders_types::{Batch, BatchRow, BlockId, SampleRow, SamplingParams, SequenceId, Span, TokenId};

const FAMILIES: [&str; 5] = ["llama", "llama31", "mistral", "qwen2", "qwen3"];
/// Largest allowed relative L2 over all positions. The order of sums alone moves f32 logits by about 1e-6.
const F32_TOLERANCE: f64 = 1e-4;
const HALF_TOLERANCE: f64 = 2e-2;
/// Far from one another and out of order, so that a wrong block table shows. Seven blocks hold prompt and continuation.
const TABLE: [u32; 7] = [9, 3, 30, 1, 14, 0, 22];
const OTHER_TABLE: [u32; 7] = [2, 31, 8, 4, 29, 5, 6];

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(family)
}

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

struct Run {
    /// Outlives its executor.
    _backend: Box<dyn Backend>,
    model: LoadedModel,
    executor: Box<dyn Executor>,
}

impl Run {
    fn start(mut backend: Box<dyn Backend>, checkpoint: &str) -> Self {
        let source = ModelSource::folder(folder(checkpoint));
        let model = LoadedModel::load(&source, backend.as_mut(), &mut |_| {}).unwrap();
        let limits = StepLimits {
            block_count: 32,
            max_batch_tokens: 128,
            max_rows: 4,
            max_samples: 128,
            max_context_tokens: 256,
            urgency: Urgency::Decode,
        };
        let executor = backend.executor(&model.executor_spec(&limits)).unwrap();
        Self {
            _backend: backend,
            model,
            executor,
        }
    }

    fn forward(&mut self, batch: &Batch) {
        self.model.forward(self.executor.as_mut(), batch).unwrap();
    }

    /// Logits at every position of the prompt, computed `chunk` tokens at a time.
    fn prompt_logits(&mut self, prompt: &[TokenId], chunk: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        for (index, tokens) in prompt.chunks(chunk).enumerate() {
            let mut batch = Batch::default();
            add_row(&mut batch, 1, tokens, index * chunk, TABLE, tokens.len());
            self.forward(&batch);
            logits.extend(self.executor.read_logits().unwrap());
            // The step ends with its draws, as it does when it serves.
            assert_eq!(self.executor.sample(&batch).unwrap().len(), tokens.len());
        }
        logits
    }

    fn greedy(&mut self, prompt: &[TokenId], count: usize) -> Vec<TokenId> {
        let mut tokens = prompt.to_vec();
        let mut computed = 0;
        while tokens.len() < prompt.len() + count {
            let mut batch = Batch::default();
            add_row(&mut batch, 1, &tokens[computed..], computed, TABLE, 1);
            computed = tokens.len();
            self.forward(&batch);
            let drawn = self.executor.sample(&batch).unwrap();
            tokens.push(drawn[0].sampled.as_ref().unwrap().token);
        }
        tokens.split_off(prompt.len())
    }
}

/// Adds a sequence's row with samples after its last `samples` tokens.
fn add_row(
    batch: &mut Batch,
    sequence: u64,
    tokens: &[TokenId],
    first: usize,
    table: [u32; 7],
    samples: usize,
) {
    let small = |number: usize| u32::try_from(number).unwrap();
    let (sequence, start) = (SequenceId(sequence), batch.tokens.len());
    let params = Arc::new(SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    });
    batch.rows.push(BatchRow {
        sequence,
        tokens: Span {
            start: small(start),
            count: small(tokens.len()),
        },
        first_position: small(first),
        blocks: Span {
            start: small(batch.blocks.len()),
            count: small(table.len()),
        },
    });
    batch.tokens.extend(tokens);
    batch.blocks.extend(table.map(BlockId));
    batch
        .samples
        .extend((tokens.len() - samples..tokens.len()).map(|index| SampleRow {
            sequence,
            token_index: small(start + index),
            position: small(first + index + 1),
            params: params.clone(),
            history: Span::default(),
            prompt_tokens: 0,
            banned: Arc::new([]),
            allowed: None,
        }));
}

/// Relative L2 distance.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |number: f64| number * number;
    let pairs = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (f64::from(*found), f64::from(*expected)));
    let (error, norm) = pairs.fold((0.0, 0.0), |(error, norm), (found, expected)| {
        (error + square(found - expected), norm + square(expected))
    });
    (error / norm).sqrt()
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
        let greedy = Run::start(make(), &checkpoint).greedy(&golden.prompt, golden.greedy.len());
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
