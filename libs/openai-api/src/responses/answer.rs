//! Answers of `/v1/responses`, whole and as events.

use serde_json::{Map, Value, json};

use super::output::{Item, Kind};
use crate::told::{Retelling, ToldCall, ToldEnd, ToldError, ToldFinish, ToldMessage, ToldUsage, named_event};

/// Tells one answer.
#[derive(Clone, Debug)]
pub struct ResponsesWriter {
    request_id: String,
    created_s: u64,
    echo: Map<String, Value>,
    /// Of the next event.
    sequence: u64,
    /// Items that are told, as they are shown.
    output: Vec<Value>,
    open: Option<Item>,
    /// Of tokens whose text has not come yet.
    logprobs: Vec<Value>,
}

impl ResponsesWriter {
    /// Tells the answer to one request, which came at `created_s` seconds since 1970. `echo` is what it repeats of the
    /// request.
    #[must_use]
    pub fn new(request_id: &str, created_s: u64, echo: Map<String, Value>) -> Self {
        Self {
            request_id: request_id.to_owned(),
            created_s,
            echo,
            sequence: 0,
            output: Vec::new(),
            open: None,
            logprobs: Vec::new(),
        }
    }

    /// The response as it stands.
    fn response(&self, status: &str) -> Value {
        let mut told = json!({
            "id": format!("resp_{}", self.request_id), "object": "response", "created_at": self.created_s,
            "status": status, "background": false, "error": null, "incomplete_details": null, "instructions": null,
            "max_output_tokens": null, "metadata": {}, "output": self.output, "parallel_tool_calls": true,
            "previous_response_id": null, "reasoning": {"effort": null, "summary": null}, "store": false,
            "temperature": null, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [],
            "top_p": null, "truncation": "disabled", "usage": null,
        });
        for (name, value) in &self.echo {
            told[name] = value.clone();
        }
        told
    }

