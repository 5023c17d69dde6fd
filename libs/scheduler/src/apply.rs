//! What a computed step changes.

use vlinders_types::{BLOCK_TOKENS, SampleResult, Sampled, SequenceId, StepOutput, blocks_for_tokens};

use crate::scheduler::PlannedRow;
use crate::table::Slot;
use crate::{AfterFirstToken, Event, Phase, PhaseEvent, Scheduler};

impl Scheduler {
    /// Takes the result of the step that was planned last. Rows of sequences that were finished meanwhile are dropped.
    /// Events come in the batch's order, after the preemptions of the plan.
    ///
    /// # Panics
    /// When `output` is not the result of the planned batch.
    pub fn apply(&mut self, output: &StepOutput) -> Vec<Event> {
        let mut rows = std::mem::take(&mut self.open_step);
        let mut events = std::mem::take(&mut self.pending_events);
        let mut results = output.samples.iter();
        for row in &rows {
            let result = row
                .draws
                .then(|| results.next().expect("one result for each sample of the batch"));
            if let Some(result) = result {
                assert_eq!(
                    result.sequence, row.id,
                    "results come in the order of the batch's samples"
                );
            }
            if self.sequences.holds(row.slot, row.id) {
                self.apply_row(row, result, &mut events);
            }
        }
        assert!(
            results.next().is_none(),
            "one result for each sample of the batch"
        );
        self.dispose_retired();
        rows.clear();
        self.open_step = rows;
        events
    }

    /// The planned step failed as a whole: nothing of it counts, and its sequences, which are returned, are as before.
    /// Planning again computes the same; a caller that has given up finishes them.
    pub fn step_failed(&mut self) -> Vec<SequenceId> {
        let rows = std::mem::take(&mut self.open_step);
        let mut ids = Vec::with_capacity(rows.len());
        for row in rows {
            if self.sequences.holds(row.slot, row.id) {
                self.sequences[row.slot].in_flight_tokens = 0;
                ids.push(row.id);
            }
        }
        self.dispose_retired();
        ids
    }

    fn apply_row(&mut self, row: &PlannedRow, result: Option<&SampleResult>, events: &mut Vec<Event>) {
        let sequence = &mut self.sequences[row.slot];
        sequence.in_flight_tokens = 0;
        let sampled = match result {
            None => None,
            Some(SampleResult {
                sampled: Some(sampled),
                ..
            }) => Some(sampled),
            Some(SampleResult { sampled: None, .. }) => {
                // Whatever spoiled the logits may be in the keys and values too: they are not published.
                events.push(Event::Failed { id: row.id });
                self.step(row.slot, PhaseEvent::DrawFailed);
                return;
            }
        };
        sequence.computed_tokens += row.token_count;
        sequence.publish(&mut self.pool);
        let filled = self.report_filled(row);
        if let Some(sampled) = sampled {
            self.apply_draw(row.slot, sampled, events);
        }
        events.extend(filled);
    }

    /// The blocks that this row completed, for a sequence that is being handed off.
    fn report_filled(&mut self, row: &PlannedRow) -> Option<Event> {
        let sequence = &mut self.sequences[row.slot];
        if sequence.phase
            != (Phase::Running {
                then: AfterFirstToken::Hold,
            })
        {
            return None;
        }
        let computed = sequence.computed_tokens;
        // Nothing is added to the last block before the hand-off: partly filled, it is final too.
        let filled = if row.draws {
            blocks_for_tokens(computed)
        } else {
            computed / BLOCK_TOKENS
        };
        let first_block_index = sequence.reported_blocks;
        if filled == first_block_index {
            return None;
        }
        sequence.reported_blocks = filled;
        let blocks = sequence.lease.blocks()[first_block_index as usize..filled as usize].to_vec();
        Some(Event::BlocksFilled {
            id: row.id,
            first_block_index,
            blocks,
            last: row.draws,
        })
    }

    fn apply_draw(&mut self, slot: Slot, sampled: &Sampled, events: &mut Vec<Event>) {
        let sequence = &mut self.sequences[slot];
        let position = sequence.token_count();
        sequence.tokens.push(sampled.token);
        let is_last = sequence.has_full_length();
        events.push(Event::Sampled {
            id: sequence.id,
            token: sampled.token,
            position,
            logprobs: sampled.logprobs.clone(),
            cached_tokens: sequence.cached_tokens.unwrap_or(0),
            first: position == sequence.given_tokens,
            last: is_last,
        });
        self.step(slot, PhaseEvent::TokenDrawn { is_last });
    }
}
