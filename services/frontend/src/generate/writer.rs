//! The words of an answer, whole or as events, in the shape of its endpoint.

use serde::Serialize;
use vlinders_openai_api::{
    ApiError, ChatAnswer, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, CompletionAnswer,
    CompletionChoice, CompletionLogprobs, Delta, Envelope, FinishWord, TextOffsets, Usage,
};
use vlinders_types::{TokenCounts, TokenLogprob};

/// What the endpoints' answers differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AnswerShape {
    /// A message.
    Chat {
        /// Whether log-probabilities were asked for.
        logprobs: bool,
    },
    /// A text.
    Completion {
        /// Whether log-probabilities were asked for, and how many rivals of each token.
        rivals: Option<u8>,
        /// The prompt, when the answer begins with it.
        echo: Option<String>,
    },
}

/// Writes one answer.
pub(crate) struct Writer {
    envelope: Envelope,
    shape: AnswerShape,
    includes_usage: bool,
    offsets: TextOffsets,
}

impl Writer {
    pub(crate) fn new(envelope: Envelope, shape: AnswerShape, includes_usage: bool) -> Self {
        Self {
            envelope,
            shape,
            includes_usage,
            offsets: TextOffsets::default(),
        }
    }

    /// The whole answer as JSON.
    pub(crate) fn whole(
        mut self,
        text: &str,
        logprobs: &[TokenLogprob],
        finish: FinishWord,
        counts: TokenCounts,
    ) -> Vec<u8> {
        let usage = Usage::from(counts);
        match &mut self.shape {
            AnswerShape::Chat { logprobs: asked } => {
                let logprobs = asked.then(|| ChatLogprobs::new(logprobs));
                let choice = ChatChoice {
                    content: text,
                    logprobs,
                    finish_reason: finish,
                };
                json(&ChatAnswer {
                    envelope: &self.envelope,
                    choice,
                    usage,
                })
            }
            AnswerShape::Completion { rivals, echo } => {
                let logprobs =
                    rivals.map(|rivals| CompletionLogprobs::new(logprobs, rivals, &mut self.offsets));
                let text = echo.take().unwrap_or_default() + text;
                let choice = CompletionChoice::new(&text, logprobs, Some(finish));
                json(&CompletionAnswer {
                    envelope: &self.envelope,
                    choice: Some(choice),
                    usage: Some(Some(usage)),
                })
            }
        }
    }

    /// What opens a stream: the role, or the echoed prompt.
    pub(crate) fn opening(&mut self, events: &mut Vec<u8>) {
        match &mut self.shape {
            AnswerShape::Chat { .. } => {
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(""),
                };
                self.chat_event(events, ChatChunkChoice::new(delta, None, None));
            }
            AnswerShape::Completion { echo, .. } => {
                if let Some(prompt) = echo.take() {
                    self.completion_event(events, CompletionChoice::new(&prompt, None, None));
                }
            }
        }
    }

    /// More text. Nothing is written when there is nothing to tell.
    pub(crate) fn news(&mut self, events: &mut Vec<u8>, text: &str, logprobs: &[TokenLogprob]) {
        if text.is_empty() && logprobs.is_empty() {
            return;
        }
        match self.shape {
            AnswerShape::Chat { logprobs: asked } => {
                let delta = Delta {
                    role: None,
                    content: Some(text),
                };
                let logprobs = asked.then(|| ChatLogprobs::new(logprobs));
                self.chat_event(events, ChatChunkChoice::new(delta, logprobs, None));
            }
            AnswerShape::Completion { rivals, .. } => {
                let logprobs =
                    rivals.map(|rivals| CompletionLogprobs::new(logprobs, rivals, &mut self.offsets));
                self.completion_event(events, CompletionChoice::new(text, logprobs, None));
            }
        }
    }

    /// The end of a stream that ended well.
    pub(crate) fn closing(&mut self, events: &mut Vec<u8>, finish: FinishWord, counts: TokenCounts) {
        let usage = Some(Some(Usage::from(counts)));
        let envelope = &self.envelope;
        match self.shape {
            AnswerShape::Chat { .. } => {
                self.chat_event(events, ChatChunkChoice::new(Delta::default(), None, Some(finish)));
                if self.includes_usage {
                    event(
                        events,
                        &ChatChunk {
                            envelope,
                            choice: None,
                            usage,
                        },
                    );
                }
            }
            AnswerShape::Completion { .. } => {
                self.completion_event(events, CompletionChoice::new("", None, Some(finish)));
                if self.includes_usage {
                    event(
                        events,
                        &CompletionAnswer {
                            envelope,
                            choice: None,
                            usage,
                        },
                    );
                }
            }
        }
        events.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// The end of a stream that failed.
    pub(crate) fn failure(events: &mut Vec<u8>, error: &ApiError) {
        event(events, &error.body());
    }

    fn chat_event(&self, events: &mut Vec<u8>, choice: ChatChunkChoice<'_>) {
        let usage = self.includes_usage.then_some(None);
        event(
            events,
            &ChatChunk {
                envelope: &self.envelope,
                choice: Some(choice),
                usage,
            },
        );
    }

    fn completion_event(&self, events: &mut Vec<u8>, choice: CompletionChoice<'_>) {
        let usage = self.includes_usage.then_some(None);
        event(
            events,
            &CompletionAnswer {
                envelope: &self.envelope,
                choice: Some(choice),
                usage,
            },
        );
    }
}

fn event(events: &mut Vec<u8>, value: &impl Serialize) {
    events.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *events, value).expect("writing our shapes to memory cannot fail");
    events.extend_from_slice(b"\n\n");
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our shapes have text keys and no failing parts")
}
