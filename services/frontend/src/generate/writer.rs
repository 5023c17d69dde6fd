//! The words of an answer, whole or as events, in the shape of its endpoint.

use serde::Serialize;
use vlinders_openai_api::{
    ApiError, AssistantMessage, ChatAnswer, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs,
    CompletionAnswer, CompletionChoice, CompletionLogprobs, Delta, Envelope, FinishWord, TextOffsets, Usage,
};
use vlinders_types::{TokenCounts, TokenLogprob};

use super::unary::WholeChoice;

/// What the endpoints' answers differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AnswerShape {
    /// Messages.
    Chat {
        /// Whether log-probabilities were asked for.
        logprobs: bool,
    },
    /// Texts.
    Completion {
        /// Whether log-probabilities were asked for, and how many rivals of each token.
        rivals: Option<u8>,
        /// The prompts, when the answers begin with them.
        echo: Option<Vec<String>>,
    },
}

/// Writes one answer.
pub(crate) struct Writer {
    envelope: Envelope,
    shape: AnswerShape,
    includes_usage: bool,
    /// By index of the choice.
    choices: Vec<Told>,
    choices_per_prompt: usize,
}

/// What has been told of one choice.
#[derive(Clone, Default)]
struct Told {
    is_opened: bool,
    offsets: TextOffsets,
}

impl Writer {
    /// For so many choices, each prompt's beside one another.
    pub(crate) fn new(
        envelope: Envelope,
        shape: AnswerShape,
        includes_usage: bool,
        (choices, choices_per_prompt): (usize, usize),
    ) -> Self {
        Self {
            envelope,
            shape,
            includes_usage,
            choices: vec![Told::default(); choices],
            choices_per_prompt,
        }
    }

    /// The whole answer as JSON.
    pub(crate) fn whole(mut self, wholes: Vec<WholeChoice>, counts: TokenCounts) -> Vec<u8> {
        let usage = Usage::from(counts);
        match self.shape {
            AnswerShape::Chat { logprobs } => {
                let choices: Vec<ChatChoice<'_>> = (0..)
                    .zip(&wholes)
                    .map(|(index, whole)| ChatChoice {
                        index,
                        message: AssistantMessage {
                            content: Some(&whole.text),
                            ..AssistantMessage::default()
                        },
                        logprobs: logprobs.then(|| ChatLogprobs::new(&whole.logprobs)),
                        finish_reason: whole.finish.unwrap_or(FinishWord::Stop),
                    })
                    .collect();
                json(&ChatAnswer {
                    envelope: &self.envelope,
                    choices: &choices,
                    usage,
                })
            }
            AnswerShape::Completion { .. } => {
                let texts: Vec<String> = wholes
                    .iter()
                    .enumerate()
                    .map(|(index, whole)| self.echo(index).unwrap_or_default().to_owned() + &whole.text)
                    .collect();
                let mut choices = Vec::with_capacity(wholes.len());
                for (index, whole) in wholes.iter().enumerate() {
                    choices.push(CompletionChoice {
                        index: number(index),
                        text: &texts[index],
                        logprobs: self.completion_logprobs(index, &whole.logprobs),
                        finish_reason: whole.finish,
                    });
                }
                json(&CompletionAnswer {
                    envelope: &self.envelope,
                    choices: &choices,
                    usage: Some(Some(usage)),
                })
            }
        }
    }

