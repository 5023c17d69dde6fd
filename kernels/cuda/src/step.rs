//! What one step computes, as the kernels read it.

use std::sync::Arc;

use vlinders_kernel_api::KernelError;
use vlinders_types::{BLOCK_TOKENS, Batch, blocks_for_tokens};

use crate::attention::{AttentionLimits, AttentionPlan, PlannedRow, most_items};
use crate::device::{Device, Stream};
use crate::region::{Pinned, Region};
use crate::shape::{Sizes, count};

/// The block of a token that leaves nothing behind: one that only fills a recorded batch up.
const NO_BLOCK: u32 = u32::MAX;
/// Arrays begin at multiples of 16 bytes.
const ALIGN_WORDS: u32 = 4;
/// Words before the first array of an attention plan: queries, items, tiles and one unused.
const COUNT_WORDS: u32 = 4;

/// A checked batch, flat.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) rows: Vec<PlannedRow>,
    pub(crate) tokens: Vec<u32>,
    positions: Vec<u32>,
    token_blocks: Vec<u32>,
    tables: Vec<u32>,
    pub(crate) sampled: Vec<u32>,
    /// Every row has one new token, and nothing is asked for but draws: such batches come again and again.
    pub(crate) is_plain_decode: bool,
}

impl Step {
    /// Takes over a batch that the spec has passed.
    pub(crate) fn set(&mut self, batch: &Batch) {
        self.rows.clear();
        self.positions.clear();
        self.token_blocks.clear();
        self.tables.clear();
        self.tokens.clone_from(&batch.tokens);
        for row in &batch.rows {
            let table = &batch.blocks[row.blocks.range()];
            let positions = row.first_position..row.first_position + row.tokens.count;
            // A table may be longer than the row. What nobody reads is not copied.
            let used = blocks_for_tokens(positions.end) as usize;
            self.rows.push(PlannedRow {
                first_token: row.tokens.start,
                tokens: row.tokens.count,
                first_position: row.first_position,
                table: count(self.tables.len()),
            });
            self.tables.extend(table[..used].iter().map(|block| block.0));
            self.token_blocks.extend(
                positions
                    .clone()
                    .map(|position| table[(position / BLOCK_TOKENS) as usize].0),
            );
            self.positions.extend(positions);
        }
        self.sampled.clear();
        self.sampled
            .extend(batch.samples.iter().map(|sample| sample.token_index));
        self.is_plain_decode = batch.scores.is_empty()
            && batch.pools.is_empty()
            && batch.rows.iter().all(|row| row.tokens.count == 1);
    }
}

/// Words on the device and where they are prepared. The device's side never moves, so recorded work finds it again.
struct Mirror {
    region: Region,
    staging: Pinned,
}

impl Mirror {
    fn new(device: &Arc<dyn Device>, words: u64) -> Result<Self, KernelError> {
        let too_large = || KernelError::OutOfMemory {
            what: "step plans".to_owned(),
            bytes: u64::MAX,
        };
        let bytes = usize::try_from(words.checked_mul(4).ok_or_else(too_large)?).map_err(|_| too_large())?;
        Ok(Self {
            region: Region::new(device, bytes, "step plans")?,
            staging: Pinned::new(device, bytes, "step plans")?,
        })
    }

    fn put(&mut self, first_word: u32, words: impl Iterator<Item = u32>) {
        let slots = self.staging.as_mut_slice()[first_word as usize * 4..].chunks_exact_mut(4);
        for (slot, word) in slots.zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Sends the first words. They must not change before the stream is done with them.
    fn send(&self, device: &dyn Device, stream: Stream, words: u32) -> Result<(), KernelError> {
        let bytes = words as usize * 4;
        assert!(
            bytes <= self.region.bytes(),
            "a plan is as large as the largest step"
        );
        // SAFETY: both sides have as many bytes; every step waits for its stream before the next one is prepared.
        unsafe { device.upload(stream, self.region.address(), self.staging.as_ptr(), bytes) }
    }

    fn at(&self, word: u32) -> u64 {
        self.region.address() + u64::from(word) * 4
    }
}

/// Sizes a step is laid out for: its own, or those of the recorded batch it is filled up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Capacity {
    pub(crate) tokens: u32,
    pub(crate) samples: u32,
}

/// Where the step's arrays are on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepPlaces {
    pub(crate) tokens: u64,
    pub(crate) positions: u64,
    pub(crate) token_blocks: u64,
    pub(crate) sampled: u64,
    pub(crate) tables: u64,
}

/// Where the arrays of one window's attention are on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionPlaces {
    /// Queries and items.
    pub(crate) counts: u64,
    pub(crate) tile_count: u64,
    pub(crate) queries: u64,
    pub(crate) items: u64,
    pub(crate) tiles: u64,
}

/// One window's attention of the step.
struct WindowPlan {
    limits: AttentionLimits,
    plan: AttentionPlan,
    mirror: Mirror,
    places: AttentionPlaces,
}

/// The step on the device.
pub(crate) struct DevicePlan {
    device: Arc<dyn Device>,
    size: Sizes,
    base: AttentionLimits,
    header: Mirror,
    tables: Mirror,
    windows: Vec<WindowPlan>,
    places: StepPlaces,
}

fn numbers(words: &[u32]) -> impl Iterator<Item = u32> {
    words.iter().copied()
}

