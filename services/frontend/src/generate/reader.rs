//! From a model's text to a message: reasoning, content and calls of tools told apart, piece by piece.

use std::sync::Arc;

use vlinders_openai_api::{AssistantMessage, FinishWord, ToolCall};
use vlinders_text::{
    ModelText, ReasoningEvent, ReasoningParser, StreamDecoder, ToolEvent, ToolFormat, ToolParser,
};
use vlinders_types::{RequestId, SpecialTokens, TokenId};

/// How the text of one request's choices is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// None when no tools are on offer.
    pub(crate) calls: Option<CallReading>,
    /// None when the model does not think.
    pub(crate) thought: Option<ThoughtReading>,
}

/// How calls are found.
#[derive(Clone, Debug)]
pub(crate) struct CallReading {
    pub(crate) format: ToolFormat,
    pub(crate) names: Arc<[String]>,
    /// Without it only the first call is told.
    pub(crate) is_parallel: bool,
    /// It is told as the call of a function, to a client that knows no tools.
    pub(crate) are_functions: bool,
}

/// How reasoning is found.
#[derive(Clone, Debug)]
pub(crate) struct ThoughtReading {
    /// The prompt has opened it.
    pub(crate) is_open: bool,
    /// It is part of the answer.
    pub(crate) is_told: bool,
    /// For counting its tokens.
    pub(crate) text: Arc<ModelText>,
    pub(crate) special: SpecialTokens,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Content(String),
    Reasoning(String),
    /// The call of this place begins.
    Begin {
        index: u32,
        id: String,
        name: String,
    },
    /// More arguments of the call of this place.
    Arguments {
        index: u32,
        text: String,
    },
}

/// A whole message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WholeMessage {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<ToolCall>,
    /// The one call is told as a function's.
    pub(crate) are_functions: bool,
}

impl WholeMessage {
    /// The message that these pieces make.
    pub(crate) fn of(pieces: Vec<Piece>) -> Self {
        let mut message = Self::default();
        for piece in pieces {
            match piece {
                Piece::Content(text) => message.content.push_str(&text),
                Piece::Reasoning(text) => message.reasoning.push_str(&text),
                Piece::Begin { id, name, .. } => message.calls.push(ToolCall {
                    id,
                    name,
                    arguments: String::new(),
                }),
                Piece::Arguments { text, .. } => {
                    if let Some(call) = message.calls.last_mut() {
                        call.arguments.push_str(&text);
                    }
                }
            }
        }
        message
    }

    /// As the API tells it: content is null beside calls when nothing was said.
    pub(crate) fn told(&self) -> AssistantMessage<'_> {
        let has_content = !self.content.is_empty() || self.calls.is_empty();
        AssistantMessage {
            content: has_content.then_some(self.content.as_str()),
            reasoning_content: (!self.reasoning.is_empty()).then_some(self.reasoning.as_str()),
            tool_calls: if self.are_functions { &[] } else { &self.calls },
            function_call: self.calls.first().filter(|_| self.are_functions),
        }
    }
}

/// Reads one choice.
pub(crate) struct MessageReader {
    thought: Option<Thought>,
    calls: Option<Calls>,
}

struct Thought {
    parser: ReasoningParser,
    is_told: bool,
    counter: ThoughtCounter,
}

struct Calls {
    parser: ToolParser,
    format: ToolFormat,
    is_parallel: bool,
    are_functions: bool,
    /// The choice's own id, from which the calls' are made.
    id: RequestId,
    begun: u32,
}

impl MessageReader {
    /// For the choice of this id.
    pub(crate) fn new(reading: &Reading, id: RequestId) -> Self {
        let thought = reading.thought.as_ref().map(|thought| Thought {
            parser: ReasoningParser::new(thought.is_open),
            is_told: thought.is_told,
            counter: ThoughtCounter::new(thought),
        });
        let calls = reading.calls.as_ref().map(|calls| Calls {
            parser: ToolParser::new(calls.format, Arc::clone(&calls.names)),
            format: calls.format,
            is_parallel: calls.is_parallel,
            are_functions: calls.are_functions,
            id,
            begun: 0,
        });
        Self { thought, calls }
    }

    /// Takes the next tokens and their text, which may lag behind.
    pub(crate) fn push(&mut self, ids: &[TokenId], text: &str) -> Vec<Piece> {
        let Some(thought) = &mut self.thought else {
            return say(&mut self.calls, text);
        };
        thought.counter.push(ids);
        let events = thought.parser.push(text);
        Self::think(thought.is_told, &mut self.calls, events)
    }

