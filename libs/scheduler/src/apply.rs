//! What a computed step changes.

use vlinders_types::{
    BLOCK_TOKENS, PoolResult, SampleResult, Sampled, ScoreResult, SequenceId, StepOutput, blocks_for_tokens,
};

use crate::prompt;
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
        let mut results = Results::new(output);
        for row in &rows {
            let result = results.of(row);
            if self.sequences.holds(row.slot, row.id) {
                self.apply_row(row, result, &mut events);
            }
        }
        results.assert_all_taken();
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

    fn apply_row(&mut self, row: &PlannedRow, result: RowResult<'_>, events: &mut Vec<Event>) {
        let sequence = &mut self.sequences[row.slot];
        sequence.in_flight_tokens = 0;
        if !result.is_trusted() {
            // Whatever spoiled the logits may be in the keys and values too: they are not published.
            events.push(Event::Failed { id: row.id });
            self.step(row.slot, PhaseEvent::DrawFailed);
            return;
        }
        sequence.computed_tokens += row.token_count;
        sequence.publish(&mut self.pool);
        events.extend(
            result
                .scores
                .and_then(|result| prompt::take_scores(sequence, result)),
        );
        if let Some(result) = result.pool {
            prompt::take_sum(sequence, result);
        }
        if row.ends {
            events.push(prompt::done(sequence));
            self.step(row.slot, PhaseEvent::PromptDone);
            return;
        }
        let filled = self.report_filled(row);
        if let Some(sampled) = result.sample.and_then(|result| result.sampled.as_ref()) {
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

/// What came of one row.
#[derive(Clone, Copy)]
struct RowResult<'a> {
    sample: Option<&'a SampleResult>,
    scores: Option<&'a ScoreResult>,
    pool: Option<&'a PoolResult>,
}

impl RowResult<'_> {
    /// Whether every distribution that was asked for was one.
    fn is_trusted(&self) -> bool {
        let drawn = self.sample.is_none_or(|result| result.sampled.is_some());
        drawn && self.scores.is_none_or(|result| result.scores.is_some())
    }
}

/// The results of a step, taken row by row.
struct Results<'a> {
    samples: std::slice::Iter<'a, SampleResult>,
    scores: std::slice::Iter<'a, ScoreResult>,
    pools: std::slice::Iter<'a, PoolResult>,
}

impl<'a> Results<'a> {
    fn new(output: &'a StepOutput) -> Self {
        Self {
            samples: output.samples.iter(),
            scores: output.scores.iter(),
            pools: output.pools.iter(),
        }
    }

    fn of(&mut self, row: &PlannedRow) -> RowResult<'a> {
        let result = RowResult {
            sample: take(&mut self.samples, row.draws),
            scores: take(&mut self.scores, row.prompt.scores),
            pool: take(&mut self.pools, row.prompt.pools),
        };
        let of_others = [
            result.sample.map(|result| result.sequence),
            result.scores.map(|result| result.sequence),
            result.pool.map(|result| result.sequence),
        ];
        assert!(
            of_others.iter().flatten().all(|sequence| *sequence == row.id),
            "results come in the order of the batch's rows"
        );
        result
    }

    fn assert_all_taken(&self) {
        let left = self.samples.len() + self.scores.len() + self.pools.len();
        assert_eq!(left, 0, "one result for each row that asks for one");
    }
}

fn take<'a, T>(results: &mut std::slice::Iter<'a, T>, is_there: bool) -> Option<&'a T> {
    is_there.then(|| results.next().expect("one result for each row that asks for one"))
}
