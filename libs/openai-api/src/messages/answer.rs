//! Answers of `/v1/messages`, whole and as events, and its errors.

use serde::Serialize;
use serde_json::{Value, json};

use crate::ApiError;
use crate::told::{Retelling, ToldCall, ToldEnd, ToldError, ToldFinish, ToldMessage, ToldUsage, named_event};

/// Tells one answer.
#[derive(Debug)]
pub struct MessagesWriter {
    id: String,
    model: String,
    /// The block that is being told, and its place.
    open: Option<Open>,
    blocks: u32,
}

/// What the open block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    /// The call of this place among the calls.
    Tool(u32),
}

#[derive(Serialize)]
struct BlockDelta<'a> {
    r#type: &'static str,
    index: u32,
    delta: Delta<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

impl MessagesWriter {
    /// Tells the answer to one request. `model` is what the client asked for.
    #[must_use]
    pub fn new(request_id: &str, model: String) -> Self {
        Self {
            id: format!("msg_{request_id}"),
            model,
            open: None,
            blocks: 0,
        }
    }

    /// Opens a block of this kind unless it is open, and tells what it is.
    fn open(&mut self, events: &mut Vec<u8>, kind: Open, block: impl FnOnce() -> Value) {
        if self.open == Some(kind) {
            return;
        }
        self.close(events);
        let index = self.blocks;
        let start = json!({"type": "content_block_start", "index": index, "content_block": block()});
        named_event(events, "content_block_start", &start);
        self.open = Some(kind);
    }

    fn delta(&self, events: &mut Vec<u8>, delta: Delta<'_>) {
        let name = "content_block_delta";
        let told = BlockDelta {
            r#type: name,
            index: self.blocks,
            delta,
        };
        named_event(events, name, &told);
    }

    fn close(&mut self, events: &mut Vec<u8>) {
        let Some(kind) = self.open.take() else { return };
        if kind == Open::Thinking {
            self.delta(events, Delta::Signature { signature: "" });
        }
        let stop = json!({"type": "content_block_stop", "index": self.blocks});
        named_event(events, "content_block_stop", &stop);
        self.blocks += 1;
    }

    fn call(&mut self, events: &mut Vec<u8>, call: &ToldCall) {
        self.open(
            events,
            Open::Tool(call.index),
            || json!({"type": "tool_use", "id": call.id, "name": call.function.name, "input": {}}),
        );
        if !call.function.arguments.is_empty() {
            let partial_json = call.function.arguments.as_str();
            self.delta(events, Delta::InputJson { partial_json });
        }
    }

    fn message(&self, content: Vec<Value>, usage: &Value) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": null, "stop_sequence": null, "usage": usage,
        })
    }
}

impl Retelling for MessagesWriter {
    fn own_name(&self, chat_name: &str) -> Option<&'static str> {
        match chat_name {
            "stop" => Some("stop_sequences"),
            "user" => Some("metadata.user_id"),
            "chat_template_kwargs" => Some("thinking"),
            _ => None,
        }
    }

    fn opening(&mut self, events: &mut Vec<u8>, prompt_tokens: u32) {
        // What of the prompt was cached is known at the end, and told there.
        let usage = usage(ToldUsage {
            prompt_tokens,
            ..ToldUsage::default()
        });
        let message = self.message(Vec::new(), &usage);
        named_event(
            events,
            "message_start",
            &json!({"type": "message_start", "message": message}),
        );
        self.keep_alive(events);
    }

    fn news(&mut self, events: &mut Vec<u8>, news: &ToldMessage) {
        if let Some(thinking) = news.reasoning_content.as_deref().filter(|text| !text.is_empty()) {
            self.open(
                events,
                Open::Thinking,
                || json!({"type": "thinking", "thinking": "", "signature": ""}),
            );
            self.delta(events, Delta::Thinking { thinking });
        }
        if let Some(text) = news.content.as_deref().filter(|text| !text.is_empty()) {
            self.open(events, Open::Text, || json!({"type": "text", "text": ""}));
            self.delta(events, Delta::Text { text });
        }
        for call in &news.tool_calls {
            self.call(events, call);
        }
    }

    fn keep_alive(&mut self, events: &mut Vec<u8>) {
        named_event(events, "ping", &json!({"type": "ping"}));
    }

    fn closing(&mut self, events: &mut Vec<u8>, end: &ToldEnd) {
        self.close(events);
        let (stop_reason, stop_sequence) = stop_reason(end);
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        let told = json!({"type": "message_delta", "delta": delta, "usage": usage(end.usage)});
        named_event(events, "message_delta", &told);
        named_event(events, "message_stop", &json!({"type": "message_stop"}));
    }

    fn failure(&mut self, events: &mut Vec<u8>, error: &ToldError) {
        let error = json!({"type": error_type_of(&error.kind), "message": error.message});
        named_event(events, "error", &json!({"type": "error", "error": error}));
    }

    fn whole(&mut self, message: &ToldMessage, end: &ToldEnd) -> Vec<u8> {
        let mut content = Vec::new();
        if let Some(thinking) = message
            .reasoning_content
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            content.push(json!({"type": "thinking", "thinking": thinking, "signature": ""}));
        }
        if let Some(text) = message.content.as_deref().filter(|text| !text.is_empty()) {
            content.push(json!({"type": "text", "text": text}));
        }
        for call in &message.tool_calls {
            // A call that was cut at the answer's limit is no JSON; the stop reason tells of that.
            let input: Value = serde_json::from_str(&call.function.arguments).unwrap_or_else(|_| json!({}));
            content
                .push(json!({"type": "tool_use", "id": call.id, "name": call.function.name, "input": input}));
        }
        let mut told = self.message(content, &usage(end.usage));
        let (stop_reason, stop_sequence) = stop_reason(end);
        told["stop_reason"] = stop_reason.into();
        told["stop_sequence"] = stop_sequence.into();
        serde_json::to_vec(&told).expect("our shapes have text keys and no failing parts")
    }
}

