//! The body of `/v1/responses` as a body for the chat endpoint.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::input::{Input, messages};
use crate::names::{self, Endpoint};
use crate::raw::{label, whole_in};
use crate::values::{Bounded, Number, Whole};
use crate::{ApiError, LIMITS, UnknownFields, json};

/// A request in the shape of `/v1/responses`, translated.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponsesRequest {
    /// The body the chat endpoint is asked with.
    pub chat: Value,
    /// What the answer repeats of the request.
    pub echo: Map<String, Value>,
    /// Whether to keep the answer, where the client says so.
    pub store: Option<bool>,
    /// The response that this one follows.
    pub previous: Option<String>,
    instructions: Option<String>,
    /// What came before, as it was kept.
    before: Vec<Value>,
    input: Input,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawResponses {
    model: Option<String>,
    input: Option<Input>,
    instructions: Option<String>,
    max_output_tokens: Option<Whole>,
    temperature: Option<Number>,
    top_p: Option<Number>,
    stream: Option<bool>,
    metadata: Option<Map<String, Value>>,
    user: Option<String>,
    safety_identifier: Option<String>,
    prompt_cache_key: Option<String>,
    service_tier: Option<String>,
    parallel_tool_calls: Option<bool>,
    tools: Option<Bounded<RawTool, { LIMITS.tool_calls }>>,
    tool_choice: Option<RawToolChoice>,
    text: Option<RawText>,
    reasoning: Option<RawReasoning>,
    store: Option<bool>,
    previous_response_id: Option<String>,
    include: Option<Bounded<String, { LIMITS.metadata_entries }>>,
    top_logprobs: Option<Whole>,
}

/// What an answer may hold beside what it always holds.
const LOGPROBS: &str = "message.output_text.logprobs";

