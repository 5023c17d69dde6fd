//! What the next step computes: decode rows first, then prompts that have begun, then new ones.
//!
//! Progress is guaranteed by two rules. A sequence gets blocks for all its tokens when it is admitted, so only decode rows
//! grow, by one block in 16 steps. And the oldest running sequence is planned first, may preempt every other that stays
//! here, and is never preempted itself: it always ends, and then another one is the oldest.

use vlinders_types::{Batch, BatchRow, SampleRow, Span, blocks_for_tokens};

use crate::prompt;
use crate::scheduler::PlannedRow;
use crate::table::Slot;
use crate::{AfterFirstToken, Event, Phase, PhaseEvent, PlanOutcome, Scheduler};

/// What is left to give away in one planning pass.
struct Budget {
    tokens: u32,
}

impl Scheduler {
    /// Fills `batch` with the next step; what it held before is dropped. May preempt.
    ///
    /// # Panics
    /// When the step before was neither applied nor reported as failed.
    pub fn plan(&mut self, batch: &mut Batch) -> PlanOutcome {
        assert!(self.open_step.is_empty(), "the step before must be applied first");
        batch.clear();
        let mut budget = Budget {
            tokens: self.limits.max_batch_tokens,
        };
        self.plan_decodes(batch, &mut budget);
        self.plan_prefills(batch, &mut budget);
        self.plan_admissions(batch, &mut budget);
        if batch.rows.is_empty() {
            PlanOutcome::Idle
        } else {
            PlanOutcome::Ready
        }
    }

    /// One row for each sequence that has one token to compute: the last drawn one, or the end of its prompt.
    fn plan_decodes(&mut self, batch: &mut Batch, budget: &mut Budget) {
        let oldest = self.oldest_running();
        if let Some(slot) = oldest {
            self.plan_decode(slot, oldest, batch, budget);
        }
        // Those that are preempted on the way are behind the index: they have a lower rank.
        let mut index = 0;
        while index < self.running.len() && budget.tokens > 0 {
            let slot = self.running[index];
            if Some(slot) != oldest {
                self.plan_decode(slot, oldest, batch, budget);
            }
            index += 1;
        }
    }

    fn plan_decode(&mut self, slot: Slot, oldest: Option<Slot>, batch: &mut Batch, budget: &mut Budget) {
        if self.sequences[slot].remaining_tokens() != 1 {
            return;
        }
        if self.grow(slot, oldest) {
            self.push_row(slot, batch, budget);
        }
    }

    fn plan_prefills(&mut self, batch: &mut Batch, budget: &mut Budget) {
        for index in 0..self.running.len() {
            if budget.tokens == 0 {
                return;
            }
            let slot = self.running[index];
            if self.sequences[slot].remaining_tokens() > 1 {
                self.push_row(slot, batch, budget);
            }
        }
    }

    fn plan_admissions(&mut self, batch: &mut Batch, budget: &mut Budget) {
        while budget.tokens > 0 && self.has_room() {
            let Some(slot) = self.waiting.head() else { return };
            // Nobody overtakes the head: else a long prompt could wait for ever.
            if !self.admit(slot) {
                return;
            }
            self.push_row(slot, batch, budget);
        }
    }

    /// Gives a waiting sequence blocks for all its tokens, if there are enough.
    fn admit(&mut self, slot: Slot) -> bool {
        let Phase::Waiting { then } = self.sequences[slot].phase else {
            unreachable!("only waiting sequences are in the queue")
        };
        let headroom = self.headroom(then);
        let sequence = &mut self.sequences[slot];
        let prefix_tokens = sequence.cacheable_tokens();
        let found = self.pool.prefix(sequence.full_block_hashes(prefix_tokens));
        if sequence.needed_blocks() - found.leased + headroom > self.pool.available() {
            return false;
        }
        // The phase changes first: the queue counts what the sequence needs while it waits.
        self.step(slot, PhaseEvent::Admitted);
        self.sequences[slot].take_blocks(&mut self.pool, prefix_tokens);
        true
    }

    fn oldest_running(&self) -> Option<Slot> {
        self.running
            .iter()
            .copied()
            .min_by_key(|slot| self.sequences[*slot].arrival)
    }

