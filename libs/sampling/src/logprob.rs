//! Log-probabilities of the unmodified distribution.

use vlinders_types::TokenId;

use crate::rank::{RankScratch, Ranked, best};
use crate::scan::Peak;
use crate::weight::{FULL, Weigher};

/// A row's distribution, read before anything was changed in it.
#[derive(Debug)]
pub(crate) struct Distribution {
    /// Logarithm of the sum of `exp(logit)`.
    log_total: f64,
    /// The most likely tokens, most likely first.
    pub(crate) top: Vec<(TokenId, f32)>,
}

impl Distribution {
    /// Reads the row's total and its `count` most likely tokens. Impossible tokens are not among them.
    pub(crate) fn read(
        logits: &[f32],
        maxima: &[f32],
        peak: Peak,
        count: usize,
        scratch: &mut RankScratch,
        found: &mut Vec<Ranked>,
    ) -> Self {
        let total = Weigher {
            max: peak.max,
            temperature: 1.0,
        }
        .sum(logits);
        #[expect(
            clippy::cast_precision_loss,
            reason = "53 bits of a sum are more than the result can show"
        )]
        let log_total = f64::from(peak.max) + (total as f64 / FULL as f64).ln();
        let mut distribution = Self {
            log_total,
            top: Vec::new(),
        };
        if count > 0 {
            best(logits, maxima, count, scratch, found);
            found.sort_unstable_by(Ranked::order);
            let entry = |ranked: &Ranked| (ranked.token, distribution.logprob(logits[ranked.token as usize]));
            distribution.top = found.iter().map(entry).collect();
        }
        distribution
    }

    /// The log-probability of a token with this unmodified logit, at most 0.
    #[expect(clippy::cast_possible_truncation, reason = "rounded to what is reported")]
    pub(crate) fn logprob(&self, logit: f32) -> f32 {
        ((f64::from(logit) - self.log_total) as f32).min(0.0)
    }
}