/// The shape of errors on these routes.
#[must_use]
pub fn messages_error(error: &ApiError, request_id: &str) -> Value {
    let kind = match error.status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500..=599 => "api_error",
        _ => "invalid_request_error",
    };
    let told = json!({"type": kind, "message": error.message});
    json!({"type": "error", "error": told, "request_id": request_id})
}

/// The same word for an error of which only the chat endpoint's word is known.
fn error_type_of(kind: &str) -> &str {
    if kind == "server_error" { "api_error" } else { kind }
}

fn stop_reason(end: &ToldEnd) -> (&'static str, Option<&str>) {
    match (end.finish, end.stop_text.as_deref()) {
        (ToldFinish::Length, _) => ("max_tokens", None),
        (ToldFinish::ToolCalls, _) => ("tool_use", None),
        (ToldFinish::Stop, Some(text)) => ("stop_sequence", Some(text)),
        (ToldFinish::Stop, None) => ("end_turn", None),
    }
}

/// Cached tokens are counted apart from the others here.
fn usage(used: ToldUsage) -> Value {
    let cached = used.prompt_tokens_details.cached_tokens;
    json!({
        "input_tokens": used.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": used.completion_tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::ToldFunction;

    fn call(index: u32, id: Option<&str>, arguments: &str) -> ToldMessage {
        let function = ToldFunction {
            name: id.map(|_| "look".to_owned()),
            arguments: arguments.to_owned(),
        };
        ToldMessage {
            tool_calls: vec![ToldCall {
                index,
                id: id.map(str::to_owned),
                function,
            }],
            ..ToldMessage::default()
        }
    }

    fn end(finish: ToldFinish) -> ToldEnd {
        ToldEnd {
            finish,
            stop_text: None,
            usage: ToldUsage::default(),
        }
    }

    fn thought(text: &str) -> ToldMessage {
        ToldMessage {
            reasoning_content: Some(text.to_owned()),
            ..ToldMessage::default()
        }
    }

    #[test]
    fn thoughts_words_and_calls_are_blocks_of_their_own() {
        let mut writer = MessagesWriter::new("1", "m".to_owned());
        let mut events = Vec::new();
        writer.opening(&mut events, 3);
        let words = ToldMessage {
            content: Some("so".to_owned()),
            ..ToldMessage::default()
        };
        let calls = [
            call(0, Some("a"), ""),
            call(0, None, "{\"x\":"),
            call(0, None, "1}"),
            call(1, Some("b"), "{}"),
        ];
        for news in [thought("hm"), thought("!"), words].iter().chain(&calls) {
            writer.news(&mut events, news);
        }
        writer.closing(&mut events, &end(ToldFinish::ToolCalls));
        let text = String::from_utf8(events).unwrap();
        let told: Vec<_> = text
            .split("\n\n")
            .filter_map(|event| event.split_once("data: "))
            .map(|(_, data)| serde_json::from_str::<Value>(data).unwrap())
            .collect();
        let shown: Vec<_> = told
            .iter()
            .map(|event| {
                let delta = event["delta"]["type"].as_str();
                let index = event["index"].as_u64().map(|index| index.to_string());
                [event["type"].as_str(), delta, index.as_deref()]
                    .map(|part| part.unwrap_or("").to_owned())
                    .join(" ")
            })
            .collect();
        let expected = [
            "message_start  ",
            "ping  ",
            "content_block_start  0",
            "content_block_delta thinking_delta 0",
            "content_block_delta thinking_delta 0",
            "content_block_delta signature_delta 0",
            "content_block_stop  0",
            "content_block_start  1",
            "content_block_delta text_delta 1",
            "content_block_stop  1",
            "content_block_start  2",
            "content_block_delta input_json_delta 2",
            "content_block_delta input_json_delta 2",
            "content_block_stop  2",
            "content_block_start  3",
            "content_block_delta input_json_delta 3",
            "content_block_stop  3",
            "message_delta  ",
            "message_stop  ",
        ];
        assert_eq!(shown, expected);
        assert_eq!(
            told[10]["content_block"],
            json!({"type": "tool_use", "id": "a", "name": "look", "input": {}})
        );
        assert_eq!(told[17]["delta"]["stop_reason"], "tool_use");
    }

    #[test]
    fn a_whole_answer_has_the_arguments_as_an_object() {
        let mut writer = MessagesWriter::new("1", "m".to_owned());
        let message = call(0, Some("a"), "{\"x\":1}");
        let told: Value =
            serde_json::from_slice(&writer.whole(&message, &end(ToldFinish::ToolCalls))).unwrap();
        assert_eq!(told["content"][0]["input"], json!({"x": 1}));
        assert_eq!(told["stop_reason"], "tool_use");
    }
}
