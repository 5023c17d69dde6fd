//! The body of `/v1/messages` as a body for the chat endpoint.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::content::{Blocks, Turn};
use crate::names::{self, Endpoint};
use crate::raw::{label, whole_in};
use crate::values::{Bounded, Number, Stop, Whole};
use crate::{ApiError, LIMITS, UnknownFields, WholeRange, json};

/// A request in the shape of `/v1/messages`, translated.
#[derive(Clone, Debug, PartialEq)]
pub struct MessagesRequest {
    /// The model as the client names it.
    pub model: String,
    /// Deliver as events.
    pub is_streamed: bool,
    /// The body the chat endpoint is asked with.
    pub chat: Value,
}

/// Which of the two endpoints a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessagesUse {
    /// To be answered.
    Answer,
    /// To count its tokens.
    Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawMessages {
    model: Option<String>,
    messages: Option<Bounded<Turn, { LIMITS.messages }>>,
    system: Option<Blocks>,
    max_tokens: Option<Whole>,
    stop_sequences: Option<Stop>,
    stream: Option<bool>,
    temperature: Option<Number>,
    top_p: Option<Number>,
    top_k: Option<Whole>,
    metadata: Option<RawMetadata>,
    service_tier: Option<String>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<CacheHint>,
    tools: Option<Bounded<RawTool, { LIMITS.tool_calls }>>,
    tool_choice: Option<RawToolChoice>,
    thinking: Option<RawThinking>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetadata {
    user_id: Option<String>,
}

/// Prefixes are cached without being asked; a wish of another kind is none of ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheHint {
    #[serde(rename = "type")]
    _kind: CacheKind,
    #[serde(rename = "ttl")]
    _ttl: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum CacheKind {
    Ephemeral,
}

#[derive(Deserialize)]
struct RawTool {
    r#type: Option<String>,
    name: String,
    description: Option<String>,
    input_schema: Option<Map<String, Value>>,
    strict: Option<bool>,
    /// Caching and eager streaming are what happens anyway.
    #[serde(rename = "cache_control")]
    _cache_control: Option<CacheHint>,
    #[serde(rename = "eager_input_streaming")]
    _eager_input_streaming: Option<IgnoredAny>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToolChoice {
    r#type: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThinking {
    r#type: String,
    budget_tokens: Option<Whole>,
}

/// Reads, checks and translates a body.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_messages(
    body: &[u8],
    purpose: MessagesUse,
    unknown: UnknownFields,
) -> Result<MessagesRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Messages, unknown)?;
    let mut raw: RawMessages = json::read(body)?;
    let mut chat = Map::new();
    let model = match label("model", raw.model.take())? {
        Some(model) if !model.is_empty() => model,
        Some(_) | None => return Err(ApiError::invalid("model", "this field is required")),
    };
    chat.insert("model".to_owned(), model.clone().into());
    let is_prefilled = conversation(&mut raw, &mut chat)?;
    if is_prefilled {
        // The answer goes on with the words put into the assistant's mouth.
        chat.insert("continue_final_message".to_owned(), true.into());
        chat.insert("add_generation_prompt".to_owned(), false.into());
    }
    let max_tokens = whole_in("max_tokens", raw.max_tokens, LIMITS.max_tokens)?;
    match (max_tokens, purpose) {
        (None, MessagesUse::Answer) => return Err(ApiError::invalid("max_tokens", "this field is required")),
        (None, MessagesUse::Count) => {}
        (Some(max_tokens), MessagesUse::Answer | MessagesUse::Count) => {
            chat.insert("max_tokens".to_owned(), max_tokens.into());
        }
    }
    sampling(&mut raw, &mut chat)?;
    tools(&mut raw, &mut chat)?;
    thinking(&raw, max_tokens, &mut chat)?;
    let is_streamed = raw.stream.unwrap_or(false);
    if is_streamed {
        chat.insert("stream".to_owned(), true.into());
        chat.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    Ok(MessagesRequest {
        model,
        is_streamed,
        chat: Value::Object(chat),
    })
}