#[derive(Deserialize)]
struct RawTool {
    r#type: String,
    name: Option<String>,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    strict: Option<bool>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawToolChoice {
    Word(String),
    Function { r#type: String, name: Option<String> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawText {
    format: Option<RawFormat>,
    verbosity: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFormat {
    r#type: String,
    name: Option<String>,
    description: Option<String>,
    schema: Option<Value>,
    strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReasoning {
    effort: Option<String>,
    summary: Option<String>,
    generate_summary: Option<String>,
}

/// Reads, checks and translates a body.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_responses(body: &[u8], unknown: UnknownFields) -> Result<ResponsesRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Responses, unknown)?;
    let mut raw: RawResponses = json::read(body)?;
    let mut request = ResponsesRequest {
        chat: json!({}),
        echo: Map::new(),
        store: raw.store,
        previous: label("previous_response_id", raw.previous_response_id.take())?,
        instructions: raw.instructions.take(),
        before: Vec::new(),
        input: raw.input.take().unwrap_or_default(),
    };
    match label("model", raw.model.take())? {
        Some(model) if !model.is_empty() => request.both("model", "model", model.into()),
        Some(_) | None => return Err(ApiError::invalid("model", "this field is required")),
    }
    request
        .echo
        .insert("instructions".to_owned(), request.instructions.clone().into());
    if request.input.0.is_empty() {
        return Err(ApiError::invalid("input", "at least one item is required"));
    }
    let previous = request.previous.clone();
    request
        .echo
        .insert("previous_response_id".to_owned(), previous.into());
    request.chat["messages"] = messages(request.instructions.clone(), request.input.clone()).into();
    let max = whole_in("max_output_tokens", raw.max_output_tokens, LIMITS.max_tokens)?;
    request.both_if("max_output_tokens", "max_tokens", max);
    let number = |value: Option<Number>| value.map(|Number(value)| value);
    request.both_if("temperature", "temperature", number(raw.temperature));
    request.both_if("top_p", "top_p", number(raw.top_p));
    let metadata = raw.metadata.take().unwrap_or_default();
    request.both("metadata", "metadata", metadata.into());
    for (name, text) in [
        ("user", raw.user.take()),
        ("safety_identifier", raw.safety_identifier.take()),
        ("prompt_cache_key", raw.prompt_cache_key.take()),
        ("service_tier", raw.service_tier.take()),
    ] {
        request.both_if(name, name, label(name, text)?);
    }
    request.tools(&mut raw)?;
    request.format(raw.text.take())?;
    request.reasoning(raw.reasoning.take())?;
    request.logprobs(&mut raw)?;
    if raw.stream == Some(true) {
        request.chat["stream"] = true.into();
        request.chat["stream_options"] = json!({"include_usage": true});
    }
    Ok(request)
}

impl ResponsesRequest {
    /// Goes on from these items, which were kept. Instructions hold for one answer and are not among them.
    ///
    /// # Errors
    /// When the conversation becomes too long, or an item is none.
    pub fn follow(&mut self, before: Vec<Value>) -> Result<(), ApiError> {
        let param = "previous_response_id";
        if before.len() + self.input.0.len() > LIMITS.messages {
            let text = format!("the conversation has more than {} items", LIMITS.messages);
            return Err(ApiError::invalid(param, text));
        }
        let mut all = Input::deserialize(Value::Array(before.clone()))
            .map_err(|_| ApiError::invalid(param, "this response cannot be gone on from"))?;
        all.0.extend(self.input.0.iter().cloned());
        self.chat["messages"] = messages(self.instructions.clone(), all).into();
        self.before = before;
        Ok(())
    }

    /// The conversation so far as items, with the ids of those that come with this request made from its own.
    #[must_use]
    pub fn items(&self, request_id: &str) -> Vec<Value> {
        let own = self.input.0.iter().enumerate();
        let own = own.map(|(place, item)| item.shown(&format!("{request_id}_in{place}")));
        self.before.iter().cloned().chain(own).collect()
    }

    /// Something the answer repeats, and its name for the chat endpoint.
    fn both(&mut self, name: &str, chat_name: &str, value: Value) {
        self.chat[chat_name] = value.clone();
        self.echo.insert(name.to_owned(), value);
    }

    fn both_if(&mut self, name: &str, chat_name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.both(name, chat_name, value.into());
        }
    }

    fn tools(&mut self, raw: &mut RawResponses) -> Result<(), ApiError> {
        let tools = raw.tools.take().map_or_else(Vec::new, |tools| tools.0);
        let (mut chat, mut echo) = (Vec::new(), Vec::new());
        for (index, tool) in tools.into_iter().enumerate() {
            let param = |field: &str| format!("tools[{index}].{field}");
            if tool.r#type != "function" {
                let text = format!("tools of type {:?} are not offered by this server", tool.r#type);
                return Err(ApiError::not_offered(&param("type"), text));
            }
            if let Some(name) = tool.others.keys().next() {
                let text = "is not offered by this server; leave it out";
                return Err(ApiError::not_offered(&param(name), text));
            }
            let Some(name) = tool.name else {
                return Err(ApiError::invalid(&param("name"), "this field is required"));
            };
            let mut function = json!({"name": name});
            let optional = [
                ("description", tool.description.map(Value::from)),
                ("parameters", tool.parameters.map(Value::from)),
                ("strict", tool.strict.map(Value::from)),
            ];
            for (field, value) in optional {
                if let Some(value) = value {
                    function[field] = value;
                }
            }
            let mut flat = function.clone();
            flat["type"] = "function".into();
            echo.push(flat);
            chat.push(json!({"type": "function", "function": function}));
        }
        if !chat.is_empty() {
            self.chat["tools"] = chat.into();
        }
        self.echo.insert("tools".to_owned(), echo.into());
        let parallel = raw.parallel_tool_calls;
        self.both_if("parallel_tool_calls", "parallel_tool_calls", parallel);
        self.tool_choice(raw.tool_choice.take())
    }

    fn tool_choice(&mut self, choice: Option<RawToolChoice>) -> Result<(), ApiError> {
        match choice {
            None => Ok(()),
            Some(RawToolChoice::Word(word)) => {
                if !["auto", "none", "required"].contains(&word.as_str()) {
                    return Err(ApiError::invalid(
                        "tool_choice",
                        "must be auto, none, required or a function",
                    ));
                }
                self.both("tool_choice", "tool_choice", word.into());
                Ok(())
            }
            Some(RawToolChoice::Function {
                r#type,
                name: Some(name),
            }) if r#type == "function" => {
                let told = json!({"type": "function", "name": name});
                self.echo.insert("tool_choice".to_owned(), told);
                self.chat["tool_choice"] = json!({"type": "function", "function": {"name": name}});
                Ok(())
            }
            Some(RawToolChoice::Function { .. }) => Err(ApiError::not_offered(
                "tool_choice",
                "only a function can be chosen, by its name",
            )),
        }
    }

    fn format(&mut self, text: Option<RawText>) -> Result<(), ApiError> {
        let Some(text) = text else { return Ok(()) };
        if text.verbosity.is_some() {
            return Err(ApiError::not_offered(
                "text.verbosity",
                "is not offered by this server; leave it out",
            ));
        }
        let Some(format) = text.format else { return Ok(()) };
        let told = match format.r#type.as_str() {
            "text" => json!({"type": "text"}),
            "json_object" => {
                self.chat["response_format"] = json!({"type": "json_object"});
                json!({"type": "json_object"})
            }
            "json_schema" => {
                let Some(schema) = format.schema else {
                    return Err(ApiError::invalid("text.format.schema", "this field is required"));
                };
                let mut described =
                    json!({"name": format.name.as_deref().unwrap_or("answer"), "schema": schema});
                if let Some(strict) = format.strict {
                    described["strict"] = strict.into();
                }
                if let Some(description) = format.description {
                    described["description"] = description.into();
                }
                self.chat["response_format"] = json!({"type": "json_schema", "json_schema": described});
                described["type"] = "json_schema".into();
                described
            }
            _ => {
                let text = "must be text, json_object or json_schema";
                return Err(ApiError::invalid("text.format.type", text));
            }
        };
        self.echo.insert("text".to_owned(), json!({"format": told}));
        Ok(())
    }