    /// The text has ended: what was held back.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = match &mut self.thought {
            None => Vec::new(),
            Some(thought) => {
                let events = thought.parser.finish();
                Self::think(thought.is_told, &mut self.calls, events)
            }
        };
        if let Some(calls) = &mut self.calls {
            let events = calls.parser.finish();
            pieces.extend(calls.tell(events));
        }
        pieces
    }

    /// Why the message ended: one that calls tools ends for that, unless it was cut at its limit.
    pub(crate) fn finish_word(&self, finish: FinishWord) -> FinishWord {
        let calls = self.calls.as_ref().filter(|calls| calls.begun > 0);
        match (finish, calls) {
            (FinishWord::Stop, Some(calls)) if calls.are_functions => FinishWord::FunctionCall,
            (FinishWord::Stop, Some(_)) => FinishWord::ToolCalls,
            (FinishWord::Stop, None) => finish,
            (FinishWord::Length | FinishWord::ToolCalls | FinishWord::FunctionCall, _) => finish,
        }
    }

    /// Whether a call is told as a function's.
    pub(crate) fn are_functions(&self) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.are_functions)
    }

    /// Tokens of reasoning so far; none when the model does not think.
    pub(crate) fn reasoning_tokens(&self) -> Option<u32> {
        self.thought.as_ref().map(|thought| thought.counter.count)
    }

    fn think(is_told: bool, calls: &mut Option<Calls>, events: Vec<ReasoningEvent>) -> Vec<Piece> {
        let pieces = events.into_iter().map(|event| match event {
            ReasoningEvent::Reasoning(text) if is_told => vec![Piece::Reasoning(text)],
            ReasoningEvent::Reasoning(_) => Vec::new(),
            ReasoningEvent::Content(text) => say(calls, &text),
        });
        pieces.flatten().collect()
    }
}

/// What is no reasoning: content, or calls among it.
fn say(calls: &mut Option<Calls>, text: &str) -> Vec<Piece> {
    match calls {
        None if text.is_empty() => Vec::new(),
        None => vec![Piece::Content(text.to_owned())],
        Some(calls) => {
            let events = calls.parser.push(text);
            calls.tell(events)
        }
    }
}

impl Calls {
    fn tell(&mut self, events: Vec<ToolEvent>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for event in events {
            match event {
                ToolEvent::Content(text) => pieces.push(Piece::Content(text)),
                ToolEvent::Begin(name) => {
                    self.begun += 1;
                    if self.is_told() {
                        pieces.push(Piece::Begin {
                            index: self.begun - 1,
                            id: self.call_id(),
                            name,
                        });
                    }
                }
                ToolEvent::Arguments(text) => {
                    if self.is_told() {
                        pieces.push(Piece::Arguments {
                            index: self.begun - 1,
                            text,
                        });
                    }
                }
            }
        }
        pieces
    }

    fn is_told(&self) -> bool {
        self.is_parallel || self.begun == 1
    }

    /// Names the call that has just begun.
    fn call_id(&self) -> String {
        let index = self.begun - 1;
        match self.format {
            // Templates of this format take nine letters or digits and nothing else. These are the random ones.
            ToolFormat::Mistral => {
                let id = RequestId(self.id.0.wrapping_add(u128::from(index) << 32)).to_string();
                id[id.len() - 9..].to_owned()
            }
            ToolFormat::Llama3Json | ToolFormat::Hermes | ToolFormat::Pythonic => {
                format!("call_{}{index}", self.id)
            }
        }
    }
}

/// Counts the tokens of reasoning, whose text may come later than they do.
struct ThoughtCounter {
    decoder: StreamDecoder,
    parser: ReasoningParser,
    count: u32,
}

impl ThoughtCounter {
    fn new(reading: &ThoughtReading) -> Self {
        Self {
            decoder: StreamDecoder::new(&reading.text, &[]).with_special(reading.special.clone()),
            parser: ReasoningParser::new(reading.is_open),
            count: 0,
        }
    }

    fn push(&mut self, ids: &[TokenId]) {
        for id in ids {
            let was_thinking = self.parser.is_thinking();
            if !was_thinking && !self.parser.is_open() {
                return;
            }
            let _split_again_where_it_is_told = self.parser.push(&self.decoder.push(*id));
            if was_thinking || self.parser.is_thinking() {
                self.count += 1;
            }
        }
    }
}
