//! Before a device is trusted: a small model computed on it and by the oracle, prompt and single tokens, launched and replayed.

use std::sync::Arc;

use half::bf16;
use vlinders_kernel_api::{
    AttentionSpec, Backend, Dtype, Executor, ExecutorSpec, Head, KernelError, KvLayout, LinearId, LinearKind,
    LinearPart, Norm, TensorView, Urgency, WeightView,
};
use vlinders_kernel_reference::{ReferenceBackend, ops::relative_l2};
use vlinders_types::{Batch, BatchRow, BlockId, SampleRow, SamplingParams, SequenceId, Span};

/// Sizes: small, and every kernel of a step has work for several threads and tiles.
const HIDDEN: u32 = 128;
const QUERY_HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 64;
const INNER: u32 = 256;
const VOCABULARY: u32 = 300;
/// Tokens of the prompt, then single ones: enough for a step to be launched, recorded and replayed.
const PROMPT: u32 = 40;
const SINGLES: u32 = 4;
/// How far logits may be from the oracle's, which rounds nothing but keys and values.
const TOLERANCE: f64 = 5e-2;

/// Numbers that look random, as a checkpoint stores them.
struct Numbers(u32);

impl Numbers {
    fn bytes(&mut self, count: u32, scale: f32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            let value = (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0;
            bytes.extend(bf16::from_f32(value * scale).to_le_bytes());
        }
        bytes
    }
}

fn upload_linear(
    backend: &mut dyn Backend,
    numbers: &mut Numbers,
    kind: LinearKind,
    outputs: &[u32],
    inputs: u32,
) -> Result<LinearId, KernelError> {
    let shapes: Vec<[usize; 2]> = outputs
        .iter()
        .map(|outputs| [*outputs as usize, inputs as usize])
        .collect();
    let scale = 1.7 / (inputs as f32).sqrt();
    let weights: Vec<Vec<u8>> = outputs
        .iter()
        .map(|outputs| numbers.bytes(outputs * inputs, scale))
        .collect();
    let parts = shapes.iter().zip(&weights).map(|(shape, bytes)| LinearPart {
        weight: WeightView::Dense(view(shape, bytes)),
        bias: None,
    });
    backend.upload_linear(kind, &parts.collect::<Vec<_>>())
}

fn view<'a>(shape: &'a [usize], bytes: &'a [u8]) -> TensorView<'a> {
    TensorView {
        name: "the self-check's",
        dtype: Dtype::Bf16,
        shape,
        bytes,
    }
}

/// The logits after the prompt's last token and after each of the single ones.
fn logits(backend: &mut dyn Backend) -> Result<Vec<f32>, KernelError> {
    let mut numbers = Numbers(0x2545_F491);
    let dtype = backend.kv_dtype(Dtype::Bf16);
    let table = numbers.bytes(VOCABULARY * HIDDEN, 1.0);
    let shape = [VOCABULARY as usize, HIDDEN as usize];
    let embedding = backend.upload_embedding(view(&shape, &table), true)?;
    let ones = bf16::ONE.to_le_bytes().repeat(HIDDEN as usize);
    let norm = Norm {
        weight: backend.upload_vector(view(&[HIDDEN as usize], &ones))?,
        epsilon: 1e-5,
    };
    let (query, key) = (QUERY_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut linear =
        |kind, outputs: &[u32], inputs| upload_linear(backend, &mut numbers, kind, outputs, inputs);
    let projection = linear(LinearKind::Plain, &[query, key, key], HIDDEN)?;
    let output = linear(LinearKind::Plain, &[HIDDEN], query)?;
    let gate_up = linear(LinearKind::GateUp, &[INNER, INNER], HIDDEN)?;
    let down = linear(LinearKind::Plain, &[HIDDEN], INNER)?;
    let frequencies: Vec<f32> = (0..HEAD_DIM / 2).map(|pair| 0.7_f32.powf(pair as f32)).collect();
    let rotary = backend.upload_rotary(&frequencies)?;
    let mut executor = backend.executor(&spec(dtype))?;
    let attention = AttentionSpec {
        scale: 1.0 / (HEAD_DIM as f32).sqrt(),
        window: None,
    };
    let step = |executor: &mut dyn Executor, batch: &Batch| {
        executor.plan(batch)?;
        executor.embed(embedding)?;
        executor.norm_project(norm, projection)?;
        executor.rotary_append(0, rotary, None)?;
        executor.attention(0, attention)?;
        executor.project_residual(output)?;
        executor.feed_forward(norm, gate_up, down)?;
        executor.logits(norm, Head::Tied(embedding))?;
        executor.read_logits()
    };
    let mut all = step(executor.as_mut(), &batch(0, PROMPT))?;
    for position in PROMPT..PROMPT + SINGLES {
        all.extend(step(executor.as_mut(), &batch(position, 1))?);
    }
    Ok(all)
}

fn spec(dtype: Dtype) -> ExecutorSpec {
    ExecutorSpec {
        kv: KvLayout {
            layers: 1,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            dtype,
        },
        block_count: 8,
        hidden: HIDDEN,
        query_heads: QUERY_HEADS,
        intermediate: INNER,
        vocabulary: VOCABULARY,
        max_batch_tokens: PROMPT,
        max_rows: 2,
        max_samples: 2,
        max_context_tokens: 64,
        urgency: Urgency::Decode,
    }
}

/// The tokens from a position on, after the last of which logits are asked for.
fn batch(first_position: u32, count: u32) -> Batch {
    let sequence = SequenceId(1);
    let tokens = first_position..first_position + count;
    Batch {
        rows: vec![BatchRow {
            sequence,
            tokens: Span { start: 0, count },
            first_position,
            blocks: Span { start: 0, count: 3 },
        }],
        tokens: tokens.map(|position| position * 89 % VOCABULARY).collect(),
        blocks: [5, 2, 7].map(BlockId).to_vec(),
        samples: vec![SampleRow {
            sequence,
            token_index: count - 1,
            position: first_position + count,
            params: Arc::new(SamplingParams::default()),
            history: Span::default(),
            prompt_tokens: PROMPT,
            banned: Arc::new([]),
            allowed: None,
        }],
        ..Batch::default()
    }
}

/// Whether `backend`, which holds nothing yet, computes what it should.
///
/// # Errors
/// When it fails, or its results are too far from the oracle's.
pub(crate) fn self_check(backend: &mut dyn Backend) -> Result<(), KernelError> {
    let expected = logits(&mut ReferenceBackend::new())?;
    let distance = relative_l2(&logits(backend)?, &expected);
    // Not a number is no agreement.
    if distance <= TOLERANCE {
        return Ok(());
    }
    Err(KernelError::Device(format!(
        "the self-check's results are {distance:.3} from what they should be ({TOLERANCE} is allowed): kernels and chip do not go \
         together"
    )))
}
