//! An engine without a model. The slot of position `p` holds a hash of the slot of `p - 1` and token `p`; the drawn token
//! is a hash of its last slot, the seed and the position. One wrong slot changes every token after it.

use vlinders_types::{
    BLOCK_TOKENS, Batch, BlockId, PoolResult, PoolRow, Pooling, SampleResult, SampleRow, Sampled,
    ScoreResult, ScoreRow, SequenceId, StepOutput, TokenId, TokenScore,
};

/// Tokens are below this; 0 ends a sequence.
pub(crate) const VOCABULARY: u64 = 40;
pub(crate) const END: TokenId = 0;

const BLOCK: usize = BLOCK_TOKENS as usize;

pub(crate) struct FakeEngine {
    blocks: Vec<[u64; BLOCK]>,
    garbage: u64,
}

/// Hash of two numbers.
fn mix(left: u64, right: u64) -> u64 {
    let mut value = left.rotate_left(23) ^ right.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// What the slot of `token` holds after a slot that holds `before`; 0 stands before the first.
fn slot_after(before: u64, token: TokenId) -> u64 {
    mix(before, u64::from(token) + 1)
}

fn draw(last_slot: u64, seed: u64, position: usize, banned: &[TokenId]) -> TokenId {
    let start = mix(mix(last_slot, seed), position as u64);
    (0..VOCABULARY)
        .map(|offset| TokenId::try_from((start % VOCABULARY + offset) % VOCABULARY).expect("small"))
        .find(|token| !banned.contains(token))
        .expect("not everything is banned")
}

/// The tokens of a run that nothing disturbs.
pub(crate) fn undisturbed(given: &[TokenId], seed: u64, min_total: u32, max_total: u32) -> Vec<TokenId> {
    let mut tokens = given.to_vec();
    let mut slot = given.iter().fold(0, |before, token| slot_after(before, *token));
    while tokens.len() < max_total as usize {
        let banned: &[TokenId] = if tokens.len() < min_total as usize {
            &[END]
        } else {
            &[]
        };
        let token = draw(slot, seed, tokens.len(), banned);
        tokens.push(token);
        slot = slot_after(slot, token);
        if token == END {
            break;
        }
    }
    tokens
}

/// How likely `target` is after a slot.
fn score_after(slot: u64, target: TokenId) -> TokenScore {
    let hash = mix(slot, u64::from(target));
    TokenScore {
        logprob: -f32::from(u16::try_from(hash >> 48).expect("16 bits")),
        rank: 1,
        top: Vec::new(),
    }
}

/// The hidden state of a slot: few bits, so that sums are exact.
fn state_of(slot: u64) -> f64 {
    f64::from(u32::try_from(slot >> 40).expect("24 bits"))
}

/// Scores of the tokens from `first` on.
pub(crate) fn scores(tokens: &[TokenId], first: usize) -> Vec<TokenScore> {
    let (mut slot, mut scores) = (0, Vec::new());
    for (position, token) in tokens.iter().enumerate() {
        if position >= first {
            scores.push(score_after(slot, *token));
        }
        slot = slot_after(slot, *token);
    }
    scores
}

/// The sum of hidden states, which have one element.
pub(crate) fn sum(tokens: &[TokenId], pooling: Pooling) -> [f64; 1] {
    let (mut slot, mut sum) = (0, 0.0);
    for token in tokens {
        slot = slot_after(slot, *token);
        sum += state_of(slot);
    }
    match pooling {
        Pooling::LastToken => [state_of(slot)],
        Pooling::Mean => [sum],
    }
}

impl FakeEngine {
    pub(crate) fn new(block_count: u32) -> Self {
        Self {
            blocks: vec![[u64::MAX; BLOCK]; block_count as usize],
            garbage: 1,
        }
    }

    /// Computes a batch that was checked.
    pub(crate) fn step(&mut self, batch: &Batch) -> StepOutput {
        for row in &batch.rows {
            let table = &batch.blocks[row.blocks.range()];
            let first = row.first_position as usize;
            let mut slot = if first == 0 {
                0
            } else {
                self.slot(table, first - 1)
            };
            for (offset, token) in batch.tokens[row.tokens.range()].iter().enumerate() {
                slot = slot_after(slot, *token);
                self.write(table, first + offset, slot);
            }
        }
        StepOutput {
            samples: batch
                .samples
                .iter()
                .map(|sample| self.sample(batch, sample))
                .collect(),
            scores: batch.scores.iter().map(|row| self.score(batch, row)).collect(),
            pools: batch.pools.iter().map(|row| self.pool(batch, row)).collect(),
        }
    }

    fn slot_at(&self, batch: &Batch, sequence: SequenceId, token_index: u32) -> u64 {
        let row = batch.rows.iter().find(|row| row.sequence == sequence);
        let row = row.expect("what is told has a row");
        let position = row.first_position + token_index - row.tokens.start;
        self.slot(&batch.blocks[row.blocks.range()], position as usize)
    }

    fn score(&self, batch: &Batch, row: &ScoreRow) -> ScoreResult {
        let targets = (row.token_index..).zip(&batch.targets[row.targets.range()]);
        let scores =
            targets.map(|(index, target)| score_after(self.slot_at(batch, row.sequence, index), *target));
        ScoreResult {
            sequence: row.sequence,
            scores: Some(scores.collect()),
        }
    }

    fn pool(&self, batch: &Batch, row: &PoolRow) -> PoolResult {
        let mut sum = row.so_far.first().copied().unwrap_or(0.0);
        for index in row.tokens.start..row.tokens.start + row.tokens.count {
            sum += state_of(self.slot_at(batch, row.sequence, index));
        }
        PoolResult {
            sequence: row.sequence,
            sum: [sum].into(),
        }
    }

    fn sample(&self, batch: &Batch, sample: &SampleRow) -> SampleResult {
        let slot = self.slot_at(batch, sample.sequence, sample.token_index);
        let token = draw(slot, sample.params.seed, sample.position as usize, &sample.banned);
        SampleResult {
            sequence: sample.sequence,
            sampled: Some(Sampled {
                token,
                logprobs: None,
            }),
        }
    }

    /// Whether the blocks hold exactly these tokens.
    pub(crate) fn holds(&self, table: &[BlockId], tokens: &[TokenId]) -> bool {
        let mut slot = 0;
        tokens.iter().enumerate().all(|(position, token)| {
            slot = slot_after(slot, *token);
            self.slot(table, position) == slot
        })
    }

    /// What a transfer does: fills the blocks from `first_block` on as if they had been computed here.
    pub(crate) fn fill(&mut self, table: &[BlockId], tokens: &[TokenId], first_block: u32) {
        let mut slot = 0;
        for (position, token) in tokens.iter().enumerate() {
            slot = slot_after(slot, *token);
            if position >= first_block as usize * BLOCK {
                self.write(table, position, slot);
            }
        }
    }

    /// What a transfer that went wrong does.
    pub(crate) fn spoil(&mut self, blocks: &[BlockId]) {
        for block in blocks {
            self.garbage = mix(self.garbage, 1);
            self.blocks[block.0 as usize] = [self.garbage; BLOCK];
        }
    }

    fn slot(&self, table: &[BlockId], position: usize) -> u64 {
        self.blocks[table[position / BLOCK].0 as usize][position % BLOCK]
    }

    fn write(&mut self, table: &[BlockId], position: usize, slot: u64) {
        self.blocks[table[position / BLOCK].0 as usize][position % BLOCK] = slot;
    }
}
