//! Speed of the kernels beside the machine's limits, on a random model of the Llama-3.2-1B shape.
//!
//! `cargo run --release -p vlinders-kernel-cpu --example kernel_bench -- [layers] [depth] [level]`
//! Sixteen layers are the whole model; two are enough to compare kernels, and start in a moment. `depth` tokens of
//! context lie before the ones that are timed; `level` (portable, avx2, avx512, avx512-bf16) forces instructions. Compare within one run: shared machines drift.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a measuring tool with known sizes"
)]

use std::sync::Arc;
use std::time::Instant;

use vlinders_kernel_api::{
    AttentionSpec, Backend, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KvLayout, LinearId, LinearKind,
    LinearPart, Norm, RotaryId, TensorView, Urgency, WeightView,
};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions, IsaLevel, probe};
use vlinders_types::{Batch, BatchRow, BlockId, SampleRow, SamplingParams, SequenceId, Span};

const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 8192;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const VOCABULARY: usize = 128_256;
const QKV: usize = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
/// Weights of one layer.
const LAYER: usize = QKV * HIDDEN + HEADS * HEAD_DIM * HIDDEN + 3 * HIDDEN * INTERMEDIATE;

struct Model {
    embedding: EmbeddingId,
    norm: Norm,
    rotary: RotaryId,
    layers: Vec<[LinearId; 4]>,
}

impl Model {
    fn upload(backend: &mut dyn Backend, layers: usize) -> Self {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            half::bf16::from_f32(((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * 0.035).to_le_bytes()
        };
        let bytes: Vec<u8> = (0..VOCABULARY * HIDDEN).flat_map(|_| random()).collect();
        let view = |shape: &'static [usize]| TensorView {
            name: "random",
            dtype: Dtype::Bf16,
            shape,
            bytes: &bytes[..2 * shape.iter().product::<usize>()],
        };
        let part = |shape| LinearPart {
            weight: WeightView::Dense(view(shape)),
            bias: None,
        };
        let embedding = backend
            .upload_embedding(view(&[VOCABULARY, HIDDEN]), true)
            .unwrap();
        let norm = Norm {
            weight: backend.upload_vector(view(&[HIDDEN])).unwrap(),
            epsilon: 1e-5,
        };
        let layers = (0..layers)
            .map(|_| {
                let mut linear = |kind, parts: &[LinearPart<'_>]| backend.upload_linear(kind, parts).unwrap();
                let gate = part(&[INTERMEDIATE, HIDDEN]);
                [
                    linear(LinearKind::Plain, &[part(&[QKV, HIDDEN])]),
                    linear(LinearKind::Plain, &[part(&[HIDDEN, HEADS * HEAD_DIM])]),
                    linear(LinearKind::GateUp, &[gate, gate]),
                    linear(LinearKind::Plain, &[part(&[HIDDEN, INTERMEDIATE])]),
                ]
            })
            .collect();
        let rotary = backend.upload_rotary(&[0.01; HEAD_DIM / 2]).unwrap();
        Self {
            embedding,
            norm,
            rotary,
            layers,
        }
    }

    /// One step; returns the seconds of its layers by operation, then of embedding and logits together.
    fn step(&self, executor: &mut dyn Executor, batch: &Batch) -> [f64; 6] {
        let mut seconds = [0.0; 6];
        let mut begun = Instant::now();
        let mut lap = |index: usize| {
            seconds[index] += begun.elapsed().as_secs_f64();
            begun = Instant::now();
        };
        executor.plan(batch).unwrap();
        executor.embed(self.embedding).unwrap();
        lap(5);
        for (layer, [qkv, output, gate_up, down]) in (0..).zip(&self.layers) {
            executor.norm_project(self.norm, *qkv).unwrap();
            lap(0);
            executor.rotary_append(layer, self.rotary, None).unwrap();
            lap(1);
            executor
                .attention(
                    layer,
                    AttentionSpec {
                        scale: 0.125,
                        window: None,
                    },
                )
                .unwrap();
            lap(2);
            executor.project_residual(*output).unwrap();
            lap(3);
            executor.feed_forward(self.norm, *gate_up, *down).unwrap();
            lap(4);
        }
        executor.logits(self.norm, Head::Tied(self.embedding)).unwrap();
        executor.sample(batch).unwrap();
        lap(5);
        seconds
    }
}

/// `rows` sequences with `count` new tokens each after `depth` old ones, drawing one token each.
fn batch(rows: u32, count: u32, depth: u32) -> Batch {
    let mut batch = Batch::default();
    let blocks = (depth + count).div_ceil(16);
    for row in 0..rows {
        batch.rows.push(BatchRow {
            sequence: SequenceId(row.into()),
            tokens: Span {
                start: row * count,
                count,
            },
            first_position: depth,
            blocks: Span {
                start: row * blocks,
                count: blocks,
            },
        });
        batch
            .tokens
            .extend((0..count).map(|token| (token * 31 + row * 1_009) % VOCABULARY as u32));
        batch
            .blocks
            .extend((0..blocks).map(|block| BlockId(row * blocks + block)));
        batch.samples.push(SampleRow {
            sequence: SequenceId(row.into()),
            token_index: (row + 1) * count - 1,
            position: depth + count,
            params: Arc::new(SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            }),
            history: Span::default(),
            prompt_tokens: 0,
            banned: Arc::new([]),
            allowed: None,
        });
    }
    batch
}

