//! Whole steps on the CPU backend: against the oracle, and against themselves in other batches.

#![allow(clippy::unwrap_used, reason = "a failed step fails its test")]

mod random_model;

use random_model::{Model, Row, Shape, batch};
use vlinders_kernel_api::{Backend, Dtype, Executor, KernelError, Urgency};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions, IsaLevel};
use vlinders_kernel_reference::{ReferenceBackend, ops::relative_l2};
use vlinders_types::{BlockId, TokenId};

fn levels() -> impl Iterator<Item = IsaLevel> {
    IsaLevel::ALL.into_iter().filter(|level| level.is_available())
}

fn cpu(level: IsaLevel, threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions {
        threads: Some(threads),
        force: Some(level),
    })
    .unwrap()
}

fn prompt(seed: u64, count: usize) -> Vec<TokenId> {
    (0..count as u64)
        .map(|index| u32::try_from((index * 37 + seed * 11 + index * index) % 101).unwrap())
        .collect()
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let plain = Shape::plain(dtype);
        shapes.push(plain);
        shapes.push(Shape {
            tied: true,
            window: Some(20),
            head_dim: 24,
            ..plain
        });
        shapes.push(Shape {
            bias: true,
            qk_norm: true,
            head_dim: 64,
            hidden: 65,
            intermediate: 33,
            ..plain
        });
    }
    shapes
}

/// The logits of every token of a prompt, computed in chunks of these sizes (the last one repeats).
fn in_chunks(
    model: &Model,
    executor: &mut dyn Executor,
    tokens: &[TokenId],
    blocks: &[u32],
    chunks: &[usize],
) -> Vec<f32> {
    let mut logits = Vec::new();
    let mut first_position = 0;
    let mut sizes = chunks.iter().copied();
    let last = chunks[chunks.len() - 1];
    while first_position < tokens.len() {
        let count = sizes.next().unwrap_or(last).min(tokens.len() - first_position);
        let tokens = &tokens[first_position..first_position + count];
        logits.extend(model.step(
            executor,
            &batch(&[Row {
                sequence: 1,
                first_position,
                tokens,
                blocks,
            }]),
        ));
        first_position += count;
    }
    logits
}