    /// How likely the tokens of texts are, and how many rivals of each are told.
    fn logprobs(&mut self, raw: &mut RawResponses) -> Result<(), ApiError> {
        let include = raw.include.take().map_or_else(Vec::new, |include| include.0);
        if let Some(index) = include.iter().position(|name| name != LOGPROBS) {
            let text = format!("is not offered by this server; {LOGPROBS} is");
            return Err(ApiError::not_offered(&format!("include[{index}]"), text));
        }
        let top = whole_in("top_logprobs", raw.top_logprobs, LIMITS.top_logprobs)?;
        if include.is_empty() {
            return match top {
                None | Some(0) => Ok(()),
                Some(_) => {
                    let text = format!("needs {LOGPROBS:?} in include");
                    Err(ApiError::invalid("top_logprobs", text))
                }
            };
        }
        self.chat["logprobs"] = true.into();
        self.both("top_logprobs", "top_logprobs", top.unwrap_or(0).into());
        Ok(())
    }

    fn reasoning(&mut self, reasoning: Option<RawReasoning>) -> Result<(), ApiError> {
        let Some(reasoning) = reasoning else { return Ok(()) };
        if reasoning.summary.is_some() || reasoning.generate_summary.is_some() {
            let text = "summaries are not offered; the reasoning itself comes as content of its item";
            return Err(ApiError::not_offered("reasoning.summary", text));
        }
        if let Some(effort) = reasoning.effort {
            self.chat["reasoning_effort"] = effort.clone().into();
            self.echo
                .insert("reasoning".to_owned(), json!({"effort": effort, "summary": null}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(extra: &str) -> Result<ResponsesRequest, String> {
        let body = format!(r#"{{"model":"m",{extra}}}"#);
        parse_responses(body.as_bytes(), UnknownFields::Refuse).map_err(|error| error.message)
    }

    #[test]
    fn a_string_is_what_a_user_says() {
        let request = read(r#""input":"hi","instructions":"be kind","max_output_tokens":5"#).unwrap();
        let expected = json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]);
        assert_eq!(request.chat["messages"], expected);
        assert_eq!(request.chat["max_tokens"], 5);
        assert_eq!(request.echo["max_output_tokens"], 5);
    }

    #[test]
    fn items_of_the_assistant_are_one_message() {
        let input = r#""instructions":"a","input":[
            {"role":"developer","content":"b"},
            {"role":"user","content":[{"type":"input_text","text":"go"}]},
            {"type":"reasoning","id":"r","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},
            {"type":"message","id":"m","role":"assistant","status":"completed",
                "content":[{"type":"output_text","text":"well","annotations":[]}]},
            {"type":"function_call","call_id":"c","name":"f","arguments":"{}","id":"x","status":"completed"},
            {"type":"function_call_output","call_id":"c","output":"done"}]"#;
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let expected = json!([
            {"role": "system", "content": "a\n\nb"},
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "well", "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "done"},
        ]);
        assert_eq!(read(input).unwrap().chat["messages"], expected);
    }

    #[test]
    fn a_conversation_goes_on_from_what_was_kept() {
        let first = read(r#""input":"hi","instructions":"be kind""#).unwrap();
        let mut kept = first.items("A");
        assert_eq!(kept[0]["id"], "msg_A_in0");
        kept.push(
            json!({"id": "msg_A_0", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}]}),
        );
        let mut second = read(
            r#""previous_response_id":"resp_A","instructions":"be short","input":[
            {"role":"user","content":"more"},
            {"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
            {"type":"function_call_output","call_id":"c","output":"done"}]"#,
        )
        .unwrap();
        assert_eq!(second.previous.as_deref(), Some("resp_A"));
        second.follow(kept.clone()).unwrap();
        let messages = second.chat["messages"].as_array().unwrap();
        let roles: Vec<_> = messages
            .iter()
            .map(|message| message["role"].as_str().unwrap())
            .collect();
        assert_eq!(
            roles,
            ["system", "user", "assistant", "user", "assistant", "tool"]
        );
        assert_eq!(messages[0]["content"], "be short");
        let items = second.items("B");
        assert_eq!(items[..2], kept[..]);
        let kinds: Vec<_> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(kinds[2..], ["msg_B_in0", "fc_B_in1", "fco_B_in2"]);
        // What is kept reads back as what it was.
        let mut third = read(r#""input":"x""#).unwrap();
        third.follow(items).unwrap();
        assert_eq!(third.chat["messages"].as_array().unwrap()[..5], messages[1..]);
        assert!(third.follow(vec![json!(null); LIMITS.messages]).is_err());
    }

    #[test]
    fn tools_and_formats_are_translated_and_repeated() {
        let extra = r#""input":"hi","tools":[{"type":"function","name":"f","parameters":{"type":"object"}}],
            "tool_choice":{"type":"function","name":"f"},
            "text":{"format":{"type":"json_schema","name":"s","schema":{"type":"object"},"strict":true}}"#;
        let ResponsesRequest { chat, echo, .. } = read(extra).unwrap();
        assert_eq!(chat["tools"][0]["function"]["name"], "f");
        assert_eq!(chat["tool_choice"]["function"]["name"], "f");
        assert_eq!(
            echo["tools"][0],
            json!({"name": "f", "parameters": {"type": "object"}, "type": "function"})
        );
        let described = json!({"name": "s", "schema": {"type": "object"}, "strict": true});
        assert_eq!(
            chat["response_format"],
            json!({"type": "json_schema", "json_schema": described})
        );
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let cases = [
            (r#""input":[{"type":"item_reference","id":"x"}]"#, "input[0]"),
            (
                r#""input":[{"role":"user","content":[{"type":"input_image"}]}]"#,
                "input[0].content",
            ),
            (r#""input":"a","tools":[{"type":"web_search"}]"#, "tools[0].type"),
            (
                r#""input":"a","tool_choice":{"type":"allowed_tools"}"#,
                "tool_choice",
            ),
            (r#""input":"a","truncation":"auto""#, "truncation"),
            (r#""input":"a","background":true"#, "background"),
            (r#""input":"a","text":{"verbosity":"low"}"#, "text.verbosity"),
            (
                r#""input":"a","reasoning":{"summary":"auto"}"#,
                "reasoning.summary",
            ),
            (r#""input":"a","messages":[]"#, "messages"),
            (r#""instructions":"a""#, "input"),
        ];
        for (extra, param) in cases {
            let text = read(extra).unwrap_err();
            assert!(text.starts_with(param), "{text}");
        }
    }
}
