//! Models cut in slices: the same tokens as whole ones, also when a sequence moves between different numbers of devices.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "support/failing.rs"]
mod failing;
#[path = "support/random_checkpoint.rs"]
mod random_checkpoint;
mod support;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use safetensors::SafeTensors;
use vlinders_engine::{Abandon, Engine, EngineOptions, KvBudget, ModelEngine, ModelShard, ShardedEngine};
use vlinders_kernel_api::{Backend, Shard, Urgency};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions, Peers};
use vlinders_model::{LoadedModel, ModelSource};
use vlinders_types::{Batch, ScoreRow, SequenceId, Span, TokenId};

use self::failing::Failing;
use self::random_checkpoint::{Shape, write_checkpoint};
use self::support::Sequence;

const OPTIONS: EngineOptions = EngineOptions {
    kv: KvBudget::Blocks(32),
    max_batch_tokens: 64,
    max_rows: 4,
    max_context_tokens: None,
    urgency: Urgency::Decode,
};
const BLOCKS: [u32; 7] = [4, 0, 31, 17, 8, 2, 23];

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

fn cpu() -> CpuBackend {
    let threads = Some(1);
    CpuBackend::new(CpuOptions { threads, force: None }).unwrap()
}

/// A model on so many devices, `wrap` put around each of them.
fn cut(
    folder: &Path,
    size: u32,
    wrap: impl Fn(u32, Box<dyn Backend>) -> Box<dyn Backend>,
) -> Result<ShardedEngine, Box<dyn Error>> {
    let seats = Peers::of(size as usize);
    let first = seats[0].clone();
    let abandon: Abandon = Arc::new(move || first.abandon());
    let mut shards = Vec::new();
    for (rank, seat) in (0..).zip(seats) {
        let mut backend = wrap(rank, Box::new(cpu().with_peers(seat)));
        let (source, shard) = (ModelSource::folder(folder), Shard { rank, size });
        let model = LoadedModel::load_shard(&source, backend.as_mut(), shard, &mut |_| {})?;
        let model = Arc::new(model);
        shards.push(ModelShard { model, backend });
    }
    Ok(ShardedEngine::new(&shards, &abandon, &OPTIONS)?)
}

fn engine(folder: &Path, size: u32) -> Box<dyn Engine> {
    if size > 1 {
        return Box::new(cut(folder, size, |_, backend| backend).unwrap());
    }
    let mut backend = cpu();
    let model = LoadedModel::load(&ModelSource::folder(folder), &mut backend, &mut |_| {}).unwrap();
    Box::new(ModelEngine::new(Arc::new(model), &backend, &OPTIONS).unwrap())
}

/// Prompt and greedy continuation.
fn golden(family: &str) -> (Vec<TokenId>, Vec<TokenId>) {
    let content = std::fs::read(goldens().join(family).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&content).unwrap();
    let ids = |name: &str| {
        let words = tensors.tensor(name).unwrap().data().chunks_exact(4);
        words
            .map(|word| TokenId::from_le_bytes(word.try_into().unwrap()))
            .collect()
    };
    (ids("prompt"), ids("greedy"))
}

/// How likely each token of a prompt and of what follows is, by a step that scores and draws.
fn likelihoods(engine: &mut dyn Engine, tokens: &[TokenId]) -> Vec<f32> {
    let sequence = Sequence::new(tokens, &BLOCKS);
    let targets = &tokens[1..];
    let batch = Batch {
        scores: vec![ScoreRow {
            sequence: SequenceId(1),
            token_index: 0,
            position: 1,
            targets: Span {
                start: 0,
                count: support::count(targets.len()),
            },
            top: 0,
        }],
        targets: targets.to_vec(),
        ..sequence.batch(tokens.len())
    };
    let output = engine.step(&batch).unwrap();
    let scores = output.scores[0].scores.as_ref().unwrap();
    scores.iter().map(|score| score.logprob).collect()
}

fn assert_near(found: &[f32], expected: &[f32], most: f32, what: &str) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference < most, "{what}, {index}: {found} for {expected}");
    }
}

#[test]
fn golden_models_say_the_same_on_two_and_on_four_devices() {
    for family in ["llama", "llama31", "mistral", "qwen2", "qwen3"] {
        let folder = goldens().join(family).join("f32");
        let (prompt, greedy) = golden(family);
        for size in [2, 4] {
            let mut engine = engine(&folder, size);
            assert!(engine.facts().detail.contains(&format!("{size} devices")));
            let found = Sequence::new(&prompt, &BLOCKS).generate(engine.as_mut(), 13, greedy.len());
            assert_eq!(found, greedy, "{family} on {size} devices");
        }
    }
}

