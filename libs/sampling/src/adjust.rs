//! Bans, biases and penalties: they touch few logits, so they are made in place and undone afterwards.

use vlinders_types::TokenId;

use crate::sampler::SampleInput;
use crate::scan::is_usable;

/// A token was seen in prompt or output. The bits below count how often it was generated.
const SEEN: u32 = 1 << 31;

/// What was changed, so that it can be undone, and scratch for counting.
#[derive(Debug, Default)]
pub(crate) struct Adjustments {
    /// Token and its logit before the change, in order of change.
    undo: Vec<(TokenId, f32)>,
    /// Per token of the vocabulary; all zero between calls.
    counts: Vec<u32>,
}

impl Adjustments {
    /// Applies all of `input` in the documented order. False when a changed logit was NaN or +infinity before.
    pub(crate) fn apply(&mut self, logits: &mut [f32], input: &SampleInput<'_>) -> bool {
        self.undo.clear();
        for token in input.banned {
            self.change(logits, *token, |_| f32::NEG_INFINITY);
        }
        for (token, bias) in &input.params.logit_bias {
            self.change(logits, *token, |logit| logit + bias);
        }
        if input.params.needs_history() {
            self.penalise(logits, input);
        }
        self.undo.iter().all(|(_, logit)| is_usable(*logit))
    }

    /// Whether anything was changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.undo.is_empty()
    }

    /// Restores the logits.
    pub(crate) fn undo(&mut self, logits: &mut [f32]) {
        // Backwards: a token changed twice gets its oldest value last.
        for (token, logit) in self.undo.drain(..).rev() {
            logits[token as usize] = logit;
        }
    }

    fn change(&mut self, logits: &mut [f32], token: TokenId, new: impl Fn(f32) -> f32) {
        if let Some(logit) = logits.get_mut(token as usize) {
            self.undo.push((token, *logit));
            *logit = new(*logit);
        }
    }

    fn penalise(&mut self, logits: &mut [f32], input: &SampleInput<'_>) {
        let params = input.params;
        let prompt = input.history.len().min(input.prompt_tokens as usize);
        // Only the repetition penalty looks at the prompt.
        let start = if params.repetition_penalty == 1.0 {
            prompt
        } else {
            0
        };
        if self.counts.len() < logits.len() {
            self.counts.resize(logits.len(), 0);
        }
        for (index, token) in input.history.iter().enumerate().skip(start) {
            if let Some(count) = self.counts.get_mut(*token as usize) {
                *count = (*count | SEEN) + u32::from(index >= prompt);
            }
        }
        for token in &input.history[start..] {
            let Some(count) = self.counts.get_mut(*token as usize).map(std::mem::take) else {
                continue;
            };
            if count == 0 {
                continue;
            }
            let generated = count & !SEEN;
            self.change(logits, *token, |logit| {
                let repetition = params.repetition_penalty;
                let logit = if logit > 0.0 {
                    logit / repetition
                } else {
                    logit * repetition
                };
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a sequence has far fewer than 2^24 tokens"
                )]
                let frequency = params.frequency_penalty * generated as f32;
                let presence = if generated > 0 {
                    params.presence_penalty
                } else {
                    0.0
                };
                logit - frequency - presence
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vlinders_types::SamplingParams;

    fn adjusted(
        logits: &[f32],
        params: &SamplingParams,
        history: &[TokenId],
        prompt_tokens: u32,
    ) -> Vec<f32> {
        let input = SampleInput {
            params,
            history,
            prompt_tokens,
            banned: &[],
            allowed: None,
            position: 0,
        };
        let mut changed = logits.to_vec();
        let mut adjustments = Adjustments::default();
        assert!(adjustments.apply(&mut changed, &input));
        let result = changed.clone();
        adjustments.undo(&mut changed);
        assert_eq!(changed, logits, "undone completely");
        assert!(
            adjustments.counts.iter().all(|count| *count == 0),
            "counts are clean again"
        );
        result
    }

    proptest! {
        #[test]
        fn penalties_follow_their_formulas(
            logits in prop::collection::vec(-5.0_f32..5.0, 12),
            history in prop::collection::vec(0_u32..16, 0..40),
            prompt_tokens in 0_u32..45,
            repetition_penalty in prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
            presence_penalty in prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
            frequency_penalty in prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
            bias in prop::collection::btree_map(0_u32..16, -3.0_f32..3.0, 0..4),
        ) {
            let params = SamplingParams {
                repetition_penalty, presence_penalty, frequency_penalty,
                logit_bias: bias.clone().into_iter().collect(),
                ..SamplingParams::default()
            };
            let output = history.get(prompt_tokens as usize..).unwrap_or(&[]);
            let result = adjusted(&logits, &params, &history, prompt_tokens);
            for token in 0..12_u32 {
                let mut expected = logits[token as usize] + bias.get(&token).unwrap_or(&0.0);
                if history.contains(&token) {
                    expected = if expected > 0.0 { expected / repetition_penalty } else { expected * repetition_penalty };
                }
                let count = output.iter().filter(|one| **one == token).count();
                expected -= frequency_penalty * f32::from(u8::try_from(count).unwrap());
                expected -= if count > 0 { presence_penalty } else { 0.0 };
                prop_assert!((result[token as usize] - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_bias_cannot_bring_back_a_banned_token() {
        let params = SamplingParams {
            logit_bias: vec![(1, 100.0)],
            ..SamplingParams::default()
        };
        let input = SampleInput {
            params: &params,
            history: &[],
            prompt_tokens: 0,
            banned: &[1, 99],
            allowed: None,
            position: 0,
        };
        let mut logits = [0.0, 0.0];
        assert!(Adjustments::default().apply(&mut logits, &input));
        assert_eq!(logits, [0.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn a_bad_number_under_a_ban_is_still_noticed() {
        let params = SamplingParams::default();
        let input = SampleInput {
            params: &params,
            history: &[],
            prompt_tokens: 0,
            banned: &[0],
            allowed: None,
            position: 0,
        };
        assert!(!Adjustments::default().apply(&mut [f32::NAN, 0.0], &input));
    }
}
