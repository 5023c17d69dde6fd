//! Attention over paged keys and values: the door, the order of work, and the online softmax.
//!
//! Keys are taken a tile of four blocks at a time, at absolute positions, in ascending order, and the arithmetic for one query head
//! does not depend on which other heads or tokens share the work. So a token's context is the same bits when its prompt
//! is computed whole, in chunks, or again after a preemption.

use vlinders_kernel_api::Dtype;
use vlinders_types::BlockId;

use crate::IsaLevel;
use crate::isa::Isa;
use crate::kv_memory::CpuKvMemory;
use crate::math::LANES;
use crate::shared::SharedMut;
use crate::softmax::{Running, Seen, TILE, TILE_BLOCKS, TILE_TOKENS, first_visible};

/// Query heads (of all tokens together) that share one pass over the keys, about.
const ROWS_PER_ITEM: usize = 64;
/// Query heads that are computed at once, to hide the latency of the sums.
pub(crate) const ROWS_AT_ONCE: usize = 4;
/// Scores, later shares, of some query heads.
pub(crate) type Scores = [[f32; TILE]; ROWS_AT_ONCE];
/// Heads are padded to whole vectors of this many elements in scratch memory.
const PADDING: usize = 32;

/// Some neighbouring new tokens of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryRun {
    /// Index of the first in the batch.
    pub(crate) first_token: usize,
    pub(crate) count: usize,
    pub(crate) first_position: u32,
    /// Start of the row's block table.
    pub(crate) table: usize,
}

impl QueryRun {
    #[inline(always)]
    fn position(&self, token: usize) -> u32 {
        self.first_position + u32::try_from(token).expect("a batch has less than 2^32 tokens")
    }
}

/// New tokens that share one pass over the keys when `group` query heads share a key head.
pub(crate) fn tokens_per_run(group: usize) -> usize {
    (ROWS_PER_ITEM / group).max(1)
}

/// One layer's attention for the whole batch.
pub(crate) struct Attention<'a> {
    pub(crate) memory: &'a CpuKvMemory,
    pub(crate) layer: u32,
    pub(crate) scale: f32,
    pub(crate) window: Option<u32>,
    /// Query heads per key head.
    pub(crate) group: usize,
    /// `[tokens, stride]`, query heads first.
    pub(crate) queries: &'a [f32],
    pub(crate) stride: usize,
    /// All rows' block tables.
    pub(crate) blocks: &'a [BlockId],
    /// `[tokens, query_heads head_dim]`.
    pub(crate) context: SharedMut<'a, f32>,
    /// `query_heads head_dim`.
    pub(crate) context_stride: usize,
}

/// One thread's working memory, reused for every item.
pub(crate) struct Scratch {
    pub(crate) head_dim: usize,
    /// `head_dim` padded to whole vectors.
    pub(crate) padded: usize,
    /// The tile's keys turned, so that a vector holds one element of every key of a block: `[block][head_dim][token]`
    /// f32, or `[block][head_dim / 2][token]` pairs.
    pub(crate) keys: Vec<u32>,
    /// The tile's values: `[token][padded]` f32, or `[token / 2][padded]` pairs of neighbouring tokens.
    pub(crate) values: Vec<u32>,
    /// `[rows][head_dim]` f32, or `[rows][head_dim / 2]` pairs.
    pub(crate) queries: Vec<u32>,
    /// `[rows][padded]`, not yet divided by the sum.
    pub(crate) context: Vec<f32>,
    pub(crate) running: Vec<Running>,
}

impl Scratch {
    pub(crate) fn new(head_dim: usize, group: usize) -> Self {
        let padded = head_dim.next_multiple_of(PADDING);
        let rows = (tokens_per_run(group) * group).next_multiple_of(ROWS_AT_ONCE);
        Self {
            head_dim,
            padded,
            keys: vec![0; head_dim * TILE],
            values: vec![0; TILE * padded],
            queries: vec![0; rows * head_dim],
            context: vec![0.0; rows * padded],
            running: vec![
                Running {
                    largest: f32::NEG_INFINITY,
                    sum: 0.0
                };
                rows
            ],
        }
    }
}

