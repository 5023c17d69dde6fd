//! Whole steps of random models: against the oracle, against themselves in other batches, and recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vlinders_kernel_api::{Backend, Dtype, Executor, KernelError};
use vlinders_kernel_cuda::{CudaBackend, CudaOptions};
use vlinders_kernel_reference::ReferenceBackend;
use vlinders_kernel_reference::ops::{narrow, relative_l2};
use vlinders_types::{BlockId, PoolRow, ScoreRow, SequenceId, Span, TokenId};

use crate::device::SimDevice;
use crate::random_model::{Model, Row, Shape, batch};
use crate::{on_gpu, simulated};

const BLOCKS: [u32; 4] = [9, 4, 7, 2];

fn prompt(seed: u64, count: usize) -> Vec<TokenId> {
    (0..count as u64)
        .map(|index| u32::try_from((index * 37 + seed * 11 + index * index) % 101).unwrap())
        .collect()
}

/// What the kernels take: sizes in multiples of eight.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let plain = Shape {
            intermediate: 72,
            ..Shape::plain(dtype)
        };
        shapes.push(plain);
        if dtype == Dtype::F16 {
            // Its kernels are those of bf16 with another conversion.
            continue;
        }
        shapes.push(Shape {
            tied: true,
            window: Some(20),
            head_dim: 32,
            ..plain
        });
        shapes.push(Shape {
            bias: true,
            qk_norm: true,
            head_dim: 64,
            hidden: 64,
            intermediate: 40,
            ..plain
        });
    }
    shapes
}

fn row<'a>(first_position: usize, tokens: &'a [TokenId], blocks: &'a [u32]) -> Row<'a> {
    Row {
        sequence: 1,
        first_position,
        tokens,
        blocks,
    }
}

/// The logits of every token of a prompt, computed in chunks of these sizes (the last one repeats).
fn in_chunks(model: &Model, executor: &mut dyn Executor, tokens: &[TokenId], chunks: &[usize]) -> Vec<f32> {
    let mut logits = Vec::new();
    let mut first = 0;
    let mut sizes = chunks.iter().copied();
    while first < tokens.len() {
        let count = sizes
            .next()
            .unwrap_or(chunks[chunks.len() - 1])
            .min(tokens.len() - first);
        let tokens = &tokens[first..first + count];
        logits.extend(model.step(executor, &batch(&[row(first, tokens, &BLOCKS)])));
        first += count;
    }
    logits
}

#[test]
fn every_type_agrees_with_the_reference() {
    let tokens = prompt(3, 60);
    for shape in shapes() {
        let mut reference = ReferenceBackend::new();
        let model = Model::upload(&mut reference, shape);
        let mut executor = reference.executor(&model.spec(&reference)).unwrap();
        let expected = in_chunks(&model, executor.as_mut(), &tokens, &[60]);
        let (_, mut backend) = simulated(true);
        let model = Model::upload(&mut backend, shape);
        let mut executor = backend.executor(&model.spec(&backend)).unwrap();
        let found = in_chunks(&model, executor.as_mut(), &tokens, &[60]);
        let distance = relative_l2(&found, &expected);
        // Activations that feed a projection are rounded to the weights' type.
        let tolerance = if shape.dtype == Dtype::F32 { 2e-5 } else { 3e-2 };
        assert!(distance < tolerance, "{shape:?}: {distance}");
    }
}

#[test]
fn a_row_of_f32_has_the_same_bits_in_any_chunks_and_among_others() {
    has_the_same_bits(Dtype::F32);
}

#[test]
fn a_row_of_bf16_has_the_same_bits_in_any_chunks_and_among_others() {
    has_the_same_bits(Dtype::Bf16);
}

#[test]
fn a_row_of_f16_has_the_same_bits_in_any_chunks_and_among_others() {
    has_the_same_bits(Dtype::F16);
}

