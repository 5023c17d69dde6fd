//! The words of an answer, whole or as events, in the shape of its endpoint.

use std::sync::Arc;

use vlinders_openai_api::{
    ApiError, ChatAnswer, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, CompletionAnswer,
    CompletionChoice, CompletionLogprobs, Delta, Envelope, FinishWord, PromptLogprobs, PromptToken,
    TextOffsets, Usage,
};
use vlinders_types::{RequestId, TokenCounts, TokenId, TokenLogprob, TokenScore};

use super::events::{ChatNews, CompletionNews, TokensTold, UsageTold, delta, event, json, number};
use super::prompts::Prompts;
use super::reader::{MessageReader, Piece, Reading, WholeMessage};
use super::unary::WholeChoice;

/// What the endpoints' answers differ in.
#[derive(Clone, Debug)]
pub(crate) enum AnswerShape {
    /// Messages.
    Chat {
        /// Whether log-probabilities were asked for.
        logprobs: bool,
        /// Whether those of the prompt were asked for, and how many rivals of each token.
        prompt_logprobs: Option<u8>,
        /// How the model's text becomes a message.
        reading: Arc<Reading>,
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

/// How many choices there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChoiceCounts {
    /// Of all prompts, each prompt's beside one another.
    pub(crate) choices: usize,
    pub(crate) per_prompt: usize,
    /// Tokens of all prompts.
    pub(crate) prompt_tokens: u32,
}

/// Writes one answer.
pub(crate) struct Writer {
    envelope: Envelope,
    shape: AnswerShape,
    usage: UsageTold,
    told: TokensTold,
    counts: ChoiceCounts,
    /// By index of the choice.
    choices: Vec<Told>,
    prompts: Prompts,
    /// Generated so far, by all choices.
    tokens: u32,
}

/// What a writer is made of.
pub(crate) struct WriterParts {
    pub(crate) envelope: Envelope,
    pub(crate) shape: AnswerShape,
    pub(crate) usage: UsageTold,
    pub(crate) told: TokensTold,
    pub(crate) counts: ChoiceCounts,
    /// The request's.
    pub(crate) id: RequestId,
    pub(crate) prompts: Prompts,
}

/// What has been told of one choice.
struct Told {
    is_opened: bool,
    offsets: TextOffsets,
    reader: MessageReader,
}

/// What is new of one choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChoiceNews<'a> {
    pub(crate) ids: &'a [TokenId],
    pub(crate) text: &'a str,
    pub(crate) logprobs: &'a [TokenLogprob],
}

impl Writer {
    pub(crate) fn new(parts: WriterParts) -> Self {
        let none = Arc::default();
        let reading = match &parts.shape {
            AnswerShape::Chat { reading, .. } => reading,
            AnswerShape::Completion { .. } => &none,
        };
        let choices = (0..parts.counts.choices).map(|index| Told {
            is_opened: false,
            offsets: TextOffsets::default(),
            reader: MessageReader::new(reading, parts.id.of_choice(number(index))),
        });
        Self {
            choices: choices.collect(),
            envelope: parts.envelope,
            shape: parts.shape,
            usage: parts.usage,
            told: parts.told,
            counts: parts.counts,
            prompts: parts.prompts,
            tokens: 0,
        }
    }

    /// The scores of a prompt have come.
    pub(crate) fn scored(&mut self, prompt: usize, scores: Vec<TokenScore>) {
        self.prompts.scored(prompt, scores);
    }

