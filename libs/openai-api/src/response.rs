//! What all answers share, and the answers of `/v1/completions`, whole and in chunks. Built from borrowed text: one
//! chunk is written per token.

use serde::{Serialize, Serializer};
use vlinders_types::{TokenCounts, TokenId};

use crate::{CompletionLogprobs, PromptLogprobs};

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
    /// It called tools.
    ToolCalls,
    /// It called a function, told to those who know no tools.
    FunctionCall,
}

/// Tokens of one request, all its choices together; a prompt counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct CompletionTokensDetails {
    reasoning_tokens: u32,
}

impl Usage {
    /// The same, with how many of the generated tokens were reasoning.
    #[must_use]
    pub const fn with_reasoning(self, reasoning_tokens: u32) -> Self {
        Self {
            completion_tokens_details: Some(CompletionTokensDetails { reasoning_tokens }),
            ..self
        }
    }
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
            completion_tokens_details: None,
        }
    }
}

/// The fields of [`Envelope`] with the name of the shape, as they are written.
#[derive(Serialize)]
pub(crate) struct Head<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
}

impl Envelope {
    pub(crate) const fn head(&self, object: &'static str) -> Head<'_> {
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

/// The answer of `/v1/completions`, and one event of its stream: they share their shape.
#[derive(Clone, Debug)]
pub struct CompletionAnswer<'a> {
    /// See [`Envelope`].
    pub envelope: &'a Envelope,
    /// The choices, by index; one in a chunk, and none in the last one, which only counts.
    pub choices: &'a [CompletionChoice<'a>],
    /// Absent in a stream unless the client asked for usage; then null until the last chunk.
    pub usage: Option<Option<Usage>>,
}

impl Serialize for CompletionAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(
            self.envelope.head("text_completion"),
            self.choices,
            self.usage,
            serializer,
        )
    }
}

/// A completion choice, whole or its news.
#[derive(Clone, Debug, Serialize)]
pub struct CompletionChoice<'a> {
    /// Which choice.
    pub index: u32,
    /// Its text, or more of it.
    pub text: &'a str,
    /// When asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// What was asked of the prompt, in a whole choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs<'a>>,
    /// In a whole choice, and in a choice's last chunk.
    pub finish_reason: Option<FinishWord>,
    /// Its tokens or those of its news, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [TokenId]>,
    /// The prompt's tokens, in a whole choice and in a choice's first chunk, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [TokenId]>,
}