    /// What opens a choice in a stream, once: the role, or the echoed prompt.
    pub(crate) fn opening(&mut self, events: &mut Vec<u8>, index: usize) {
        if std::mem::replace(&mut self.choices[index].is_opened, true) {
            return;
        }
        match &self.shape {
            AnswerShape::Chat { .. } => {
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(""),
                    ..Delta::default()
                };
                self.chat_event(events, index, delta, None, None);
            }
            AnswerShape::Completion { .. } => {
                if let Some(prompt) = self.echo(index) {
                    self.completion_event(events, index, prompt, None, None);
                }
            }
        }
    }

    /// More text. Nothing is written when there is nothing to tell.
    pub(crate) fn news(&mut self, events: &mut Vec<u8>, index: usize, text: &str, logprobs: &[TokenLogprob]) {
        self.opening(events, index);
        if text.is_empty() && logprobs.is_empty() {
            return;
        }
        match self.shape {
            AnswerShape::Chat { logprobs: asked } => {
                let delta = Delta {
                    content: Some(text),
                    ..Delta::default()
                };
                let logprobs = asked.then(|| ChatLogprobs::new(logprobs));
                self.chat_event(events, index, delta, logprobs, None);
            }
            AnswerShape::Completion { .. } => {
                let logprobs = self.completion_logprobs(index, logprobs);
                self.completion_event(events, index, text, logprobs, None);
            }
        }
    }

    /// A choice has ended well.
    pub(crate) fn choice_end(&mut self, events: &mut Vec<u8>, index: usize, finish: FinishWord) {
        match self.shape {
            AnswerShape::Chat { .. } => {
                self.chat_event(events, index, Delta::default(), None, Some(finish));
            }
            AnswerShape::Completion { .. } => {
                self.completion_event(events, index, "", None, Some(finish));
            }
        }
    }

    /// The end of a stream whose choices have all ended well.
    pub(crate) fn closing(&mut self, events: &mut Vec<u8>, counts: TokenCounts) {
        let usage = Some(Some(Usage::from(counts)));
        let envelope = &self.envelope;
        if self.includes_usage {
            match self.shape {
                AnswerShape::Chat { .. } => event(
                    events,
                    &ChatChunk {
                        envelope,
                        choice: None,
                        usage,
                    },
                ),
                AnswerShape::Completion { .. } => event(
                    events,
                    &CompletionAnswer {
                        envelope,
                        choices: &[],
                        usage,
                    },
                ),
            }
        }
        events.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// The end of a stream that failed.
    pub(crate) fn failure(events: &mut Vec<u8>, error: &ApiError) {
        event(events, &error.body());
    }

    /// The prompt that this choice begins with.
    fn echo(&self, index: usize) -> Option<&str> {
        match &self.shape {
            AnswerShape::Completion { echo: Some(echo), .. } => {
                echo.get(index / self.choices_per_prompt).map(String::as_str)
            }
            AnswerShape::Completion { echo: None, .. } | AnswerShape::Chat { .. } => None,
        }
    }

    fn completion_logprobs(&mut self, index: usize, logprobs: &[TokenLogprob]) -> Option<CompletionLogprobs> {
        let rivals = match self.shape {
            AnswerShape::Completion { rivals, .. } => rivals?,
            AnswerShape::Chat { .. } => return None,
        };
        let offsets = &mut self.choices[index].offsets;
        Some(CompletionLogprobs::new(logprobs, rivals, offsets))
    }

    fn chat_event(
        &self,
        events: &mut Vec<u8>,
        index: usize,
        delta: Delta<'_>,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<FinishWord>,
    ) {
        let choice = ChatChunkChoice {
            index: number(index),
            delta,
            logprobs,
            finish_reason,
        };
        event(
            events,
            &ChatChunk {
                envelope: &self.envelope,
                choice: Some(choice),
                usage: self.includes_usage.then_some(None),
            },
        );
    }

    fn completion_event(
        &self,
        events: &mut Vec<u8>,
        index: usize,
        text: &str,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<FinishWord>,
    ) {
        let choice = CompletionChoice {
            index: number(index),
            text,
            logprobs,
            finish_reason,
        };
        event(
            events,
            &CompletionAnswer {
                envelope: &self.envelope,
                choices: std::slice::from_ref(&choice),
                usage: self.includes_usage.then_some(None),
            },
        );
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a request has far fewer choices")
}

fn event(events: &mut Vec<u8>, value: &impl Serialize) {
    events.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *events, value).expect("writing our shapes to memory cannot fail");
    events.extend_from_slice(b"\n\n");
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our shapes have text keys and no failing parts")
}
