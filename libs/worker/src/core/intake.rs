//! How sequences come in: from the queue, or by an offer from prefill.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use vlinders_scheduler::{AdoptError, NewSequence, SubmitError};
use vlinders_service_kit::Span;
use vlinders_types::{
    Chunk, FaultKind, FinishReason, RefuseReason, Request, RequestFault, SequenceId, TokenId,
};

use super::leaving::Departure;
use super::prompts::prompt_wish;
use super::{Core, Reserved, Taken};
use crate::config::Role;
use crate::ending_texts as texts;
use crate::forms::Formed;
use crate::outbox::Note;
use crate::output::Output;
use crate::sequence::{HandOff, Job, Phase, Sequence};
use crate::teeth::bites;
use crate::tombstones::Burial;

/// A message costs nothing beside a step of this length.
const LONG_STEP: Duration = Duration::from_millis(5);

impl Core {
    /// Takes a request from the queue.
    pub(super) fn admit(&mut self, request: Request, taken: Taken, form: Option<Formed>) {
        let Taken { job, slot, at } = taken;
        if self.departure != Departure::Staying {
            return self.send_away(&request, job);
        }
        match self.tombstones.find(request.request_id, request.attempt) {
            Some(Burial::Superseded) => return self.outbox.push(Note::Settle(job.id)),
            Some(Burial::Cancelled) => {
                return self.refuse_unstarted(&request, Some(job), FinishReason::Cancelled, None);
            }
            None => {}
        }
        if request.deadline_ms <= self.clock.now_ms() {
            let fault = RequestFault {
                kind: FaultKind::Deadline,
                message: texts::DEADLINE.to_owned(),
            };
            self.refuse_unstarted(&request, Some(job), FinishReason::Error, Some(fault));
            return;
        }
        if let Some(running) = self.by_request.get(&request.request_id).copied() {
            // The queue lost patience with a delivery we are still at, or the frontend with an attempt.
            if !self.supersede(running, &request, job) {
                return;
            }
        }
        if request.task.draws() && request.emitted_ids.len() >= request.stop.max_tokens as usize {
            // The client has every token; only the last word was lost.
            self.refuse_unstarted(&request, Some(job), FinishReason::Length, None);
            return;
        }
        if let Some(Err(fault)) = form {
            self.refuse_unstarted(&request, Some(job), FinishReason::Error, Some(fault));
            return;
        }
        let id = self.new_id();
        match self.scheduler.submit(self.new_sequence(id, &request)) {
            Ok(()) => {
                let phase = match self.role {
                    Role::Prefill if request.task.draws() => Phase::Prefilling(HandOff::default()),
                    // What ends with its prompt is handed to nobody.
                    Role::Prefill | Role::Decode | Role::Both => Phase::Local,
                };
                if bites("acknowledged-before-answered") {
                    self.outbox.push(Note::Settle(job.id));
                }
                let span = self.spans.prefill(&request, at);
                let sequence = self.insert(id, request, phase);
                (sequence.job, sequence.slot, sequence.span) = (Some(job), Some(slot), span);
                sequence.form = form;
                self.unannounced.push(id);
            }
            Err(error) => self.refuse_unstarted(
                &request,
                Some(job),
                FinishReason::Error,
                Some(submit_fault(&error)),
            ),
        }
    }

    /// Tells frontends which requests are taken, unless the first token says it: should this worker be lost, they need not
    /// wait until the queue loses patience.
    pub(super) fn announce_taken(&mut self) {
        for id in std::mem::take(&mut self.unannounced) {
            let Some(sequence) = self.sequences.get(&id) else {
                continue;
            };
            let request = &sequence.request;
            if sequence.first_token_ms.is_none() {
                let word = Chunk {
                    handle: request.handle,
                    attempt: request.attempt,
                    position: u32::try_from(request.emitted_ids.len()).unwrap_or(u32::MAX),
                    ..Chunk::default()
                };
                self.outbox.push_chunk(&request.frontend, word);
            }
        }
    }

