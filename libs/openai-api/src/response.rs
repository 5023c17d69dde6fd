//! Answers, whole and in chunks. Built from borrowed text: one chunk is written per token.

use serde::{Serialize, Serializer};
use vlinders_types::TokenCounts;

use crate::{ChatLogprobs, CompletionLogprobs};

/// What every answer and every chunk of one request carries alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// Constant for one build of the server.
    pub system_fingerprint: &'static str,
    /// Present when the client named one.
    pub service_tier: Option<&'static str>,
}

/// Why an answer ended, in the words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishWord {
    /// It came to its end.
    Stop,
    /// It was cut at its limit.
    Length,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

impl From<TokenCounts> for Usage {
    fn from(counts: TokenCounts) -> Self {
        Self {
            prompt_tokens: counts.prompt,
            completion_tokens: counts.completion,
            total_tokens: counts.prompt.saturating_add(counts.completion),
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: counts.cached,
            },
        }
    }
}

/// The fields of [`Envelope`] with the name of the shape, as they are written.
#[derive(Serialize)]
struct Head<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
}

impl Envelope {
    const fn head(&self, object: &'static str) -> Head<'_> {
        Head {
            id: self.id.as_str(),
            object,
            created: self.created,
            model: self.model.as_str(),
            system_fingerprint: self.system_fingerprint,
            service_tier: self.service_tier,
        }
    }
}

/// Writes a head, the choices and the usage as one object.
fn write<C: Serialize, U: Serialize, S: Serializer>(
    head: Head<'_>,
    choices: &[C],
    usage: Option<U>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Whole<'a, C, U> {
        #[serde(flatten)]
        head: Head<'a>,
        choices: &'a [C],
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<U>,
    }
    Whole { head, choices, usage }.serialize(serializer)
}

/// The answer of `/v1/chat/completions`.
#[derive(Clone, Debug)]
pub struct ChatAnswer<'a> {
    /// See [`Envelope`].
    pub envelope: &'a Envelope,
    /// The one choice.
    pub choice: ChatChoice<'a>,
    /// What it used.
    pub usage: Usage,
}

impl Serialize for ChatAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let head = self.envelope.head("chat.completion");
        write(
            head,
            std::slice::from_ref(&self.choice),
            Some(self.usage),
            serializer,
        )
    }
}

/// A whole chat choice.
#[derive(Clone, Debug)]
pub struct ChatChoice<'a> {
    /// What the assistant says.
    pub content: &'a str,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishWord,
}

impl Serialize for ChatChoice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Said<'a> {
            role: &'static str,
            content: &'a str,
            refusal: Option<()>,
        }
        #[derive(Serialize)]
        struct Choice<'a> {
            index: u32,
            message: Said<'a>,
            logprobs: Option<&'a ChatLogprobs>,
            finish_reason: FinishWord,
        }
        Choice {
            index: 0,
            message: Said {
                role: "assistant",
                content: self.content,
                refusal: None,
            },
            logprobs: self.logprobs.as_ref(),
            finish_reason: self.finish_reason,
        }
        .serialize(serializer)
    }
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
}

impl Serialize for ChatChunk<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(
            self.envelope.head("chat.completion.chunk"),
            self.choice.as_slice(),
            self.usage,
            serializer,
        )
    }
}

/// The news of a chat choice.
#[derive(Clone, Debug, Serialize)]
pub struct ChatChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<FinishWord>,
}

impl<'a> ChatChunkChoice<'a> {
    /// The news of the one choice.
    #[must_use]
    pub const fn new(
        delta: Delta<'a>,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<FinishWord>,
    ) -> Self {
        Self {
            index: 0,
            delta,
            logprobs,
            finish_reason,
        }
    }
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
}

/// The answer of `/v1/completions`, and one event of its stream: they share their shape.
#[derive(Clone, Debug)]
pub struct CompletionAnswer<'a> {
    /// See [`Envelope`].
    pub envelope: &'a Envelope,
    /// None in the last chunk, which only counts.
    pub choice: Option<CompletionChoice<'a>>,
    /// Absent in a stream unless the client asked for usage; then null until the last chunk.
    pub usage: Option<Option<Usage>>,
}

impl Serialize for CompletionAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(
            self.envelope.head("text_completion"),
            self.choice.as_slice(),
            self.usage,
            serializer,
        )
    }
}

/// A completion choice, whole or its news.
#[derive(Clone, Debug, Serialize)]
pub struct CompletionChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishWord>,
}

impl<'a> CompletionChoice<'a> {
    /// The one choice.
    #[must_use]
    pub const fn new(
        text: &'a str,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<FinishWord>,
    ) -> Self {
        Self {
            index: 0,
            text,
            logprobs,
            finish_reason,
        }
    }
}
