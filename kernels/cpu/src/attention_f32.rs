//! Attention in f32, vectorised by the compiler for every level; bf16 keys and values are widened.

use vlinders_kernel_api::Dtype;

use crate::attention::{Attention, QueryRun, SCORE_ROWS, Scratch, Steps, attend_with, softmax_step};
use crate::isa::for_each_isa;
use crate::math::{Arithmetic, LANES, widen_bf16};

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
    let dtype = job.memory.layout().dtype;
    let steps = Steps {
        store_query,
        load_tile: |scratch: &mut Scratch, keys: &[u8], values: &[u8], valid: usize| match dtype {
            Dtype::F32 => load_tile::<4>(scratch, keys, values, valid, f32::from_le_bytes),
            Dtype::Bf16 | Dtype::F16 => {
                load_tile::<2>(scratch, keys, values, valid, |bytes| {
                    widen_bf16(u16::from_le_bytes(bytes))
                });
            }
        },
        scores: scores::<A>,
        softmax: softmax_step::<A>,
        accumulate: accumulate::<A>,
    };
    attend_with(job, run, kv_head, scratch, &steps);
}

#[inline(always)]
fn store_query(scratch: &mut Scratch, row: usize, query: &[f32]) {
    for (into, value) in scratch.queries[row * query.len()..][..query.len()]
        .iter_mut()
        .zip(query)
    {
        *into = value.to_bits();
    }
}

#[inline(always)]
fn load_tile<const BYTES: usize>(
    scratch: &mut Scratch,
    keys: &[u8],
    values: &[u8],
    valid: usize,
    widen: impl Fn([u8; BYTES]) -> f32,
) {
    let token_bytes = scratch.head_dim * BYTES;
    // What lies behind the last token was left by somebody else: it must not be read, since 0 times NaN is NaN.
    let existing = valid * token_bytes;
    scratch.values.fill(0);
    for (token, key) in keys[..existing].chunks_exact(token_bytes).enumerate() {
        for (into, element) in scratch
            .keys
            .as_chunks_mut::<LANES>()
            .0
            .iter_mut()
            .zip(key.as_chunks::<BYTES>().0)
        {
            into[token] = widen(*element).to_bits();
        }
    }
    let rows = scratch.values.chunks_exact_mut(scratch.padded);
    for (into, value) in rows.zip(values[..existing].chunks_exact(token_bytes)) {
        for (into, element) in into.iter_mut().zip(value.as_chunks::<BYTES>().0) {
            *into = widen(*element).to_bits();
        }
    }
}

/// Each score is one sum over the head's elements in ascending order. Lanes of tokens that do not exist hold anything.
#[inline(always)]
fn scores<A: Arithmetic>(scratch: &Scratch, first_row: usize, into: &mut [[f32; LANES]; SCORE_ROWS]) {
    /// Rows whose sums fit the registers of the narrowest vectors.
    const AT_ONCE: usize = 4;
    let head_dim = scratch.head_dim;
    let keys = scratch.keys.as_chunks::<LANES>().0;
    for (part, into) in into.as_chunks_mut::<AT_ONCE>().0.iter_mut().enumerate() {
        let start = (first_row + part * AT_ONCE) * head_dim;
        let queries: [&[u32]; AT_ONCE] =
            std::array::from_fn(|row| &scratch.queries[start + row * head_dim..][..head_dim]);
        let mut sums = [[0.0; LANES]; AT_ONCE];
        for (element, keys) in keys[..head_dim].iter().enumerate() {
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = f32::from_bits(query[element]);
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = A::mul_add(query, f32::from_bits(*key), *sum);
                }
            }
        }
        *into = sums;
    }
}

#[inline(always)]
fn accumulate<A: Arithmetic>(scratch: &mut Scratch, row: usize, shares: &[f32; LANES], correction: f32) {
    let padded = scratch.padded;
    let context = &mut scratch.context[row * padded..][..padded];
    for (part, context) in context.as_chunks_mut::<CHUNK>().0.iter_mut().enumerate() {
        let mut sums = context.map(|value| value * correction);
        for (token, share) in shares.iter().enumerate() {
            let values = &scratch.values[token * padded + part * CHUNK..][..CHUNK];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = A::mul_add(*share, f32::from_bits(*value), *sum);
            }
        }
        *context = sums;
    }
}
