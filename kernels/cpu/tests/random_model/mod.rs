//! Random tiny models, uploaded to any backend and stepped by hand.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "what several tests share, each in part"
)]

use std::sync::Arc;

use vlinders_kernel_api::{
    AttentionSpec, Backend, Dtype, EmbeddingId, Executor, ExecutorSpec, Head, KvLayout, LinearId, LinearKind,
    LinearPart, Norm, QkNorm, RotaryId, TensorView, Urgency, WeightView,
};
use vlinders_types::{Batch, BatchRow, BlockId, SampleRow, SamplingParams, SequenceId, Span, TokenId};

/// Sizes and features of a model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub dtype: Dtype,
    pub head_dim: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub vocabulary: usize,
    pub window: Option<u32>,
    pub tied: bool,
    pub bias: bool,
    pub qk_norm: bool,
}

pub const LAYERS: u32 = 2;
pub const QUERY_HEADS: usize = 6;
pub const KV_HEADS: usize = 2;

impl Shape {
    pub fn plain(dtype: Dtype) -> Self {
        Self {
            dtype,
            head_dim: 16,
            hidden: 48,
            intermediate: 70,
            vocabulary: 101,
            window: None,
            tied: false,
            bias: false,
            qk_norm: false,
        }
    }
}

struct Layer {
    norms: [Norm; 2],
    qkv: LinearId,
    qk_norm: Option<QkNorm>,
    output: LinearId,
    gate_up: LinearId,
    down: LinearId,
}

/// What a model's uploads were named.
pub struct Model {
    shape: Shape,
    embedding: EmbeddingId,
    rotary: RotaryId,
    layers: Vec<Layer>,
    norm: Norm,
    head: Head,
}

/// Numbers between -1 and 1, the same in the same order for the same seed.
pub struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    /// `count` numbers times `scale` plus `offset`, as a checkpoint stores them.
    fn bytes(&mut self, dtype: Dtype, count: usize, scale: f32, offset: f32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let value = self.next() * scale + offset;
            match dtype {
                Dtype::F32 => bytes.extend(value.to_le_bytes()),
                Dtype::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                Dtype::Bf16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            }
        }
        bytes
    }
}

struct Uploader<'a> {
    backend: &'a mut dyn Backend,
    numbers: Numbers,
    dtype: Dtype,
}

impl Uploader<'_> {
    fn norm(&mut self, size: usize) -> Norm {
        let bytes = self.numbers.bytes(self.dtype, size, 0.3, 1.0);
        let view = TensorView {
            name: "norm",
            dtype: self.dtype,
            shape: &[size],
            bytes: &bytes,
        };
        Norm {
            weight: self.backend.upload_vector(view).unwrap(),
            epsilon: 1e-5,
        }
    }

    fn linear(&mut self, kind: LinearKind, outputs: &[usize], inputs: usize, bias: bool) -> LinearId {
        let scale = 1.7 / (inputs as f32).sqrt();
        let shapes: Vec<[usize; 2]> = outputs.iter().map(|outputs| [*outputs, inputs]).collect();
        let weights: Vec<Vec<u8>> = outputs
            .iter()
            .map(|outputs| self.numbers.bytes(self.dtype, outputs * inputs, scale, 0.0))
            .collect();
        let biases: Vec<Vec<u8>> = outputs
            .iter()
            .map(|outputs| self.numbers.bytes(self.dtype, *outputs, 0.5, 0.0))
            .collect();
        let part = |index: usize| LinearPart {
            weight: WeightView::Dense(TensorView {
                name: "w",
                dtype: self.dtype,
                shape: &shapes[index],
                bytes: &weights[index],
            }),
            bias: bias.then_some(TensorView {
                name: "b",
                dtype: self.dtype,
                shape: &shapes[index][..1],
                bytes: &biases[index],
            }),
        };
        let parts: Vec<LinearPart<'_>> = (0..outputs.len()).map(part).collect();
        self.backend.upload_linear(kind, &parts).unwrap()
    }
}