    /// Whether taken requests are told before the next step: it may be long enough to be lost in.
    pub(crate) fn must_announce(&self) -> bool {
        !self.unannounced.is_empty() && self.last_step >= LONG_STEP
    }

    /// Answers a request from the queue with an error.
    pub(super) fn reject(&mut self, request: &Request, job: Job, fault: RequestFault) {
        if let Some(running) = self.by_request.get(&request.request_id).copied()
            && !self.supersede(running, request, job)
        {
            return;
        }
        self.refuse_unstarted(request, Some(job), FinishReason::Error, Some(fault));
    }

    /// Keeps room for a sequence that prefill offers, or says why not.
    pub(super) fn reserve(
        &mut self,
        request: Request,
        reply: oneshot::Sender<Result<Reserved, RefuseReason>>,
    ) {
        let reserved = self.try_reserve(request);
        let id = reserved.as_ref().ok().map(|reserved| reserved.sequence);
        if reply.send(reserved).is_err()
            && let Some(id) = id
        {
            // Whoever asked is gone; nothing was written into the blocks yet.
            self.drop_unowned(id, true);
        }
    }

    fn try_reserve(&mut self, request: Request) -> Result<Reserved, RefuseReason> {
        if self.departure != Departure::Staying {
            return Err(RefuseReason::Draining);
        }
        match self.tombstones.find(request.request_id, request.attempt) {
            Some(Burial::Superseded) => return Err(RefuseReason::Answered),
            Some(Burial::Cancelled) => return Err(RefuseReason::Cancelled),
            None => {}
        }
        if request.prompt_ids.is_empty() || !request.task.draws() {
            return Err(RefuseReason::Invalid);
        }
        if let Some(running) = self.by_request.get(&request.request_id).copied() {
            self.make_way_for_offer(running, request.attempt)?;
        }
        let id = self.new_id();
        let adoption =
            self.scheduler
                .adopt(self.new_sequence(id, &request))
                .map_err(|error| match error {
                    AdoptError::NoBlocks { .. } => RefuseReason::NoBlocks,
                    AdoptError::Full { .. } => RefuseReason::Full,
                    AdoptError::Unfit(_) => RefuseReason::Invalid,
                })?;
        self.insert(id, request, Phase::AwaitingKv { cancelled: false });
        Ok(Reserved {
            sequence: id,
            blocks: adoption.blocks,
            first_needed_block: adoption.first_needed_block,
        })
    }

    /// A second delivery of a request that is here already. True when the old one was ended to make way.
    fn supersede(&mut self, running: SequenceId, request: &Request, job: Job) -> bool {
        let Some(sequence) = self.sequences.get_mut(&running) else {
            return true;
        };
        match (request.attempt.cmp(&sequence.request.attempt), sequence.job) {
            (Ordering::Greater, _) => {
                self.discard(running);
                return true;
            }
            (Ordering::Equal, Some(older)) => {
                // The newest delivery is the one the queue listens to.
                sequence.job = Some(job);
                self.outbox.push(Note::Forget(older.id));
            }
            // Already answered for, or an attempt that nobody reads any more: this delivery is a late copy.
            (Ordering::Equal, None) | (Ordering::Less, _) => self.outbox.push(Note::Settle(job.id)),
        }
        false
    }

    /// A second offer of a request that is here already. Ok when the older one was dropped to make way.
    fn make_way_for_offer(&mut self, running: SequenceId, attempt: u32) -> Result<(), RefuseReason> {
        let Some(sequence) = self.sequences.get(&running) else {
            return Ok(());
        };
        match (attempt.cmp(&sequence.request.attempt), &sequence.phase) {
            (Ordering::Less, _) => Err(RefuseReason::Answered),
            // Its transfer is still under way and ends by itself: try another worker or come again.
            (Ordering::Equal | Ordering::Greater, Phase::AwaitingKv { .. }) => Err(RefuseReason::Invalid),
            (Ordering::Equal, Phase::Local | Phase::Prefilling(_) | Phase::HandingOver(..)) => {
                Err(RefuseReason::Answered)
            }
            (Ordering::Greater, Phase::Local | Phase::Prefilling(_) | Phase::HandingOver(..)) => {
                self.discard(running);
                Ok(())
            }
        }
    }

