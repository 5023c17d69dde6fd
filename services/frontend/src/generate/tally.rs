//! What an answer used, all its choices together, and whether all have ended.

use vlinders_openai_api::{ApiError, FinishWord};
use vlinders_types::{FinishReason, TokenCounts};

use super::failure::outcome;
use crate::http::RequestRecord;
use crate::streams::{Claim, End};

/// Counts the ends of an answer's streams.
pub(crate) struct Tally {
    open: usize,
    counts: TokenCounts,
}

impl Tally {
    pub(crate) fn new(claim: &Claim) -> Self {
        Self {
            open: claim.count(),
            counts: TokenCounts::default(),
        }
    }

    /// The stream of this index has ended. An error ends the whole answer.
    pub(crate) fn end(
        &mut self,
        claim: &Claim,
        index: usize,
        end: End,
        record: &RequestRecord,
    ) -> Result<FinishWord, ApiError> {
        let (reason, counts) = match &end {
            End::Finished(finish) => {
                record.stopped_at(finish.stop_text.as_ref());
                (finish.reason, Some(finish.counts))
            }
            End::GivenUp(_) => (FinishReason::Error, None),
        };
        // Of several the others' tokens count too, as many as came.
        let counts = counts.filter(|_| claim.count() == 1);
        let (finish, used) = outcome(end).inspect_err(|_error| record.broke_off(reason, counts))?;
        let billed = claim.request(index).billed(used);
        self.counts = TokenCounts {
            prompt: self.counts.prompt.saturating_add(billed.prompt),
            cached: self.counts.cached.saturating_add(billed.cached),
            completion: self.counts.completion.saturating_add(billed.completion),
        };
        self.open -= 1;
        if self.open == 0 {
            record.ended(reason, self.counts);
            if claim.count() > 1 {
                let span = &claim.first().spec.span;
                span.set("gen_ai.usage.input_tokens", self.counts.prompt);
                span.set("gen_ai.usage.output_tokens", self.counts.completion);
                span.set("cached_tokens", self.counts.cached);
            }
        }
        Ok(finish)
    }

    /// Everything used, once all have ended.
    pub(crate) fn complete(&self) -> Option<TokenCounts> {
        (self.open == 0).then_some(self.counts)
    }
}
