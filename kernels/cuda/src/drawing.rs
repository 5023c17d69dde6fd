//! Draws on the device: the rules and bits of `vlinders-sampling`, and only tokens come back.

use std::sync::Arc;

use vlinders_kernel_api::{KernelError, Urgency};
use vlinders_types::{AwaitedMask, Batch, SampleResult, SampleRow, Sampled, TokenId, TokenMask};

use crate::device::Argument::{Address, U32};
use crate::device::{Device, Stream};
use crate::executor::CudaExecutor;
use crate::region::{Pinned, Region};
use crate::shape::{Sizes, count};

/// Draws made together. More take turns, so that their workspace stays small.
pub(crate) const DRAWN_AT_ONCE: u32 = 64;
/// Tokens that a block of maxima or sums stands for, and tokens of a slice.
const BLOCK_TOKENS: u32 = 64;
const SLICE_TOKENS: u32 = 4096;
/// Bytes of one draw's rules.
const ITEM_BYTES: usize = 80;
/// No mask, or no draw that tells the target.
const NONE: u32 = u32::MAX;
/// Arrays begin at multiples of this.
const ALIGN: usize = 16;

/// What draws need beside the logits, for [`DRAWN_AT_ONCE`] of them or as many as there can be.
pub(crate) struct DrawBuffers {
    /// Largest logit of each block, f32.
    maxima: Region,
    /// Largest logit of each slice, and whether it holds what is no number.
    slices: Region,
    /// Sums of weights of each block, u64.
    block_sums: Region,
    /// Whether a row's rules led to what is no number, u32.
    faults: Region,
    /// How often each token was there, u32. Zero between draws.
    counts: Region,
    /// Candidates in their order, u64.
    candidates: Region,
    /// The rules of a step: as large as the largest step so far.
    rules: Option<(Region, Pinned)>,
}

/// Bytes of each buffer in the order of [`DrawBuffers`].
pub(crate) fn draw_bytes(size: &Sizes) -> [u64; 6] {
    let draws = u64::from(size.samples.min(DRAWN_AT_ONCE));
    let vocabulary = u64::from(size.vocabulary);
    let blocks = u64::from(size.vocabulary.div_ceil(BLOCK_TOKENS));
    let slices = u64::from(size.vocabulary.div_ceil(SLICE_TOKENS));
    [
        draws * blocks * 4,
        draws * slices * 8,
        draws * blocks * 8,
        draws * 4,
        draws * vocabulary * 4,
        draws * vocabulary * 8,
    ]
}

impl DrawBuffers {
    pub(crate) fn new(device: &Arc<dyn Device>, size: &Sizes) -> Result<Self, KernelError> {
        let [maxima, slices, block_sums, faults, counts, candidates] = draw_bytes(size);
        let region = |bytes: u64| {
            let too_large = |_| KernelError::OutOfMemory {
                what: "draws".to_owned(),
                bytes,
            };
            Region::new(device, usize::try_from(bytes).map_err(too_large)?, "draws")
        };
        let buffers = Self {
            maxima: region(maxima)?,
            slices: region(slices)?,
            block_sums: region(block_sums)?,
            faults: region(faults)?,
            counts: region(counts)?,
            candidates: region(candidates)?,
            rules: None,
        };
        let stream = device.stream(Urgency::Prefill)?;
        let counts = &buffers.counts;
        // SAFETY: the region has as many bytes and nobody uses it yet.
        let cleared = unsafe { device.clear(stream, counts.address(), counts.bytes()) };
        let done = cleared.and_then(|()| device.wait(stream));
        // SAFETY: it was made above and is not used any more.
        unsafe { device.end_stream(stream) };
        done.map(|()| buffers)
    }

    /// Room for so many bytes of rules, on the device and here. Nothing that used the old room is under way.
    fn make_room(&mut self, device: &Arc<dyn Device>, bytes: usize) -> Result<(), KernelError> {
        let has_room = |rules: &(Region, Pinned)| rules.0.bytes() >= bytes;
        if !self.rules.as_ref().is_some_and(has_room) {
            self.rules = None;
            let bytes = bytes.next_power_of_two();
            let region = Region::new(device, bytes, "rules of draws")?;
            self.rules = Some((region, Pinned::new(device, bytes, "rules of draws")?));
        }
        Ok(())
    }
}