fn has_the_same_bits(dtype: Dtype) {
    let tokens = prompt(3, 60);
    for shape in shapes().into_iter().filter(|shape| shape.dtype == dtype) {
        let (_, mut backend) = simulated(true);
        let model = Model::upload(&mut backend, shape);
        let mut executor = backend.executor(&model.spec(&backend)).unwrap();
        let expected = in_chunks(&model, executor.as_mut(), &tokens, &[60]);
        assert!(expected.iter().all(|logit| logit.is_finite()));
        // The last rows of the second chunking go through the kernel for single tokens.
        let chunkings: [&[usize]; 2] = [&[17], &[40, 12, 3, 4, 1]];
        for chunks in chunkings {
            let found = in_chunks(&model, executor.as_mut(), &tokens, chunks);
            assert!(found == expected, "chunks of {chunks:?}, {shape:?}");
        }
        let found = among_others(&model, executor.as_mut(), &tokens);
        assert!(found == expected, "among others, {shape:?}");
    }
}

/// The same prompt in two chunks, between other rows of several lengths.
fn among_others(model: &Model, executor: &mut dyn Executor, tokens: &[TokenId]) -> Vec<f32> {
    let others: Vec<(Vec<TokenId>, [u32; 2])> = (0..4_u32)
        .map(|index| {
            let first = 40 + 2 * index;
            let length = 1 + 5 * index as usize;
            (prompt(20 + u64::from(index), length), [first, first + 1])
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
        let own = row(first_position, &tokens[first_position..][..count], &BLOCKS);
        let rows = [other(0), other(2), own, other(1), other(3)];
        let before: usize = rows[..2].iter().map(|row| row.tokens.len()).sum();
        let all = model.step(executor, &batch(&rows));
        let vocabulary = all.len() / rows.iter().map(|row| row.tokens.len()).sum::<usize>();
        logits.extend_from_slice(&all[before * vocabulary..][..count * vocabulary]);
    }
    logits
}

#[test]
fn recorded_steps_have_the_bits_of_launched_ones_and_everything_is_given_back() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let shape = Shape {
            intermediate: 72,
            window: Some(20),
            ..Shape::plain(dtype)
        };
        let mut found = Vec::new();
        for records in [true, false] {
            let (device, mut backend) = simulated(records);
            let model = Model::upload(&mut backend, shape);
            let mut executor = backend.executor(&model.spec(&backend)).unwrap();
            found.push(three_rows(&model, executor.as_mut()));
            let replays = device.replays.load(Ordering::Relaxed);
            // Three rows are filled up to four: launched, then recorded, then replayed.
            let is_replayed = records && !on_gpu();
            assert_eq!(replays, if is_replayed { 9 } else { 0 });
            drop((executor, backend));
            assert_eq!(device.left(), [0; 4]);
        }
        assert!(found[0] == found[1], "{dtype:?}");
    }
}

/// Ten steps of three sequences that grow side by side.
fn three_rows(model: &Model, executor: &mut dyn Executor) -> Vec<f32> {
    let tokens: Vec<Vec<TokenId>> = (0..3).map(|seed| prompt(seed, 40)).collect();
    let blocks = [[0, 1, 2], [10, 11, 12], [5, 6, 7]];
    let lengths = [1, 14, 29];
    for (index, length) in lengths.into_iter().enumerate() {
        let mut first = row(0, &tokens[index][..length], &blocks[index]);
        first.sequence = index as u64;
        model.step(executor, &batch(&[first]));
    }
    let mut logits = Vec::new();
    for step in 0..10 {
        let rows: Vec<Row<'_>> = (0..3)
            .map(|index| Row {
                sequence: index as u64,
                first_position: lengths[index] + step,
                tokens: &tokens[index][lengths[index] + step..][..1],
                blocks: &blocks[index],
            })
            .collect();
        logits.extend(model.step(executor, &batch(&rows)));
    }
    logits
}

#[test]
fn draws_are_the_largest_logits_and_the_logits_stay_readable() {
    let (_, mut backend) = simulated(true);
    let model = Model::upload(&mut backend, shapes()[0]);
    let mut executor = backend.executor(&model.spec(&backend)).unwrap();
    let tokens = prompt(5, 20);
    let batch = batch(&[row(0, &tokens, &[0, 1])]);
    executor.plan(&batch).unwrap();
    model.forward(executor.as_mut());
    let drawn = executor.sample(&batch).unwrap();
    let logits = executor.read_logits().unwrap();
    assert_eq!(drawn.len(), 20);
    for (drawn, logits) in drawn.iter().zip(logits.chunks_exact(101)) {
        let token = drawn.sampled.as_ref().unwrap().token as usize;
        assert!(logits.iter().all(|logit| *logit <= logits[token]));
    }
}

