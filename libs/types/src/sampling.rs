//! How a request wants its tokens chosen, and when it wants them to end.

use crate::TokenId;

/// How the next token is drawn from the logits. Values were checked when the request was parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the most likely token; above, logits are divided by it.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this share of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Subtracted from the logit of every token generated before.
    pub presence_penalty: f32,
    /// Subtracted once for each time a token was generated before.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens. Sorted by token, no token twice.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Only these tokens may be drawn; empty allows all. Sorted, no token twice.
    pub allowed_token_ids: Vec<TokenId>,
    /// Runs of tokens that may not come up among the generated ones. None of them is empty.
    pub bad_words: Vec<Vec<TokenId>>,
    /// Keys the generator together with the position of the token.
    pub seed: u64,
    /// Report the chosen token's log-probability and this many of the most likely tokens.
    pub logprobs: Option<u8>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            allowed_token_ids: Vec::new(),
            bad_words: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Whether the sampler must see the tokens so far.
    #[must_use]
    pub fn needs_history(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }
}

impl SamplingParams {
    /// The tokens that would complete a bad word after these generated ones. A function of the ids alone, so that whoever goes
    /// on with a sequence bans the same.
    pub fn banned_after(&self, generated: &[TokenId]) -> impl Iterator<Item = TokenId> {
        self.bad_words.iter().filter_map(|word| {
            let (last, before) = word.split_last()?;
            generated.ends_with(before).then_some(*last)
        })
    }
}

/// When a sequence ends.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StopRules {
    /// Tokens to generate at most; at least 1, or 0 when the task draws none.
    pub max_tokens: u32,
    /// End-of-sequence and stop tokens may not be drawn before this many tokens are generated.
    pub min_tokens: u32,
    /// Tokens that end the sequence, beside the model's own.
    pub stop_token_ids: Vec<TokenId>,
    /// Texts that end the sequence. The match itself is not delivered.
    pub stop: Vec<String>,
    /// The model's own end-of-sequence tokens do not end the sequence.
    pub ignore_eos: bool,
}

/// Which of the generated tokens show in the text.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TextRules {
    /// The stop text that ended the sequence is delivered too.
    pub includes_stop: bool,
    /// Whether special tokens are written out.
    pub special: SpecialTokens,
}

/// Special tokens in the text of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// They have no text.
    #[default]
    Hidden,
    /// Only these have: whoever reads the text looks for them.
    Shown(Vec<TokenId>),
    /// All of them have.
    AllShown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_token_of_a_bad_word_is_banned_and_only_behind_the_others() {
        let params = SamplingParams {
            bad_words: vec![vec![7], vec![1, 2, 3], vec![2, 4], vec![2, 2]],
            ..SamplingParams::default()
        };
        let banned = |generated: &[TokenId]| params.banned_after(generated).collect::<Vec<_>>();
        assert_eq!(banned(&[]), [7]);
        assert_eq!(banned(&[1]), [7]);
        assert_eq!(banned(&[1, 2]), [7, 3, 4, 2]);
        assert_eq!(banned(&[2, 1]), [7]);
        assert_eq!(banned(&[1, 1, 2]), [7, 3, 4, 2]);
    }
}