/// Arrays that go to the device together, those that it works in, and those that come back, one after the other.
#[derive(Default)]
struct Rules {
    bytes: Vec<u8>,
}

impl Rules {
    /// Where the next array begins.
    fn begin(&mut self) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        self.bytes.len()
    }

    fn words(&mut self, words: impl IntoIterator<Item = u32>) -> usize {
        let start = self.begin();
        self.bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
        start
    }

    fn room(&mut self, bytes: usize) -> usize {
        let start = self.begin();
        self.bytes.resize(start + bytes, 0);
        start
    }
}

/// Where the arrays of a run of draws lie among the rules.
struct Places {
    items: usize,
    history: usize,
    banned: usize,
    bias_tokens: usize,
    bias_values: usize,
    masks: usize,
    asks: usize,
    banned_undo: usize,
    bias_undo: usize,
    history_undo: usize,
    history_applied: usize,
    drawn: usize,
    results: usize,
    tops: usize,
    end: usize,
    /// Some row has bans, biases or a history.
    adjusts: bool,
    /// Some row is drawn at a temperature.
    weighs: bool,
    asked: u32,
    top_stride: u32,
}

/// The lists that rows' rules point into.
#[derive(Default)]
struct Lists {
    history: Vec<u32>,
    banned: Vec<u32>,
    biases: Vec<(TokenId, f32)>,
    masks: Vec<u32>,
}

impl Lists {
    /// One row's rules, as the kernels read them.
    fn item(&mut self, batch: &Batch, row: &SampleRow, logits_row: u32) -> [u8; ITEM_BYTES] {
        let params = &row.params;
        let mask = row.allowed.as_deref().map(AwaitedMask::wait);
        let history = match params.needs_history() {
            true => &batch.history[row.history.range()],
            false => &[],
        };
        // Where nothing else is left, bans do not count.
        let banned = match mask {
            Some(mask) if all_banned(mask, &row.banned) => &[][..],
            Some(_) | None => &row.banned,
        };
        let mask_start = match mask {
            Some(_) => count(self.masks.len()),
            None => NONE,
        };
        let mask_words = mask.map_or(&[][..], TokenMask::words);
        let words = [
            logits_row,
            row.position,
            params.temperature.to_bits(),
            params.top_p.to_bits(),
            params.min_p.to_bits(),
            params.top_k,
            params.presence_penalty.to_bits(),
            params.frequency_penalty.to_bits(),
            params.repetition_penalty.to_bits(),
            row.prompt_tokens,
            count(self.history.len()),
            count(history.len()),
            count(self.banned.len()),
            count(banned.len()),
            count(self.biases.len()),
            count(params.logit_bias.len()),
            mask_start,
            count(mask_words.len()),
        ];
        self.history.extend_from_slice(history);
        self.banned.extend_from_slice(banned);
        self.biases.extend_from_slice(&params.logit_bias);
        self.masks.extend_from_slice(mask_words);
        let mut item = [0; ITEM_BYTES];
        item[..8].copy_from_slice(&params.seed.to_le_bytes());
        for (slot, word) in item[8..].chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        item
    }
}

fn all_banned(mask: &TokenMask, banned: &[TokenId]) -> bool {
    !banned.is_empty()
        && mask
            .tokens_from(0)
            .all(|token| banned.binary_search(&token).is_ok())
}