    fn insert(&mut self, id: SequenceId, request: Request, phase: Phase) -> &mut Sequence {
        let output = Output::new(&self.text, &request, self.max_context_tokens);
        self.by_request.insert(request.request_id, id);
        let sequence = Sequence {
            request: Arc::new(request),
            phase,
            output,
            cached_tokens: 0,
            next_token_alone: false,
            first_token_ms: None,
            job: None,
            span: Span::none(),
            form: None,
            allowed: None,
            slot: None,
        };
        self.sequences.entry(id).insert_entry(sequence).into_mut()
    }

    fn new_id(&mut self) -> SequenceId {
        self.next_sequence += 1;
        SequenceId(self.next_sequence)
    }

    fn new_sequence(&self, id: SequenceId, request: &Request) -> NewSequence {
        let tokens: Vec<TokenId> = request
            .prompt_ids
            .iter()
            .chain(&request.emitted_ids)
            .copied()
            .collect();
        let prompt_tokens = u32::try_from(request.prompt_ids.len()).unwrap_or(u32::MAX);
        let mut sampling = request.sampling.clone();
        if bites("generator-keyed-by-attempt") {
            sampling.seed ^= u64::from(request.attempt);
        }
        let total = prompt_tokens.saturating_add(request.stop.max_tokens);
        let total = match request.task.draws() {
            true => total.min(self.max_context_tokens),
            // Not cut to the context: what does not fit is refused.
            false => prompt_tokens,
        };
        NewSequence {
            id,
            tokens,
            prompt_tokens,
            wish: prompt_wish(request),
            max_total_tokens: total,
            sampling: Arc::new(sampling),
            min_total_tokens: prompt_tokens.saturating_add(request.stop.min_tokens),
            banned: self.banned(request),
            prefix_salt: prefix_salt(request),
            priority: request.priority,
        }
    }

    /// Tokens that would end the sequence, for as long as it is too short to end. Sorted.
    fn banned(&self, request: &Request) -> Arc<[TokenId]> {
        if request.stop.min_tokens == 0 {
            return Arc::from([]);
        }
        let mut banned = request.stop.stop_token_ids.clone();
        if !request.stop.ignore_eos {
            banned.extend_from_slice(self.text.eos_ids());
        }
        banned.sort_unstable();
        banned.dedup();
        banned.into()
    }
}

/// Who may share cached prefixes: the same tenant with the same salt. Lengths keep `a` + `bc` apart from `ab` + `c`.
fn prefix_salt(request: &Request) -> Vec<u8> {
    let tenant = request.tenant.as_str().as_bytes();
    let mut salt = (tenant.len() as u64).to_le_bytes().to_vec();
    salt.extend_from_slice(tenant);
    if let Some(own) = &request.cache_salt {
        salt.extend_from_slice(own.as_bytes());
    }
    salt
}

fn submit_fault(error: &SubmitError) -> RequestFault {
    let (kind, message) = match error {
        SubmitError::PromptMissing { .. } | SubmitError::NothingToDraw { .. } => {
            (FaultKind::Invalid, texts::NOTHING_TO_DO)
        }
        SubmitError::TooLong { .. } | SubmitError::TooManyBlocks { .. } => {
            (FaultKind::Invalid, texts::TOO_LONG)
        }
        SubmitError::QueueFull { .. } => (FaultKind::Overloaded, texts::NO_ROOM),
    };
    RequestFault {
        kind,
        message: message.to_owned(),
    }
}
