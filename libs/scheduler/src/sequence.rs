//! One sequence: its tokens, its blocks, and how far it is computed.

use std::cmp::Reverse;
use std::sync::Arc;

use vlinders_kv_blocks::{BlockPool, Lease, PrefixHasher};
use vlinders_types::{BLOCK_TOKENS, BlockHash, SamplingParams, SequenceId, TokenId, blocks_for_tokens};

use crate::prompt::PromptProgress;
use crate::{NewSequence, Phase};

/// Order among waiting and among running sequences, first comes first: by priority, then by age. It never changes, so
/// a preempted sequence is ahead of all that came after it.
pub(crate) type Rank = (Reverse<i32>, u64);

/// Names of the full blocks of one sequence, computed as they are needed.
pub(crate) struct BlockChain {
    hasher: PrefixHasher,
    hashes: Vec<BlockHash>,
}

impl BlockChain {
    pub(crate) fn new(hasher: PrefixHasher) -> Self {
        Self {
            hasher,
            hashes: Vec::new(),
        }
    }

    /// Hashes of the first `block_count` blocks of `tokens`, which are full.
    fn first(&mut self, block_count: u32, tokens: &[TokenId]) -> &[BlockHash] {
        for index in self.hashes.len()..block_count as usize {
            let start = index * BLOCK_TOKENS as usize;
            let block = &tokens[start..start + BLOCK_TOKENS as usize];
            let hash = self.hasher.block(self.hashes.last().copied(), block);
            self.hashes.push(hash);
        }
        &self.hashes[..block_count as usize]
    }
}

pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    /// Position in the order of arrival: smaller is older.
    pub(crate) arrival: u64,
    pub(crate) priority: i32,
    pub(crate) phase: Phase,
    pub(crate) tokens: Vec<TokenId>,
    /// Its first blocks came from another worker.
    pub(crate) was_adopted: bool,
    /// Tokens it came with.
    pub(crate) given_tokens: u32,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_total_tokens: u32,
    pub(crate) min_total_tokens: u32,
    pub(crate) banned: Arc<[TokenId]>,
    pub(crate) sampling: Arc<SamplingParams>,
    /// None when prefixes are not cached.
    pub(crate) chain: Option<BlockChain>,
    pub(crate) lease: Lease,
    /// Tokens whose keys and values are in the lease's blocks.
    pub(crate) computed_tokens: u32,
    /// Tokens in the step that is being computed.
    pub(crate) in_flight_tokens: u32,
    /// Blocks already reported as filled.
    pub(crate) reported_blocks: u32,
    /// Set at the first admission.
    pub(crate) cached_tokens: Option<u32>,
    pub(crate) progress: PromptProgress,
}

impl Sequence {
    /// The caller has checked the numbers of tokens.
    pub(crate) fn new(new: NewSequence, arrival: u64, phase: Phase, chain: Option<BlockChain>) -> Self {
        let given_tokens = u32::try_from(new.tokens.len()).expect("checked against the context");
        Self {
            id: new.id,
            arrival,
            priority: new.priority,
            phase,
            tokens: new.tokens,
            was_adopted: phase == Phase::AwaitingKv,
            given_tokens,
            prompt_tokens: new.prompt_tokens,
            max_total_tokens: new.max_total_tokens,
            min_total_tokens: new.min_total_tokens,
            banned: new.banned,
            sampling: new.sampling,
            chain,
            lease: Lease::empty(),
            computed_tokens: 0,
            in_flight_tokens: 0,
            reported_blocks: 0,
            cached_tokens: None,
            progress: PromptProgress::new(new.wish, given_tokens),
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        (Reverse(self.priority), self.arrival)
    }

    pub(crate) fn token_count(&self) -> u32 {
        u32::try_from(self.tokens.len()).expect("checked against the context")
    }

    /// Tokens that must be computed before the next one can be drawn.
    pub(crate) fn remaining_tokens(&self) -> u32 {
        self.token_count() - self.computed_tokens
    }

    /// Blocks for the tokens it has now.
    pub(crate) fn needed_blocks(&self) -> u32 {
        blocks_for_tokens(self.token_count())
    }

    pub(crate) fn has_full_length(&self) -> bool {
        self.token_count() >= self.max_total_tokens
    }

    /// Tokens at its beginning that need not be computed if they are cached. The last one always is: what comes next is
    /// drawn from its logits.
    pub(crate) fn cacheable_tokens(&self) -> u32 {
        let before_wishes = self.progress.cacheable_tokens(self.prompt_tokens);
        before_wishes.min(self.token_count() - 1)
    }

    /// Takes tokens that were drawn elsewhere. Whoever drew the first one has told the scores before it.
    pub(crate) fn add_drawn_elsewhere(&mut self, drawn: &[TokenId]) {
        if !drawn.is_empty() {
            self.progress.forget_scores();
        }
        self.tokens.extend_from_slice(drawn);
    }

    /// Hashes of the full blocks within the first `tokens` tokens; none when prefixes are not cached.
    pub(crate) fn full_block_hashes(&mut self, tokens: u32) -> &[BlockHash] {
        match &mut self.chain {
            Some(chain) => chain.first(tokens / BLOCK_TOKENS, &self.tokens),
            None => &[],
        }
    }

    /// Hashes of the blocks it holds that are published.
    pub(crate) fn published_hashes(&self) -> &[BlockHash] {
        match &self.chain {
            Some(chain) => &chain.hashes[..self.lease.published_count() as usize],
            None => &[],
        }
    }

    /// Leases the published part of the first `prefix_tokens` tokens and new blocks for the rest of the tokens. The
    /// caller has made sure that there are enough.
    pub(crate) fn take_blocks(&mut self, pool: &mut BlockPool, prefix_tokens: u32) {
        assert!(self.lease.is_empty(), "a sequence takes blocks once");
        let mut lease = pool.match_prefix(self.full_block_hashes(prefix_tokens));
        let found_tokens = lease.block_count() * BLOCK_TOKENS;
        let missing = self.needed_blocks() - lease.block_count();
        assert!(
            pool.extend(&mut lease, missing),
            "availability is checked before blocks are taken"
        );
        self.lease = lease;
        self.computed_tokens = found_tokens;
        self.cached_tokens
            .get_or_insert(found_tokens.min(self.prompt_tokens));
    }

    /// Publishes the full blocks among the computed tokens.
    pub(crate) fn publish(&mut self, pool: &mut BlockPool) {
        let Some(chain) = &mut self.chain else { return };
        let full_blocks = self.computed_tokens / BLOCK_TOKENS;
        let published = self.lease.published_count();
        let hashes = chain.first(full_blocks.max(published), &self.tokens);
        for hash in &hashes[published as usize..] {
            pool.publish(&mut self.lease, *hash);
        }
    }

    /// Gives the blocks up; whoever takes the lease decides what becomes of them.
    pub(crate) fn surrender_blocks(&mut self) -> Lease {
        self.computed_tokens = 0;
        std::mem::replace(&mut self.lease, Lease::empty())
    }
}
