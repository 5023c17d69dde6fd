//! An engine that costs nothing: for simulations of the whole system and for measuring everything but the model.
//!
//! Each token's word in the KV pool chains the word before it with the token. A drawn token is a hash of all words of
//! its sequence, the seed and the position: the same however the prompt was cut into steps and wherever its blocks
//! lie, and another one as soon as a single byte of a single block is wrong.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use vlinders_kernel_api::{Dtype, ExecutorSpec, KernelError, KvLayout, KvMemory, Urgency};
use vlinders_types::{
    AwaitedMask, BLOCK_TOKENS, Batch, BatchRow, PoolResult, PoolRow, SampleResult, SampleRow, Sampled,
    ScoreResult, ScoreRow, StepOutput, TokenId, TokenMask, TokenScore,
};

use crate::sim_memory::{BLOCK_BYTES, SimMemory};
use crate::{Engine, EngineError, EngineFacts};

const BLOCK: usize = BLOCK_TOKENS as usize;

/// How long a step seems to take. Nothing by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StepCost {
    /// For every step.
    pub base_us: u64,
    /// For every row.
    pub per_row_us: u64,
    /// For every token of a row that has more than one.
    pub per_prefill_token_ns: u64,
}

impl StepCost {
    /// The time of one step.
    #[must_use]
    pub fn of(&self, batch: &Batch) -> Duration {
        let prefill = batch
            .rows
            .iter()
            .map(|row| row.tokens.count)
            .filter(|count| *count > 1);
        let prefill_tokens: u64 = prefill.map(u64::from).sum();
        let rows_us = self.per_row_us.saturating_mul(batch.rows.len() as u64);
        Duration::from_micros(self.base_us.saturating_add(rows_us)).saturating_add(Duration::from_nanos(
            self.per_prefill_token_ns.saturating_mul(prefill_tokens),
        ))
    }
}

/// What a [`SimEngine`] pretends to be.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Elements of its hidden states.
    pub hidden: u32,
    /// Blocks in its pool.
    pub block_count: u32,
    /// New tokens in one step.
    pub max_batch_tokens: u32,
    /// Sequences in one step; each may draw one token.
    pub max_rows: u32,
    /// Tokens of the longest sequence.
    pub max_context_tokens: u32,
    /// Which model it pretends to be: engines of different models draw different tokens and exchange no blocks.
    pub model_seed: u64,
    /// Tokens that are not drawn: the vocabulary's special ones, ends of sequence among them. Sorted.
    pub never_drawn: Arc<[TokenId]>,
    /// A token that is drawn once in so many draws, on average and against `never_drawn`: an end of sequence.
    pub end_every: Option<(TokenId, NonZeroU32)>,
    /// How long steps take.
    pub cost: StepCost,
    /// Steps after which the device fails for good.
    pub fail_after_steps: Option<u64>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            vocabulary: 32_000,
            hidden: 8,
            block_count: 4096,
            max_batch_tokens: 8192,
            max_rows: 256,
            max_context_tokens: 32_768,
            model_seed: 0,
            never_drawn: Arc::new([]),
            end_every: None,
            cost: StepCost::default(),
            fail_after_steps: None,
        }
    }
}

/// Passes the time of a step.
type Wait = Box<dyn FnMut(Duration) + Send>;

/// The engine without a model.
pub struct SimEngine {
    options: SimOptions,
    /// Its sizes in the form in which every backend checks batches against them.
    spec: ExecutorSpec,
    facts: EngineFacts,
    memory: Arc<SimMemory>,
    wait: Wait,
    /// Steps that were computed.
    steps: u64,
}