    /// The response at its end.
    fn ended(&self, end: &ToldEnd) -> Value {
        let is_cut = end.finish == ToldFinish::Length;
        let mut told = self.response(if is_cut { "incomplete" } else { "completed" });
        if is_cut {
            told["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        told["usage"] = usage(end.usage);
        told
    }

    fn event(&mut self, events: &mut Vec<u8>, (name, mut told): (&'static str, Value)) {
        told["type"] = name.into();
        told["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        named_event(events, name, &told);
    }

    /// Adds text to the item of this kind, which is opened when another one was open.
    fn add(&mut self, events: &mut Vec<u8>, kind: Kind, text: &str) {
        if self.open.as_ref().is_none_or(|item| item.kind != kind) {
            self.close(events, "completed");
            let place = self.output.len();
            let prefix = match kind {
                Kind::Thought => "rs",
                Kind::Words => "msg",
                Kind::Call { .. } => "fc",
            };
            let item = Item {
                id: format!("{prefix}_{}_{place}", self.request_id),
                kind,
                text: String::new(),
                logprobs: Vec::new(),
            };
            for event in item.opening(place) {
                self.event(events, event);
            }
            self.open = Some(item);
        }
        if text.is_empty() {
            return;
        }
        let place = self.output.len();
        let item = self.open.as_mut().expect("opened above unless it was open");
        item.text.push_str(text);
        // Only texts tell them: those of reasoning and of calls are not told.
        let logprobs = std::mem::take(&mut self.logprobs);
        if item.kind == Kind::Words {
            item.logprobs.extend_from_slice(&logprobs);
        }
        let event = item.delta(place, text, &logprobs);
        self.event(events, event);
    }

    fn close(&mut self, events: &mut Vec<u8>, status: &str) {
        let Some(item) = self.open.take() else { return };
        for event in item.closing(self.output.len(), status) {
            self.event(events, event);
        }
        self.output.push(item.shown(status));
    }

    fn call(&mut self, events: &mut Vec<u8>, call: &ToldCall) {
        let kind = match (&call.id, &self.open) {
            (
                None,
                Some(Item {
                    kind: kind @ Kind::Call { index, .. },
                    ..
                }),
            ) if *index == call.index => kind.clone(),
            (id, _) => Kind::Call {
                index: call.index,
                id: id.clone().unwrap_or_default(),
                name: call.function.name.clone().unwrap_or_default(),
            },
        };
        self.add(events, kind, &call.function.arguments);
    }

    fn tell(&mut self, events: &mut Vec<u8>, news: &ToldMessage) {
        self.logprobs.extend_from_slice(&news.logprobs);
        if let Some(text) = news.reasoning_content.as_deref().filter(|text| !text.is_empty()) {
            self.add(events, Kind::Thought, text);
        }
        if let Some(text) = news.content.as_deref().filter(|text| !text.is_empty()) {
            self.add(events, Kind::Words, text);
        }
        for call in &news.tool_calls {
            self.call(events, call);
        }
    }

    fn last_status(end: &ToldEnd) -> &'static str {
        match end.finish {
            ToldFinish::Length => "incomplete",
            ToldFinish::Stop | ToldFinish::ToolCalls => "completed",
        }
    }
}

impl Retelling for ResponsesWriter {
    fn own_name(&self, chat_name: &str) -> Option<&'static str> {
        match chat_name {
            "messages" => Some("input"),
            "max_tokens" => Some("max_output_tokens"),
            "response_format" => Some("text.format"),
            "reasoning_effort" => Some("reasoning.effort"),
            _ => None,
        }
    }

    fn opening(&mut self, events: &mut Vec<u8>, _prompt_tokens: u32) {
        for name in ["response.created", "response.in_progress"] {
            let response = self.response("in_progress");
            self.event(events, (name, json!({"response": response})));
        }
    }

    fn news(&mut self, events: &mut Vec<u8>, news: &ToldMessage) {
        self.tell(events, news);
    }

    fn at_its_end(&self, message: Option<&ToldMessage>, end: &ToldEnd) -> Option<Value> {
        let (mut ahead, mut events) = (self.clone(), Vec::new());
        if let Some(message) = message {
            ahead.tell(&mut events, message);
        }
        ahead.close(&mut events, Self::last_status(end));
        Some(ahead.ended(end))
    }

    fn is_not_kept(&mut self) {
        self.echo.insert("store".to_owned(), false.into());
    }

    fn keep_alive(&mut self, events: &mut Vec<u8>) {
        events.extend_from_slice(b": keep-alive\n\n");
    }

    fn closing(&mut self, events: &mut Vec<u8>, end: &ToldEnd) {
        self.close(events, Self::last_status(end));
        let name = match end.finish {
            ToldFinish::Length => "response.incomplete",
            ToldFinish::Stop | ToldFinish::ToolCalls => "response.completed",
        };
        let response = self.ended(end);
        self.event(events, (name, json!({"response": response})));
    }

    fn failure(&mut self, events: &mut Vec<u8>, error: &ToldError) {
        self.close(events, "incomplete");
        let mut response = self.response("failed");
        let code = error.code.as_deref().unwrap_or("server_error");
        response["error"] = json!({"code": code, "message": error.message});
        self.event(events, ("response.failed", json!({"response": response})));
    }

    fn whole(&mut self, message: &ToldMessage, end: &ToldEnd) -> Vec<u8> {
        // The events lead to the items, and nobody sees them.
        let mut events = Vec::new();
        self.tell(&mut events, message);
        self.close(&mut events, Self::last_status(end));
        serde_json::to_vec(&self.ended(end)).expect("our shapes have text keys and no failing parts")
    }
}

fn usage(used: ToldUsage) -> Value {
    let reasoning = used
        .completion_tokens_details
        .unwrap_or_default()
        .reasoning_tokens;
    let cached = used.prompt_tokens_details.cached_tokens;
    json!({
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": used.prompt_tokens.saturating_add(used.completion_tokens),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::ToldFunction;

    fn words(text: &str) -> ToldMessage {
        ToldMessage {
            content: Some(text.to_owned()),
            ..ToldMessage::default()
        }
    }

    fn call(id: Option<&str>, arguments: &str) -> ToldMessage {
        let function = ToldFunction {
            name: id.map(|_| "look".to_owned()),
            arguments: arguments.to_owned(),
        };
        ToldMessage {
            tool_calls: vec![ToldCall {
                index: 0,
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

    #[test]
    fn a_stream_numbers_its_events_and_ends_with_the_whole() {
        let mut writer = ResponsesWriter::new("1", 5, Map::new());
        let mut events = Vec::new();
        writer.opening(&mut events, 3);
        for news in [words("a"), words("b"), call(Some("c"), ""), call(None, "{}")] {
            writer.news(&mut events, &news);
        }
        writer.closing(&mut events, &end(ToldFinish::ToolCalls));
        let text = String::from_utf8(events).unwrap();
        let told: Vec<Value> = text
            .split("\n\n")
            .filter_map(|event| event.split_once("data: "))
            .map(|(_, data)| serde_json::from_str(data).unwrap())
            .collect();
        let kinds: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
        let expected = [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ];
        assert_eq!(kinds, expected);
        for (number, event) in told.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        let mut whole = ResponsesWriter::new("1", 5, Map::new());
        let both = ToldMessage {
            content: Some("ab".to_owned()),
            ..call(Some("c"), "{}")
        };
        let whole: Value = serde_json::from_slice(&whole.whole(&both, &end(ToldFinish::ToolCalls))).unwrap();
        assert_eq!(told.last().unwrap()["response"], whole);
    }

    #[test]
    fn what_will_be_told_is_known_before() {
        let mut writer = ResponsesWriter::new("1", 5, Map::from_iter([("store".to_owned(), true.into())]));
        let end = end(ToldFinish::Stop);
        let ahead = writer.at_its_end(Some(&words("ab")), &end).unwrap();
        assert_eq!(ahead["store"], true);
        assert_eq!(
            serde_json::from_slice::<Value>(&writer.whole(&words("ab"), &end)).unwrap(),
            ahead
        );
        let mut writer = ResponsesWriter::new("1", 5, Map::new());
        let mut events = Vec::new();
        writer.news(&mut events, &words("ab"));
        writer.is_not_kept();
        let ahead = writer.at_its_end(None, &end).unwrap();
        assert_eq!(
            (&ahead["store"], &ahead["output"][0]["content"][0]["text"]),
            (&json!(false), &json!("ab"))
        );
    }

    #[test]
    fn log_probabilities_go_with_the_text_they_are_of() {
        let likely = |text: &str, token: &str| ToldMessage {
            logprobs: vec![json!({"token": token})],
            ..words(text)
        };
        let mut writer = ResponsesWriter::new("1", 5, Map::new());
        let mut events = Vec::new();
        // The text of the first token is held back and comes with the second's.
        for news in [likely("", "a"), likely("ab", "b"), likely("c", "c")] {
            writer.news(&mut events, &news);
        }
        writer.closing(&mut events, &end(ToldFinish::Stop));
        let text = String::from_utf8(events).unwrap();
        let told = |name: &str| -> Vec<Value> {
            text.split("\n\n")
                .filter_map(|event| event.split_once("data: "))
                .map(|(_, data)| serde_json::from_str::<Value>(data).unwrap())
                .filter(|event| event["type"] == name)
                .map(|event| event["logprobs"].clone())
                .collect()
        };
        let of = |tokens: &[&str]| {
            json!(
                tokens
                    .iter()
                    .map(|token| json!({"token": token}))
                    .collect::<Vec<_>>()
            )
        };
        assert_eq!(told("response.output_text.delta"), [of(&["a", "b"]), of(&["c"])]);
        assert_eq!(told("response.output_text.done"), [of(&["a", "b", "c"])]);
    }

    #[test]
    fn an_answer_that_was_cut_is_incomplete() {
        let mut writer = ResponsesWriter::new("1", 5, Map::new());
        let told: Value =
            serde_json::from_slice(&writer.whole(&words("a"), &end(ToldFinish::Length))).unwrap();
        assert_eq!(
            (&told["status"], &told["output"][0]["status"]),
            (&json!("incomplete"), &json!("incomplete"))
        );
        assert_eq!(told["incomplete_details"], json!({"reason": "max_output_tokens"}));
    }
}
