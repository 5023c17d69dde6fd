//! Blocks that come from another backend and go to another.

use vlinders_kernel_api::{Backend, Dtype, Executor};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions};
use vlinders_kernel_reference::ops::relative_l2;
use vlinders_types::{BlockId, TokenId};

use crate::random_model::{Model, Row, Shape, batch};
use crate::simulated;

const BLOCKS: [u32; 3] = [3, 11, 5];
const PREFIX: usize = 37;

/// A sequence begun on one backend and continued on another: the logits of its last tokens.
fn handed_over(from: &mut dyn Backend, to: &mut dyn Backend, shape: Shape) -> Vec<f32> {
    let tokens: Vec<TokenId> = (0..45).map(|index| index * 7 % 101).collect();
    let part = |executor: &mut dyn Executor, model: &Model, first: usize, count: usize| {
        let row = Row {
            sequence: 1,
            first_position: first,
            tokens: &tokens[first..first + count],
            blocks: &BLOCKS,
        };
        model.step(executor, &batch(&[row]))
    };
    let model = Model::upload(from, shape);
    let mut begun = from.executor(&model.spec(from)).unwrap();
    part(begun.as_mut(), &model, 0, PREFIX);
    let model = Model::upload(to, shape);
    let mut continued = to.executor(&model.spec(to)).unwrap();
    let (source, destination) = (begun.memory(), continued.memory());
    assert_eq!(source.block_bytes(), destination.block_bytes());
    for block in BLOCKS.map(BlockId) {
        source.with_block(block, &mut |bytes| destination.write_block(block, bytes));
    }
    part(continued.as_mut(), &model, PREFIX, tokens.len() - PREFIX)
}

#[test]
fn a_sequence_moves_between_cpu_and_gpu_in_both_directions() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let shape = Shape {
            intermediate: 72,
            ..Shape::plain(dtype)
        };
        let cpu = || CpuBackend::new(CpuOptions::default()).unwrap();
        let expected = handed_over(&mut cpu(), &mut cpu(), shape);
        let there = handed_over(&mut cpu(), &mut simulated(true).1, shape);
        let back = handed_over(&mut simulated(true).1, &mut cpu(), shape);
        let tolerance = if dtype == Dtype::F32 { 2e-5 } else { 3e-2 };
        for found in [there, back] {
            let distance = relative_l2(&found, &expected);
            assert!(distance < tolerance, "{dtype:?}: {distance}");
        }
    }
}

#[test]
fn blocks_are_read_and_written_side_by_side_and_stay_themselves() {
    let shape = Shape {
        intermediate: 72,
        ..Shape::plain(Dtype::F32)
    };
    let (_, mut backend) = simulated(true);
    let model = Model::upload(&mut backend, shape);
    let executor = backend.executor(&model.spec(&backend)).unwrap();
    let memory = executor.memory();
    let bytes_of =
        |block: u32, round: u32| vec![u8::try_from((block + round) % 251).unwrap(); memory.block_bytes()];
    std::thread::scope(|scope| {
        // More threads than there are buffers.
        for thread in 0..12_u32 {
            let memory = &memory;
            scope.spawn(move || {
                for round in 0..20 {
                    let block = BlockId(thread * 10 + round % 10);
                    memory.write_block(block, &bytes_of(block.0, round));
                    memory.with_block(block, &mut |bytes| assert!(bytes == bytes_of(block.0, round)));
                }
            });
        }
    });
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        memory.with_block(BlockId(0), &mut |_| panic!("a reader that fails"));
    }));
    assert!(failed.is_err());
    for _ in 0..20 {
        // The buffer came back.
        memory.with_block(BlockId(0), &mut |_| {});
    }
}