impl SimEngine {
    /// An engine whose steps take real time, as `options.cost` says.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "it stands for a device that is busy for this long"
        )]
        Self::with_wait(options, Box::new(std::thread::sleep))
    }

    /// An engine that calls `wait` with the time of each step that takes any: for virtual clocks.
    #[must_use]
    pub fn with_wait(options: SimOptions, wait: Wait) -> Self {
        let facts = EngineFacts {
            block_count: options.block_count,
            block_bytes: BLOCK_BYTES as u64,
            layout_hash: mix(options.model_seed, u64::from(options.vocabulary)),
            vocabulary: options.vocabulary,
            hidden: options.hidden,
            max_context_tokens: options.max_context_tokens,
            max_batch_tokens: options.max_batch_tokens,
            max_rows: options.max_rows,
            detail: "sim: tokens are hashes".to_owned(),
        };
        let spec = ExecutorSpec {
            kv: KvLayout {
                layers: 1,
                kv_heads: 1,
                head_dim: 2,
                dtype: Dtype::F16,
            },
            block_count: options.block_count,
            hidden: options.hidden,
            query_heads: 1,
            intermediate: 1,
            vocabulary: options.vocabulary,
            max_batch_tokens: options.max_batch_tokens,
            max_rows: options.max_rows,
            max_samples: options.max_rows,
            max_context_tokens: options.max_context_tokens,
            urgency: Urgency::default(),
        };
        let memory = Arc::new(SimMemory::new(options.block_count));
        Self {
            options,
            spec,
            facts,
            memory,
            wait,
            steps: 0,
        }
    }

    /// Writes the words of a row's new tokens.
    fn append(&self, batch: &Batch, row: &BatchRow) {
        let table = &batch.blocks[row.blocks.range()];
        let first = row.first_position as usize;
        let mut word = match first.checked_sub(1) {
            Some(last) => self.memory.read(table[last / BLOCK], last % BLOCK),
            None => self.options.model_seed,
        };
        for (position, token) in (first..).zip(&batch.tokens[row.tokens.range()]) {
            word = mix(word, u64::from(*token) + 1);
            self.memory.write(table[position / BLOCK], position % BLOCK, word);
        }
    }

    /// A hash of the first `tokens` words of a row, which is what attention is to a model.
    fn attend(&self, batch: &Batch, row: &BatchRow, tokens: usize) -> u64 {
        let table = &batch.blocks[row.blocks.range()];
        // Weighted by position with odd numbers, so that no change of one word and no exchange of two cancels out.
        let mut sum = 0_u64;
        let mut weight = 1_u64;
        for (index, block) in table[..tokens.div_ceil(BLOCK)].iter().enumerate() {
            for word in self.memory.words(*block, (tokens - index * BLOCK).min(BLOCK)) {
                sum = sum.wrapping_add(word.wrapping_mul(weight));
                weight = weight.wrapping_add(2);
            }
        }
        sum
    }

    /// What the model makes of a sequence up to its token at `token_index`.
    fn state_after(&self, batch: &Batch, token_index: u32) -> u64 {
        let index = batch
            .rows
            .partition_point(|row| row.tokens.range().end <= token_index as usize);
        let row = &batch.rows[index];
        let position = row.first_position + (token_index - row.tokens.start);
        self.attend(batch, row, position as usize + 1)
    }

    /// Scores that depend on every token and block before the target, as draws do.
    fn score(&self, batch: &Batch, row: &ScoreRow) -> ScoreResult {
        let targets = (row.token_index..).zip(&batch.targets[row.targets.range()]);
        let scores = targets.map(|(index, target)| {
            let hash = mix(self.state_after(batch, index), u64::from(*target));
            let rank = low_bits(hash, self.options.vocabulary);
            TokenScore {
                logprob: -f32::from(u16::try_from(hash >> 48).expect("16 bits")) / 4096.0,
                rank: rank + 1,
                top: self.logprobs(rank, row.top).1,
            }
        });
        ScoreResult {
            sequence: row.sequence,
            scores: Some(scores.collect()),
        }
    }

    fn add_up(&self, batch: &Batch, row: &PoolRow) -> PoolResult {
        let mut sum = row.so_far.to_vec();
        sum.resize(self.options.hidden as usize, 0.0);
        for index in row.tokens.start..row.tokens.start + row.tokens.count {
            let state = self.state_after(batch, index);
            for (element, sum) in (0..).zip(&mut sum) {
                let hash = mix(state, element);
                *sum += f64::from(u16::try_from(hash >> 48).expect("16 bits")) / 32_768.0 - 1.0;
            }
        }
        PoolResult {
            sequence: row.sequence,
            sum: sum.into(),
        }
    }

    fn draw(&self, batch: &Batch, sample: &SampleRow) -> SampleResult {
        let attended = self.state_after(batch, sample.token_index);
        // The most likely token is the same whatever the seed is.
        let seed = if sample.params.temperature > 0.0 {
            sample.params.seed
        } else {
            0
        };
        let hash = mix(mix(attended, seed), u64::from(sample.position));
        let token = match sample.allowed.as_deref().map(AwaitedMask::wait) {
            None => self.choose(hash, &sample.banned),
            Some(mask) => self.choose_allowed(hash, &sample.banned, mask),
        };
        let sampled = token.map(|token| Sampled {
            token,
            logprobs: sample.params.logprobs.map(|count| self.logprobs(token, count)),
        });
        SampleResult {
            sequence: sample.sequence,
            sampled,
        }
    }

    /// The first token from `hash` on that may be drawn.
    fn choose(&self, hash: u64, banned: &[TokenId]) -> Option<TokenId> {
        let allowed = |token: &TokenId| banned.binary_search(token).is_err();
        if let Some(end) = self.end(hash).filter(allowed) {
            return Some(end);
        }
        let start = self.start(hash);
        let tokens = (start..self.options.vocabulary).chain(0..start);
        tokens.filter(|token| self.is_drawable(*token)).find(allowed)
    }

    /// The first token of the mask from `hash` on that may be drawn. What is never drawn otherwise is drawn when the mask
    /// has nothing else.
    fn choose_allowed(&self, hash: u64, banned: &[TokenId], mask: &TokenMask) -> Option<TokenId> {
        let is_free = |token: &TokenId| banned.binary_search(token).is_err();
        if let Some(end) = self.end(hash).filter(|end| is_free(end) && mask.allows(*end)) {
            return Some(end);
        }
        let start = self.start(hash);
        let tokens = || {
            let before = mask.tokens_from(0).take_while(|token| *token < start);
            mask.tokens_from(start).chain(before)
        };
        let drawable = |token: &TokenId| self.is_drawable(*token);
        tokens()
            .filter(drawable)
            .find(is_free)
            .or_else(|| tokens().find(is_free))
            .or_else(|| tokens().next())
    }

    /// The end of sequence, as often as asked.
    fn end(&self, hash: u64) -> Option<TokenId> {
        let (end, every) = self.options.end_every?;
        mix(hash, 1).is_multiple_of(u64::from(every.get())).then_some(end)
    }

    /// The token at which a search begins.
    fn start(&self, hash: u64) -> TokenId {
        low_bits(hash, self.options.vocabulary)
    }

    fn is_drawable(&self, token: TokenId) -> bool {
        self.options.never_drawn.binary_search(&token).is_err()
    }

    /// Halving probabilities, `token` first.
    fn logprobs(&self, token: TokenId, count: u8) -> (f32, Vec<(TokenId, f32)>) {
        let logprob = |rank: u8| -std::f32::consts::LN_2 * f32::from(rank + 1);
        let vocabulary = u64::from(self.options.vocabulary);
        let rival = |rank: u8| low_bits(u64::from(token) + u64::from(rank), self.options.vocabulary);
        let top = (0..count)
            .take_while(|rank| u64::from(*rank) < vocabulary)
            .map(|rank| (rival(rank), logprob(rank)));
        (logprob(0), top.collect())
    }
}

