//! The engine without a model: tokens that depend on everything they should, and on nothing else.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use support::Sequence;
use vlinders_engine::{Engine, EngineError, SimEngine, SimOptions, StepCost};
use vlinders_kernel_api::KernelError;
use vlinders_types::{AwaitedMask, BLOCK_TOKENS, BlockId, SamplingParams, TokenId, TokenMask};

fn options() -> SimOptions {
    SimOptions {
        vocabulary: 500,
        block_count: 64,
        ..SimOptions::default()
    }
}

fn engine() -> SimEngine {
    SimEngine::new(options())
}

fn prompt(length: usize) -> Vec<TokenId> {
    (0..length)
        .map(|index| TokenId::try_from(index * 31 % 499).unwrap())
        .collect()
}

const TABLE: [u32; 6] = [7, 3, 60, 1, 9, 33];

proptest! {
    #[test]
    fn chunks_and_block_tables_do_not_matter(
        length in 1usize..60,
        chunk in 1usize..70,
        table in Just((0..64u32).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let expected = Sequence::new(&prompt(length), &TABLE).generate(&mut engine(), 64, 20);
        let found = Sequence::new(&prompt(length), &table).generate(&mut engine(), chunk, 20);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_handed_off_sequence_goes_on_as_if_nothing_had_happened(length in 1usize..60, before in 1usize..20) {
        let expected = Sequence::new(&prompt(length), &TABLE).generate(&mut engine(), 64, 20);
        let (mut prefill, mut decode) = (engine(), engine());
        let mut sequence = Sequence::new(&prompt(length), &TABLE);
        let mut found = sequence.generate(&mut prefill, 64, before);
        sequence.hand_off(&prefill, &decode, &[50, 51, 20, 53, 54, 10]);
        found.extend(sequence.generate(&mut decode, 64, 20 - before));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_wrong_byte_of_any_block_changes_the_token(
        length in 33usize..91,
        at in 0usize..90,
        byte in 0usize..8,
        flip in 1u8..,
    ) {
        let (mut good, mut bad) = (engine(), engine());
        let (mut sequence, at) = (Sequence::new(&prompt(length), &TABLE), at % length);
        sequence.generate(&mut good, 64, 1);
        sequence.hand_off(&good, &bad, &TABLE);
        let (block, memory) = (sequence.blocks[at / 16], bad.memory());
        let mut bytes = Vec::new();
        memory.with_block(block, &mut |seen| bytes = seen.to_vec());
        bytes[at % 16 * 8 + byte] ^= flip;
        memory.write_block(block, &bytes);
        let expected = sequence.clone().generate(&mut good, 64, 4);
        prop_assert_ne!(sequence.generate(&mut bad, 64, 4), expected);
    }

    #[test]
    fn what_may_not_be_drawn_is_not_drawn(
        specials in prop::collection::btree_set(0u32..8, 0..8),
        banned in prop::collection::btree_set(0u32..8, 0..8),
        seed: u64,
    ) {
        let never_drawn: Arc<[TokenId]> = specials.iter().copied().collect();
        let mut engine = SimEngine::new(SimOptions { vocabulary: 8, never_drawn, ..options() });
        let mut sequence = Sequence::new(&[1, 2, 3], &TABLE);
        sequence.params = Arc::new(SamplingParams { seed, ..SamplingParams::default() });
        sequence.banned = banned.iter().copied().collect();
        match sequence.draw(&mut engine, 8) {
            Some(sampled) => prop_assert!(!specials.contains(&sampled.token) && !banned.contains(&sampled.token)),
            None => prop_assert_eq!(specials.union(&banned).count(), 8),
        }
    }

    /// Bans and what is never drawn otherwise give way only where the mask leaves nothing else.
    #[test]
    fn what_the_mask_does_not_allow_is_not_drawn(
        specials in prop::collection::btree_set(0u32..8, 0..8),
        banned in prop::collection::btree_set(0u32..8, 0..8),
        allowed in prop::collection::btree_set(0u32..8, 0..8),
        seed: u64,
    ) {
        let never_drawn: Arc<[TokenId]> = specials.iter().copied().collect();
        let end_every = NonZeroU32::new(2).map(|every| (7, every));
        let mut engine = SimEngine::new(SimOptions { vocabulary: 8, never_drawn, end_every, ..options() });
        let mut sequence = Sequence::new(&[1, 2, 3], &TABLE);
        sequence.params = Arc::new(SamplingParams { seed, ..SamplingParams::default() });
        sequence.banned = banned.iter().copied().collect();
        let mut mask = TokenMask::none(8);
        allowed.iter().for_each(|token| mask.allow(*token));
        sequence.allowed = Some(Arc::new(AwaitedMask::ready(mask)));
        match sequence.draw(&mut engine, 8) {
            Some(sampled) => {
                prop_assert!(allowed.contains(&sampled.token));
                prop_assert!(!banned.contains(&sampled.token) || allowed.is_subset(&banned));
            }
            None => prop_assert!(allowed.is_empty()),
        }
    }
}

#[test]
fn exchanged_blocks_change_the_tokens() {
    let mut engine = engine();
    let mut sequence = Sequence::new(&prompt(64), &TABLE);
    sequence.generate(&mut engine, 64, 1);
    let expected = sequence.clone().generate(&mut engine, 64, 4);
    sequence.blocks.swap(0, 2);
    assert_ne!(sequence.generate(&mut engine, 64, 4), expected);
}

#[test]
fn tokens_follow_seed_and_model_unless_greedy() {
    let generate = |model_seed, temperature, seed| {
        let mut sequence = Sequence::new(&prompt(20), &TABLE);
        sequence.params = Arc::new(SamplingParams {
            temperature,
            seed,
            ..SamplingParams::default()
        });
        sequence.generate(
            &mut SimEngine::new(SimOptions {
                model_seed,
                ..options()
            }),
            64,
            8,
        )
    };
    assert_eq!(generate(0, 1.0, 5), generate(0, 1.0, 5));
    assert_ne!(generate(0, 1.0, 5), generate(0, 1.0, 6));
    assert_ne!(generate(0, 1.0, 5), generate(1, 1.0, 5));
    assert_eq!(generate(0, 0.0, 5), generate(0, 0.0, 6));
}

#[test]
fn ends_of_sequence_come_as_often_as_asked_and_not_when_banned() {
    let every = NonZeroU32::new(10).unwrap();
    let simulated = SimOptions {
        never_drawn: Arc::new([2]),
        end_every: Some((2, every)),
        ..options()
    };
    let mut engine = SimEngine::new(simulated);
    let (mut ends, mut banned_ends) = (0, 0);
    for seed in 0..2000 {
        let mut sequence = Sequence::new(&prompt(5), &TABLE);
        sequence.params = Arc::new(SamplingParams {
            seed,
            ..SamplingParams::default()
        });
        ends += u32::from(sequence.clone().generate(&mut engine, 8, 1) == [2]);
        sequence.banned = Arc::new([2]);
        banned_ends += u32::from(sequence.generate(&mut engine, 8, 1) == [2]);
    }
    assert!((140..260).contains(&ends), "{ends} of 2000");
    assert_eq!(banned_ends, 0);
}

#[test]
fn log_probabilities_are_given_when_asked_for() {
    let mut sequence = Sequence::new(&prompt(5), &TABLE);
    assert_eq!(sequence.clone().draw(&mut engine(), 8).unwrap().logprobs, None);
    sequence.params = Arc::new(SamplingParams {
        logprobs: Some(3),
        ..SamplingParams::default()
    });
    let sampled = sequence.draw(&mut engine(), 8).unwrap();
    let (logprob, top) = sampled.logprobs.unwrap();
    assert_eq!(top.len(), 3);
    assert_eq!(top[0], (sampled.token, logprob));
    assert!(top.is_sorted_by(|left, right| left.1 > right.1) && top.iter().all(|(token, _)| *token < 500));
}

#[test]
fn a_contradicting_batch_is_refused_and_the_engine_goes_on() {
    let mut engine = engine();
    let mut sequence = Sequence::new(&prompt(20), &TABLE);
    let mut batch = sequence.batch(20);
    batch.blocks[1] = BlockId(64);
    assert!(matches!(
        engine.step(&batch),
        Err(EngineError::Kernel(KernelError::Batch(_)))
    ));
    assert!(sequence.draw(&mut engine, 64).is_some());
}

#[test]
fn steps_take_the_time_of_their_rows_and_prefill_tokens() {
    let cost = StepCost {
        base_us: 100,
        per_row_us: 10,
        per_prefill_token_ns: 500,
    };
    let waited = Arc::new(Mutex::new(Vec::new()));
    let seen = waited.clone();
    let wait = Box::new(move |time| seen.lock().unwrap().push(time));
    let mut engine = SimEngine::with_wait(SimOptions { cost, ..options() }, wait);
    Sequence::new(&prompt(20), &TABLE).generate(&mut engine, 64, 2);
    let expected = [
        Duration::from_micros(100 + 10 + 10),
        Duration::from_micros(100 + 10),
    ];
    assert_eq!(*waited.lock().unwrap(), expected);
    let wait = Box::new(|_| panic!("a free step waits for nothing"));
    Sequence::new(&prompt(20), &TABLE).generate(&mut SimEngine::with_wait(options(), wait), 64, 2);
}

#[test]
fn facts_say_which_engines_may_exchange_blocks() {
    let (one, other) = (
        engine(),
        SimEngine::new(SimOptions {
            block_count: 8,
            ..options()
        }),
    );
    assert_eq!(one.facts().layout_hash, other.facts().layout_hash);
    assert_eq!(one.facts().block_bytes, u64::from(BLOCK_TOKENS) * 8);
    assert_eq!(one.memory().block_bytes() as u64, one.facts().block_bytes);
    assert_eq!(one.memory().block_count(), 64);
    let stranger = SimEngine::new(SimOptions {
        model_seed: 1,
        ..options()
    });
    assert_ne!(one.facts().layout_hash, stranger.facts().layout_hash);
}
