//! The parts of an answer that are measured, whichever endpoint it comes from and whether it is whole or a chunk.

use serde::Deserialize;
use serde_json::Value;

/// A whole answer, or one chunk of a stream: everything in it is optional in one of them.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Answer {
    #[serde(default)]
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Option<Usage>,
    pub(crate) error: Option<Value>,
}

/// What the server says it used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(default)]
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
    #[serde(default)]
    pub(crate) total_tokens: u64,
    #[serde(default)]
    pub(crate) prompt_tokens_details: Option<PromptTokensDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct PromptTokensDetails {
    #[serde(default)]
    pub(crate) cached_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Choice {
    #[serde(default)]
    delta: Option<Message>,
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    pub(crate) finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Default, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Value>>,
}

/// One entry for each token, under the name of the endpoint.
#[derive(Debug, Default, Deserialize)]
struct Logprobs {
    #[serde(default)]
    content: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(default)]
    tokens: Option<Vec<serde::de::IgnoredAny>>,
}

impl Answer {
    /// Whether it says anything a reader of the answer would see.
    pub(crate) fn has_content(&self) -> bool {
        self.choices.iter().any(Choice::has_content)
    }

    /// Tokens it lists, if it lists tokens.
    pub(crate) fn listed_tokens(&self) -> Option<u64> {
        let listed = self.choices.iter().filter_map(|choice| {
            let logprobs = choice.logprobs.as_ref()?;
            let entries = logprobs.content.as_ref().or(logprobs.tokens.as_ref())?;
            Some(entries.len() as u64)
        });
        listed.reduce(|left, right| left + right)
    }

    /// Why it ended.
    pub(crate) fn finish_reason(&self) -> Option<&str> {
        self.choices
            .iter()
            .find_map(|choice| choice.finish_reason.as_deref())
    }

    /// The words of its error.
    pub(crate) fn error_text(&self) -> Option<String> {
        self.error.as_ref().map(text_of_error)
    }
}

impl Choice {
    fn has_content(&self) -> bool {
        let is_said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let message = self.delta.as_ref().or(self.message.as_ref());
        is_said(&self.text)
            || message.is_some_and(|message| {
                is_said(&message.content)
                    || is_said(&message.reasoning_content)
                    || is_said(&message.reasoning)
                    || is_said(&message.refusal)
                    || message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
            })
    }
}

/// The message of `{"error": {"message": ...}}`, or whatever stands in its place.
pub(crate) fn text_of_error(error: &Value) -> String {
    let message = error.get("message").unwrap_or(error);
    message
        .as_str()
        .map_or_else(|| message.to_string(), str::to_owned)
}