#[test]
fn every_level_agrees_with_the_reference() {
    let tokens = prompt(3, 60);
    for shape in shapes() {
        let mut reference = ReferenceBackend::new();
        let model = Model::upload(&mut reference, shape);
        let mut executor = reference.executor(&model.spec(&reference)).unwrap();
        let expected = in_chunks(&model, executor.as_mut(), &tokens, &[9, 4, 7, 2], &[60]);
        for level in levels() {
            let mut backend = cpu(level, 2);
            let model = Model::upload(&mut backend, shape);
            let mut executor = backend.executor(&model.spec(&backend)).unwrap();
            let found = in_chunks(&model, executor.as_mut(), &tokens, &[9, 4, 7, 2], &[60]);
            let distance = relative_l2(&found, &expected);
            // bf16 caches round differently at every layer; f32 ones not at all.
            let tolerance = if shape.dtype == Dtype::F32 { 2e-5 } else { 2e-2 };
            assert!(distance < tolerance, "{level} {shape:?}: {distance}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_among_others_in_chunks_and_on_any_number_of_threads() {
    let tokens = prompt(3, 60);
    let blocks = [9, 4, 7, 2];
    for (level, shape) in levels().flat_map(|level| shapes().into_iter().map(move |shape| (level, shape))) {
        let mut expected: Option<Vec<f32>> = None;
        for threads in [1, 2] {
            let mut backend = cpu(level, threads);
            let model = Model::upload(&mut backend, shape);
            let mut executor = backend.executor(&model.spec(&backend)).unwrap();
            let chunkings: [&[usize]; 6] = [&[60], &[1], &[7], &[16], &[33], &[57, 1]];
            for chunks in chunkings {
                let found = in_chunks(&model, executor.as_mut(), &tokens, &blocks, chunks);
                assert!(found.iter().all(|logit| logit.is_finite()));
                let expected = expected.get_or_insert_with(|| found.clone());
                assert!(
                    *expected == found,
                    "{level}, {threads} threads, chunks of {chunks:?}, {shape:?}"
                );
            }
            let among = among_others(&model, executor.as_mut(), &tokens, &blocks);
            assert!(
                expected.as_ref() == Some(&among),
                "{level}, {threads} threads, among others, {shape:?}"
            );
        }
    }
}

/// The same prompt in two chunks, with eight other rows of all lengths before and behind it.
fn among_others(model: &Model, executor: &mut dyn Executor, tokens: &[TokenId], blocks: &[u32]) -> Vec<f32> {
    let others: Vec<(Vec<TokenId>, [u32; 2])> = (0..8_u32)
        .map(|index| {
            let first = 40 + 2 * index;
            (
                prompt(20 + u64::from(index), 1 + 3 * index as usize),
                [first, first + 1],
            )
        })
        .collect();
    let mut logits = Vec::new();
    for (first_position, count) in [(0, 41), (41, tokens.len() - 41)] {
        let other = |index: usize| Row {
            sequence: 10 + index as u64,
            first_position: 0,
            tokens: &others[index].0,
            blocks: &others[index].1,
        };
        let mut rows: Vec<Row<'_>> = (0..3).map(other).collect();
        let tokens = &tokens[first_position..first_position + count];
        rows.push(Row {
            sequence: 1,
            first_position,
            tokens,
            blocks,
        });
        rows.extend((3..8).map(other));
        let before: usize = rows[..3].iter().map(|row| row.tokens.len()).sum();
        let all = model.step(executor, &batch(&rows));
        let vocabulary = all.len() / rows.iter().map(|row| row.tokens.len()).sum::<usize>();
        logits.extend_from_slice(&all[before * vocabulary..][..count * vocabulary]);
    }
    logits
}

#[test]
fn draws_are_the_largest_logits_and_the_logits_stay_readable() {
    let mut backend = cpu(IsaLevel::Portable, 2);
    let model = Model::upload(&mut backend, Shape::plain(Dtype::F32));
    let mut executor = backend.executor(&model.spec(&backend)).unwrap();
    let tokens = prompt(5, 20);
    let batch = batch(&[Row {
        sequence: 1,
        first_position: 0,
        tokens: &tokens,
        blocks: &[0, 1],
    }]);
    executor.plan(&batch).unwrap();
    model.forward(executor.as_mut());
    let drawn = executor.sample(&batch).unwrap();
    let logits = executor.read_logits().unwrap();
    for (drawn, logits) in drawn.iter().zip(logits.chunks_exact(101)) {
        let token = drawn.sampled.as_ref().unwrap().token as usize;
        assert!(logits.iter().all(|logit| *logit <= logits[token]));
    }
}

#[test]
fn a_block_of_another_pool_is_refused_and_the_executor_lives_on() {
    let mut backend = cpu(IsaLevel::Portable, 1);
    let model = Model::upload(&mut backend, Shape::plain(Dtype::F32));
    let mut executor = backend.executor(&model.spec(&backend)).unwrap();
    let tokens = prompt(5, 3);
    let good = batch(&[Row {
        sequence: 1,
        first_position: 0,
        tokens: &tokens,
        blocks: &[0],
    }]);
    let mut bad = good.clone();
    bad.blocks[0] = BlockId(128);
    let before = model.step(executor.as_mut(), &good);
    assert!(matches!(executor.plan(&bad), Err(KernelError::Batch(_))));
    assert_eq!(model.step(executor.as_mut(), &good), before);
}

#[test]
fn two_executors_on_two_threads_do_not_disturb_each_other() {
    let mut backend = cpu(IsaLevel::Portable, 2);
    let model = Model::upload(&mut backend, Shape::plain(Dtype::Bf16));
    let spec = model.spec(&backend);
    let tokens = prompt(5, 40);
    let mut alone = backend.executor(&spec).unwrap();
    let expected = in_chunks(&model, alone.as_mut(), &tokens, &[0, 1, 2], &[40]);
    std::thread::scope(|scope| {
        for (urgency, chunk) in [
            (Urgency::Decode, 1),
            (Urgency::Prefill, 10),
            (Urgency::Prefill, 40),
        ] {
            let mut spec = spec.clone();
            spec.urgency = urgency;
            let mut executor = backend.executor(&spec).unwrap();
            let (model, tokens, expected) = (&model, &tokens, &expected);
            scope.spawn(move || {
                for _ in 0..5 {
                    let found = in_chunks(model, executor.as_mut(), tokens, &[0, 1, 2], &[chunk]);
                    assert!(found == *expected);
                }
            });
        }
    });
}

#[test]
fn an_abandoned_step_does_not_hold_the_device() {
    let mut backend = cpu(IsaLevel::Portable, 2);
    let model = Model::upload(&mut backend, Shape::plain(Dtype::F32));
    let spec = model.spec(&backend);
    let tokens = prompt(5, 3);
    let work = batch(&[Row {
        sequence: 1,
        first_position: 0,
        tokens: &tokens,
        blocks: &[0],
    }]);
    let mut dropped = backend.executor(&spec).unwrap();
    dropped.plan(&work).unwrap();
    model.forward(dropped.as_mut());
    drop(dropped);
    let mut planned_again = backend.executor(&spec).unwrap();
    planned_again.plan(&work).unwrap();
    model.forward(planned_again.as_mut());
    planned_again.plan(&work).unwrap();
    let mut other = backend.executor(&spec).unwrap();
    assert!(!model.step(other.as_mut(), &work).is_empty());
}