fn main() {
    let level = std::env::args().nth(3);
    let force = level.map(|name| {
        IsaLevel::ALL
            .into_iter()
            .find(|level| level.to_string() == name)
            .unwrap()
    });
    let mut arguments = std::env::args()
        .skip(1)
        .take(2)
        .map(|argument| argument.parse::<u32>().unwrap());
    let (layers, depth) = (arguments.next().unwrap_or(2), arguments.next().unwrap_or(0));
    let threads = std::thread::available_parallelism().unwrap().get();
    let memory = probe::memory_read_bytes_per_s(threads).unwrap();
    let dots = probe::bf16_flops(threads).unwrap_or(f64::NAN);
    let (memory_gb, dots_gflops, f32_gflops) = (memory / 1e9, dots / 1e9, probe::f32_flops(threads) / 1e9);
    println!(
        "limits: memory {memory_gb:.1} GB/s, bf16 {dots_gflops:.0} GFLOP/s, f32 {f32_gflops:.0} GFLOP/s"
    );
    let mut backend = CpuBackend::new(CpuOptions { threads: None, force }).unwrap();
    let begun = Instant::now();
    let model = Model::upload(&mut backend, layers as usize);
    println!(
        "{}: {layers} layers uploaded in {:.1} s",
        backend.facts().detail,
        begun.elapsed().as_secs_f64()
    );
    let kv = KvLayout {
        layers,
        kv_heads: KV_HEADS as u32,
        head_dim: HEAD_DIM as u32,
        dtype: Dtype::Bf16,
    };
    let spec = ExecutorSpec {
        kv,
        block_count: 8 * (depth + 512).div_ceil(16),
        hidden: HIDDEN as u32,
        query_heads: HEADS as u32,
        intermediate: INTERMEDIATE as u32,
        vocabulary: VOCABULARY as u32,
        max_batch_tokens: 512,
        max_rows: 16,
        max_samples: 16,
        max_context_tokens: depth + 512,
        urgency: Urgency::Prefill,
    };
    let mut executor = backend.executor(&spec).unwrap();
    for (rows, count) in [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (1, 128), (1, 512)] {
        if rows <= 8 || depth == 0 {
            time(
                &model,
                executor.as_mut(),
                kv,
                (rows, count, depth),
                (memory, dots),
            );
        }
    }
}

/// Times steps of `rows` sequences with `count` new tokens each after `depth` old ones, and prints them beside the limits.
fn time(
    model: &Model,
    executor: &mut dyn Executor,
    kv: KvLayout,
    (rows, count, depth): (u32, u32, u32),
    (memory, dots): (f64, f64),
) {
    let weights = model.layers.len() * LAYER;
    let batch = batch(rows, count, depth);
    let rounds = if count > 1 { 3 } else { 8 };
    let steps: Vec<[f64; 6]> = (0..=rounds).map(|_| model.step(executor, &batch)).collect();
    let total = |step: &&[f64; 6]| (step.iter().sum::<f64>() * 1e9) as u64;
    let best = steps[1..].iter().min_by_key(total).unwrap();
    let seconds: f64 = best.iter().sum();
    let tokens = f64::from(rows * count);
    let read = 2.0 * (weights + VOCABULARY * HIDDEN) as f64
        + f64::from(rows * depth) * (kv.block_bytes() / 16) as f64;
    let layers: f64 = best[..5].iter().sum();
    let flops = 2.0 * tokens * weights as f64 / layers;
    print!(
        "{rows:2} x {count:3}: {:7.1} ms, {:7.1} tokens/s",
        seconds * 1e3,
        tokens / seconds
    );
    print!(
        " | {:5.1} GB/s, {:3.0} % of memory",
        read / seconds / 1e9,
        100.0 * read / seconds / memory
    );
    print!(
        " | layers {:4.0} GFLOP/s, {:3.0} % of bf16 | ms:",
        flops / 1e9,
        100.0 * flops / dots
    );
    let names = [
        "project",
        "rotary",
        "attention",
        "output",
        "feed-forward",
        "embed+logits",
    ];
    for (name, seconds) in names.iter().zip(best) {
        print!(" {name} {:.1}", seconds * 1e3);
    }
    println!();
}
