//! What engines tell of prompts: scores and hidden states against golden logits, and the same bits in any chunking and
//! any company.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use vlinders_engine::{Engine, EngineOptions, KvBudget, ModelEngine, SimEngine, SimOptions};
use vlinders_kernel_api::{Backend, Urgency};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions};
use vlinders_kernel_reference::ReferenceBackend;
use vlinders_model::{LoadedModel, ModelSource};
use vlinders_types::{
    Batch, BatchRow, BlockId, PoolRow, ScoreRow, SequenceId, Span, TokenId, TokenScore, blocks_for_tokens,
};

const FAMILIES: [&str; 5] = ["llama", "llama31", "mistral", "qwen2", "qwen3"];
const TOP: u8 = 3;

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(family)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

/// The prompt, and its logits `[tokens, vocabulary]` as transformers made them.
fn golden(family: &str) -> (Vec<TokenId>, Vec<Vec<f32>>) {
    let content = std::fs::read(folder(family).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&content).unwrap();
    let prompt: Vec<TokenId> = tensors
        .tensor("prompt")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|word| TokenId::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let logits = floats(tensors.tensor("logits").unwrap().data());
    let rows = logits
        .chunks_exact(logits.len() / prompt.len())
        .map(<[f32]>::to_vec);
    (prompt, rows.collect())
}

fn engine(mut backend: Box<dyn Backend>, checkpoint: &str) -> ModelEngine {
    let source = ModelSource::folder(folder(checkpoint));
    let model = LoadedModel::load(&source, backend.as_mut(), &mut |_| {}).unwrap();
    let options = EngineOptions {
        kv: KvBudget::Blocks(64),
        max_batch_tokens: 256,
        max_rows: 4,
        max_context_tokens: None,
        urgency: Urgency::Prefill,
    };
    ModelEngine::new(Arc::new(model), backend.as_ref(), &options).unwrap()
}

fn reference() -> Box<dyn Backend> {
    Box::new(ReferenceBackend::new())
}

fn cpu() -> Box<dyn Backend> {
    Box::new(CpuBackend::new(CpuOptions::default()).unwrap())
}

/// One prompt on its way through an engine.
struct Prompt {
    id: SequenceId,
    tokens: Vec<TokenId>,
    computed: usize,
    blocks: Vec<BlockId>,
    scores: Vec<TokenScore>,
    sum: Arc<[f64]>,
    last: Arc<[f64]>,
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

impl Prompt {
    fn new(number: u32, tokens: &[TokenId]) -> Self {
        let blocks = blocks_for_tokens(count(tokens.len()));
        Self {
            id: SequenceId(number.into()),
            tokens: tokens.to_vec(),
            computed: 0,
            // From the end of its part of the pool, so that a wrong table shows.
            blocks: (0..blocks)
                .rev()
                .map(|block| BlockId(16 * number + block))
                .collect(),
            scores: Vec::new(),
            sum: [].into(),
            last: [].into(),
        }
    }