/// How one instruction set does the parts of the work. Methods are marked `#[inline(always)]`, so that they are compiled
/// with the instructions of the function that calls [`attend_with`]; closures could not be.
pub(crate) trait Steps {
    /// Keeps a query head for `scores`.
    fn store_query(&self, scratch: &mut Scratch, row: usize, query: &[f32]);

    /// Brings one block of the tile into scratch memory: its keys, its values, of which the first `valid` tokens exist.
    fn load_block(&self, scratch: &mut Scratch, index: usize, tiles: (&[u8], &[u8]), valid: usize);

    /// The scores of [`ROWS_AT_ONCE`] rows, not yet scaled.
    fn scores(&self, scratch: &Scratch, first_row: usize, into: &mut Scores);

    /// See [`crate::softmax::softmax_step`].
    fn softmax(&self, scores: &mut [f32; TILE], running: &mut Running, scale: f32, seen: Seen) -> f32;

    /// Multiplies the contexts so far with `corrections` and adds `shares` of the first `blocks` blocks' values.
    fn accumulate(
        &self,
        scratch: &mut Scratch,
        first_row: usize,
        blocks: usize,
        shares: &Scores,
        corrections: [f32; ROWS_AT_ONCE],
    );
}

/// Computes the context of one run of tokens for the query heads of `kv_head`.
///
/// # Panics
/// When the shapes do not fit together.
///
/// # Safety
/// Nobody writes the blocks of the run's row, or the same part of `context`, meanwhile.
pub(crate) unsafe fn attend(
    isa: Isa,
    job: &Attention<'_>,
    run: QueryRun,
    kv_head: u32,
    scratch: &mut Scratch,
) {
    let layout = job.memory.layout();
    assert_eq!(
        layout.head_dim as usize, scratch.head_dim,
        "scratch memory is made for this head"
    );
    assert!(
        run.count * job.group <= scratch.running.len(),
        "scratch memory holds the run"
    );
    match (isa.level(), layout.dtype) {
        #[cfg(target_arch = "x86_64")]
        (IsaLevel::Avx512Bf16, Dtype::Bf16) => {
            // SAFETY: an `Isa` of this level exists only where the CPU has these features.
            unsafe { crate::attention_bf16::attend(job, run, kv_head, scratch) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        (IsaLevel::Avx512Bf16, Dtype::Bf16) => unreachable!("a level of another architecture"),
        (_, Dtype::F32 | Dtype::Bf16 | Dtype::F16) => {
            crate::attention_f32::attend(isa, job, run, kv_head, scratch);
        }
    }
}

/// The order of work, inlined into each level's own function.
#[inline(always)]
pub(crate) fn attend_with(
    job: &Attention<'_>,
    run: QueryRun,
    kv_head: u32,
    scratch: &mut Scratch,
    steps: &impl Steps,
) {
    let (group, head_dim) = (job.group, scratch.head_dim);
    let rows = run.count * group;
    let first_head = kv_head as usize * group;
    for row in 0..rows {
        let start = (run.first_token + row / group) * job.stride + (first_head + row % group) * head_dim;
        steps.store_query(scratch, row, &job.queries[start..start + head_dim]);
    }
    scratch.context.fill(0.0);
    scratch.running.fill(Running {
        largest: f32::NEG_INFINITY,
        sum: 0.0,
    });
    let last_position = run.position(run.count - 1);
    let first_tile = first_visible(run.first_position, job.window) / TILE_TOKENS;
    let mut scores = [[0.0; TILE]; ROWS_AT_ONCE];
    for tile in first_tile..=last_position / TILE_TOKENS {
        let blocks = load_tile(job, run, kv_head, tile, scratch, steps);
        for first_row in (0..rows).step_by(ROWS_AT_ONCE) {
            steps.scores(scratch, first_row, &mut scores);
            let mut corrections = [1.0; ROWS_AT_ONCE];
            for (index, scores) in scores.iter_mut().enumerate() {
                let row = first_row + index;
                let seen = Seen::of(run.position(row / group), job.window, tile);
                if row >= rows || seen.is_nothing() {
                    // Shares of zero and a correction of one change nothing, to the bit.
                    scores.fill(0.0);
                } else {
                    corrections[index] = steps.softmax(scores, &mut scratch.running[row], job.scale, seen);
                }
            }
            steps.accumulate(scratch, first_row, blocks, &scores, corrections);
        }
    }
    write_context(job, run, first_head, scratch);
}

/// Brings a tile's blocks into scratch memory, as far as the run sees, and returns how many there are.
#[inline(always)]
fn load_tile(
    job: &Attention<'_>,
    run: QueryRun,
    kv_head: u32,
    tile: u32,
    scratch: &mut Scratch,
    steps: &impl Steps,
) -> usize {
    let existing = run.position(run.count) as usize;
    let first = tile as usize * TILE_BLOCKS;
    let end = (first + TILE_BLOCKS).min(existing.div_ceil(LANES));
    for index in first..end {
        // SAFETY: the caller of `attend` keeps writers away from the row's blocks.
        let block = |index: usize| unsafe {
            job.memory
                .tiles(job.blocks[run.table + index], kv_head, job.layer)
        };
        if (index + TILE_BLOCKS) * LANES < existing {
            let (keys, values) = block(index + TILE_BLOCKS);
            prefetch(keys);
            prefetch(values);
        }
        steps.load_block(
            scratch,
            index - first,
            block(index),
            (existing - index * LANES).min(LANES),
        );
    }
    end - first
}

#[inline(always)]
fn write_context(job: &Attention<'_>, run: QueryRun, first_head: usize, scratch: &Scratch) {
    let head_dim = scratch.head_dim;
    let contexts = scratch.context.chunks_exact(scratch.padded);
    for (row, (context, running)) in contexts
        .zip(&scratch.running)
        .take(run.count * job.group)
        .enumerate()
    {
        let share = 1.0 / running.sum;
        let head = first_head + row % job.group;
        let start = (run.first_token + row / job.group) * job.context_stride + head * head_dim;
        // SAFETY: this head of this token belongs to this run, which the caller of `attend` gives to one thread.
        let into = unsafe { job.context.part(start, head_dim) };
        for (into, value) in into.iter_mut().zip(context) {
            *into = *value * share;
        }
    }
}

/// Asks for bytes that will be read soon.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: a prefetch reads nothing and does not fault; every x86-64 CPU has it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{levels, numbers};
    use proptest::prelude::*;
    use vlinders_kernel_api::{KvLayout, KvMemory};
    use vlinders_kernel_reference::ops;
    use vlinders_types::BLOCK_TOKENS;

    const KV_HEADS: usize = 2;
    const LAYER: u32 = 1;

    /// A sequence whose keys and values lie in scattered blocks of a pool full of NaN.
    struct Sequence {
        memory: CpuKvMemory,
        blocks: Vec<BlockId>,
        /// `[kv_head][token][head_dim]`, as stored.
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    fn stored(value: f32, dtype: Dtype) -> (Vec<u8>, f32) {
        match dtype {
            Dtype::F32 => (value.to_le_bytes().to_vec(), value),
            Dtype::Bf16 | Dtype::F16 => (
                half::bf16::from_f32(value).to_le_bytes().to_vec(),
                ops::round_bf16(value),
            ),
        }
    }

    impl Sequence {
        fn new(seed: u64, tokens: usize, head_dim: usize, dtype: Dtype) -> Self {
            let layout = KvLayout {
                layers: 2,
                kv_heads: u32::try_from(KV_HEADS).unwrap(),
                head_dim: u32::try_from(head_dim).unwrap(),
                dtype,
            };
            let count = u32::try_from(tokens).unwrap().div_ceil(BLOCK_TOKENS);
            let memory = CpuKvMemory::new(layout, 2 * count).unwrap();
            for block in 0..2 * count {
                memory.write_block(BlockId(block), &vec![0xFF; layout.block_bytes()]);
            }
            let blocks: Vec<BlockId> = (0..count)
                .map(|index| BlockId(2 * count - 1 - 2 * index))
                .collect();
            let mut keys = numbers(seed, KV_HEADS * tokens * head_dim);
            let mut values = numbers(seed ^ 1, KV_HEADS * tokens * head_dim);
            for kv_head in 0..KV_HEADS {
                for token in 0..tokens {
                    let block = blocks[token / LANES];
                    let (head, position) = (u32::try_from(kv_head).unwrap(), u32::try_from(token).unwrap());
                    // SAFETY: one thread.
                    let (key, value) = unsafe { memory.slots(block, head, LAYER, position) };
                    for (slot, numbers) in [(key, &mut keys), (value, &mut values)] {
                        let numbers = &mut numbers[(kv_head * tokens + token) * head_dim..][..head_dim];
                        for (bytes, number) in slot.chunks_exact_mut(dtype.bytes()).zip(numbers) {
                            let (stored, kept) = stored(2.0 * *number, dtype);
                            bytes.copy_from_slice(&stored);
                            *number = kept;
                        }
                    }
                }
            }
            Self {
                memory,
                blocks,
                keys,
                values,
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    struct Shape {
        tokens: usize,
        new: usize,
        group: usize,
        head_dim: usize,
        window: Option<u32>,
    }

    /// The context of the last `shape.new` tokens, computed `chunk` tokens at a time.
    fn found(isa: Isa, sequence: &Sequence, queries: &[f32], shape: Shape, chunk: usize) -> Vec<f32> {
        let Shape {
            tokens,
            new,
            group,
            head_dim,
            window,
        } = shape;
        let width = KV_HEADS * group * head_dim;
        let mut context = vec![f32::NAN; new * width];
        let mut scratch = Scratch::new(head_dim, group);
        let job = Attention {
            memory: &sequence.memory,
            layer: LAYER,
            scale: 0.3,
            window,
            group,
            queries,
            stride: width,
            blocks: &sequence.blocks,
            context: SharedMut::new(&mut context),
            context_stride: width,
        };
        for first in (0..new).step_by(chunk.min(tokens_per_run(group))) {
            let run = QueryRun {
                first_token: first,
                count: (new - first).min(chunk.min(tokens_per_run(group))),
                first_position: u32::try_from(tokens - new + first).unwrap(),
                table: 0,
            };
            for kv_head in 0..KV_HEADS {
                // SAFETY: one thread.
                unsafe { attend(isa, &job, run, u32::try_from(kv_head).unwrap(), &mut scratch) };
            }
        }
        context
    }

    fn expected(sequence: &Sequence, queries: &[f32], shape: Shape) -> Vec<f32> {
        let Shape {
            tokens,
            new,
            group,
            head_dim,
            window,
        } = shape;
        let mut context = Vec::new();
        for (index, query) in queries.chunks_exact(head_dim).enumerate() {
            let (token, head) = (index / (KV_HEADS * group), index % (KV_HEADS * group));
            let position = tokens - new + token;
            let first = ops::first_visible(u32::try_from(position).unwrap(), window) as usize;
            let start = (head / group * tokens + first) * head_dim;
            let end = (head / group * tokens + position + 1) * head_dim;
            context.extend(ops::attention(
                query,
                &sequence.keys[start..end],
                &sequence.values[start..end],
                0.3,
            ));
        }
        context
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn contexts_are_those_of_the_reference_in_any_chunking(
            past in 0_usize..70,
            new in 1_usize..50,
            group in prop_oneof![Just(1_usize), Just(3), Just(4), Just(7)],
            head_dim in prop_oneof![Just(8_usize), Just(16), Just(24), Just(32), Just(64), Just(80), Just(96), Just(128)],
            window in proptest::option::of(1_u32..60),
            dtype in prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16)],
            seed: u64,
        ) {
            let shape = Shape { tokens: past + new, new, group, head_dim, window };
            let sequence = Sequence::new(seed, shape.tokens, head_dim, dtype);
            let queries = numbers(seed ^ 2, new * KV_HEADS * group * head_dim);
            let expected = expected(&sequence, &queries, shape);
            for isa in levels() {
                let whole = found(isa, &sequence, &queries, shape, usize::MAX);
                let rounds = isa.level() == IsaLevel::Avx512Bf16 && dtype == Dtype::Bf16;
                let tolerance = if rounds { 5e-3 } else { 1e-5 };
                let distance = ops::relative_l2(&whole, &expected);
                prop_assert!(distance < tolerance, "{isa:?}: {distance}");
                for chunk in [1, 7] {
                    prop_assert_eq!(&found(isa, &sequence, &queries, shape, chunk), &whole);
                }
            }
        }
    }
}
