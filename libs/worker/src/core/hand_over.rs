//! How a sequence leaves prefill and arrives in decode.
//!
//! At any time exactly one worker answers for it. Prefill does until its source says the blocks were released;
//! from then on decode does, whether the blocks arrived whole (`Ok`) or must be computed again (`BadChecksum`).

use std::sync::Arc;

use vlinders_kv_transfer::Outcome;
use vlinders_scheduler::FailedDestination;
use vlinders_types::{
    BlockId, FaultKind, FinishReason, RequestFault, ResumeState, SequenceId, TokenId, blocks_for_tokens,
};

use super::leaving::Departure;
use super::{Core, NotTaken};
use crate::ending_texts as texts;
use crate::outbox::{Note, OfferOrder};
use crate::sequence::Phase;

impl Core {
    /// Prefill: blocks got their final contents. The first ones open the transfer, so that it overlaps the rest.
    pub(super) fn blocks_filled(&mut self, id: SequenceId, blocks: &[BlockId], last: bool) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        // The last blocks come right after the token that was drawn from them.
        debug_assert_eq!(last, matches!(sequence.phase, Phase::HandingOver(..)));
        let Some(hand_off) = sequence.hand_off() else {
            return;
        };
        hand_off.filled.extend_from_slice(blocks);
        self.announce(id);
    }

    /// Prefill: the first token goes out from here, before anybody else has the sequence.
    pub(super) fn first_token_before_hand_over(&mut self, id: SequenceId, token: TokenId) {
        let sequence = self.sequences.get_mut(&id).expect("the caller just had it");
        sequence.end_prefill();
        let state = ResumeState {
            generated: vec![token],
            cached_tokens: sequence.cached_tokens,
            first_token_ms: sequence.first_token_ms.unwrap_or_default(),
        };
        let before = std::mem::replace(&mut sequence.phase, Phase::Local);
        sequence.phase = match before {
            Phase::Prefilling(hand_off) => Phase::HandingOver(hand_off, state),
            Phase::Local | Phase::HandingOver(..) | Phase::AwaitingKv { .. } => {
                unreachable!("only a prefilling sequence draws its first token here")
            }
        };
        self.send_news(id);
    }

    /// Prefill: tells the transfer what is final now, opening it when there is none.
    fn announce(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        let last = match &sequence.phase {
            Phase::HandingOver(_, state) => Some(vlinders_wire::encode_resume_state(state)),
            Phase::Prefilling(_) => None,
            Phase::Local | Phase::AwaitingKv { .. } => return,
        };
        let request = Arc::clone(&sequence.request);
        let hand_off = sequence.hand_off().expect("both phases above have one");
        let source = match &hand_off.source {
            Some(source) => Arc::clone(source),
            None => {
                let tokens = request.prompt_ids.len() + request.emitted_ids.len();
                let block_count = blocks_for_tokens(u32::try_from(tokens).unwrap_or(u32::MAX));
                let source = match self
                    .endpoint
                    .open(request.request_id, request.attempt, block_count)
                {
                    Ok(source) => Arc::new(source),
                    Err(error) => {
                        tracing::error!(%error, request = %request.request_id, "hand-off cannot be opened");
                        return self.fail_internally(id);
                    }
                };
                hand_off.source = Some(Arc::clone(&source));
                hand_off.announced = 0;
                let order = OfferOrder {
                    sequence: id,
                    request,
                    source: Arc::clone(&source),
                    block_count,
                    prefixes: self.scheduler.prefix_marks(id),
                };
                self.outbox.push(Note::Offer(order));
                source
            }
        };
        let first_index = u32::try_from(hand_off.announced).unwrap_or(u32::MAX);
        let announced = source.ready(first_index, &hand_off.filled[hand_off.announced..], last);
        hand_off.announced = hand_off.filled.len();
        if let Err(error) = announced {
            tracing::error!(%error, sequence = id.0, "blocks cannot be announced");
            self.fail_internally(id);
        }
    }

    /// Prefill: the transfer ended.
    pub(super) fn hand_off_ended(&mut self, id: SequenceId, ticket: u64, outcome: Outcome) {
        self.metrics.hand_off_ended(outcome);
        let Some(sequence) = self.sequences.get_mut(&id) else {
            // Ended meanwhile; now nobody reads its blocks any more.
            self.scheduler.end_quarantine(id);
            return;
        };
        let Some(hand_off) = sequence.hand_off() else {
            return;
        };
        if hand_off
            .source
            .as_ref()
            .is_none_or(|source| source.ticket().number != ticket)
        {
            // A transfer given up earlier reports its end; a newer one is under way.
            return;
        }
        match outcome {
            Outcome::Ok | Outcome::BadChecksum => {
                hand_off.source = None;
                if let Some(job) = sequence.job.take() {
                    self.outbox.push(Note::Settle(job.id));
                }
                self.scheduler.finish(id);
                self.forget(id);
            }
            Outcome::Aborted | Outcome::Expired | Outcome::Lost => {
                // The sequence is still ours: lay it open again.
                hand_off.source = None;
                hand_off.announced = 0;
                self.announce(id);
            }
        }
    }

    /// Prefill: nobody will go on with it.
    pub(super) fn not_taken(&mut self, id: SequenceId, why: NotTaken) {
        match why {
            NotTaken::TooLate => {
                let fault = RequestFault {
                    kind: FaultKind::Overloaded,
                    message: texts::NOBODY_TOOK.to_owned(),
                };
                self.end(id, FinishReason::Error, None, Some(fault));
            }
            NotTaken::Cancelled => self.end(id, FinishReason::Cancelled, None, None),
            NotTaken::Answered => self.discard(id),
        }
    }

    /// Decode: the blocks are here and prefill has let go.
    pub(super) fn kv_arrived(&mut self, id: SequenceId, resume: &ResumeState) {
        if self.take_over(id, Some(resume)) {
            let known = self.scheduler.kv_arrived(id, &resume.generated);
            known
                .expect("a sequence in the worker's books that awaits its blocks does so in the scheduler's");
            self.end_if_unwanted(id);
        }
    }

    /// Decode: the blocks did not come.
    pub(super) fn kv_lost(
        &mut self,
        id: SequenceId,
        resume: Option<ResumeState>,
        ours: bool,
        quiesced: bool,
    ) {
        if !ours {
            self.drop_unowned(id, quiesced);
            return;
        }
        if self.take_over(id, resume.as_ref()) {
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.span.event("blocks lost", []);
            }
            // Without a resume state token 0 is drawn again: the same one, and the frontend drops the second copy.
            let generated = resume.as_ref().map(|resume| resume.generated.as_slice());
            let destination = if quiesced {
                FailedDestination::Quiet
            } else {
                FailedDestination::MayBeWritten
            };
            let known = self.scheduler.kv_failed(id, generated, destination);
            known
                .expect("a sequence in the worker's books that awaits its blocks does so in the scheduler's");
            self.end_if_unwanted(id);
        }
    }

    /// Decode: from here on this worker answers for the sequence.
    fn take_over(&mut self, id: SequenceId, resume: Option<&ResumeState>) -> bool {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            // Ended meanwhile; the transfer is over too.
            self.scheduler.end_quarantine(id);
            return false;
        };
        // Tells the frontend who answers now, also when the client waits for the whole.
        sequence.next_token_alone = true;
        if let Some(resume) = resume {
            sequence.cached_tokens = resume.cached_tokens;
            sequence.first_token_ms = Some(resume.first_token_ms);
            sequence.output.replay(&resume.generated);
        }
        sequence.span = self.spans.decode(&sequence.request);
        true
    }

    /// It is ours now: to end if it was cancelled on its way, and not to keep if there is no time left.
    fn end_if_unwanted(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut sequence.phase, Phase::Local);
        if matches!(before, Phase::AwaitingKv { cancelled: true }) {
            self.end_unwanted(id);
        } else if self.end_if_formless(id) {
            // The frontend compiled it, this worker could not.
        } else if self.departure == Departure::Over {
            self.let_go(id);
        }
    }

    /// Decode: lets go of a sequence it never answered for, in silence: prefill still does.
    pub(super) fn drop_unowned(&mut self, id: SequenceId, quiesced: bool) {
        if quiesced {
            self.scheduler.finish(id);
        } else {
            self.scheduler.finish_quarantined(id);
        }
        self.forget(id);
    }
}
