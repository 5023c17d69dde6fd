//! A worker's loop around a scheduler, which checks everything it is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use vlinders_kv_blocks::BlockPool;
use vlinders_scheduler::{
    AdoptError, AfterFirstToken, Event, FailedDestination, NewSequence, Phase, PlanOutcome, Scheduler,
    SchedulerLimits, SubmitError,
};
use vlinders_types::{BLOCK_TOKENS, Batch, BlockId, SamplingParams, SequenceId, TokenId};

use crate::engine::{END, FakeEngine, undisturbed};

/// What a test says of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) max_new: u32,
    pub(crate) min_new: u32,
    pub(crate) seed: u64,
    pub(crate) priority: i32,
}

impl Spec {
    /// A prompt of `length` tokens that starts like all of the same kind, and draws `max_new` tokens exactly.
    pub(crate) fn new(kind: u32, length: u32, max_new: u32) -> Self {
        let prompt = (0..length)
            .map(|position| 1 + (position * 7 + kind) % 39)
            .collect();
        Self {
            prompt,
            max_new,
            min_new: max_new,
            seed: u64::from(kind),
            priority: 0,
        }
    }

    pub(crate) fn totals(&self) -> (u32, u32) {
        let prompt = u32::try_from(self.prompt.len()).expect("small");
        (prompt + self.min_new, prompt + self.max_new)
    }

    pub(crate) fn expected(&self) -> Vec<TokenId> {
        let (min_total, max_total) = self.totals();
        undisturbed(&self.prompt, self.seed, min_total, max_total)
    }

    fn sequence(&self, id: SequenceId) -> NewSequence {
        let (min_total_tokens, max_total_tokens) = self.totals();
        // Odd seeds need their history.
        let frequency_penalty = if self.seed % 2 == 1 { 0.5 } else { 0.0 };
        NewSequence {
            id,
            tokens: self.prompt.clone(),
            prompt_tokens: u32::try_from(self.prompt.len()).expect("small"),
            max_total_tokens,
            min_total_tokens,
            banned: Arc::from([END]),
            sampling: Arc::new(SamplingParams {
                seed: self.seed,
                frequency_penalty,
                ..SamplingParams::default()
            }),
            prefix_salt: Vec::new(),
            priority: self.priority,
        }
    }
}

/// What the worker knows of one sequence.
pub(crate) struct Live {
    pub(crate) spec: Spec,
    /// All tokens that were reported, after the given ones.
    pub(crate) tokens: Vec<TokenId>,
    expected: Vec<TokenId>,
    first_needed_block: u32,
    /// Blocks reported as filled.
    pub(crate) filled: Vec<BlockId>,
    /// The last report has come.
    pub(crate) is_filled: bool,
}

pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) engine: FakeEngine,
    pub(crate) batch: Batch,
    pub(crate) live: BTreeMap<SequenceId, Live>,
    pub(crate) quarantined: Vec<(SequenceId, Vec<BlockId>)>,
    /// Tokens of sequences that came to their end.
    pub(crate) done: BTreeMap<SequenceId, Vec<TokenId>>,
    /// Everything that was reported, in order.
    pub(crate) events: Vec<Event>,
    pub(crate) steps: u64,
    next_id: u64,
    is_planned: bool,
}

pub(crate) fn limits() -> SchedulerLimits {
    SchedulerLimits {
        max_running: 8,
        max_waiting: 64,
        max_batch_tokens: 64,
        prefill_chunk_tokens: 32,
        max_context_tokens: 1024,
        enable_prefix_caching: true,
        after_first_token: AfterFirstToken::Continue,
    }
}

impl World {
    pub(crate) fn new(limits: SchedulerLimits, block_count: u32) -> Self {
        Self {
            scheduler: Scheduler::new(limits, BlockPool::new(block_count), "model"),
            engine: FakeEngine::new(block_count),
            batch: Batch::default(),
            live: BTreeMap::new(),
            quarantined: Vec::new(),
            done: BTreeMap::new(),
            events: Vec::new(),
            steps: 0,
            next_id: 0,
            is_planned: false,
        }
    }

