//! Answers of `/v1/chat/completions`, whole and in chunks.

use serde::{Serialize, Serializer};
use vlinders_types::TokenId;

use crate::response::Head;
use crate::{ChatLogprobs, Envelope, FinishWord, PromptLogprobs, Usage};

/// The answer of `/v1/chat/completions`.
#[derive(Clone, Debug)]
pub struct ChatAnswer<'a> {
    /// See [`Envelope`].
    pub envelope: &'a Envelope,
    /// The choices, by index.
    pub choices: &'a [ChatChoice<'a>],
    /// What it used.
    pub usage: Usage,
    /// What was asked of the prompt.
    pub prompt_logprobs: Option<PromptLogprobs<'a>>,
    /// The prompt's tokens, when asked for.
    pub prompt_token_ids: Option<&'a [TokenId]>,
}

impl Serialize for ChatAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            head: Head<'a>,
            choices: &'a [ChatChoice<'a>],
            usage: Usage,
            #[serde(skip_serializing_if = "Option::is_none")]
            prompt_logprobs: Option<&'a PromptLogprobs<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            prompt_token_ids: Option<&'a [TokenId]>,
        }
        let whole = Whole {
            head: self.envelope.head("chat.completion"),
            choices: self.choices,
            usage: self.usage,
            prompt_logprobs: self.prompt_logprobs.as_ref(),
            prompt_token_ids: self.prompt_token_ids,
        };
        whole.serialize(serializer)
    }
}

/// A whole chat choice.
#[derive(Clone, Debug, Serialize)]
pub struct ChatChoice<'a> {
    /// Its place among the choices.
    pub index: u32,
    /// What the assistant says and does.
    pub message: AssistantMessage<'a>,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishWord,
    /// Its tokens, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [TokenId]>,
}

/// What an assistant says and does.
#[derive(Clone, Copy, Debug, Default)]
pub struct AssistantMessage<'a> {
    /// What it says; null when it only calls tools.
    pub content: Option<&'a str>,
    /// What it thought before.
    pub reasoning_content: Option<&'a str>,
    /// The tools it calls.
    pub tool_calls: &'a [ToolCall],
    /// The function it calls, for those who know no tools.
    pub function_call: Option<&'a ToolCall>,
}

impl Serialize for AssistantMessage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Message<'a> {
            role: &'static str,
            content: Option<&'a str>,
            refusal: Option<()>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reasoning_content: Option<&'a str>,
            #[serde(skip_serializing_if = "<[ToolCall]>::is_empty")]
            tool_calls: &'a [ToolCall],
            #[serde(skip_serializing_if = "Option::is_none")]
            function_call: Option<CallFunction<'a>>,
        }
        Message {
            role: "assistant",
            content: self.content,
            refusal: None,
            reasoning_content: self.reasoning_content,
            tool_calls: self.tool_calls,
            function_call: self.function_call.map(|call| CallFunction {
                name: Some(&call.name),
                arguments: &call.arguments,
            }),
        }
        .serialize(serializer)
    }
}

/// A whole call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Names the call in the tool's answer.
    pub id: String,
    /// Which function.
    pub name: String,
    /// JSON as the model wrote it.
    pub arguments: String,
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Call<'a> {
            id: &'a str,
            r#type: &'static str,
            function: CallFunction<'a>,
        }
        Call {
            id: &self.id,
            r#type: "function",
            function: CallFunction {
                name: Some(&self.name),
                arguments: &self.arguments,
            },
        }
        .serialize(serializer)
    }
}

/// A function and what it is called with, or more of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CallFunction<'a> {
    /// Where the call begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// JSON as the model wrote it.
    pub arguments: &'a str,
}

/// One event of a streamed chat answer.
#[derive(Clone, Debug)]
pub struct ChatChunk<'a> {
    /// See [`Envelope`].
    pub envelope: &'a Envelope,
    /// None in the last chunk, which only counts.
    pub choice: Option<ChatChunkChoice<'a>>,
    /// Absent unless the client asked for usage; then null until the last chunk.
    pub usage: Option<Option<Usage>>,
    /// The prompt's tokens, in a choice's first chunk, when asked for.
    pub prompt_token_ids: Option<&'a [TokenId]>,
}

impl Serialize for ChatChunk<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            head: Head<'a>,
            choices: &'a [ChatChunkChoice<'a>],
            #[serde(skip_serializing_if = "Option::is_none")]
            usage: Option<Option<Usage>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            prompt_token_ids: Option<&'a [TokenId]>,
        }
        let whole = Whole {
            head: self.envelope.head("chat.completion.chunk"),
            choices: self.choice.as_slice(),
            usage: self.usage,
            prompt_token_ids: self.prompt_token_ids,
        };
        whole.serialize(serializer)
    }
}

/// The news of a chat choice.
#[derive(Clone, Debug, Serialize)]
pub struct ChatChunkChoice<'a> {
    /// Which choice.
    pub index: u32,
    /// What to add to its message.
    pub delta: Delta<'a>,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the choice's last chunk.
    pub finish_reason: Option<FinishWord>,
    /// The tokens of its news, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [TokenId]>,
}

/// What to add to the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Delta<'a> {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    /// More reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<&'a str>,
    /// More of a tool call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[ToolCallDelta<'a>; 1]>,
    /// More of a function's call, for those who know no tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<CallFunction<'a>>,
}

/// The beginning of a tool call, or more of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ToolCallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: CallFunction<'a>,
}

impl<'a> ToolCallDelta<'a> {
    /// The call of this place among the message's calls begins.
    #[must_use]
    pub const fn begin(index: u32, id: &'a str, name: &'a str) -> Self {
        Self {
            index,
            id: Some(id),
            r#type: Some("function"),
            function: CallFunction {
                name: Some(name),
                arguments: "",
            },
        }
    }

    /// More of its arguments.
    #[must_use]
    pub const fn arguments(index: u32, arguments: &'a str) -> Self {
        Self {
            index,
            id: None,
            r#type: None,
            function: CallFunction {
                name: None,
                arguments,
            },
        }
    }
}