fn aligned(words: u32) -> u32 {
    words.next_multiple_of(ALIGN_WORDS)
}

impl DevicePlan {
    /// `base` are the limits without a window.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        size: &Sizes,
        base: AttentionLimits,
    ) -> Result<Self, KernelError> {
        let header = 3 * u64::from(aligned(size.tokens)) + u64::from(aligned(size.samples));
        let tables = u64::from(size.rows) * u64::from(blocks_for_tokens(size.context));
        Ok(Self {
            header: Mirror::new(device, header)?,
            tables: Mirror::new(device, tables)?,
            device: Arc::clone(device),
            size: *size,
            base,
            windows: Vec::new(),
            places: StepPlaces {
                tokens: 0,
                positions: 0,
                token_blocks: 0,
                sampled: 0,
                tables: 0,
            },
        })
    }

    /// Decides how the step attends under each of these windows (0: sees everything).
    pub(crate) fn attend(&mut self, step: &Step, windows: &[u32]) -> Result<(), KernelError> {
        for window in windows {
            if !self.windows.iter().any(|plan| plan.limits.window == *window) {
                let made = self.window(*window)?;
                self.windows.push(made);
            }
        }
        for window in &mut self.windows {
            window.plan = AttentionPlan::of(&step.rows, &window.limits);
        }
        Ok(())
    }

    fn window(&self, window: u32) -> Result<WindowPlan, KernelError> {
        let Sizes { tokens, context, .. } = self.size;
        let items = most_items(tokens, context, self.base.partials);
        let words = u64::from(COUNT_WORDS) + 8 * u64::from(tokens) + 2 * u64::from(items);
        let mirror = Mirror::new(&self.device, words)?;
        Ok(WindowPlan {
            limits: AttentionLimits { window, ..self.base },
            plan: AttentionPlan::default(),
            places: AttentionPlaces {
                counts: mirror.at(0),
                tile_count: mirror.at(2),
                queries: 0,
                items: 0,
                tiles: 0,
            },
            mirror,
        })
    }

    /// Whether the step can be filled up to a recorded one: no window needs the kernel for many tokens.
    pub(crate) fn has_tiles(&self) -> bool {
        self.windows.iter().any(|window| !window.plan.tiles.is_empty())
    }

    /// Sends everything, laid out for `capacity`, which the step is not larger than.
    pub(crate) fn send(
        &mut self,
        step: &Step,
        capacity: Capacity,
        stream: Stream,
    ) -> Result<(), KernelError> {
        let device = &*self.device;
        let padding = |used: usize, word: u32| {
            std::iter::repeat_n(word, (capacity.tokens as usize).saturating_sub(used))
        };
        let tokens = aligned(capacity.tokens);
        let used = step.tokens.len();
        self.header.put(0, numbers(&step.tokens).chain(padding(used, 0)));
        self.header
            .put(tokens, numbers(&step.positions).chain(padding(used, 0)));
        self.header.put(
            2 * tokens,
            numbers(&step.token_blocks).chain(padding(used, NO_BLOCK)),
        );
        let unsampled = (capacity.samples as usize).saturating_sub(step.sampled.len());
        let sampled = numbers(&step.sampled).chain(std::iter::repeat_n(0, unsampled));
        self.header.put(3 * tokens, sampled);
        let words = 3 * tokens + aligned(capacity.samples);
        self.header.send(device, stream, words)?;
        self.tables.put(0, numbers(&step.tables));
        self.tables.send(device, stream, count(step.tables.len()))?;
        self.places = StepPlaces {
            tokens: self.header.at(0),
            positions: self.header.at(tokens),
            token_blocks: self.header.at(2 * tokens),
            sampled: self.header.at(3 * tokens),
            tables: self.tables.at(0),
        };
        for window in &mut self.windows {
            window.send(device, capacity, stream)?;
        }
        Ok(())
    }

    pub(crate) fn places(&self) -> StepPlaces {
        self.places
    }

    /// How the step attends under a window that it was decided for.
    pub(crate) fn attention(&self, window: u32) -> (&AttentionPlan, AttentionPlaces) {
        let mut windows = self.windows.iter();
        let found = windows.find(|plan| plan.limits.window == window);
        let found = found.expect("every window of the step was planned");
        (&found.plan, found.places)
    }
}

impl WindowPlan {
    fn send(&mut self, device: &dyn Device, capacity: Capacity, stream: Stream) -> Result<(), KernelError> {
        let AttentionPlan {
            queries,
            items,
            tiles,
            ..
        } = &self.plan;
        // The places must not depend on the step where it is filled up, so the queries have all the room they can have.
        let first_query = COUNT_WORDS;
        let first_tile = first_query + 4 * capacity.tokens;
        let first_item = first_tile + 4 * count(tiles.len());
        let counts = [queries.len(), items.len(), tiles.len()].map(count);
        self.mirror.put(0, counts.into_iter());
        self.mirror.put(first_query, queries.iter().copied().flatten());
        self.mirror.put(first_tile, tiles.iter().copied().flatten());
        self.mirror.put(first_item, items.iter().copied().flatten());
        self.places.queries = self.mirror.at(first_query);
        self.places.tiles = self.mirror.at(first_tile);
        self.places.items = self.mirror.at(first_item);
        self.mirror
            .send(device, stream, first_item + 2 * count(items.len()))
    }
}
