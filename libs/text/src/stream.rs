//! What a worker does with each token: text out, stop texts found.

use std::sync::Arc;

use vlinders_types::{StopRules, TextRules, TokenId};

use crate::{ModelText, StopMatcher, StreamDecoder};

/// A completed stop text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopHit {
    /// Which one.
    pub stop_text: String,
}

/// What one token brought.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TextStep {
    /// Text to deliver now; often empty.
    pub text: String,
    /// Set when a stop text was completed. `text` ends before it, or with it when it shall be delivered, and nothing
    /// follows.
    pub stop: Option<StopHit>,
}

/// One sequence's text. Depends on nothing but the tokens: replaying them gives the same steps, so a worker that takes
/// over a sequence pushes the tokens already sent, ignores the steps, and goes on.
#[derive(Clone)]
pub struct TextStream {
    decoder: StreamDecoder,
    matcher: StopMatcher,
    /// Tokens whose text is delivered without looking for stop texts in it.
    unwatched_tokens: u32,
    includes_stop: bool,
}

impl TextStream {
    /// Begins after the prompt. Stop texts are looked for in the text of tokens after the first `min_tokens`.
    #[must_use]
    pub fn new(model: &Arc<ModelText>, prompt_ids: &[TokenId], stop: &StopRules, text: &TextRules) -> Self {
        Self {
            decoder: StreamDecoder::new(model, prompt_ids).with_special(text.special.clone()),
            matcher: StopMatcher::new(&stop.stop),
            unwatched_tokens: stop.min_tokens,
            includes_stop: text.includes_stop,
        }
    }

    /// The same for a text of its own: see [`StreamDecoder::apart_from_prompt`].
    #[must_use]
    pub fn apart_from_prompt(self) -> Self {
        Self {
            decoder: self.decoder.apart_from_prompt(),
            ..self
        }
    }

    /// Takes a generated token. Tokens that end the sequence by their id are not to be pushed unless their text is
    /// wanted.
    pub fn push(&mut self, token: TokenId) -> TextStep {
        let text = self.decoder.push(token);
        if self.unwatched_tokens > 0 {
            self.unwatched_tokens -= 1;
            return TextStep { text, stop: None };
        }
        let (mut text, stop) = self.matcher.push(&text);
        if let Some(stop) = stop.as_ref().filter(|_| self.includes_stop) {
            text.push_str(stop);
        }
        TextStep {
            text,
            stop: stop.map(|stop_text| StopHit { stop_text }),
        }
    }

    /// The sequence ended without a stop text: what was held back, an incomplete character as U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = self.matcher.finish();
        text.push_str(&self.decoder.finish());
        text
    }
}