impl Model {
    /// The same numbers for the same shape on every backend.
    pub fn upload(backend: &mut dyn Backend, shape: Shape) -> Self {
        let mut to = Uploader {
            backend,
            numbers: Numbers(0x1234_5678_9ABC_DEF1),
            dtype: shape.dtype,
        };
        let Shape {
            hidden,
            head_dim,
            intermediate,
            vocabulary,
            ..
        } = shape;
        let (queries, keys) = (QUERY_HEADS * head_dim, KV_HEADS * head_dim);
        let bytes = to.numbers.bytes(shape.dtype, vocabulary * hidden, 0.3, 0.0);
        let table = TensorView {
            name: "e",
            dtype: shape.dtype,
            shape: &[vocabulary, hidden],
            bytes: &bytes,
        };
        let embedding = to.backend.upload_embedding(table, shape.tied).unwrap();
        let layers = (0..LAYERS)
            .map(|_| Layer {
                norms: [to.norm(hidden), to.norm(hidden)],
                qkv: to.linear(LinearKind::Plain, &[queries, keys, keys], hidden, shape.bias),
                qk_norm: shape.qk_norm.then(|| QkNorm {
                    query: to.norm(head_dim),
                    key: to.norm(head_dim),
                }),
                output: to.linear(LinearKind::Plain, &[hidden], queries, false),
                gate_up: to.linear(
                    LinearKind::GateUp,
                    &[intermediate, intermediate],
                    hidden,
                    shape.bias,
                ),
                down: to.linear(LinearKind::Plain, &[hidden], intermediate, shape.bias),
            })
            .collect();
        let norm = to.norm(hidden);
        let head = if shape.tied {
            Head::Tied(embedding)
        } else {
            Head::Separate(to.linear(LinearKind::Head, &[vocabulary], hidden, false))
        };
        let frequencies: Vec<f32> = (0..head_dim / 2)
            .map(|index| 100_f32.powf(-2.0 * index as f32 / head_dim as f32))
            .collect();
        let rotary = backend.upload_rotary(&frequencies).unwrap();
        Self {
            shape,
            embedding,
            rotary,
            layers,
            norm,
            head,
        }
    }

    pub fn spec(&self, backend: &dyn Backend) -> ExecutorSpec {
        let small = |size: usize| u32::try_from(size).unwrap();
        ExecutorSpec {
            kv: KvLayout {
                layers: LAYERS,
                kv_heads: small(KV_HEADS),
                head_dim: small(self.shape.head_dim),
                dtype: backend.kv_dtype(self.shape.dtype),
            },
            block_count: 128,
            hidden: small(self.shape.hidden),
            query_heads: small(QUERY_HEADS),
            intermediate: small(self.shape.intermediate),
            vocabulary: small(self.shape.vocabulary),
            max_batch_tokens: 256,
            max_rows: 16,
            max_samples: 256,
            max_context_tokens: 256,
            urgency: Urgency::Prefill,
        }
    }

    /// One step without the draw; returns the logits of the batch's samples.
    pub fn step(&self, executor: &mut dyn Executor, batch: &Batch) -> Vec<f32> {
        executor.plan(batch).unwrap();
        self.forward(executor);
        executor.read_logits().unwrap()
    }

    /// The last norm, and where logits come from.
    pub fn output(&self) -> (Norm, Head) {
        (self.norm, self.head)
    }

    pub fn forward(&self, executor: &mut dyn Executor) {
        self.layers(executor);
        executor.logits(self.norm, self.head).unwrap();
    }

    /// All but the logits.
    pub fn layers(&self, executor: &mut dyn Executor) {
        let spec = AttentionSpec {
            scale: 1.0 / (self.shape.head_dim as f32).sqrt(),
            window: self.shape.window,
        };
        executor.embed(self.embedding).unwrap();
        for (index, layer) in (0..).zip(&self.layers) {
            executor.norm_project(layer.norms[0], layer.qkv).unwrap();
            executor.rotary_append(index, self.rotary, layer.qk_norm).unwrap();
            executor.attention(index, spec).unwrap();
            executor.project_residual(layer.output).unwrap();
            executor
                .feed_forward(layer.norms[1], layer.gate_up, layer.down)
                .unwrap();
        }
    }
}

/// One row to put in a batch.
#[derive(Clone)]
pub struct Row<'a> {
    pub sequence: u64,
    pub first_position: usize,
    pub tokens: &'a [TokenId],
    pub blocks: &'a [u32],
}

/// A batch of rows that asks for the logits of every token.
pub fn batch(rows: &[Row<'_>]) -> Batch {
    let mut batch = Batch::default();
    let small = |size: usize| u32::try_from(size).unwrap();
    for row in rows {
        let sequence = SequenceId(row.sequence);
        let (first_token, first_block) = (small(batch.tokens.len()), small(batch.blocks.len()));
        batch.tokens.extend(row.tokens);
        batch.blocks.extend(row.blocks.iter().copied().map(BlockId));
        batch.rows.push(BatchRow {
            sequence,
            tokens: Span {
                start: first_token,
                count: small(row.tokens.len()),
            },
            first_position: small(row.first_position),
            blocks: Span {
                start: first_block,
                count: small(row.blocks.len()),
            },
        });
        batch
            .samples
            .extend((0..small(row.tokens.len())).map(|index| SampleRow {
                sequence,
                token_index: first_token + index,
                position: small(row.first_position) + index + 1,
                params: Arc::new(SamplingParams {
                    temperature: 0.0,
                    ..SamplingParams::default()
                }),
                history: Span::default(),
                prompt_tokens: 0,
                banned: Arc::new([]),
                allowed: None,
            }));
    }
    batch
}