/// Lays out the rules of some rows, the first of which has the logits at `first_row`.
fn lay_out(batch: &Batch, rows: &[SampleRow], first_row: u32) -> (Rules, Places) {
    let (mut rules, mut lists) = (Rules::default(), Lists::default());
    let items = rules.begin();
    for (index, row) in (first_row..).zip(rows) {
        let item = lists.item(batch, row, index);
        rules.bytes.extend(item);
    }
    let asks = (0..).zip(rows).filter_map(|(index, row)| {
        let top = row.params.logprobs?;
        Some([first_row + index, 0, u32::from(top), index])
    });
    let asks: Vec<[u32; 4]> = asks.collect();
    let top_stride = asks.iter().map(|ask| ask[2]).max().unwrap_or(0).max(1);
    let (tokens, values): (Vec<_>, Vec<_>) = lists.biases.iter().copied().unzip();
    let places = Places {
        items,
        history: rules.words(lists.history.iter().copied()),
        banned: rules.words(lists.banned.iter().copied()),
        bias_tokens: rules.words(tokens),
        bias_values: rules.words(values.into_iter().map(f32::to_bits)),
        masks: rules.words(lists.masks.iter().copied()),
        asks: rules.words(asks.iter().copied().flatten()),
        banned_undo: rules.room(lists.banned.len() * 4),
        bias_undo: rules.room(lists.biases.len() * 4),
        history_undo: rules.room(lists.history.len() * 4),
        history_applied: rules.room(lists.history.len() * 4),
        drawn: rules.room(rows.len() * 8),
        results: rules.room(asks.len() * 16),
        tops: rules.room(asks.len() * top_stride as usize * 8),
        end: rules.begin(),
        adjusts: !(lists.history.is_empty() && lists.banned.is_empty() && lists.biases.is_empty()),
        weighs: rows.iter().any(|row| row.params.temperature != 0.0),
        asked: count(asks.len()),
        top_stride,
    };
    (rules, places)
}

/// Reads what came back.
struct Returned<'a> {
    bytes: &'a [u8],
    places: &'a Places,
}

impl Returned<'_> {
    fn word(&self, array: usize, index: usize) -> u32 {
        let at = array + 4 * index;
        let word = self.bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(word)
    }

    /// The draw of one row. `asked` counts rows that want log-probabilities, in their order.
    fn sampled(&self, index: usize, row: &SampleRow, asked: &mut usize) -> Option<Sampled> {
        let Places {
            drawn, results, tops, ..
        } = *self.places;
        let ask = row.params.logprobs.map(|_| {
            *asked += 1;
            *asked - 1
        });
        if self.word(drawn, 2 * index + 1) == 0 {
            return None;
        }
        let float = |array, index| f32::from_bits(self.word(array, index));
        let logprobs = match ask {
            None => None,
            // Without a distribution nothing was drawn either.
            Some(ask) if self.word(results, 4 * ask + 3) == 0 => return None,
            Some(ask) => {
                let first = ask * self.places.top_stride as usize;
                let top = (first..first + self.word(results, 4 * ask + 2) as usize)
                    .map(|top| (self.word(tops, 2 * top), float(tops, 2 * top + 1)));
                Some((float(results, 4 * ask), top.collect()))
            }
        };
        let token = self.word(drawn, 2 * index);
        Some(Sampled { token, logprobs })
    }
}

impl CudaExecutor {
    /// Draws all rows of the batch from the logits that lie on the device, and waits for it.
    pub(crate) fn draw(&mut self, batch: &Batch) -> Result<Vec<SampleResult>, KernelError> {
        let mut results = Vec::with_capacity(batch.samples.len());
        let at_once = DRAWN_AT_ONCE as usize;
        for (run, rows) in batch.samples.chunks(at_once).enumerate() {
            let (rules, places) = lay_out(batch, rows, count(run * at_once));
            self.draws.make_room(&self.device, places.end)?;
            let (_, staging) = self.draws.rules.as_mut().expect("room was made a line above");
            staging.as_mut_slice()[..rules.bytes.len()].copy_from_slice(&rules.bytes);
            self.start_draws(count(rows.len()), &places)?;
            let returned = self.fetch_draws(&places)?;
            let mut asked = 0;
            for (index, row) in rows.iter().enumerate() {
                results.push(SampleResult {
                    sequence: row.sequence,
                    sampled: returned.sampled(index, row, &mut asked),
                });
            }
        }
        self.device.wait(self.stream.stream())?;
        Ok(results)
    }

    fn rules(&self) -> &(Region, Pinned) {
        self.draws
            .rules
            .as_ref()
            .expect("room was made before draws start")
    }

