//! Sequences whose text must have a form, or whose tokens are chosen for them: what may be drawn next.

use std::sync::Arc;

use vlinders_types::{
    AwaitedMask, FaultKind, FinishReason, RequestFault, SamplingParams, SequenceId, TokenId, TokenMask,
};

use super::Core;
use crate::ending_texts as texts;
use crate::forms::Formed;

impl Core {
    /// The form of a sequence whose blocks are on their way is ready, or it can have none.
    pub(super) fn formed(&mut self, id: SequenceId, formed: Formed) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.form = Some(formed);
        }
    }

    /// Orders the masks that the planned step needs, to be computed beside it.
    pub(super) fn order_masks(&mut self) {
        for sample in &mut self.batch.samples {
            let Some(sequence) = self.sequences.get_mut(&sample.sequence) else {
                continue;
            };
            let sampling = &sequence.request.sampling;
            let is_free = sampling.allowed_token_ids.is_empty() && sampling.bad_words.is_empty();
            if sequence.request.constraint.is_none() && is_free {
                continue;
            }
            let prompt_tokens = sequence.request.prompt_ids.len();
            let tokens = self.scheduler.tokens(sample.sequence).unwrap_or(&[]);
            ban_words(sampling, &tokens[prompt_tokens..], &mut sample.banned);
            if sequence.request.constraint.is_none() {
                sample.allowed = allowed(sampling, &mut sequence.allowed);
                continue;
            }
            sample.allowed = Some(match &mut sequence.form {
                Some(Ok(form)) => self.masks.order(form, &tokens[prompt_tokens..]),
                // Never unconstrained by mistake.
                Some(Err(_)) | None => Arc::new(AwaitedMask::ready(TokenMask::none(0))),
            });
        }
    }

    /// A draw found no token.
    pub(super) fn draw_failed(&mut self, id: SequenceId) {
        let form = self
            .sequences
            .get(&id)
            .and_then(|sequence| sequence.form.as_ref());
        match form {
            // A model without an end of sequence: the form has ended the text.
            Some(Ok(form)) if form.is_complete() => self.end(id, FinishReason::Stop, None, None),
            Some(Ok(form)) if form.is_stuck() => self.end_misfit(id),
            Some(_) | None => self.fail_internally(id),
        }
    }

    /// Ends a sequence that this worker has taken over and cannot form. True when it did.
    pub(super) fn end_if_formless(&mut self, id: SequenceId) -> bool {
        let form = self
            .sequences
            .get(&id)
            .and_then(|sequence| sequence.form.as_ref());
        let Some(Err(fault)) = form else { return false };
        let fault = fault.clone();
        self.end(id, FinishReason::Error, None, Some(fault));
        true
    }

    fn end_misfit(&mut self, id: SequenceId) {
        let fault = RequestFault {
            kind: FaultKind::Invalid,
            message: texts::NOTHING_FITS.to_owned(),
        };
        self.end(id, FinishReason::Error, None, Some(fault));
    }
}

/// Adds the tokens that would complete a bad word to those that are banned anyway.
fn ban_words(sampling: &SamplingParams, generated: &[TokenId], banned: &mut Arc<[TokenId]>) {
    let mut more: Vec<TokenId> = sampling.banned_after(generated).collect();
    if more.is_empty() {
        return;
    }
    more.extend_from_slice(banned);
    more.sort_unstable();
    more.dedup();
    *banned = more.into();
}

/// The tokens that the client lets be drawn; none when it lets all. They are the same at every step.
fn allowed(sampling: &SamplingParams, made: &mut Option<Arc<AwaitedMask>>) -> Option<Arc<AwaitedMask>> {
    let last = *sampling.allowed_token_ids.last()?;
    let mask = made.get_or_insert_with(|| {
        let mut mask = TokenMask::none(last as usize + 1);
        sampling
            .allowed_token_ids
            .iter()
            .for_each(|token| mask.allow(*token));
        Arc::new(AwaitedMask::ready(mask))
    });
    Some(Arc::clone(mask))
}