    /// Adds its next tokens to `batch`: everything is scored and added up.
    fn plan(&self, new: usize, batch: &mut Batch) {
        let (start, end) = (count(batch.tokens.len()), self.computed + new);
        batch.tokens.extend_from_slice(&self.tokens[self.computed..end]);
        let table = Span {
            start: count(batch.blocks.len()),
            count: count(self.blocks.len()),
        };
        batch.blocks.extend_from_slice(&self.blocks);
        let tokens = Span {
            start,
            count: count(new),
        };
        batch.rows.push(BatchRow {
            sequence: self.id,
            tokens,
            first_position: count(self.computed),
            blocks: table,
        });
        let targets = &self.tokens[self.computed + 1..self.tokens.len().min(end + 1)];
        if !targets.is_empty() {
            batch.scores.push(ScoreRow {
                sequence: self.id,
                token_index: start,
                position: count(self.computed) + 1,
                targets: Span {
                    start: count(batch.targets.len()),
                    count: count(targets.len()),
                },
                top: TOP,
            });
            batch.targets.extend_from_slice(targets);
        }
        let pool = |tokens, so_far: &Arc<[f64]>| PoolRow {
            sequence: self.id,
            tokens,
            so_far: Arc::clone(so_far),
        };
        let last = Span {
            start: start + tokens.count - 1,
            count: 1,
        };
        batch
            .pools
            .extend([pool(tokens, &self.sum), pool(last, &[].into())]);
    }
}

/// Runs the prompts side by side, each `chunk` tokens at a time.
fn run(engine: &mut dyn Engine, prompts: &mut [Prompt], chunk: usize) {
    while prompts.iter().any(|prompt| prompt.computed < prompt.tokens.len()) {
        let mut batch = Batch::default();
        let mut planned = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            let new = chunk.min(prompt.tokens.len() - prompt.computed);
            if new > 0 {
                prompt.plan(new, &mut batch);
                planned.push((index, new));
            }
        }
        let output = engine.step(&batch).unwrap();
        assert_eq!(output.scores.len(), batch.scores.len());
        for result in output.scores {
            let prompt = prompts.iter_mut().find(|prompt| prompt.id == result.sequence);
            prompt.unwrap().scores.extend(result.scores.unwrap());
        }
        let mut pools = output.pools.into_iter();
        for (index, new) in planned {
            prompts[index].sum = pools.next().unwrap().sum;
            prompts[index].last = pools.next().unwrap().sum;
            prompts[index].computed += new;
        }
    }
}

/// Log-probabilities by the textbook, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log_total = f64::from(max) + sum.ln();
    logits.iter().map(|logit| f64::from(*logit) - log_total).collect()
}

fn check_scores(found: &[TokenScore], prompt: &[TokenId], logits: &[Vec<f32>]) {
    assert_eq!(found.len(), prompt.len() - 1);
    for ((score, target), logits) in found.iter().zip(&prompt[1..]).zip(logits) {
        let expected = log_softmax(logits);
        let own = expected[*target as usize];
        assert!(
            (f64::from(score.logprob) - own).abs() < 1e-3,
            "{} is not {own}",
            score.logprob
        );
        // Neighbours closer than the tolerance may change places.
        let above = |margin: f64| count(expected.iter().filter(|one| **one > own + margin).count());
        assert!((above(2e-3)..=above(-2e-3)).contains(&(score.rank - 1)) || score.rank - 1 == above(0.0));
        assert_eq!(score.top.len(), usize::from(TOP));
        for (token, logprob) in &score.top {
            assert!((f64::from(*logprob) - expected[*token as usize]).abs() < 1e-3);
        }
        let best = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!((f64::from(score.top[0].1) - best).abs() < 1e-3);
        assert!(score.top.is_sorted_by(|left, right| left.1 >= right.1));
    }
}

#[test]
fn scores_of_golden_prompts_are_those_of_their_golden_logits() {
    for family in FAMILIES {
        let (prompt, logits) = golden(family);
        for make in [reference, cpu] {
            let mut engine = engine(make(), &format!("{family}/f32"));
            let mut prompts = [Prompt::new(0, &prompt)];
            run(&mut engine, &mut prompts, 23);
            check_scores(&prompts[0].scores, &prompt, &logits);
        }
    }
}

/// The output head of a checkpoint, `[vocabulary][hidden]`.
fn head(checkpoint: &str) -> Vec<Vec<f32>> {
    let find = |name: &str| {
        std::fs::read_dir(folder(checkpoint)).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            let is_part = path.extension().is_some_and(|end| end == "safetensors");
            let content = std::fs::read(&path).ok().filter(|_| is_part)?;
            let tensors = SafeTensors::deserialize(&content).unwrap();
            let head = tensors.tensor(name).ok()?;
            let rows = floats(head.data());
            Some(rows.chunks_exact(head.shape()[1]).map(<[f32]>::to_vec).collect())
        })
    };
    find("lm_head.weight")
        .or_else(|| find("model.embed_tokens.weight"))
        .unwrap()
}

