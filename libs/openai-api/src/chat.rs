//! The body of `/v1/chat/completions`.

use serde_json::{Map, Value};

use crate::names::{self, Endpoint};
use crate::raw::{RawRequest, count_in, label};
use crate::values::Logprobs;
use crate::{ApiError, LIMITS, Message, Options, Tools, UnknownFields, json, options, tools};

/// Names that `chat_template_kwargs` may hold. A template's other variables are ours to set.
const TEMPLATE_ARGUMENTS: &[&str] = &["enable_thinking", "thinking", "thinking_budget", "date_string"];

/// A conversation to go on with.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The model as the client names it.
    pub model: String,
    /// At least one.
    pub messages: Vec<Message>,
    /// End the prompt where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Leave the last message open, so that the model goes on with it.
    pub continue_final_message: bool,
    /// Functions the model may call.
    pub tools: Option<Tools>,
    /// Whether the model thinks before it answers, and whether that is told.
    pub reasoning: ReasoningWish,
    /// Variables for the template, from a list of allowed ones.
    pub template_arguments: Map<String, Value>,
    /// Everything else.
    pub options: Options,
}

/// How much a model may be asked to think.
pub(crate) const REASONING_EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

/// What a client wants of a model's reasoning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasoningWish {
    /// How much of it: `none`, `minimal`, `low`, `medium`, `high` or `xhigh`.
    pub effort: Option<&'static str>,
    /// Whether it is part of the answer. Its tokens count anyway.
    pub is_told: bool,
}

impl ReasoningWish {
    /// Whether the model shall think at all; none leaves it to the model's template.
    #[must_use]
    pub fn wants_thought(&self) -> Option<bool> {
        self.effort.map(|effort| !matches!(effort, "none" | "minimal"))
    }
}

/// Reads and checks a body.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_chat(body: &[u8], unknown: UnknownFields) -> Result<ChatRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Chat, unknown)?;
    from_raw(json::read(body)?)
}

/// A body whose names are checked.
pub(crate) fn from_raw(mut raw: RawRequest) -> Result<ChatRequest, ApiError> {
    let model = required_model(&mut raw)?;
    let messages = raw.messages.take().map_or_else(Vec::new, |messages| messages.0);
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "at least one message is required"));
    }
    let mut options = options::read(&mut raw)?;
    options.logprobs = logprobs(&raw)?;
    let continue_final_message = raw.continue_final_message.unwrap_or(false);
    let add_generation_prompt = raw.add_generation_prompt.unwrap_or(!continue_final_message);
    if continue_final_message && add_generation_prompt {
        let text = "contradicts add_generation_prompt; set one of them";
        return Err(ApiError::invalid("continue_final_message", text));
    }
    Ok(ChatRequest {
        tools: tools::read(&mut raw)?,
        reasoning: reasoning(&mut raw)?,
        model,
        messages,
        add_generation_prompt,
        continue_final_message,
        template_arguments: template_arguments(raw.chat_template_kwargs.take().unwrap_or_default())?,
        options,
    })
}

fn reasoning(raw: &mut RawRequest) -> Result<ReasoningWish, ApiError> {
    let effort = match raw.reasoning_effort.take() {
        None => None,
        Some(asked) => match REASONING_EFFORTS.into_iter().find(|known| *known == asked) {
            Some(effort) => Some(effort),
            None => {
                let text = format!("must be one of {}", REASONING_EFFORTS.join(", "));
                return Err(ApiError::invalid("reasoning_effort", text));
            }
        },
    };
    Ok(ReasoningWish {
        effort,
        is_told: raw.include_reasoning.unwrap_or(true),
    })
}

/// The model's name, which every request needs.
pub(crate) fn required_model(raw: &mut RawRequest) -> Result<String, ApiError> {
    match label("model", raw.model.take())? {
        Some(model) if !model.is_empty() => Ok(model),
        Some(_) | None => Err(ApiError::invalid("model", "this field is required")),
    }
}

fn logprobs(raw: &RawRequest) -> Result<Option<u8>, ApiError> {
    let top = count_in("top_logprobs", raw.top_logprobs, LIMITS.top_logprobs)?;
    let top = top.map(|top| u8::try_from(top).expect("the range of top_logprobs lies inside 8 bits"));
    match (raw.logprobs, top) {
        (Some(Logprobs::Count(_)), _) => Err(ApiError::invalid("logprobs", "must be a boolean here")),
        (Some(Logprobs::Flag(true)), top) => Ok(Some(top.unwrap_or(0))),
        (Some(Logprobs::Flag(false)) | None, None | Some(0)) => Ok(None),
        (Some(Logprobs::Flag(false)) | None, Some(_)) => {
            Err(ApiError::invalid("top_logprobs", "needs logprobs set to true"))
        }
    }
}

fn template_arguments(arguments: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    if arguments.len() > LIMITS.template_arguments {
        return Err(ApiError::invalid("chat_template_kwargs", "too many entries"));
    }
    for (name, value) in &arguments {
        let param = format!("chat_template_kwargs.{name}");
        if !TEMPLATE_ARGUMENTS.contains(&name.as_str()) {
            let text = format!("is not offered; known are {}", TEMPLATE_ARGUMENTS.join(", "));
            return Err(ApiError::not_offered(&param, text));
        }
        let fits = match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => true,
            Value::String(text) => text.len() <= LIMITS.name_bytes,
            Value::Array(_) | Value::Object(_) => false,
        };
        if !fits {
            return Err(ApiError::invalid(
                &param,
                "must be a boolean, a number or a short string",
            ));
        }
    }
    Ok(arguments)
}
