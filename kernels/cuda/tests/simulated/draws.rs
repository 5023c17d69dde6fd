//! Draws on the device are those of the sampler on the processor, rule by rule and all together.

use std::sync::Arc;

use vlinders_kernel_api::{Backend, Dtype};
use vlinders_sampling::{SampleInput, Sampler};
use vlinders_types::{AwaitedMask, Batch, SampleResult, SampleRow, SamplingParams, Span, TokenId, TokenMask};

use crate::random_model::{Model, Row, Shape, batch};
use crate::simulated;

/// Three slices of the device's work, the last one short.
const VOCABULARY: usize = 9001;

fn shape() -> Shape {
    Shape {
        intermediate: 72,
        vocabulary: VOCABULARY,
        ..Shape::plain(Dtype::F32)
    }
}

/// Every rule by itself, greedily or at a temperature, then several at once.
fn wishes() -> Vec<SamplingParams> {
    type Wish = fn(&mut SamplingParams);
    let wishes: [(f32, Wish); 17] = [
        (0.0, |_| {}),
        (0.8, |_| {}),
        (1.7, |params| params.seed = 8),
        (0.8, |params| params.top_k = 1),
        (0.8, |params| params.top_k = 40),
        (0.8, |params| params.top_p = 0.3),
        (0.8, |params| params.top_p = 0.95),
        (0.8, |params| params.min_p = 0.2),
        (0.8, |params| {
            (params.top_k, params.top_p, params.min_p) = (500, 0.8, 0.01);
        }),
        (0.0, bias),
        (0.8, bias),
        (0.8, |params| params.presence_penalty = 1.5),
        (0.0, |params| params.frequency_penalty = 0.7),
        (0.8, |params| params.repetition_penalty = 1.3),
        (0.0, |params| params.logprobs = Some(0)),
        (0.8, |params| params.logprobs = Some(20)),
        (0.8, |params| {
            bias(params);
            (params.top_k, params.top_p, params.logprobs) = (60, 0.9, Some(5));
            (params.presence_penalty, params.frequency_penalty) = (0.4, 0.3);
            params.repetition_penalty = 1.1;
        }),
    ];
    let made = wishes.into_iter().map(|(temperature, wish)| {
        let mut params = SamplingParams {
            temperature,
            seed: 7,
            ..SamplingParams::default()
        };
        wish(&mut params);
        params
    });
    made.collect()
}

fn bias(params: &mut SamplingParams) {
    params.logit_bias = vec![(3, -4.0), (700, 6.5), (8999, 5.0)];
}

fn mask(tokens: impl Iterator<Item = TokenId>) -> Option<Arc<AwaitedMask>> {
    let mut mask = TokenMask::none(VOCABULARY);
    tokens.for_each(|token| mask.allow(token));
    Some(Arc::new(AwaitedMask::ready(mask)))
}

/// Draws after the tokens of one row, each under rules of its own.
fn asked() -> Batch {
    let tokens: Vec<TokenId> = (0..60).map(|index| index * 13 % 101).collect();
    let row = Row {
        sequence: 1,
        first_position: 0,
        tokens: &tokens,
        blocks: &[0, 1, 2, 3],
    };
    let mut batch = batch(&[row]);
    batch.history = tokens.iter().chain(&[700, 700, 8999, 3]).copied().collect();
    let wishes = wishes();
    for (index, sample) in batch.samples.iter_mut().enumerate() {
        let params = wishes[index % wishes.len()].clone();
        if params.needs_history() {
            sample.history = Span { start: 0, count: 64 };
            sample.prompt_tokens = 60;
        }
        sample.params = Arc::new(params);
        match index / wishes.len() {
            0 => {}
            1 => sample.banned = (0..4000).collect(),
            2 => sample.allowed = mask((0..9001).step_by(7)),
            // Only banned tokens are allowed: the bans give way.
            _ => {
                sample.banned = Arc::new([5, 6, 8000]);
                sample.allowed = mask([5, 8000].into_iter());
            }
        }
    }
    batch
}

fn on_the_processor(batch: &Batch, row: &SampleRow, logits: &[f32]) -> SampleResult {
    let input = SampleInput {
        params: &row.params,
        history: &batch.history[row.history.range()],
        prompt_tokens: row.prompt_tokens,
        banned: &row.banned,
        allowed: row.allowed.as_deref().map(AwaitedMask::wait),
        position: row.position,
    };
    SampleResult {
        sequence: row.sequence,
        sampled: Sampler::new().sample(&mut logits.to_vec(), input),
    }
}

#[test]
fn every_rule_draws_what_the_sampler_draws_and_leaves_the_logits() {
    let (_, mut backend) = simulated(true);
    let model = Model::upload(&mut backend, shape());
    let mut executor = backend.executor(&model.spec(&backend)).unwrap();
    let batch = asked();
    let logits = model.step(executor.as_mut(), &batch);
    let drawn = executor.sample(&batch).unwrap();
    assert_eq!(drawn.len(), batch.samples.len());
    let rows = batch.samples.iter().zip(logits.chunks_exact(VOCABULARY));
    for (index, (found, (row, logits))) in drawn.iter().zip(rows).enumerate() {
        let expected = on_the_processor(&batch, row, logits).sampled.unwrap();
        let found = found.sampled.as_ref().unwrap();
        assert_eq!(found.token, expected.token, "{index}: {:?}", row.params);
        let Some((logprob, top)) = &expected.logprobs else {
            assert_eq!(found.logprobs, None);
            continue;
        };
        let (found_logprob, found_top) = found.logprobs.as_ref().unwrap();
        let near = |left: f32, right: f32| (left - right).abs() < 1e-5;
        assert!(near(*found_logprob, *logprob), "{index}");
        assert_eq!(found_top.len(), top.len());
        for ((found_token, found), (token, expected)) in found_top.iter().zip(top) {
            assert!(found_token == token && near(*found, *expected), "{index}");
        }
    }
    assert!(
        executor.read_logits().unwrap() == logits,
        "the logits are the model's again"
    );
    // Counts and faults are as clean as before.
    let again = model.step(executor.as_mut(), &batch);
    assert!(again == logits);
    assert_eq!(executor.sample(&batch).unwrap(), drawn);
}

#[test]
fn more_draws_than_are_made_at_once_take_turns() {
    let shape = Shape {
        intermediate: 72,
        ..Shape::plain(Dtype::F32)
    };
    let (_, mut backend) = simulated(true);
    let model = Model::upload(&mut backend, shape);
    let mut executor = backend.executor(&model.spec(&backend)).unwrap();
    let tokens: Vec<TokenId> = (0..150).map(|index| index * 13 % 101).collect();
    let blocks: Vec<u32> = (0..10).collect();
    let mut batch = batch(&[Row {
        sequence: 1,
        first_position: 0,
        tokens: &tokens,
        blocks: &blocks,
    }]);
    for (index, sample) in batch.samples.iter_mut().enumerate() {
        sample.params = Arc::new(SamplingParams {
            seed: index as u64,
            ..SamplingParams::default()
        });
    }
    let logits = model.step(executor.as_mut(), &batch);
    let drawn = executor.sample(&batch).unwrap();
    assert_eq!(drawn.len(), 150);
    for ((found, row), logits) in drawn.iter().zip(&batch.samples).zip(logits.chunks_exact(101)) {
        assert_eq!(*found, on_the_processor(&batch, row, logits));
    }
}