impl Engine for SimEngine {
    fn step(&mut self, batch: &Batch) -> Result<StepOutput, EngineError> {
        self.spec.check_batch(batch)?;
        if self
            .options
            .fail_after_steps
            .is_some_and(|steps| self.steps >= steps)
        {
            let what = "the simulated device has failed".to_owned();
            return Err(KernelError::Device(what).into());
        }
        self.steps += 1;
        for row in &batch.rows {
            self.append(batch, row);
        }
        let output = StepOutput {
            samples: batch
                .samples
                .iter()
                .map(|sample| self.draw(batch, sample))
                .collect(),
            scores: batch.scores.iter().map(|row| self.score(batch, row)).collect(),
            pools: batch.pools.iter().map(|row| self.add_up(batch, row)).collect(),
        };
        let time = self.options.cost.of(batch);
        if !time.is_zero() {
            (self.wait)(time);
        }
        Ok(output)
    }

    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        Arc::clone(&self.memory) as Arc<dyn KvMemory>
    }
}

/// A token made of a hash.
fn low_bits(hash: u64, vocabulary: u32) -> TokenId {
    TokenId::try_from(hash % u64::from(vocabulary)).expect("it is below a 32-bit number")
}

/// Two words into one; every bit of both matters. The finisher of a well-known 64-bit hash.
fn mix(left: u64, right: u64) -> u64 {
    let mut word = left.rotate_left(25) ^ right.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
