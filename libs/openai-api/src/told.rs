//! What the chat endpoint has answered, read back, so that other dialects can tell it in their own words. One request
//! means one thing, however it was asked for: the dialects translate, and only the chat endpoint decides.

use serde::Deserialize;
use serde_json::Value;

use crate::ApiError;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ToldAnswer {
    /// The choices; dialects ask for one.
    pub choices: Vec<ToldChoice>,
    /// What it used.
    pub usage: ToldUsage,
}

/// A whole choice.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ToldChoice {
    /// What was said.
    pub message: ToldMessage,
    /// Why it ended.
    pub finish_reason: ToldFinish,
    /// When they were asked for.
    #[serde(default)]
    pub logprobs: Option<ToldLogprobs>,
}

/// Log-probabilities, one entry for each token.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ToldLogprobs {
    /// As the chat endpoint writes them, and the dialects too.
    pub content: Vec<Value>,
}

/// One event of a streamed answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ToldChunk {
    /// What is new.
    pub choices: Vec<ToldNews>,
    /// In the last one.
    pub usage: Option<ToldUsage>,
    /// Instead of all else when the stream fails.
    pub error: Option<ToldError>,
}

/// What is new of a choice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ToldNews {
    /// To be added to what was said.
    pub delta: ToldMessage,
    /// In its last event.
    pub finish_reason: Option<ToldFinish>,
    /// When they were asked for.
    pub logprobs: Option<ToldLogprobs>,
}

impl ToldChoice {
    /// What was said, with how likely its tokens were.
    #[must_use]
    pub fn said(self) -> ToldMessage {
        ToldMessage {
            logprobs: self.logprobs.map_or_else(Vec::new, |logprobs| logprobs.content),
            ..self.message
        }
    }
}

impl ToldNews {
    /// What is new, with how likely its tokens were.
    #[must_use]
    pub fn said(self) -> ToldMessage {
        ToldMessage {
            logprobs: self.logprobs.map_or_else(Vec::new, |logprobs| logprobs.content),
            ..self.delta
        }
    }
}

/// What was said, or more of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldMessage {
    /// Text.
    pub content: Option<String>,
    /// What was thought before.
    pub reasoning_content: Option<String>,
    /// Tools that are called.
    pub tool_calls: Vec<ToldCall>,
    /// How likely its tokens were; told beside it.
    #[serde(skip)]
    pub logprobs: Vec<Value>,
}

/// A call, or more of its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldCall {
    /// Its place among the calls; only in events.
    pub index: u32,
    /// In its first event.
    pub id: Option<String>,
    /// What is called.
    pub function: ToldFunction,
}

/// The function of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldFunction {
    /// In its first event.
    pub name: Option<String>,
    /// JSON, or a piece of it.
    pub arguments: String,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToldFinish {
    /// It came to its end.
    Stop,
    /// It was cut at its limit.
    Length,
    /// It called tools.
    ToolCalls,
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldUsage {
    /// Of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Of the answer, reasoning included.
    pub completion_tokens: u32,
    /// See there.
    pub prompt_tokens_details: ToldPromptDetails,
    /// See there.
    pub completion_tokens_details: Option<ToldCompletionDetails>,
}

/// What is known of the prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldPromptDetails {
    /// Those that did not have to be computed.
    pub cached_tokens: u32,
}

/// What is known of the answer's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldCompletionDetails {
    /// Those of the reasoning.
    pub reasoning_tokens: u32,
}

/// An error in the middle of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldError {
    /// For the caller.
    pub message: String,
    /// The `type` of the error shape.
    #[serde(rename = "type")]
    pub kind: String,
    /// A fixed word for programs.
    pub code: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldEnd {
    /// Why.
    pub finish: ToldFinish,
    /// The stop text that ended it, if one did.
    pub stop_text: Option<String>,
    /// What it used.
    pub usage: ToldUsage,
}

/// Tells a chat answer in the words of another dialect.
pub trait Retelling: Send + 'static {
    /// The dialect's own name for a parameter of the chat endpoint, where it differs.
    fn own_name(&self, chat_name: &str) -> Option<&'static str>;
    /// What begins a stream. The prompt's tokens are known by then.
    fn opening(&mut self, events: &mut Vec<u8>, prompt_tokens: u32);
    /// More of the answer.
    fn news(&mut self, events: &mut Vec<u8>, news: &ToldMessage);
    /// Nothing is new, and the stream lives.
    fn keep_alive(&mut self, events: &mut Vec<u8>);
    /// The end of a stream that ended well.
    fn closing(&mut self, events: &mut Vec<u8>, end: &ToldEnd);
    /// The end of a stream that failed.
    fn failure(&mut self, events: &mut Vec<u8>, error: &ToldError);
    /// The answer as it will be told at its end, where somebody may come back to it. A whole answer has a message.
    fn at_its_end(&self, _message: Option<&ToldMessage>, _end: &ToldEnd) -> Option<Value> {
        None
    }
    /// Nobody will be able to come back to it.
    fn is_not_kept(&mut self) {}
    /// The whole answer as JSON.
    fn whole(&mut self, message: &ToldMessage, end: &ToldEnd) -> Vec<u8>;
}

/// Writes one event with its name, which the data repeats as `type`.
pub(crate) fn named_event(events: &mut Vec<u8>, name: &str, value: &impl serde::Serialize) {
    events.extend_from_slice(b"event: ");
    events.extend_from_slice(name.as_bytes());
    events.extend_from_slice(b"\ndata: ");
    serde_json::to_writer(&mut *events, value).expect("our shapes have text keys and no failing parts");
    events.extend_from_slice(b"\n\n");
}

/// The same error about the parameter as the client has named it.
#[must_use]
pub fn in_own_names(error: ApiError, dialect: &impl Retelling) -> ApiError {
    let Some(param) = &error.param else {
        return error;
    };
    let end = param.find(['.', '[']).unwrap_or(param.len());
    let (name, rest) = param.split_at(end);
    let Some(own) = dialect.own_name(name) else {
        return error;
    };
    let message = match error.message.strip_prefix(name) {
        Some(text) => format!("{own}{text}"),
        None => error.message.clone(),
    };
    ApiError {
        param: Some(format!("{own}{rest}")),
        message,
        ..error
    }
}

impl ToldError {
    /// The same, when it was not read but happened here.
    #[must_use]
    pub fn of(error: &ApiError) -> Self {
        Self {
            message: error.message.clone(),
            kind: error.kind().to_owned(),
            code: error.code.map(str::to_owned),
        }
    }
}