/// A head has more rows than columns, so only the right state gives the right logits.
fn check_state(state: &[f64], head: &[Vec<f32>], expected: &[f64]) {
    let length = expected.iter().map(|logit| logit * logit).sum::<f64>().sqrt();
    let mut distance = 0.0;
    for (row, expected) in head.iter().zip(expected) {
        let logit: f64 = row
            .iter()
            .zip(state)
            .map(|(weight, x)| f64::from(*weight) * x)
            .sum();
        distance += (logit - expected).powi(2);
    }
    assert!(distance.sqrt() < 1e-4 * length, "{} of {length}", distance.sqrt());
}

#[test]
fn hidden_states_of_golden_prompts_lead_to_their_golden_logits() {
    for family in FAMILIES {
        let (prompt, logits) = golden(family);
        let head = head(&format!("{family}/f32"));
        let wide = |row: &[f32]| row.iter().map(|logit| f64::from(*logit)).collect::<Vec<_>>();
        let sum = logits.iter().fold(vec![0.0; head.len()], |sum, row| {
            sum.iter()
                .zip(row)
                .map(|(sum, logit)| sum + f64::from(*logit))
                .collect()
        });
        for make in [reference, cpu] {
            let mut engine = engine(make(), &format!("{family}/f32"));
            let mut prompts = [Prompt::new(0, &prompt)];
            run(&mut engine, &mut prompts, 23);
            assert_eq!(prompts[0].last.len(), engine.facts().hidden as usize);
            check_state(&prompts[0].last, &head, &wide(&logits[prompt.len() - 1]));
            check_state(&prompts[0].sum, &head, &sum);
        }
    }
}

/// More tokens than are scored at one time.
fn long(number: u32) -> Vec<TokenId> {
    (0..150 - 20 * number)
        .map(|index| (index * 37 + number * 11 + 5) % 320)
        .collect()
}

fn check_invariance(engine: &mut dyn Engine) {
    let mut alone: Vec<Prompt> = (0..3).map(|number| Prompt::new(number, &long(number))).collect();
    for prompt in &mut alone {
        run(engine, std::slice::from_mut(prompt), 256);
    }
    for chunk in [1, 7, 16, 64, 85] {
        let mut together: Vec<Prompt> = (0..3).map(|number| Prompt::new(number, &long(number))).collect();
        run(engine, &mut together, chunk);
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(together.scores, alone.scores, "chunks of {chunk}");
            assert_eq!(together.sum, alone.sum, "chunks of {chunk}");
            assert_eq!(together.last, alone.last, "chunks of {chunk}");
        }
    }
}

#[test]
fn scores_and_states_are_the_same_bits_in_any_chunking_and_company() {
    for checkpoint in ["llama/bf16", "qwen3/f32"] {
        check_invariance(&mut engine(cpu(), checkpoint));
    }
    check_invariance(&mut engine(reference(), "llama/f32"));
    check_invariance(&mut SimEngine::new(SimOptions {
        vocabulary: 320,
        block_count: 64,
        ..SimOptions::default()
    }));
}

#[test]
fn a_simulated_score_and_state_know_everything_before_them() {
    let run_one = |tokens: &[TokenId]| {
        let mut prompts = [Prompt::new(0, tokens)];
        run(&mut SimEngine::new(SimOptions::default()), &mut prompts, 16);
        let [prompt] = prompts;
        (prompt.scores, prompt.last)
    };
    let tokens = long(0);
    let (scores, last) = run_one(&tokens);
    let mut changed = tokens.clone();
    changed[40] += 1;
    let (other_scores, other_last) = run_one(&changed);
    assert_eq!(scores[..39], other_scores[..39]);
    let differ = scores[39..]
        .iter()
        .zip(&other_scores[39..])
        .filter(|(one, other)| one != other);
    assert!(
        differ.count() > 105,
        "every score from the change on is another one"
    );
    assert_ne!(last, other_last);
}
