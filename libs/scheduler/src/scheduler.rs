//! The scheduler's state, and how sequences come in.

use std::collections::HashMap;
use std::sync::Arc;

use vlinders_kv_blocks::{BlockPool, Lease, PrefixHasher, Quarantine};
use vlinders_types::{BlockId, PrefixMark, SequenceId, TokenId, blocks_for_tokens};

use crate::prompt::PromptRow;
use crate::queue::WaitingQueue;
use crate::recent_prefixes::RecentPrefixes;
use crate::sequence::{BlockChain, Sequence};
use crate::table::{SequenceTable, Slot};
use crate::{AdoptError, Adoption, AfterFirstToken, Event, NewSequence, Phase, SchedulerLimits, SubmitError};

/// One row of the step that is being computed.
pub(crate) struct PlannedRow {
    pub(crate) slot: Slot,
    /// The slot may hold another sequence when the step comes back.
    pub(crate) id: SequenceId,
    pub(crate) token_count: u32,
    pub(crate) draws: bool,
    /// It is the last one of a sequence that draws nothing.
    pub(crate) ends: bool,
    pub(crate) prompt: PromptRow,
}

/// Blocks of a sequence that was finished while a step was writing into them.
pub(crate) struct RetiredLease {
    pub(crate) lease: Lease,
    /// Whose quarantine they go to; none when they are simply released.
    pub(crate) quarantine_of: Option<SequenceId>,
}

/// Decides what each step computes. Owns the block pool and all sequences.
pub struct Scheduler {
    pub(crate) limits: SchedulerLimits,
    pub(crate) pool: BlockPool,
    pub(crate) model: Box<str>,
    pub(crate) sequences: SequenceTable,
    pub(crate) waiting: WaitingQueue,
    /// Best rank first.
    pub(crate) running: Vec<Slot>,
    pub(crate) holding: u32,
    pub(crate) awaiting_kv: u32,
    pub(crate) ended: u32,
    pub(crate) arrivals: u64,
    /// Rows of the open step, in the batch's order; empty when none is open.
    pub(crate) open_step: Vec<PlannedRow>,
    pub(crate) retired: Vec<RetiredLease>,
    /// More than one of a sequence whose KV failed and that was then finished with another transfer going on.
    pub(crate) quarantines: HashMap<SequenceId, Vec<Quarantine>>,
    /// Events that a plan caused; they come with the next `apply`.
    pub(crate) pending_events: Vec<Event>,
    pub(crate) preemptions: u64,
    /// Of sequences that came by [`Scheduler::adopt`].
    pub(crate) recent_prefixes: RecentPrefixes,
    /// Shared by all samples without banned tokens.
    pub(crate) nothing_banned: Arc<[TokenId]>,
}

impl Scheduler {
    /// A scheduler without sequences. `model` names the model whose KV is in the pool's blocks.
    ///
    /// # Panics
    /// When a limit is 0: nothing could ever run.
    #[must_use]
    pub fn new(limits: SchedulerLimits, pool: BlockPool, model: &str) -> Self {
        let counts = [
            limits.max_running,
            limits.max_waiting,
            limits.max_batch_tokens,
            limits.prefill_chunk_tokens,
            limits.max_context_tokens,
        ];
        assert!(
            counts.iter().all(|limit| *limit > 0),
            "every limit is at least 1: {limits:?}"
        );
        Self {
            limits,
            pool,
            model: model.into(),
            sequences: SequenceTable::default(),
            waiting: WaitingQueue::default(),
            running: Vec::new(),
            holding: 0,
            awaiting_kv: 0,
            ended: 0,
            arrivals: 0,
            open_step: Vec::new(),
            retired: Vec::new(),
            quarantines: HashMap::new(),
            pending_events: Vec::new(),
            preemptions: 0,
            recent_prefixes: RecentPrefixes::default(),
            nothing_banned: Arc::from([]),
        }
    }

    /// Takes a sequence into the queue. It is computed from its first token, less what is cached.
    ///
    /// # Errors
    /// When it could never finish here, or too many wait.
    ///
    /// # Panics
    /// When the id was used before and is still here.
    pub fn submit(&mut self, new: NewSequence) -> Result<(), SubmitError> {
        self.check_fit(&new)?;
        let max_waiting = self.limits.max_waiting;
        if self.waiting.len() >= max_waiting as usize {
            return Err(SubmitError::QueueFull { max_waiting });
        }
        // Without a token nothing is left to hand off.
        let then = match new.wish.draws_nothing {
            true => AfterFirstToken::Continue,
            false => self.limits.after_first_token,
        };
        let sequence = self.sequence(new, Phase::Waiting { then });
        self.enter(sequence);
        Ok(())
    }

    /// Reserves blocks for a sequence whose tokens were computed elsewhere. It waits for [`Self::kv_arrived`] or
    /// [`Self::kv_failed`]. What waits in the queue has an older claim on blocks than what is adopted.
    ///
    /// # Errors
    /// When it could never finish here, or there is no room now.
    ///
    /// # Panics
    /// When the id was used before and is still here.
    pub fn adopt(&mut self, new: NewSequence) -> Result<Adoption, AdoptError> {
        self.check_fit(&new).map_err(AdoptError::Unfit)?;
        if !self.has_room() {
            return Err(AdoptError::Full {
                max_running: self.limits.max_running,
            });
        }
        let mut sequence = self.sequence(new, Phase::AwaitingKv);
        // Nothing is drawn before a token arrives with the KV, so here even the last block may come from the cache.
        let prefix_tokens = sequence.token_count();
        let found = self.pool.prefix(sequence.full_block_hashes(prefix_tokens));
        let needed = u64::from(sequence.needed_blocks() - found.leased)
            + u64::from(self.headroom(AfterFirstToken::Continue))
            + self.waiting.blocks();
        let available_blocks = self.pool.available();
        if needed > u64::from(available_blocks) {
            let needed_blocks = u32::try_from(needed).unwrap_or(u32::MAX);
            return Err(AdoptError::NoBlocks {
                needed_blocks,
                available_blocks,
            });
        }
        sequence.take_blocks(&mut self.pool, prefix_tokens);
        let first_needed_block = sequence.lease.published_count();
        let blocks = sequence.lease.blocks()[first_needed_block as usize..].to_vec();
        self.enter(sequence);
        Ok(Adoption {
            first_needed_block,
            blocks,
        })
    }