    fn start_draws(&self, rows: u32, places: &Places) -> Result<(), KernelError> {
        let (device, stream): (_, Stream) = (&*self.device, self.stream.stream());
        let (region, staging) = self.rules();
        // SAFETY: both sides have as many bytes; the staging side is next touched after a wait.
        unsafe { device.upload(stream, region.address(), staging.as_ptr(), places.drawn) }?;
        let at = |place: usize| Address(region.address() + place as u64);
        let (logits, vocabulary) = (Address(self.buffers.logits.address()), U32(self.size.vocabulary));
        let own = |region: &Region| Address(region.address());
        let draws = &self.draws;
        match places.adjusts {
            true => self.launch(
                "vl_sample_adjust",
                [rows, 1, 1],
                256,
                0,
                &[
                    logits,
                    vocabulary,
                    at(places.items),
                    at(places.history),
                    at(places.banned),
                    at(places.bias_tokens),
                    at(places.bias_values),
                    own(&draws.counts),
                    at(places.banned_undo),
                    at(places.bias_undo),
                    at(places.history_undo),
                    at(places.history_applied),
                    own(&draws.faults),
                ],
            )?,
            // SAFETY: the region has as many bytes, and the stream keeps the order.
            false => unsafe { device.clear(stream, draws.faults.address(), draws.faults.bytes()) }?,
        }
        self.start_choice(rows, places)?;
        if places.adjusts {
            self.launch(
                "vl_sample_undo",
                [rows, 1, 1],
                256,
                0,
                &[
                    logits,
                    vocabulary,
                    at(places.items),
                    at(places.history),
                    at(places.banned),
                    at(places.bias_tokens),
                    at(places.banned_undo),
                    at(places.bias_undo),
                    at(places.history_undo),
                    at(places.history_applied),
                ],
            )?;
        }
        self.launch(
            "vl_logprobs",
            [places.asked, 1, 1],
            512,
            0,
            &[
                logits,
                vocabulary,
                at(places.asks),
                at(places.drawn),
                own(&draws.candidates),
                own(&draws.maxima),
                at(places.results),
                at(places.tops),
                U32(places.top_stride),
            ],
        )
    }

    /// From adjusted logits to tokens.
    fn start_choice(&self, rows: u32, places: &Places) -> Result<(), KernelError> {
        let (region, _) = self.rules();
        let at = |place: usize| Address(region.address() + place as u64);
        let (logits, vocabulary) = (Address(self.buffers.logits.address()), U32(self.size.vocabulary));
        let own = |region: &Region| Address(region.address());
        let draws = &self.draws;
        let (items, masks, slices) = (at(places.items), at(places.masks), own(&draws.slices));
        let grid = [self.size.vocabulary.div_ceil(SLICE_TOKENS), rows, 1];
        let arguments = [logits, vocabulary, items, masks, own(&draws.maxima), slices];
        self.launch("vl_sample_scan", grid, 256, 0, &arguments)?;
        if places.weighs {
            let arguments = [logits, vocabulary, items, masks, slices, own(&draws.block_sums)];
            self.launch("vl_sample_weigh", grid, 256, 0, &arguments)?;
        }
        let arguments = [
            logits,
            vocabulary,
            items,
            masks,
            own(&draws.maxima),
            slices,
            own(&draws.block_sums),
            own(&draws.faults),
            own(&draws.candidates),
            at(places.drawn),
        ];
        self.launch("vl_sample_draw", [rows, 1, 1], 512, 0, &arguments)
    }

    /// Brings draws and log-probabilities back.
    fn fetch_draws<'a>(&'a self, places: &'a Places) -> Result<Returned<'a>, KernelError> {
        let stream = self.stream.stream();
        let (region, staging) = self.rules();
        let bytes = places.end - places.drawn;
        let to = staging.as_ptr().wrapping_add(places.drawn);
        let from = region.address() + places.drawn as u64;
        // SAFETY: both sides have `places.end` bytes, and nobody looks before the wait.
        unsafe { self.device.download(stream, to, from, bytes) }?;
        self.device.wait(stream)?;
        let bytes = staging.as_slice();
        Ok(Returned { bytes, places })
    }
}