    /// Makes room for one more computed token, preempting others if it must. False when there is none now.
    fn grow(&mut self, slot: Slot, oldest: Option<Slot>) -> bool {
        loop {
            let sequence = &mut self.sequences[slot];
            let needed_blocks = blocks_for_tokens(sequence.computed_tokens + 1);
            let missing = needed_blocks.saturating_sub(sequence.lease.block_count());
            if self.pool.extend(&mut sequence.lease, missing) {
                return true;
            }
            let Some(victim) = self.victim(slot, oldest) else {
                return false;
            };
            self.preempt(victim);
        }
    }

    /// Who gives up its blocks for `slot`: the youngest of the lowest priority behind it. For the oldest, anyone.
    fn victim(&self, slot: Slot, oldest: Option<Slot>) -> Option<Slot> {
        for candidate in self.running.iter().rev().copied() {
            if candidate == slot {
                if Some(slot) != oldest {
                    return None;
                }
                continue;
            }
            let stays = self.sequences[candidate].phase
                == Phase::Running {
                    then: AfterFirstToken::Continue,
                };
            if stays && Some(candidate) != oldest {
                return Some(candidate);
            }
        }
        None
    }

    fn preempt(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        assert_eq!(sequence.in_flight_tokens, 0, "a planned row is not preempted");
        let id = sequence.id;
        let lease = sequence.surrender_blocks();
        self.pool.release(lease);
        self.step(slot, PhaseEvent::Preempted);
        self.preemptions += 1;
        self.pending_events.push(Event::Preempted { id });
    }

    /// Adds a row with as many of the sequence's remaining tokens as chunk and budget allow.
    fn push_row(&mut self, slot: Slot, batch: &mut Batch, budget: &mut Budget) {
        let sequence = &mut self.sequences[slot];
        let first_position = sequence.computed_tokens;
        let remaining = sequence.remaining_tokens();
        let token_count = remaining.min(self.limits.prefill_chunk_tokens).min(budget.tokens);
        budget.tokens -= token_count;
        sequence.in_flight_tokens = token_count;
        let end = first_position + token_count;
        let tokens = append(
            &mut batch.tokens,
            &sequence.tokens[first_position as usize..end as usize],
        );
        let table = &sequence.lease.blocks()[..blocks_for_tokens(end) as usize];
        let blocks = append(&mut batch.blocks, table);
        let row = BatchRow {
            sequence: sequence.id,
            tokens,
            first_position,
            blocks,
        };
        batch.rows.push(row);
        let is_last = token_count == remaining;
        let draws = is_last && !sequence.progress.draws_nothing();
        self.open_step.push(PlannedRow {
            slot,
            id: sequence.id,
            token_count,
            draws,
            ends: is_last && !draws,
            prompt: prompt::plan(sequence, row, batch),
        });
        if draws {
            self.push_sample(slot, tokens.start + token_count - 1, batch);
        }
    }

    /// Draws a token after the sequence's last one, which is at `token_index` of the batch.
    fn push_sample(&self, slot: Slot, token_index: u32, batch: &mut Batch) {
        let sequence = &self.sequences[slot];
        let seen: &[_] = if sequence.sampling.needs_history() {
            &sequence.tokens
        } else {
            &[]
        };
        let is_too_short = sequence.token_count() < sequence.min_total_tokens;
        let banned = if is_too_short {
            &sequence.banned
        } else {
            &self.nothing_banned
        };
        batch.samples.push(SampleRow {
            sequence: sequence.id,
            token_index,
            position: sequence.token_count(),
            params: sequence.sampling.clone(),
            history: append(&mut batch.history, seen),
            prompt_tokens: sequence.prompt_tokens,
            banned: banned.clone(),
            allowed: None,
        });
    }
}

/// Copies `part` to the end of a flat array and says where it is.
pub(crate) fn append<T: Copy>(all: &mut Vec<T>, part: &[T]) -> Span {
    let length = |entries: usize| u32::try_from(entries).expect("a batch has less than 2^32 entries");
    let span = Span {
        start: length(all.len()),
        count: length(part.len()),
    };
    all.extend_from_slice(part);
    span
}
