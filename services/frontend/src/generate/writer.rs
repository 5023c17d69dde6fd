//! The words of an answer, whole or as events, in the shape of its endpoint.

use serde::Serialize;
use vlinders_openai_api::{
    ApiError, AssistantMessage, ChatAnswer, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs,
    CompletionAnswer, CompletionChoice, CompletionLogprobs, Delta, Envelope, FinishWord, PromptLogprobs,
    PromptToken, TextOffsets, Usage,
};
use vlinders_types::{TokenCounts, TokenLogprob, TokenScore};

use super::prompts::Prompts;
use super::unary::WholeChoice;

/// What the endpoints' answers differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AnswerShape {
    /// Messages.
    Chat {
        /// Whether log-probabilities were asked for.
        logprobs: bool,
        /// Whether those of the prompt were asked for, and how many rivals of each token.
        prompt_logprobs: Option<u8>,
    },
    /// Texts.
    Completion {
        /// Whether log-probabilities were asked for, and how many rivals of each token.
        rivals: Option<u8>,
        /// The same for the prompts, apart from those that are echoed.
        prompt_logprobs: Option<u8>,
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
    prompts: Prompts,
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
        prompts: Prompts,
    ) -> Self {
        Self {
            prompts,
            envelope,
            shape,
            includes_usage,
            choices: vec![Told::default(); choices],
            choices_per_prompt,
        }
    }

    /// The scores of a prompt have come.
    pub(crate) fn scored(&mut self, prompt: usize, scores: Vec<TokenScore>) {
        self.prompts.scored(prompt, scores);
    }

    /// The whole answer as JSON.
    pub(crate) fn whole(mut self, wholes: Vec<WholeChoice>, counts: TokenCounts) -> Vec<u8> {
        let usage = Usage::from(counts);
        match self.shape {
            AnswerShape::Chat {
                logprobs,
                prompt_logprobs,
            } => {
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
                    prompt_logprobs: prompt_logprobs.map(|top| PromptLogprobs {
                        tokens: self.prompts.tokens(0),
                        top,
                    }),
                })
            }
            AnswerShape::Completion { .. } => self.whole_texts(&wholes, usage),
        }
    }

    fn whole_texts(mut self, wholes: &[WholeChoice], usage: Usage) -> Vec<u8> {
        let echoed = |index| self.echo(index).unwrap_or_default().to_owned();
        let texts: Vec<String> = wholes
            .iter()
            .enumerate()
            .map(|(index, whole)| echoed(index) + &whole.text)
            .collect();
        let mut logprobs = Vec::with_capacity(wholes.len());
        for (index, whole) in wholes.iter().enumerate() {
            let echoed = self.echoed_logprobs(index);
            let own = self.completion_logprobs(index, &whole.logprobs);
            logprobs.push(match (echoed, own) {
                (Some(mut echoed), Some(own)) => {
                    echoed.append(own);
                    Some(echoed)
                }
                (echoed, own) => echoed.or(own),
            });
        }
        let asked = match self.shape {
            AnswerShape::Completion { prompt_logprobs, .. } => prompt_logprobs,
            AnswerShape::Chat { .. } => None,
        };
        let prompts: Vec<Vec<PromptToken>> = match asked {
            None => Vec::new(),
            Some(_) => (0..wholes.len().div_ceil(self.choices_per_prompt))
                .map(|prompt| self.prompts.tokens(prompt).to_vec())
                .collect(),
        };
        let choices = wholes.iter().zip(logprobs).enumerate();
        let choices: Vec<CompletionChoice<'_>> = choices
            .map(|(index, (whole, logprobs))| CompletionChoice {
                index: number(index),
                text: &texts[index],
                logprobs,
                prompt_logprobs: asked.map(|top| PromptLogprobs {
                    tokens: &prompts[index / self.choices_per_prompt],
                    top,
                }),
                finish_reason: whole.finish,
            })
            .collect();
        json(&CompletionAnswer {
            envelope: &self.envelope,
            choices: &choices,
            usage: Some(Some(usage)),
        })
    }

    /// What opens a choice in a stream, once: the role, or the echoed prompt.
    pub(crate) fn opening(&mut self, events: &mut Vec<u8>, index: usize) {
        if self.waits_for_scores(index) {
            return;
        }
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
                let logprobs = self.echoed_logprobs(index);
                if let Some(prompt) = self.echo(index) {
                    self.completion_event(events, index, prompt, logprobs, None);
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
            AnswerShape::Chat { logprobs: asked, .. } => {
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

    /// An echoed prompt is told with its log-probabilities, when they are asked for.
    fn waits_for_scores(&self, index: usize) -> bool {
        match &self.shape {
            AnswerShape::Completion {
                rivals: Some(_),
                echo: Some(_),
                ..
            } => !self.prompts.is_scored(index / self.choices_per_prompt),
            AnswerShape::Completion { .. } | AnswerShape::Chat { .. } => false,
        }
    }

    /// Those of the prompt that this choice begins with. What follows begins behind it.
    fn echoed_logprobs(&mut self, index: usize) -> Option<CompletionLogprobs> {
        let (rivals, echo) = match &self.shape {
            AnswerShape::Completion {
                rivals: Some(rivals),
                echo: Some(echo),
                ..
            } => (*rivals, &echo[index / self.choices_per_prompt]),
            AnswerShape::Completion { .. } | AnswerShape::Chat { .. } => return None,
        };
        let chars = u32::try_from(echo.chars().count()).unwrap_or(u32::MAX);
        self.choices[index].offsets = TextOffsets::after_prompt(chars);
        Some(self.prompts.echoed(index / self.choices_per_prompt, rivals))
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
            prompt_logprobs: None,
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