    /// The phase of a sequence; none when it is not here.
    #[must_use]
    pub fn phase(&self, id: SequenceId) -> Option<Phase> {
        self.sequences.slot(id).map(|slot| self.sequences[slot].phase)
    }

    /// All tokens of a sequence so far; none when it is not here.
    #[must_use]
    pub fn tokens(&self, id: SequenceId) -> Option<&[TokenId]> {
        self.sequences
            .slot(id)
            .map(|slot| &self.sequences[slot].tokens[..])
    }

    /// The block table of a sequence, empty while it waits; none when it is not here.
    #[must_use]
    pub fn blocks(&self, id: SequenceId) -> Option<&[BlockId]> {
        self.sequences
            .slot(id)
            .map(|slot| self.sequences[slot].lease.blocks())
    }

    /// Sequences that could be submitted now and would not wait for a place: what a worker should fetch at most.
    #[must_use]
    pub fn free_slots(&self) -> u32 {
        let taken = u32::try_from(self.active() + self.waiting.len()).unwrap_or(u32::MAX);
        self.limits.max_running.saturating_sub(taken)
    }

    /// Prefixes that adopted sequences found or left in the pool lately, newest first; at most 128.
    #[must_use]
    pub fn recent_prefixes(&self) -> Arc<[PrefixMark]> {
        self.recent_prefixes.marks()
    }

    /// Names of the full blocks of a sequence's tokens, in their order: by these another worker can tell how much of it is in
    /// its pool. Empty when prefixes are not cached, or the sequence is not here.
    pub fn prefix_marks(&mut self, id: SequenceId) -> Vec<PrefixMark> {
        let Some(slot) = self.sequences.slot(id) else {
            return Vec::new();
        };
        let sequence = &mut self.sequences[slot];
        let tokens = sequence.token_count();
        let hashes = sequence.full_block_hashes(tokens);
        hashes.iter().copied().map(PrefixMark::from).collect()
    }

    /// What it was made with.
    #[must_use]
    pub const fn limits(&self) -> &SchedulerLimits {
        &self.limits
    }

    /// Whether one more sequence may hold blocks.
    pub(crate) fn has_room(&self) -> bool {
        self.active() < self.limits.max_running as usize
    }

    /// Sequences that hold blocks.
    pub(crate) fn active(&self) -> usize {
        self.running.len() + (self.holding + self.awaiting_kv + self.ended) as usize
    }

    /// Blocks to leave free when a sequence gets its first ones, so that those that grow need not preempt one another
    /// at once: one for each, enough for 16 steps, and a hundredth of the pool. None when it is alone: it may have all.
    pub(crate) fn headroom(&self, then: AfterFirstToken) -> u32 {
        if self.active() == 0 {
            return 0;
        }
        let stays = |slot: &&Slot| {
            self.sequences[**slot].phase
                == Phase::Running {
                    then: AfterFirstToken::Continue,
                }
        };
        let running = u32::try_from(self.running.iter().filter(stays).count()).expect("limited to 32 bits");
        let growing = running + self.awaiting_kv + u32::from(then == AfterFirstToken::Continue);
        growing + self.pool.counts().total / 100
    }

    fn sequence(&mut self, new: NewSequence, phase: Phase) -> Sequence {
        let caching = self.limits.enable_prefix_caching;
        let chain = caching.then(|| BlockChain::new(PrefixHasher::new(&self.model, &new.prefix_salt)));
        self.arrivals += 1;
        Sequence::new(new, self.arrivals, phase, chain)
    }

    /// A sequence that passes can finish when it is alone.
    fn check_fit(&self, new: &NewSequence) -> Result<(), SubmitError> {
        let tokens = u32::try_from(new.tokens.len()).unwrap_or(u32::MAX);
        let max_total_tokens = new.max_total_tokens;
        if tokens == 0 || tokens < new.prompt_tokens {
            return Err(SubmitError::PromptMissing {
                tokens,
                prompt_tokens: new.prompt_tokens,
            });
        }
        if tokens >= max_total_tokens && !new.wish.draws_nothing {
            return Err(SubmitError::NothingToDraw {
                tokens,
                max_total_tokens,
            });
        }
        let context_tokens = self.limits.max_context_tokens;
        if max_total_tokens > context_tokens {
            return Err(SubmitError::TooLong {
                needed_tokens: max_total_tokens,
                context_tokens,
            });
        }
        // A drawn last token's keys and values are never needed.
        let stored = match new.wish.draws_nothing {
            true => tokens,
            false => max_total_tokens - 1,
        };
        let needed_blocks = blocks_for_tokens(stored);
        let pool_blocks = self.pool.counts().total;
        if needed_blocks > pool_blocks {
            return Err(SubmitError::TooManyBlocks {
                needed_blocks,
                pool_blocks,
            });
        }
        Ok(())
    }
}
