//! Attention in f32, vectorised by the compiler for every level; bf16 keys and values are widened.

use std::marker::PhantomData;

use vlinders_kernel_api::Dtype;

use crate::attention::{Attention, QueryRun, ROWS_AT_ONCE, Scores, Scratch, Steps, attend_with};
use crate::isa::for_each_isa;
use crate::math::{Arithmetic, LANES, widen_bf16};
use crate::softmax::{Running, Seen, TILE, softmax_step};

/// Elements of the context that are summed at once.
const CHUNK: usize = 32;

for_each_isa! {
    /// See [`crate::attention::attend`], whose checks it relies on.
    pub(crate) fn attend / attend_lanes(
        job: &Attention<'_>,
        run: QueryRun,
        kv_head: u32,
        scratch: &mut Scratch,
    )
}

#[inline(always)]
fn attend_lanes<A: Arithmetic>(job: &Attention<'_>, run: QueryRun, kv_head: u32, scratch: &mut Scratch) {
    let steps = Lanes::<A> {
        dtype: job.memory.layout().dtype,
        arithmetic: PhantomData,
    };
    attend_with(job, run, kv_head, scratch, &steps);
}

/// Lanes of f32.
struct Lanes<A> {
    dtype: Dtype,
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic> Steps for Lanes<A> {
    #[inline(always)]
    fn store_query(&self, scratch: &mut Scratch, row: usize, query: &[f32]) {
        for (into, value) in scratch.queries[row * query.len()..][..query.len()]
            .iter_mut()
            .zip(query)
        {
            *into = value.to_bits();
        }
    }

    #[inline(always)]
    fn load_block(&self, scratch: &mut Scratch, index: usize, tiles: (&[u8], &[u8]), valid: usize) {
        match self.dtype {
            Dtype::F32 => load_block::<4>(scratch, index, tiles, valid, f32::from_le_bytes),
            Dtype::Bf16 | Dtype::F16 => {
                load_block::<2>(scratch, index, tiles, valid, |bytes| {
                    widen_bf16(u16::from_le_bytes(bytes))
                });
            }
        }
    }

    #[inline(always)]
    fn scores(&self, scratch: &Scratch, first_row: usize, into: &mut Scores) {
        scores::<A>(scratch, first_row, into);
    }

    #[inline(always)]
    fn softmax(&self, scores: &mut [f32; TILE], running: &mut Running, scale: f32, seen: Seen) -> f32 {
        softmax_step::<A>(scores, running, scale, seen)
    }

    #[inline(always)]
    fn accumulate(
        &self,
        scratch: &mut Scratch,
        first_row: usize,
        blocks: usize,
        shares: &Scores,
        corrections: [f32; ROWS_AT_ONCE],
    ) {
        accumulate::<A>(scratch, first_row, blocks, shares, corrections);
    }
}

#[inline(always)]
fn load_block<const BYTES: usize>(
    scratch: &mut Scratch,
    index: usize,
    (keys, values): (&[u8], &[u8]),
    valid: usize,
    widen: impl Fn([u8; BYTES]) -> f32,
) {
    let (head_dim, padded) = (scratch.head_dim, scratch.padded);
    // What lies behind the last token was left by somebody else: it must not be read, since 0 times NaN is NaN.
    let existing = valid * head_dim * BYTES;
    let into = &mut scratch.keys.as_chunks_mut::<LANES>().0[index * head_dim..];
    for (token, key) in keys[..existing].chunks_exact(head_dim * BYTES).enumerate() {
        for (into, element) in into.iter_mut().zip(key.as_chunks::<BYTES>().0) {
            into[token] = widen(*element).to_bits();
        }
    }
    let into = &mut scratch.values[index * LANES * padded..][..LANES * padded];
    into.fill(0);
    for (into, value) in into
        .chunks_exact_mut(padded)
        .zip(values[..existing].chunks_exact(head_dim * BYTES))
    {
        for (into, element) in into.iter_mut().zip(value.as_chunks::<BYTES>().0) {
            *into = widen(*element).to_bits();
        }
    }
}

/// Each score is one sum over the head's elements in ascending order. Lanes of tokens that do not exist hold anything.
#[inline(always)]
fn scores<A: Arithmetic>(scratch: &Scratch, first_row: usize, into: &mut Scores) {
    let head_dim = scratch.head_dim;
    let queries: [&[u32]; ROWS_AT_ONCE] =
        std::array::from_fn(|row| &scratch.queries[(first_row + row) * head_dim..][..head_dim]);
    for (index, keys) in scratch
        .keys
        .as_chunks::<LANES>()
        .0
        .chunks_exact(head_dim)
        .enumerate()
    {
        let mut sums = [[0.0; LANES]; ROWS_AT_ONCE];
        for (element, keys) in keys.iter().enumerate() {
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = f32::from_bits(query[element]);
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = A::mul_add(query, f32::from_bits(*key), *sum);
                }
            }
        }
        for (into, sums) in into.iter_mut().zip(sums) {
            into.as_chunks_mut::<LANES>().0[index] = sums;
        }
    }
}

/// Each element of the context is one sum over the tokens in ascending order.
#[inline(always)]
fn accumulate<A: Arithmetic>(
    scratch: &mut Scratch,
    first_row: usize,
    blocks: usize,
    shares: &Scores,
    corrections: [f32; ROWS_AT_ONCE],
) {
    let padded = scratch.padded;
    let contexts = scratch.context[first_row * padded..].chunks_exact_mut(padded);
    for (context, (shares, correction)) in contexts.zip(shares.iter().zip(corrections)) {
        for (part, context) in context.as_chunks_mut::<CHUNK>().0.iter_mut().enumerate() {
            let mut sums = context.map(|value| value * correction);
            for (values, share) in scratch.values.chunks_exact(padded).zip(&shares[..blocks * LANES]) {
                let values = &values.as_chunks::<CHUNK>().0[part];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = A::mul_add(*share, f32::from_bits(*value), *sum);
                }
            }
            *context = sums;
        }
    }
}