#[test]
fn a_sequence_moves_between_different_numbers_of_devices() {
    for family in ["llama", "qwen3"] {
        let folder = goldens().join(family).join("f32");
        let (prompt, greedy) = golden(family);
        for (from, to) in [(1, 2), (2, 1), (2, 4), (4, 2), (4, 1)] {
            let (mut prefill, mut decode) = (engine(&folder, from), engine(&folder, to));
            assert_eq!(prefill.facts().layout_hash, decode.facts().layout_hash);
            assert_eq!(prefill.facts().block_bytes, decode.facts().block_bytes);
            let mut sequence = Sequence::new(&prompt, &BLOCKS);
            let mut tokens = sequence.generate(prefill.as_mut(), 13, 17);
            sequence.hand_off(prefill.as_ref(), decode.as_ref(), &[9, 3, 30, 1, 14, 0, 22]);
            tokens.extend(sequence.generate(decode.as_mut(), 13, greedy.len() - 17));
            assert_eq!(tokens, greedy, "{family} from {from} to {to} devices");
        }
    }
}

#[test]
fn up_to_eight_devices_share_heads_neurons_vocabulary_and_biases() {
    for (kv_heads, has_bias, is_tied) in [(8, true, false), (2, true, true), (1, false, false)] {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape {
            kv_heads,
            has_bias,
            is_tied,
        };
        write_checkpoint(folder.path(), &shape);
        let tokens: Vec<TokenId> = (0..50)
            .map(|index| index * 37 % random_checkpoint::VOCABULARY)
            .collect();
        let expected = likelihoods(engine(folder.path(), 1).as_mut(), &tokens);
        let spread = expected
            .iter()
            .fold(0.0_f32, |most, score| most.max((score - expected[0]).abs()));
        assert!(spread > 1.0, "tokens are not equally likely");
        for size in [2, 4, 8] {
            let found = likelihoods(engine(folder.path(), size).as_mut(), &tokens);
            assert_near(&found, &expected, 2e-4, &format!("{shape:?} on {size} devices"));
        }
    }
}

#[test]
fn quantised_models_are_cut_with_their_scales() {
    for format in [
        "fp8-tensor",
        "fp8-channel",
        "fp8-block",
        "int8-channel",
        "int4-group",
        "int4-asymmetric",
        "awq",
        "gptq",
    ] {
        let folder = goldens().join("quantized").join(format);
        let tokens: Vec<TokenId> = (0..40).map(|index| index * 17 % 48).collect();
        let expected = likelihoods(engine(&folder, 1).as_mut(), &tokens);
        let found = likelihoods(engine(&folder, 2).as_mut(), &tokens);
        // bf16 is rounded in between, and parts are rounded elsewhere than their sum.
        assert_near(&found, &expected, 0.08, format);
    }
}

#[test]
fn a_model_that_cannot_be_cut_so_is_refused_by_name() {
    let folder = goldens().join("llama").join("f32");
    let error = cut(&folder, 3, |_, backend| backend).err().unwrap().to_string();
    assert_eq!(
        error,
        "tensor_parallel_size: 3 devices cannot share 96 neurons of the feed-forward; use a number that divides them"
            .replace("96 neurons of the feed-forward", "4 query heads")
    );
}

#[test]
fn a_batch_that_all_refuse_spoils_nothing() {
    let folder = goldens().join("llama").join("f32");
    let (prompt, greedy) = golden("llama");
    let mut engine = engine(&folder, 2);
    let bad = Sequence::new(&[1_000_000], &BLOCKS).batch(1);
    assert!(engine.step(&bad).is_err());
    let found = Sequence::new(&prompt, &BLOCKS).generate(engine.as_mut(), 13, 8);
    assert_eq!(found, greedy[..8]);
}

#[test]
fn a_device_that_fails_ends_the_step_of_all_and_is_the_one_named() {
    let folder = goldens().join("llama").join("f32");
    for broken in [0, 1, 2] {
        let fails = Arc::new(AtomicBool::new(false));
        let wrap = |rank, inner| -> Box<dyn Backend> {
            match rank == broken {
                true => Box::new(Failing {
                    inner,
                    fails: Arc::clone(&fails),
                }),
                false => inner,
            }
        };
        let size = if broken == 2 { 4 } else { 2 };
        let mut engine = cut(&folder, size, wrap).unwrap();
        let batch = Sequence::new(&[1, 2, 3], &BLOCKS).batch(3);
        engine.step(&batch).unwrap();
        fails.store(true, Ordering::Relaxed);
        let error = engine.step(&batch).unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains("fell off the bus"), "rank {broken}: {cause}");
        assert!(engine.step(&batch).is_err(), "nor is it usable later");
    }
}