/// The messages. True when the last one is to be continued.
fn conversation(raw: &mut RawMessages, chat: &mut Map<String, Value>) -> Result<bool, ApiError> {
    let turns = raw.messages.take().map_or_else(Vec::new, |turns| turns.0);
    if turns.is_empty() {
        return Err(ApiError::invalid("messages", "at least one message is required"));
    }
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if let Some(system) = raw.system.take() {
        let text = system.text();
        let text = text.ok_or_else(|| ApiError::invalid("system", "only text is offered here"))?;
        if !text.is_empty() {
            messages.push(json!({"role": "system", "content": text}));
        }
    }
    for (index, turn) in turns.into_iter().enumerate() {
        turn.tell(&mut messages)
            .map_err(|text| ApiError::invalid(&format!("messages[{index}].content"), text))?;
    }
    let is_prefilled = messages
        .last()
        .is_some_and(|last| last["role"] == "assistant" && last.get("tool_calls").is_none());
    chat.insert("messages".to_owned(), messages.into());
    Ok(is_prefilled)
}

fn sampling(raw: &mut RawMessages, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in [("temperature", raw.temperature), ("top_p", raw.top_p)] {
        if let Some(Number(value)) = value {
            chat.insert(name.to_owned(), value.into());
        }
    }
    if let Some(top_k) = whole_in("top_k", raw.top_k, LIMITS.top_k)? {
        chat.insert("top_k".to_owned(), top_k.into());
    }
    if let Some(Stop(texts)) = raw.stop_sequences.take() {
        chat.insert("stop".to_owned(), texts.into());
    }
    if let Some(user) = raw.metadata.take().and_then(|metadata| metadata.user_id) {
        let user = label("metadata.user_id", Some(user))?;
        chat.insert("user".to_owned(), user.into());
    }
    match raw.service_tier.as_deref() {
        None | Some("auto" | "standard_only") => Ok(()),
        Some(_) => Err(ApiError::not_offered(
            "service_tier",
            "only auto and standard_only are offered",
        )),
    }
}

fn tools(raw: &mut RawMessages, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let tools = raw.tools.take().map_or_else(Vec::new, |tools| tools.0);
    let mut told = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let param = |field: &str| format!("tools[{index}].{field}");
        if let Some(kind) = tool.r#type.filter(|kind| kind != "custom") {
            let text = format!("tools of type {kind:?} are not offered by this server; describe a function");
            return Err(ApiError::not_offered(&param("type"), text));
        }
        if let Some(name) = tool.others.keys().next() {
            return Err(ApiError::not_offered(
                &param(name),
                "is not offered by this server; leave it out",
            ));
        }
        let Some(schema) = tool.input_schema else {
            return Err(ApiError::invalid(
                &param("input_schema"),
                "this field is required",
            ));
        };
        let mut function = json!({"name": tool.name, "parameters": schema});
        if let Some(description) = tool.description {
            function["description"] = description.into();
        }
        if let Some(strict) = tool.strict {
            function["strict"] = strict.into();
        }
        told.push(json!({"type": "function", "function": function}));
    }
    if !told.is_empty() {
        chat.insert("tools".to_owned(), told.into());
    }
    let Some(choice) = raw.tool_choice.take() else {
        return Ok(());
    };
    if choice.disable_parallel_tool_use == Some(true) {
        chat.insert("parallel_tool_calls".to_owned(), false.into());
    }
    let told: Value = match (choice.r#type.as_str(), choice.name) {
        ("auto", None) => "auto".into(),
        ("any", None) => "required".into(),
        ("none", None) => "none".into(),
        ("tool", Some(name)) => json!({"type": "function", "function": {"name": name}}),
        ("tool", None) => return Err(ApiError::invalid("tool_choice.name", "this field is required")),
        ("auto" | "any" | "none", Some(_)) => {
            return Err(ApiError::invalid("tool_choice.name", "is only for the type tool"));
        }
        (_, _) => {
            return Err(ApiError::invalid(
                "tool_choice.type",
                "must be auto, any, tool or none",
            ));
        }
    };
    chat.insert("tool_choice".to_owned(), told);
    Ok(())
}

