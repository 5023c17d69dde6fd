//! A body as it is written, of either endpoint: the names pass has already decided which fields may be present.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::message::Message;
use crate::prompt::Prompts;
use crate::values::{Bounded, LogitBias, Logprobs, Number, Stop, Token, Whole};
use crate::{ApiError, LIMITS, WholeRange};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawRequest {
    pub(crate) model: Option<String>,
    pub(crate) messages: Option<Bounded<Message, { LIMITS.messages }>>,
    pub(crate) prompt: Option<Prompts>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<RawStreamOptions>,
    pub(crate) user: Option<String>,
    pub(crate) safety_identifier: Option<String>,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) service_tier: Option<String>,
    pub(crate) priority: Option<Whole>,
    pub(crate) cache_salt: Option<String>,
    pub(crate) prompt_cache_key: Option<String>,
    pub(crate) temperature: Option<Number>,
    pub(crate) top_p: Option<Number>,
    pub(crate) top_k: Option<Whole>,
    pub(crate) min_p: Option<Number>,
    pub(crate) seed: Option<Whole>,
    pub(crate) presence_penalty: Option<Number>,
    pub(crate) frequency_penalty: Option<Number>,
    pub(crate) repetition_penalty: Option<Number>,
    pub(crate) logit_bias: Option<LogitBias>,
    pub(crate) logprobs: Option<Logprobs>,
    pub(crate) top_logprobs: Option<Whole>,
    pub(crate) prompt_logprobs: Option<Whole>,
    pub(crate) n: Option<Whole>,
    pub(crate) best_of: Option<Whole>,
    pub(crate) max_tokens: Option<Whole>,
    pub(crate) max_completion_tokens: Option<Whole>,
    pub(crate) min_tokens: Option<Whole>,
    pub(crate) stop: Option<Stop>,
    pub(crate) stop_token_ids: Option<Bounded<Token, { LIMITS.stop_token_ids }>>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) allowed_token_ids: Option<Bounded<Token, { LIMITS.allowed_token_ids }>>,
    pub(crate) bad_words: Option<Bounded<String, { LIMITS.bad_words }>>,
    pub(crate) return_token_ids: Option<bool>,
    pub(crate) return_tokens_as_token_ids: Option<bool>,
    pub(crate) functions: Option<Bounded<Value, { LIMITS.tools }>>,
    pub(crate) function_call: Option<Value>,
    pub(crate) response_format: Option<Value>,
    pub(crate) structured_outputs: Option<Value>,
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<Value>,
    pub(crate) guided_choice: Option<Value>,
    pub(crate) guided_grammar: Option<Value>,
    pub(crate) echo: Option<bool>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) add_special_tokens: Option<bool>,
    pub(crate) return_token_strs: Option<bool>,
    pub(crate) input: Option<Prompts<{ LIMITS.inputs }>>,
    pub(crate) dimensions: Option<Whole>,
    pub(crate) encoding_format: Option<String>,
    pub(crate) labels: Option<Bounded<String, { LIMITS.labels }>>,
    pub(crate) calibrate: Option<bool>,
    pub(crate) tokens: Option<Bounded<Token, { LIMITS.prompt_tokens }>>,
    pub(crate) tools: Option<Bounded<Value, { LIMITS.tools }>>,
    pub(crate) tool_choice: Option<Value>,
    pub(crate) parallel_tool_calls: Option<bool>,
    pub(crate) reasoning_effort: Option<String>,
    pub(crate) include_reasoning: Option<bool>,
    pub(crate) include_stop_str_in_output: Option<bool>,
    pub(crate) skip_special_tokens: Option<bool>,
    pub(crate) truncate_prompt_tokens: Option<Whole>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawStreamOptions {
    pub(crate) include_usage: Option<bool>,
    /// Asks for padding against traffic analysis; only its absence is offered.
    pub(crate) include_obfuscation: Option<bool>,
    pub(crate) continuous_usage_stats: Option<bool>,
}

/// A whole number inside its range.
pub(crate) fn whole_in(name: &str, value: Option<Whole>, range: WholeRange) -> Result<Option<i64>, ApiError> {
    let Some(Whole(value)) = value else {
        return Ok(None);
    };
    match i64::try_from(value) {
        Ok(value) if (range.min..=range.max).contains(&value) => Ok(Some(value)),
        Ok(_) | Err(_) => Err(ApiError::invalid(
            name,
            format!("{value} is out of range ({} to {})", range.min, range.max),
        )),
    }
}

/// A whole number inside its range, for fields that hold 32 bits. The range must fit them.
pub(crate) fn count_in(name: &str, value: Option<Whole>, range: WholeRange) -> Result<Option<u32>, ApiError> {
    let value = whole_in(name, value, range)?;
    Ok(value.map(|value| u32::try_from(value).expect("the range of a count lies inside 32 bits")))
}

/// A name or label that is not too long.
pub(crate) fn label(name: &str, text: Option<String>) -> Result<Option<String>, ApiError> {
    match text {
        Some(text) if text.len() > LIMITS.name_bytes => Err(ApiError::invalid(
            name,
            format!("is longer than {} bytes", LIMITS.name_bytes),
        )),
        Some(_) | None => Ok(text),
    }
}