    /// The whole answer as JSON.
    pub(crate) fn whole(mut self, wholes: Vec<WholeChoice>, counts: TokenCounts) -> Vec<u8> {
        match self.shape {
            AnswerShape::Chat {
                logprobs,
                prompt_logprobs,
                ..
            } => {
                let read = |(told, whole): (&mut Told, &WholeChoice)| {
                    let mut pieces = told.reader.push(&whole.ids, &whole.text);
                    pieces.extend(told.reader.finish());
                    WholeMessage {
                        are_functions: told.reader.are_functions(),
                        ..WholeMessage::of(pieces)
                    }
                };
                let messages: Vec<WholeMessage> = self.choices.iter_mut().zip(&wholes).map(read).collect();
                let choices = wholes.iter().enumerate().map(|(index, whole)| ChatChoice {
                    index: number(index),
                    message: messages[index].told(),
                    logprobs: logprobs.then(|| ChatLogprobs::new(&whole.logprobs, self.told.names)),
                    finish_reason: self.choices[index]
                        .reader
                        .finish_word(whole.finish.unwrap_or(FinishWord::Stop)),
                    token_ids: self.told.ids.then_some(whole.ids.as_slice()),
                });
                let choices: Vec<ChatChoice<'_>> = choices.collect();
                let prompt_ids = self.told.ids.then(|| self.prompts.ids(0).to_vec());
                json(&ChatAnswer {
                    envelope: &self.envelope,
                    choices: &choices,
                    usage: self.usage_of(counts),
                    prompt_logprobs: prompt_logprobs.map(|top| PromptLogprobs {
                        tokens: self.prompts.tokens(0),
                        top,
                    }),
                    prompt_token_ids: prompt_ids.as_deref(),
                })
            }
            AnswerShape::Completion { .. } => {
                let usage = self.usage_of(counts);
                self.whole_texts(&wholes, usage)
            }
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
            Some(_) => (0..wholes.len().div_ceil(self.counts.per_prompt))
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
                    tokens: &prompts[index / self.counts.per_prompt],
                    top,
                }),
                finish_reason: whole.finish,
                token_ids: self.told.ids.then_some(whole.ids.as_slice()),
                prompt_token_ids: self.prompt_ids(index),
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
                self.chat_chunk(events, self.prompt_ids(index), index, delta, ChatNews::default());
            }
            AnswerShape::Completion { .. } => {
                let logprobs = self.echoed_logprobs(index);
                let prompt_ids = self.prompt_ids(index);
                let echo = self.echo(index);
                if echo.is_some() || prompt_ids.is_some() {
                    let news = CompletionNews {
                        logprobs,
                        prompt_ids,
                        ids: self.told.ids.then_some(&[]),
                        ..CompletionNews::default()
                    };
                    self.completion_event(events, index, echo.unwrap_or_default(), news);
                }
            }
        }
    }

    /// More of a choice. Nothing is written when there is nothing to tell.
    pub(crate) fn news(&mut self, events: &mut Vec<u8>, index: usize, news: ChoiceNews<'_>) {
        self.opening(events, index);
        self.tokens = self.tokens.saturating_add(number(news.ids.len()));
        match self.shape {
            AnswerShape::Chat { logprobs, .. } => {
                let pieces = self.choices[index].reader.push(news.ids, news.text);
                let told = ChatNews {
                    logprobs: (logprobs && !news.logprobs.is_empty())
                        .then(|| ChatLogprobs::new(news.logprobs, self.told.names)),
                    ids: self.told_ids(news.ids),
                    finish: None,
                };
                self.pieces(events, index, &pieces, told);
            }
            AnswerShape::Completion { .. } => {
                let ids = self.told_ids(news.ids);
                if !news.text.is_empty() || !news.logprobs.is_empty() || ids.is_some() {
                    let told = CompletionNews {
                        logprobs: self.completion_logprobs(index, news.logprobs),
                        ids,
                        ..CompletionNews::default()
                    };
                    self.completion_event(events, index, news.text, told);
                }
            }
        }
    }

    /// What is told of the tokens goes with the first piece; without a piece it goes alone.
    fn pieces(&self, events: &mut Vec<u8>, index: usize, pieces: &[Piece], mut news: ChatNews<'_>) {
        if pieces.is_empty() && (news.logprobs.is_some() || news.ids.is_some()) {
            let delta = Delta {
                content: Some(""),
                ..Delta::default()
            };
            return self.chat_event(events, index, delta, news);
        }
        let are_functions = self.choices[index].reader.are_functions();
        for piece in pieces {
            self.chat_event(
                events,
                index,
                delta(piece, are_functions),
                std::mem::take(&mut news),
            );
        }
    }

    /// Tokens of news, when they are told and there are any.
    fn told_ids<'a>(&self, ids: &'a [TokenId]) -> Option<&'a [TokenId]> {
        Some(ids).filter(|ids| self.told.ids && !ids.is_empty())
    }

    /// The tokens of this choice's prompt, when they are told.
    fn prompt_ids(&self, index: usize) -> Option<&[TokenId]> {
        self.told
            .ids
            .then(|| self.prompts.ids(index / self.counts.per_prompt))
    }

    /// A choice has ended well.
    pub(crate) fn choice_end(&mut self, events: &mut Vec<u8>, index: usize, finish: FinishWord) {
        match self.shape {
            AnswerShape::Chat { .. } => {
                let pieces = self.choices[index].reader.finish();
                self.pieces(events, index, &pieces, ChatNews::default());
                let end = ChatNews {
                    finish: Some(self.choices[index].reader.finish_word(finish)),
                    ..ChatNews::default()
                };
                self.chat_event(events, index, Delta::default(), end);
            }
            AnswerShape::Completion { .. } => {
                let end = CompletionNews {
                    finish: Some(finish),
                    ..CompletionNews::default()
                };
                self.completion_event(events, index, "", end);
            }
        }
    }

    /// The end of a stream whose choices have all ended well.
    pub(crate) fn closing(&mut self, events: &mut Vec<u8>, counts: TokenCounts) {
        let usage = Some(Some(self.usage_of(counts)));
        let envelope = &self.envelope;
        if self.usage != UsageTold::Never {
            match self.shape {
                AnswerShape::Chat { .. } => event(
                    events,
                    &ChatChunk {
                        envelope,
                        choice: None,
                        usage,
                        prompt_token_ids: None,
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

    /// With the tokens of reasoning, when the model thinks.
    fn usage_of(&self, counts: TokenCounts) -> Usage {
        let thought = self
            .choices
            .iter()
            .filter_map(|told| told.reader.reasoning_tokens());
        match thought.reduce(u32::saturating_add) {
            Some(tokens) => Usage::from(counts).with_reasoning(tokens),
            None => Usage::from(counts),
        }
    }

    /// What a chunk tells of the usage. What was found in the cache is known at the end.
    fn usage_so_far(&self) -> Option<Option<Usage>> {
        match self.usage {
            UsageTold::Never => None,
            UsageTold::AtTheEnd => Some(None),
            UsageTold::Always => Some(Some(self.usage_of(TokenCounts {
                prompt: self.counts.prompt_tokens,
                cached: 0,
                completion: self.tokens,
            }))),
        }
    }

    /// The prompt that this choice begins with.
    fn echo(&self, index: usize) -> Option<&str> {
        match &self.shape {
            AnswerShape::Completion { echo: Some(echo), .. } => {
                echo.get(index / self.counts.per_prompt).map(String::as_str)
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
            } => !self.prompts.is_scored(index / self.counts.per_prompt),
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
            } => (*rivals, &echo[index / self.counts.per_prompt]),
            AnswerShape::Completion { .. } | AnswerShape::Chat { .. } => return None,
        };
        let chars = u32::try_from(echo.chars().count()).unwrap_or(u32::MAX);
        self.choices[index].offsets = TextOffsets::after_prompt(chars);
        let names = self.told.names;
        Some(self.prompts.echoed(index / self.counts.per_prompt, rivals, names))
    }

    fn completion_logprobs(&mut self, index: usize, logprobs: &[TokenLogprob]) -> Option<CompletionLogprobs> {
        let rivals = match self.shape {
            AnswerShape::Completion { rivals, .. } => rivals?,
            AnswerShape::Chat { .. } => return None,
        };
        let offsets = &mut self.choices[index].offsets;
        Some(CompletionLogprobs::new(
            logprobs,
            (rivals, self.told.names),
            offsets,
        ))
    }

    fn chat_event(&self, events: &mut Vec<u8>, index: usize, delta: Delta<'_>, news: ChatNews<'_>) {
        self.chat_chunk(events, None, index, delta, news);
    }

    fn chat_chunk(
        &self,
        events: &mut Vec<u8>,
        prompt_token_ids: Option<&[TokenId]>,
        index: usize,
        delta: Delta<'_>,
        news: ChatNews<'_>,
    ) {
        let choice = ChatChunkChoice {
            index: number(index),
            delta,
            logprobs: news.logprobs,
            finish_reason: news.finish,
            token_ids: news.ids,
        };
        event(
            events,
            &ChatChunk {
                envelope: &self.envelope,
                choice: Some(choice),
                usage: self.usage_so_far(),
                prompt_token_ids,
            },
        );
    }

    fn completion_event(&self, events: &mut Vec<u8>, index: usize, text: &str, news: CompletionNews<'_>) {
        let choice = CompletionChoice {
            index: number(index),
            text,
            logprobs: news.logprobs,
            prompt_logprobs: None,
            finish_reason: news.finish,
            token_ids: news.ids,
            prompt_token_ids: news.prompt_ids,
        };
        event(
            events,
            &CompletionAnswer {
                envelope: &self.envelope,
                choices: std::slice::from_ref(&choice),
                usage: self.usage_so_far(),
            },
        );
    }
}