    fn id(&mut self) -> SequenceId {
        self.next_id += 1;
        SequenceId(self.next_id)
    }

    pub(crate) fn first_needed_block(&self, id: SequenceId) -> usize {
        self.live[&id].first_needed_block as usize
    }

    fn enter(&mut self, id: SequenceId, spec: Spec, first_needed_block: u32) {
        let (tokens, expected) = (spec.prompt.clone(), spec.expected());
        let live = Live {
            spec,
            tokens,
            expected,
            first_needed_block,
            filled: Vec::new(),
            is_filled: false,
        };
        self.live.insert(id, live);
    }

    pub(crate) fn submit(&mut self, spec: Spec) -> Result<SequenceId, SubmitError> {
        let id = self.id();
        self.scheduler.submit(spec.sequence(id))?;
        self.enter(id, spec, 0);
        Ok(id)
    }

    pub(crate) fn adopt(&mut self, spec: Spec) -> Result<SequenceId, AdoptError> {
        let id = self.id();
        let adoption = self.scheduler.adopt(spec.sequence(id))?;
        let table = self.scheduler.blocks(id).expect("just adopted");
        assert_eq!(&table[adoption.first_needed_block as usize..], adoption.blocks);
        assert_eq!(table.len(), spec.prompt.len().div_ceil(16));
        let cached = spec.prompt.len().min(adoption.first_needed_block as usize * 16);
        assert!(
            self.engine.holds(table, &spec.prompt[..cached]),
            "adopted blocks are what they should be"
        );
        // Nothing keeps what was in them before.
        self.engine.spoil(&adoption.blocks);
        self.enter(id, spec, adoption.first_needed_block);
        Ok(id)
    }

    pub(crate) fn kv_arrives(&mut self, id: SequenceId) {
        let live = self.live.get_mut(&id).expect("it is here");
        let table = self.scheduler.blocks(id).expect("it is here").to_vec();
        self.engine.fill(&table, &live.tokens, live.first_needed_block);
        let token = live.expected[live.tokens.len()];
        live.tokens.push(token);
        self.scheduler.kv_arrived(id, &[token]).expect("it waits for KV");
        self.end_if_done(id);
    }

    pub(crate) fn kv_fails(&mut self, id: SequenceId, with_token: bool, destination: FailedDestination) {
        let live = self.live.get_mut(&id).expect("it is here");
        let table = self.scheduler.blocks(id).expect("it is here").to_vec();
        let own = &table[live.first_needed_block as usize..];
        self.engine.spoil(own);
        let token = live.expected[live.tokens.len()];
        if with_token {
            live.tokens.push(token);
        }
        let generated = with_token.then_some([token]);
        let failed = self
            .scheduler
            .kv_failed(id, generated.as_ref().map(|token| &token[..]), destination);
        failed.expect("it waits for KV");
        if destination == FailedDestination::MayBeWritten {
            self.quarantined.push((id, own.to_vec()));
        }
        self.end_if_done(id);
    }

    pub(crate) fn end_quarantine(&mut self, index: usize) {
        let (id, blocks) = self.quarantined.swap_remove(index);
        // The late write, at the last possible moment.
        self.engine.spoil(&blocks);
        let others = self.quarantined.iter().any(|(other, _)| *other == id);
        if !others {
            let is_empty = blocks.is_empty();
            assert!(self.scheduler.end_quarantine(id) || is_empty);
        }
    }

    pub(crate) fn finish(&mut self, id: SequenceId) -> Live {
        let finished = self.scheduler.finish(id).expect("it is here");
        let live = self.live.remove(&id).expect("it is here");
        assert_eq!(finished.total_tokens as usize, live.tokens.len());
        assert_eq!(self.scheduler.finish(id), None, "it is gone");
        live
    }

