//! Projections of codes: against the oracle, which brings every weight back to a number, and the same bits in any company.

use std::borrow::Cow;

use vlinders_kernel_api::{
    Backend, CodeKind, Dtype, ExecutorSpec, Head, InputGroups, KvLayout, LinearKind, LinearPart, Norm,
    QuantizedWeight, TensorView, Urgency, WeightView,
};
use vlinders_kernel_reference::{ReferenceBackend, ops::relative_l2};
use vlinders_types::TokenId;

use crate::random_model::{Row, batch};
use crate::simulated;

const HIDDEN: usize = 128;
const INNER: usize = 256;
const VOCABULARY: usize = 200;

/// Bytes that look random and are the same for the same seed.
fn bytes(seed: u32, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..count).map(next).collect()
}

fn weight(kind: CodeKind, seed: u32, [outputs, inputs]: [usize; 2]) -> QuantizedWeight<'static> {
    let (size, outputs_per_scale) = match kind {
        CodeKind::Int4 => (128, 1),
        CodeKind::Fp8 => (64, 16),
        CodeKind::Int8 => (128, 1),
    };
    let scales = outputs.div_ceil(outputs_per_scale) * inputs.div_ceil(size);
    // Codes of fp8 reach 448; those of 127 and 255 are no numbers.
    let (codes, unit) = match kind {
        CodeKind::Fp8 => {
            let codes = bytes(seed, outputs * inputs).into_iter();
            (codes.map(|code| code & 0xBF).collect(), 0.03)
        }
        CodeKind::Int4 | CodeKind::Int8 => (bytes(seed, outputs * kind.bytes(inputs)), 0.02),
    };
    let scale = |byte: u8| unit * (1.0 + f32::from(byte) / 256.0) / (inputs as f32).sqrt() * 8.0;
    QuantizedWeight {
        name: "w",
        outputs,
        inputs,
        kind,
        codes: Cow::Owned(codes),
        scales: bytes(seed + 1, scales).into_iter().map(scale).collect(),
        zeros: match kind {
            CodeKind::Fp8 => Vec::new(),
            CodeKind::Int4 => bytes(seed + 2, scales)
                .into_iter()
                .map(|zero| zero & 15)
                .collect(),
            CodeKind::Int8 => vec![128; scales],
        },
        outputs_per_scale,
        groups: InputGroups::Even(size),
    }
}

/// Logits after a feed-forward, both of codes, for every token of a row.
fn logits(backend: &mut dyn Backend, kind: CodeKind, count: usize) -> Vec<f32> {
    let dtype = backend.kv_dtype(Dtype::Bf16);
    let numbers = |seed: u32, count: usize| -> Vec<u8> {
        let values = bytes(seed, count).into_iter();
        let values = values.map(|byte| half::bf16::from_f32(f32::from(byte) / 128.0 - 1.0));
        values.flat_map(|value| value.to_le_bytes()).collect()
    };
    let table = numbers(1, VOCABULARY * HIDDEN);
    let view = |shape, bytes| TensorView {
        name: "t",
        dtype: Dtype::Bf16,
        shape,
        bytes,
    };
    let embedding = backend
        .upload_embedding(view(&[VOCABULARY, HIDDEN], &table), false)
        .unwrap();
    let ones: Vec<u8> = [0x80, 0x3F].repeat(HIDDEN);
    let norm = Norm {
        weight: backend.upload_vector(view(&[HIDDEN], &ones)).unwrap(),
        epsilon: 1e-5,
    };
    let mut upload = |linear_kind, shapes: &[[usize; 2]]| {
        let weights: Vec<_> = (10..)
            .step_by(10)
            .zip(shapes)
            .map(|(seed, shape)| weight(kind, seed, *shape))
            .collect();
        let part = |weight| LinearPart {
            weight: WeightView::Quantized(weight),
            bias: None,
        };
        let parts: Vec<_> = weights.iter().map(part).collect();
        backend.upload_linear(linear_kind, &parts).unwrap()
    };
    let gate_up = upload(LinearKind::GateUp, &[[INNER, HIDDEN], [INNER, HIDDEN]]);
    let down = upload(LinearKind::Plain, &[[HIDDEN, INNER]]);
    let head = Head::Separate(upload(LinearKind::Head, &[[VOCABULARY, HIDDEN]]));
    let small = |size: usize| u32::try_from(size).unwrap();
    let spec = ExecutorSpec {
        kv: KvLayout {
            layers: 1,
            kv_heads: 1,
            head_dim: 16,
            dtype,
        },
        block_count: 16,
        hidden: small(HIDDEN),
        query_heads: 1,
        intermediate: small(INNER),
        vocabulary: small(VOCABULARY),
        max_batch_tokens: 128,
        max_rows: 4,
        max_samples: 128,
        max_context_tokens: 256,
        urgency: Urgency::Decode,
    };
    let mut executor = backend.executor(&spec).unwrap();
    let tokens: Vec<TokenId> = (0..count).map(|index| small(index * 7 % VOCABULARY)).collect();
    let row = Row {
        sequence: 1,
        first_position: 0,
        tokens: &tokens,
        blocks: &[0, 1, 2, 3, 4, 5],
    };
    executor.plan(&batch(&[row])).unwrap();
    executor.embed(embedding).unwrap();
    executor.feed_forward(norm, gate_up, down).unwrap();
    executor.logits(norm, head).unwrap();
    executor.read_logits().unwrap()
}

fn check(kind: CodeKind) {
    let expected = logits(&mut ReferenceBackend::new(), kind, 70);
    assert!(expected.iter().all(|logit| logit.is_finite()));
    let largest = logits(&mut simulated(true).1, kind, 70);
    let distance = relative_l2(&largest, &expected);
    assert!(distance < 2e-2, "{kind:?}: {distance}");
    // Every kernel by its number of tokens.
    for count in [1, 12, 30] {
        let found = logits(&mut simulated(true).1, kind, count);
        assert!(found == largest[..found.len()], "{kind:?}, {count} tokens");
    }
}

#[test]
fn int4_codes_multiply_as_their_numbers_do() {
    check(CodeKind::Int4);
}

#[test]
fn fp8_codes_multiply_as_their_numbers_do() {
    check(CodeKind::Fp8);
}

#[test]
fn int8_codes_are_brought_back_to_numbers() {
    check(CodeKind::Int8);
}
