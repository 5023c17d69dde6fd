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
