//! How sequences change their phase and leave. Every list and count of phases is kept here.

use vlinders_kv_blocks::Lease;
use vlinders_types::{SequenceId, TokenId, blocks_for_tokens};

use crate::scheduler::RetiredLease;
use crate::sequence::Sequence;
use crate::table::Slot;
use crate::{
    AfterKv, CallError, Event, FailedDestination, Finished, IllegalStep, Phase, PhaseEvent, Scheduler,
};

impl Scheduler {
    /// The blocks reserved by `adopt` are filled. `generated` are the tokens drawn by the prefill worker: with exactly
    /// one, the sequence decodes; with none or several, the missing ones are computed here after a wait in the queue.
    /// When they fill the sequence to `max_total_tokens`, it ends and must be finished.
    ///
    /// # Errors
    /// When it is not here or does not wait for KV.
    pub fn kv_arrived(&mut self, id: SequenceId, generated: &[TokenId]) -> Result<(), CallError> {
        let slot = self.find(id)?;
        let sequence = &self.sequences[slot];
        let after = match generated {
            _ if sequence.tokens.len() + generated.len() >= sequence.max_total_tokens as usize => {
                AfterKv::LengthReached
            }
            [_] => AfterKv::Decode,
            [] | [_, ..] => AfterKv::Recompute,
        };
        let event = PhaseEvent::KvArrived(after);
        self.check(slot, event)?;
        let sequence = &mut self.sequences[slot];
        sequence.computed_tokens = sequence.token_count();
        sequence.publish(&mut self.pool);
        self.recent_prefixes.note(sequence.published_hashes(), &self.pool);
        sequence.add_drawn_elsewhere(generated);
        if after == AfterKv::Recompute {
            let lease = sequence.surrender_blocks();
            self.pool.release(lease);
        }
        self.step(slot, event);
        Ok(())
    }

    /// The transfer into the blocks reserved by `adopt` failed: the sequence waits at the head of the queue and is
    /// computed here. `generated` are tokens the prefill worker drew and sent, if that is known.
    ///
    /// # Errors
    /// When it is not here or does not wait for KV.
    pub fn kv_failed(
        &mut self,
        id: SequenceId,
        generated: Option<&[TokenId]>,
        destination: FailedDestination,
    ) -> Result<(), CallError> {
        let slot = self.find(id)?;
        let sequence = &self.sequences[slot];
        let generated = generated.unwrap_or_default();
        let length_reached = sequence.tokens.len() + generated.len() >= sequence.max_total_tokens as usize;
        let event = PhaseEvent::KvFailed { length_reached };
        self.check(slot, event)?;
        let sequence = &mut self.sequences[slot];
        sequence.add_drawn_elsewhere(generated);
        sequence.cached_tokens = None;
        let lease = sequence.surrender_blocks();
        match destination {
            FailedDestination::Quiet => self.pool.release(lease),
            FailedDestination::MayBeWritten => self.quarantine(id, lease),
        }
        self.step(slot, event);
        Ok(())
    }

    /// The hand-off did not work out: the sequence goes on here.
    ///
    /// # Errors
    /// When it is not here or not holding.
    pub fn resume(&mut self, id: SequenceId) -> Result<(), CallError> {
        let slot = self.find(id)?;
        self.check(slot, PhaseEvent::Resumed)?;
        self.step(slot, PhaseEvent::Resumed);
        Ok(())
    }

    /// Ends a sequence in any phase and frees its blocks; what is published stays cached. Between `plan` and `apply` its
    /// row is dropped from the result, and its blocks are freed after the step. None when it is not here.
    pub fn finish(&mut self, id: SequenceId) -> Option<Finished> {
        self.remove(id, None)
    }

    /// As [`Self::finish`], but nobody gets its blocks before [`Self::end_quarantine`]: a transfer may still touch them.
    pub fn finish_quarantined(&mut self, id: SequenceId) -> Option<Finished> {
        self.remove(id, Some(id))
    }

    /// The transfer that touched the blocks of `id` is quiet: they are free again. False when none were in quarantine.
    pub fn end_quarantine(&mut self, id: SequenceId) -> bool {
        let mut was_found = false;
        for quarantine in self.quarantines.remove(&id).unwrap_or_default() {
            self.pool.end_quarantine(quarantine);
            was_found = true;
        }
        for retired in self
            .retired
            .iter_mut()
            .filter(|retired| retired.quarantine_of == Some(id))
        {
            // The step still writes into them; they are released after it.
            retired.quarantine_of = None;
            was_found = true;
        }
        was_found
    }

    /// Checks every sequence and every block. Takes time linear in both: for idle workers and tests.
    ///
    /// # Panics
    /// When something contradicts itself, which is a bug here.
    pub fn assert_consistent(&self) {
        self.pool.assert_consistent();
        let by_rank = |pair: &[Slot]| self.sequences[pair[0]].rank() < self.sequences[pair[1]].rank();
        assert!(
            self.running.windows(2).all(by_rank),
            "running sequences are in the order of their ranks"
        );
        let counted = self.waiting.len() + self.active();
        assert_eq!(
            self.sequences.len(),
            counted,
            "every sequence is counted in one phase"
        );
        for sequence in self.sequences.iter() {
            let blocks = sequence.lease.block_count();
            let covered = blocks_for_tokens(sequence.computed_tokens + sequence.in_flight_tokens) <= blocks;
            assert!(
                covered,
                "sequence {} is computed beyond its blocks",
                sequence.id.0
            );
            let is_waiting = matches!(sequence.phase, Phase::Waiting { .. });
            assert!(
                !is_waiting || blocks == 0,
                "sequence {} holds blocks while it waits",
                sequence.id.0
            );
        }
    }

