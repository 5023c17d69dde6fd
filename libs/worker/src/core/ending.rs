//! How a sequence ends: with one last chunk, one usage event and one settled delivery.

use vlinders_engine::EngineError;
use vlinders_kv_transfer::{ReleaseOutcome, SourceEnd, SourcePhase};
use vlinders_types::{
    Cancel, Chunk, FaultKind, Finish, FinishReason, FrontendId, Request, RequestFault, SequenceId,
    TokenCounts, UsageEvent,
};

use super::Core;
use crate::ending_texts as texts;
use crate::outbox::Note;
use crate::sequence::{HandOff, Job, Phase, Sequence};
use crate::spans::tell_end;
use crate::teeth::bites;
use crate::tombstones::Burial;

impl Core {
    /// Ends a sequence this worker answers for.
    pub(super) fn end(
        &mut self,
        id: SequenceId,
        reason: FinishReason,
        stop_text: Option<String>,
        fault: Option<RequestFault>,
    ) {
        let Some(mut sequence) = self.forget(id) else {
            return;
        };
        if !self.withdraw(id, &mut sequence) {
            return;
        }
        let counts = TokenCounts {
            prompt: sequence.prompt_tokens(),
            cached: sequence.cached_tokens,
            completion: sequence.output.generated() - unbilled(&sequence.request),
        };
        tell_end(&mut sequence.span, reason, counts);
        let mut chunk = sequence.output.take_chunk();
        chunk.finish = Some(Finish {
            reason,
            stop_text,
            counts,
            fault,
        });
        if bites("two-ends") {
            self.outbox.push_chunk(&sequence.request.frontend, chunk.clone());
        }
        self.outbox.push_chunk(&sequence.request.frontend, chunk);
        let job = sequence.job.take();
        self.bill(&sequence.request, counts, reason, sequence.first_token_ms, job);
    }

    /// Frees the blocks, and withdraws a hand-off under way. False when decode has the sequence already: then it is
    /// decode's to end, and only the delivery is settled here.
    pub(super) fn withdraw(&mut self, id: SequenceId, sequence: &mut Sequence) -> bool {
        let Some(source) = sequence.hand_off().and_then(HandOff::abandon) else {
            self.scheduler.finish(id);
            return true;
        };
        // Its blocks may be being read: they are free when the transfer reports its end.
        self.scheduler.finish_quarantined(id);
        if !has_taken_over(source.phase()) {
            return true;
        }
        if let Some(job) = sequence.job.take() {
            self.outbox.push(Note::Settle(job.id));
        }
        false
    }

    /// Ends a request that never became a sequence.
    pub(super) fn refuse_unstarted(
        &mut self,
        request: &Request,
        job: Option<Job>,
        reason: FinishReason,
        fault: Option<RequestFault>,
    ) {
        let counts = TokenCounts {
            prompt: u32::try_from(request.prompt_ids.len()).unwrap_or(u32::MAX),
            cached: 0,
            completion: u32::try_from(request.emitted_ids.len()).unwrap_or(u32::MAX),
        };
        let chunk = Chunk {
            handle: request.handle,
            attempt: request.attempt,
            position: counts.completion,
            finish: Some(Finish {
                reason,
                stop_text: None,
                counts,
                fault,
            }),
            ..Chunk::default()
        };
        self.outbox.push_chunk(&request.frontend, chunk);
        self.bill(request, counts, reason, None, job);
    }

    fn bill(
        &mut self,
        request: &Request,
        counts: TokenCounts,
        finish: FinishReason,
        first_token_ms: Option<u64>,
        job: Option<Job>,
    ) {
        self.metrics.ended(finish);
        let usage = UsageEvent {
            request_id: request.request_id,
            attempt: request.attempt,
            tenant: request.tenant.clone(),
            key: request.key.clone(),
            model: request.model.clone(),
            writer: self.outbox.worker().clone(),
            class: request.class,
            counts: request.billed(counts),
            finish,
            stream: request.stream,
            created_ms: request.created_ms,
            first_token_ms,
            finished_ms: self.clock.now_ms(),
        };
        self.outbox.push(Note::Ended(usage, job.map(|job| job.id)));
    }