    pub(crate) fn plan(&mut self) -> PlanOutcome {
        let outcome = self.scheduler.plan(&mut self.batch);
        match outcome {
            PlanOutcome::Ready => {
                self.check_batch();
                self.is_planned = true;
            }
            PlanOutcome::Idle => {
                assert!(self.batch.rows.is_empty());
                let counts = self.scheduler.counts();
                let waits_for_others =
                    counts.holding + counts.awaiting_kv > 0 || !self.quarantined.is_empty();
                let is_empty = counts.waiting + counts.running == 0;
                assert!(waits_for_others || is_empty, "idle with work to do: {counts:?}");
            }
        }
        outcome
    }

    pub(crate) fn apply(&mut self) {
        assert!(std::mem::take(&mut self.is_planned), "planned before");
        self.check_writes();
        let output = self.engine.step(&self.batch);
        self.steps += 1;
        let events = self.scheduler.apply(&output);
        for event in &events {
            self.note(event);
        }
        self.events.extend(events);
        self.scheduler.assert_consistent();
    }

    pub(crate) fn fail_step(&mut self) {
        assert!(std::mem::take(&mut self.is_planned), "planned before");
        // The engine got somewhere before it failed: rubbish in all new positions.
        let rows = self.batch.rows.clone();
        for row in &rows {
            let first_block = row.first_position.div_ceil(BLOCK_TOKENS) as usize;
            let table = &self.batch.blocks[row.blocks.range()];
            self.engine.spoil(&table[first_block.min(table.len())..]);
        }
        for id in self.scheduler.step_failed() {
            assert!(self.live.contains_key(&id));
        }
    }

    /// One whole step; false when there was nothing to do.
    pub(crate) fn step(&mut self) -> bool {
        match self.plan() {
            PlanOutcome::Ready => {
                self.apply();
                true
            }
            PlanOutcome::Idle => false,
        }
    }

    /// Steps until nothing is left to do.
    pub(crate) fn run(&mut self) {
        let budget: u64 = self
            .live
            .values()
            .map(|live| 8 * u64::from(live.spec.totals().1))
            .sum();
        let last = self.steps + budget + 10;
        while self.step() {
            assert!(
                self.steps < last,
                "no end in sight: {:?}",
                self.scheduler.counts()
            );
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Sampled {
                id,
                token,
                position,
                first,
                last,
                ..
            } => {
                let live = self.live.get_mut(id).expect("only the living draw");
                assert_eq!(*position as usize, live.tokens.len());
                assert_eq!(*first, live.tokens.len() == live.spec.prompt.len());
                live.tokens.push(*token);
                assert_eq!(
                    live.tokens,
                    live.expected[..live.tokens.len()],
                    "tokens of the undisturbed run"
                );
                assert_eq!(*last, live.tokens.len() == live.spec.totals().1 as usize);
                self.end_if_done(*id);
            }
            Event::Failed { id } => panic!("sequence {id:?} failed"),
            Event::BlocksFilled {
                id,
                first_block_index,
                blocks,
                last,
            } => {
                // As a caller does for a sequence that ended with its first token.
                let Some(live) = self.live.get_mut(id) else { return };
                assert_eq!(
                    *first_block_index as usize,
                    live.filled.len(),
                    "no gap, no repetition"
                );
                assert!(!blocks.is_empty() && !live.is_filled);
                live.filled.extend(blocks);
                live.is_filled = *last;
                let full = live.filled.len() * 16;
                let tokens = if *last { live.spec.prompt.len() } else { full };
                assert!(
                    self.engine.holds(&live.filled, &live.spec.prompt[..tokens]),
                    "contents are final"
                );
            }
            Event::Preempted { id } => assert!(self.live.contains_key(id)),
        }
    }

    fn end_if_done(&mut self, id: SequenceId) {
        let live = &self.live[&id];
        if live.tokens.len() == live.expected.len() {
            let live = self.finish(id);
            assert_eq!(live.tokens, live.expected);
            self.done.insert(id, live.tokens);
        }
    }

    pub(crate) fn in_phase(&self, wanted: impl Fn(Phase) -> bool) -> Vec<SequenceId> {
        let phase = |id: &SequenceId| self.scheduler.phase(*id).expect("the living have a phase");
        self.live.keys().copied().filter(|id| wanted(phase(id))).collect()
    }
}