/// Whether to think, and how much, are variables of the model's template.
fn thinking(
    raw: &RawMessages,
    max_tokens: Option<i64>,
    chat: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    const LEAST: i64 = 1024;
    let Some(thinking) = &raw.thinking else {
        return Ok(());
    };
    let range = WholeRange {
        min: LEAST,
        max: LIMITS.max_tokens.max,
    };
    let budget = whole_in("thinking.budget_tokens", thinking.budget_tokens, range)?;
    let arguments = match (thinking.r#type.as_str(), budget) {
        ("disabled", None) => json!({"enable_thinking": false}),
        ("adaptive", None) => json!({"enable_thinking": true}),
        ("enabled", Some(budget)) => {
            if max_tokens.is_some_and(|max| budget >= max) {
                return Err(ApiError::invalid(
                    "thinking.budget_tokens",
                    "must be less than max_tokens",
                ));
            }
            json!({"enable_thinking": true, "thinking_budget": budget})
        }
        ("enabled", None) => {
            return Err(ApiError::invalid(
                "thinking.budget_tokens",
                "this field is required",
            ));
        }
        ("disabled" | "adaptive", Some(_)) => {
            return Err(ApiError::invalid(
                "thinking.budget_tokens",
                "is only for the type enabled",
            ));
        }
        (_, _) => {
            return Err(ApiError::invalid(
                "thinking.type",
                "must be enabled, adaptive or disabled",
            ));
        }
    };
    chat.insert("chat_template_kwargs".to_owned(), arguments);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(extra: &str) -> Result<Value, String> {
        let body = format!(r#"{{"model":"m","max_tokens":2000,{extra}}}"#);
        parse_messages(body.as_bytes(), MessagesUse::Answer, UnknownFields::Refuse)
            .map(|request| request.chat)
            .map_err(|error| error.message)
    }

    #[test]
    fn results_of_tools_are_messages_of_their_own() {
        let turns = r#""messages":[
            {"role":"user","content":"go"},
            {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":""},
                {"type":"tool_use","id":"c","name":"f","input":{"a":1}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"no","is_error":true},
                {"type":"text","text":"and?"}]}]"#;
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}});
        let expected = json!([
            {"role": "user", "content": "go"},
            {"role": "assistant", "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "Error: no"},
            {"role": "user", "content": "and?"},
        ]);
        assert_eq!(chat(turns).unwrap()["messages"], expected);
    }

    #[test]
    fn tools_and_their_choice_are_translated() {
        let tools = r#""messages":[{"role":"user","content":"go"}],
            "tools":[{"name":"f","description":"d","input_schema":{"type":"object"},"cache_control":null}],
            "tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true}"#;
        let told = chat(tools).unwrap();
        let function = json!({"name": "f", "parameters": {"type": "object"}, "description": "d"});
        assert_eq!(told["tools"], json!([{"type": "function", "function": function}]));
        assert_eq!(
            told["tool_choice"],
            json!({"type": "function", "function": {"name": "f"}})
        );
        assert_eq!(told["parallel_tool_calls"], false);
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let cases = [
            (
                r#""tools":[{"type":"bash_20250124","name":"bash"}]"#,
                "tools[0].type",
            ),
            (
                r#""tools":[{"name":"f","input_schema":{},"defer_loading":true}]"#,
                "tools[0].defer_loading",
            ),
            (r#""tool_choice":{"type":"some"}"#, "tool_choice.type"),
            (
                r#""thinking":{"type":"enabled","budget_tokens":2000}"#,
                "thinking.budget_tokens",
            ),
            (r#""output_config":{"effort":"low"}"#, "output_config"),
            (r#""service_tier":"flex""#, "service_tier"),
            (r#""max_token":1"#, "max_token"),
        ];
        for (extra, param) in cases {
            let text = chat(&format!(
                r#""messages":[{{"role":"user","content":"go"}}],{extra}"#
            ))
            .unwrap_err();
            assert!(text.starts_with(param), "{text}");
        }
    }
}