    /// Drops a sequence that a newer attempt of the same request replaces: that one will be answered and billed.
    pub(super) fn discard(&mut self, id: SequenceId) {
        let Some(mut sequence) = self.forget(id) else {
            return;
        };
        sequence.span.set("outcome", "superseded");
        self.withdraw(id, &mut sequence);
        if let Some(job) = sequence.job.take() {
            self.outbox.push(Note::Settle(job.id));
        }
    }

    /// Ends whatever is here of a cancelled request, and remembers it for what may still come.
    pub(super) fn cancel(&mut self, cancel: &Cancel) {
        self.tombstones.bury(cancel);
        let Some(id) = self.by_request.get(&cancel.request_id).copied() else {
            return;
        };
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        if sequence.request.attempt > cancel.attempt {
            return;
        }
        match &mut sequence.phase {
            // Prefill answers for it and was told as well; if it has just let go, the end is ours to make.
            Phase::AwaitingKv { cancelled } => *cancelled = true,
            Phase::Local | Phase::Prefilling(_) | Phase::HandingOver(..) => self.end_unwanted(id),
        }
    }

    /// Ends a sequence whose attempt is buried: with a word and a bill, unless a newer attempt brings both.
    pub(super) fn end_unwanted(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get(&id) else {
            return;
        };
        let (request, attempt) = (sequence.request.request_id, sequence.request.attempt);
        match self.tombstones.find(request, attempt) {
            Some(Burial::Superseded) => self.discard(id),
            Some(Burial::Cancelled) | None => self.end(id, FinishReason::Cancelled, None, None),
        }
    }

    /// Cancels everything that a lost frontend waited for.
    pub(super) fn frontend_gone(&mut self, frontend: &FrontendId) {
        let mut theirs: Vec<Cancel> = self
            .sequences
            .values()
            .filter(|sequence| sequence.request.frontend == *frontend)
            .map(|sequence| Cancel {
                request_id: sequence.request.request_id,
                attempt: sequence.request.attempt,
                superseded: false,
            })
            .collect();
        // In the same order in every run of a simulation.
        theirs.sort_unstable_by_key(|cancel| cancel.request_id);
        for cancel in &theirs {
            self.cancel(cancel);
        }
        self.outbox.forget(frontend);
    }

    /// A step that failed as a whole ends the sequences that were in it, and no others.
    pub(super) fn step_failed(&mut self, error: &EngineError) {
        tracing::error!(
            error = error as &dyn std::error::Error,
            rows = self.batch.rows.len(),
            "engine step failed"
        );
        for id in self.scheduler.step_failed() {
            self.fail_internally(id);
        }
    }

    pub(super) fn fail_internally(&mut self, id: SequenceId) {
        let fault = RequestFault {
            kind: FaultKind::Internal,
            message: texts::INTERNAL.to_owned(),
        };
        self.end(id, FinishReason::Error, None, Some(fault));
    }

    /// Takes a sequence out of the worker's books. The scheduler has its own.
    pub(super) fn forget(&mut self, id: SequenceId) -> Option<Sequence> {
        let sequence = self.sequences.remove(&id)?;
        if self.by_request.get(&sequence.request.request_id) == Some(&id) {
            self.by_request.remove(&sequence.request.request_id);
        }
        Some(sequence)
    }
}

/// Tokens that are delivered and not billed: none.
fn unbilled(request: &Request) -> u32 {
    if bites("earlier-attempts-not-billed") {
        return u32::try_from(request.emitted_ids.len()).unwrap_or(0);
    }
    0
}

/// Whether decode answers for the sequence from here on.
fn has_taken_over(phase: SourcePhase) -> bool {
    match phase {
        SourcePhase::Offered(_) | SourcePhase::Sending(_) => false,
        SourcePhase::Closing(end) | SourcePhase::Ended(end) => match end {
            SourceEnd::Released(ReleaseOutcome::Ok | ReleaseOutcome::BadChecksum) => true,
            SourceEnd::Released(ReleaseOutcome::Abort)
            | SourceEnd::Aborted
            | SourceEnd::Expired
            | SourceEnd::Lost => false,
        },
    }
}
