//! Stand-in for the sampling crate while it is being written: the most likely token, lower id first.

use vlinders_types::{Sampled, SamplingParams, TokenId};

pub(crate) struct SampleInput<'a> {
    pub(crate) params: &'a SamplingParams,
    pub(crate) history: &'a [TokenId],
    pub(crate) prompt_tokens: u32,
    pub(crate) banned: &'a [TokenId],
    pub(crate) position: u32,
}

#[derive(Default)]
pub(crate) struct Sampler {}

impl Sampler {
    pub(crate) fn sample(&mut self, logits: &mut [f32], row: SampleInput<'_>) -> Option<Sampled> {
        let _ = (
            row.params,
            row.history,
            row.prompt_tokens,
            row.banned,
            row.position,
        );
        let mut best = 0;
        for index in 0..logits.len() {
            if logits[index] > logits[best] {
                best = index;
            }
        }
        Some(Sampled {
            token: u32::try_from(best).ok()?,
            logprobs: None,
        })
    }
}