    /// Checks that nothing is left of any sequence: all blocks are free or cached. For idle workers and tests.
    ///
    /// # Panics
    /// When something is left, and in builds with debug assertions when the pool contradicts itself.
    pub fn assert_settled(&self) {
        assert_eq!(self.sequences.len(), 0, "no sequence is left");
        assert!(self.quarantines.is_empty(), "no quarantine is left");
        assert!(
            self.retired.is_empty() && self.open_step.is_empty(),
            "no step is open"
        );
        assert_eq!(self.waiting.len() + self.active(), 0, "no sequence is counted");
        assert_eq!(
            (self.waiting.tokens(), self.waiting.blocks()),
            (0, 0),
            "nothing waits"
        );
        let blocks = self.pool.counts();
        assert_eq!(
            blocks.available(),
            blocks.total,
            "all blocks are free or cached: {blocks:?}"
        );
        // That the counts add up is asserted where they are taken. To count every block again takes milliseconds in a pool of
        // half a million, and the next request would wait for it.
        if cfg!(debug_assertions) {
            self.pool.assert_consistent();
        }
    }

    /// Puts a new sequence where its phase belongs.
    pub(crate) fn enter(&mut self, sequence: Sequence) {
        let slot = self.sequences.insert(sequence);
        self.list(slot);
    }

    /// Changes the phase of a sequence, for an event that is known to be legal.
    pub(crate) fn step(&mut self, slot: Slot, event: PhaseEvent) {
        let before = self.sequences[slot].phase;
        let after = before
            .after(event)
            .expect("the caller knows that the event is legal in this phase");
        if before != after {
            self.unlist(slot);
            self.sequences[slot].phase = after;
            self.list(slot);
        }
    }

    /// What the open step wrote into blocks of sequences that are gone is now of no more harm.
    pub(crate) fn dispose_retired(&mut self) {
        for RetiredLease { lease, quarantine_of } in std::mem::take(&mut self.retired) {
            match quarantine_of {
                None => self.pool.release(lease),
                Some(id) => self.quarantine(id, lease),
            }
        }
    }

    fn find(&self, id: SequenceId) -> Result<Slot, CallError> {
        self.sequences.slot(id).ok_or(CallError::Unknown { id })
    }

    fn check(&self, slot: Slot, event: PhaseEvent) -> Result<(), CallError> {
        let sequence = &self.sequences[slot];
        let illegal = |step: IllegalStep| CallError::Illegal {
            id: sequence.id,
            step,
        };
        sequence.phase.after(event).map(|_| ()).map_err(illegal)
    }

    fn remove(&mut self, id: SequenceId, quarantine_of: Option<SequenceId>) -> Option<Finished> {
        let slot = self.sequences.slot(id)?;
        self.unlist(slot);
        let mut sequence = self.sequences.remove(slot);
        // Only a plan leaves events behind, and only preemptions: the caller shall hear no more of who is gone.
        self.pending_events
            .retain(|event| *event != Event::Preempted { id });
        if sequence.was_adopted {
            // Who goes on from here comes back with all of it: the next turn of a conversation.
            self.recent_prefixes.note(sequence.published_hashes(), &self.pool);
        }
        let lease = sequence.surrender_blocks();
        match quarantine_of {
            _ if sequence.in_flight_tokens > 0 => self.retired.push(RetiredLease { lease, quarantine_of }),
            None => self.pool.release(lease),
            Some(id) => self.quarantine(id, lease),
        }
        Some(Finished {
            phase: sequence.phase,
            cached_tokens: sequence.cached_tokens.unwrap_or(0),
            prompt_tokens: sequence.prompt_tokens,
            total_tokens: sequence.token_count(),
        })
    }

    fn quarantine(&mut self, id: SequenceId, lease: Lease) {
        if lease.is_empty() {
            return;
        }
        let quarantine = self.pool.quarantine(lease);
        self.quarantines.entry(id).or_default().push(quarantine);
    }

    fn list(&mut self, slot: Slot) {
        let sequence = &self.sequences[slot];
        match sequence.phase {
            Phase::Waiting { .. } => self.waiting.insert(slot, sequence),
            Phase::Running { .. } => {
                let rank = sequence.rank();
                let place = self
                    .running
                    .partition_point(|other| self.sequences[*other].rank() < rank);
                self.running.insert(place, slot);
            }
            Phase::AwaitingKv => self.awaiting_kv += 1,
            Phase::Holding => self.holding += 1,
            Phase::Ended => self.ended += 1,
        }
    }

    fn unlist(&mut self, slot: Slot) {
        let sequence = &self.sequences[slot];
        match sequence.phase {
            Phase::Waiting { .. } => self.waiting.remove(sequence),
            Phase::Running { .. } => {
                let place = self.running.iter().position(|other| *other == slot);
                self.running
                    .remove(place.expect("running sequences are in the list"));
            }
            Phase::AwaitingKv => self.awaiting_kv -= 1,
            Phase::Holding => self.holding -= 1,
            Phase::Ended => self.ended -= 1,
        }
    }
}