#[test]
fn a_refused_batch_and_an_abandoned_step_leave_no_trace() {
    let (_, mut backend) = simulated(true);
    let model = Model::upload(&mut backend, shapes()[0]);
    let mut executor = backend.executor(&model.spec(&backend)).unwrap();
    let tokens = prompt(5, 3);
    let good = batch(&[row(0, &tokens, &[0])]);
    let before = model.step(executor.as_mut(), &good);
    let mut bad = good.clone();
    bad.blocks[0] = BlockId(128);
    assert!(matches!(executor.plan(&bad), Err(KernelError::Batch(_))));
    executor.plan(&good).unwrap();
    model.forward(executor.as_mut());
    assert_eq!(model.step(executor.as_mut(), &good), before);
}

#[test]
fn scores_and_sums_are_those_of_the_reference() {
    let tokens = prompt(7, 30);
    let mut asked = batch(&[row(0, &tokens, &BLOCKS)]);
    asked.samples.truncate(1);
    asked.targets = tokens[4..30].to_vec();
    asked.scores = vec![ScoreRow {
        sequence: SequenceId(1),
        token_index: 3,
        position: 4,
        targets: Span { start: 0, count: 26 },
        top: 2,
    }];
    asked.pools = vec![PoolRow {
        sequence: SequenceId(1),
        tokens: Span { start: 2, count: 20 },
        so_far: Arc::new([0.5; 48]),
    }];
    let ask = |backend: &mut dyn Backend| {
        let model = Model::upload(backend, shapes()[0]);
        let mut executor = backend.executor(&model.spec(backend)).unwrap();
        executor.plan(&asked).unwrap();
        model.layers(executor.as_mut());
        let (norm, head) = model.output();
        let scores = executor.score(norm, head, &asked).unwrap();
        let sums = executor.pool(norm, &asked).unwrap();
        executor.logits(norm, head).unwrap();
        (scores, sums, executor.sample(&asked).unwrap())
    };
    let (scores, sums, drawn) = ask(&mut simulated(true).1);
    let expected = ask(&mut ReferenceBackend::new());
    assert_eq!(drawn, expected.2);
    let numbers = |sum: &[f64]| sum.iter().copied().map(narrow).collect::<Vec<f32>>();
    assert!(relative_l2(&numbers(&sums[0].sum), &numbers(&expected.1[0].sum)) < 1e-5);
    let (found, expected) = (scores[0].scores.as_ref(), expected.0[0].scores.as_ref());
    for (found, expected) in found.unwrap().iter().zip(expected.unwrap()) {
        assert_eq!(found.rank, expected.rank);
        assert!((found.logprob - expected.logprob).abs() < 1e-4);
    }
}

#[test]
fn what_does_not_fit_is_told_with_what_to_lower() {
    let device = Arc::new(SimDevice::with_limit(4 << 20));
    let mut backend = CudaBackend::on(Arc::clone(&device) as _, CudaOptions::default());
    let model = Model::upload(&mut backend, shapes()[0]);
    let mut spec = model.spec(&backend);
    spec.block_count = 100_000;
    let refused = backend.executor(&spec).map(|_| ()).unwrap_err();
    assert!(matches!(refused, KernelError::OutOfMemory { .. }));
    let text = refused.to_string();
    assert!(text.contains("the KV pool") && text.contains("lower"), "{text}");
    drop(backend);
    assert_eq!(device.left(), [0; 4]);
}

#[test]
fn a_device_is_trusted_when_it_computes_what_it_should_and_only_then() {
    let options = CudaOptions::default();
    let device = Arc::new(SimDevice::new());
    drop(CudaBackend::checked_on(Arc::clone(&device) as _, options).unwrap());
    assert_eq!(device.left(), [0; 4]);
    // One after the other: each kernel of a step does nothing.
    for kernel in [
        "vl_embed",
        "vl_rms_norm",
        "vl_rotary_append",
        "vl_attention_prefill",
        "vl_attention_decode",
        "vl_linear_store",
        "vl_linear_add",
        "vl_linear_silu",
    ] {
        let broken = Arc::new(SimDevice::without(kernel));
        let refused = CudaBackend::checked_on(Arc::clone(&broken) as _, options).err();
        let text = refused.expect(kernel).to_string();
        assert!(text.contains("self-check"), "{kernel}: {text}");
        assert_eq!(broken.left(), [0; 4]);
    }
}
