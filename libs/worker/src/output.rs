//! From drawn tokens to what the client gets: ids, text, log-probabilities, and the decision to end.

use std::sync::Arc;

use vlinders_text::{ModelText, TextStream};
use vlinders_types::{Chunk, FinishReason, Request, Sampled, TokenId, TokenLogprob};

/// Why a sequence ends by its own doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) reason: FinishReason,
    pub(crate) stop_text: Option<String>,
}

/// The generated side of one sequence.
pub(crate) struct Output {
    model: Arc<ModelText>,
    text: TextStream,
    /// Tokens generated so far, those of earlier attempts included.
    generated: u32,
    /// Tokens at which the context is full.
    limit: u32,
    pending: Chunk,
}

/// So many pending tokens are sent even when the client asked for one answer: with log-probabilities they are some
/// megabytes, and a message has a limit.
const MANY_TOKENS: usize = 1024;

impl Output {
    /// At the start of an attempt: what earlier attempts emitted is replayed in silence.
    pub(crate) fn new(model: &Arc<ModelText>, request: &Request, max_context_tokens: u32) -> Self {
        let mut text = TextStream::new(model, &request.prompt_ids, &request.stop, &request.text);
        if request.constraint.is_some() {
            text = text.apart_from_prompt();
        }
        let prompt = u32::try_from(request.prompt_ids.len()).unwrap_or(u32::MAX);
        let room = max_context_tokens.saturating_sub(prompt);
        let mut output = Self {
            model: Arc::clone(model),
            text,
            generated: 0,
            limit: request.stop.max_tokens.min(room),
            pending: Chunk {
                handle: request.handle,
                attempt: request.attempt,
                ..Chunk::default()
            },
        };
        output.replay(&request.emitted_ids);
        output
    }

    /// Takes tokens that somebody else has already delivered.
    pub(crate) fn replay(&mut self, ids: &[TokenId]) {
        for id in ids {
            let _already_delivered = self.text.push(*id);
            self.generated += 1;
        }
        self.pending.position = self.generated;
    }

    /// Takes a drawn token into the pending chunk and decides whether it was the last.
    pub(crate) fn accept(&mut self, request: &Request, sampled: Sampled) -> Option<Ending> {
        let token = sampled.token;
        self.pending.ids.push(token);
        self.generated += 1;
        if let Some((logprob, top)) = sampled.logprobs {
            let logprobs = self.describe(token, logprob, top);
            self.pending.logprobs.push(logprobs);
        }
        let stop = &request.stop;
        let ends_by_itself = !stop.ignore_eos && self.model.eos_ids().contains(&token);
        if ends_by_itself || stop.stop_token_ids.contains(&token) {
            if request.text.includes_stop {
                self.pending.text.push_str(&self.text.push(token).text);
            }
            return Some(self.end(FinishReason::Stop, None));
        }
        let step = self.text.push(token);
        self.pending.text.push_str(&step.text);
        if let Some(hit) = step.stop {
            // What was held back behind the match is part of the match or comes after it.
            return Some(Ending {
                reason: FinishReason::Stop,
                stop_text: Some(hit.stop_text),
            });
        }
        (self.generated >= self.limit).then(|| self.end(FinishReason::Length, None))
    }

    /// Adds the text that was held back and says why.
    fn end(&mut self, reason: FinishReason, stop_text: Option<String>) -> Ending {
        let rest = self.text.finish();
        self.pending.text.push_str(&rest);
        Ending { reason, stop_text }
    }

    fn describe(&self, id: TokenId, logprob: f32, top: Vec<(TokenId, f32)>) -> TokenLogprob {
        let top = top
            .into_iter()
            .map(|(id, logprob)| (id, self.model.token_bytes(id), logprob))
            .collect();
        TokenLogprob {
            id,
            bytes: self.model.token_bytes(id),
            logprob,
            top,
        }
    }

    /// Takes a vector along with the last chunk.
    pub(crate) fn carry(&mut self, embedding: Vec<f32>) {
        self.pending.embedding = embedding;
    }

    /// Tokens generated over all attempts.
    pub(crate) fn generated(&self) -> u32 {
        self.generated
    }

    /// Whether the news should go out although nobody waits for each piece.
    pub(crate) fn has_much_news(&self) -> bool {
        self.pending.ids.len() >= MANY_TOKENS
    }

    /// The news since the last call; none when there is nothing to tell.
    pub(crate) fn take_news(&mut self) -> Option<Chunk> {
        (!self.pending.ids.is_empty() || !self.pending.text.is_empty()).then(|| self.take_chunk())
    }

    /// The news since the last call, even when there is none.
    pub(crate) fn take_chunk(&mut self) -> Chunk {
        let next = Chunk {
            handle: self.pending.handle,
            attempt: self.pending.attempt,
            position: self.generated,
            ..Chunk::default()
        };
        std::mem::replace(&mut self.pending, next)
    }
}
