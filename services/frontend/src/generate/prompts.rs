//! What an answer tells of its prompts: how likely their tokens were, and where in the echoed text each begins.

use std::sync::Arc;

use vlinders_openai_api::{CompletionLogprobs, PromptToken, TokenNames};
use vlinders_text::{ModelText, StreamDecoder};
use vlinders_types::{TokenId, TokenScore};

/// The prompts of a request, with their scores once they have come.
pub(crate) struct Prompts {
    text: Arc<ModelText>,
    prompts: Vec<Prompt>,
}

struct Prompt {
    ids: Vec<TokenId>,
    /// Empty until the scores come.
    tokens: Vec<PromptToken>,
}

impl Prompts {
    pub(crate) fn new(text: Arc<ModelText>, ids: Vec<Vec<TokenId>>) -> Self {
        let prompt = |ids| Prompt {
            ids,
            tokens: Vec::new(),
        };
        Self {
            text,
            prompts: ids.into_iter().map(prompt).collect(),
        }
    }

    /// The scores of the tokens after the first.
    pub(crate) fn scored(&mut self, index: usize, scores: Vec<TokenScore>) {
        let prompt = &mut self.prompts[index];
        let bytes = |id: TokenId| self.text.token_bytes(id);
        let mut scores = scores.into_iter();
        let token = |(place, id): (usize, &TokenId)| {
            let score = if place == 0 { None } else { scores.next() };
            let (score, top) = match score {
                None => (None, Vec::new()),
                Some(score) => (Some((score.logprob, score.rank)), score.top),
            };
            PromptToken {
                id: *id,
                bytes: bytes(*id),
                score,
                top: top
                    .into_iter()
                    .map(|(id, logprob)| (id, bytes(id), logprob))
                    .collect(),
            }
        };
        prompt.tokens = prompt.ids.iter().enumerate().map(token).collect();
    }

    /// A prompt of one token has no score to wait for.
    pub(crate) fn is_scored(&self, index: usize) -> bool {
        let prompt = &self.prompts[index];
        prompt.ids.len() == 1 || !prompt.tokens.is_empty()
    }

    /// The tokens of a prompt, once it is scored.
    pub(crate) fn tokens(&mut self, index: usize) -> &[PromptToken] {
        if self.prompts[index].tokens.is_empty() {
            self.scored(index, Vec::new());
        }
        &self.prompts[index].tokens
    }

    /// The ids of a prompt.
    pub(crate) fn ids(&self, index: usize) -> &[TokenId] {
        &self.prompts[index].ids
    }

    /// The log-probabilities of an echoed prompt.
    pub(crate) fn echoed(&mut self, index: usize, rivals: u8, names: TokenNames) -> CompletionLogprobs {
        let offsets = self.offsets(index);
        CompletionLogprobs::echoed(self.tokens(index).iter().zip(offsets), (rivals, names))
    }

    /// Where the text of each token begins, in characters.
    fn offsets(&self, index: usize) -> Vec<u32> {
        let mut decoder = StreamDecoder::new(&self.text, &[]);
        let mut chars = 0_usize;
        let begins_at = |id: &TokenId| {
            let before = chars;
            chars += decoder.push(*id).chars().count();
            u32::try_from(before).unwrap_or(u32::MAX)
        };
        self.prompts[index].ids.iter().map(begins_at).collect()
    }
}
