//! Items of an answer, and what opens, adds to and closes them in a stream.

use serde_json::{Value, json};

/// What an item holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Thought,
    Words,
    /// The call of this place among the calls.
    Call {
        index: u32,
        id: String,
        name: String,
    },
}

/// One item, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) text: String,
    /// How likely its tokens were, when that was asked for.
    pub(super) logprobs: Vec<Value>,
}

impl Item {
    /// As it is shown with this status.
    pub(super) fn shown(&self, status: &str) -> Value {
        match &self.kind {
            Kind::Thought => {
                let content = if self.text.is_empty() {
                    json!([])
                } else {
                    json!([self.part()])
                };
                json!({"id": self.id, "type": "reasoning", "summary": [], "content": content, "status": status})
            }
            Kind::Words => {
                let content = if self.text.is_empty() {
                    json!([])
                } else {
                    json!([self.part()])
                };
                json!({"id": self.id, "type": "message", "role": "assistant", "status": status,
                    "content": content})
            }
            Kind::Call { id, name, .. } => json!({
                "id": self.id, "type": "function_call", "call_id": id, "name": name, "arguments": self.text,
                "status": status,
            }),
        }
    }

    /// Its one part, unless it is a call.
    fn part(&self) -> Value {
        match self.kind {
            Kind::Thought => json!({"type": "reasoning_text", "text": self.text}),
            Kind::Words | Kind::Call { .. } => {
                json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs})
            }
        }
    }

    /// The events that open it: their names and data.
    pub(super) fn opening(&self, place: usize) -> Vec<(&'static str, Value)> {
        let item = self.shown("in_progress");
        let mut events = vec![(
            "response.output_item.added",
            json!({"output_index": place, "item": item}),
        )];
        if !self.is_call() {
            events.push(("response.content_part.added", self.about_part(place)));
        }
        events
    }

    /// More of its text.
    pub(super) fn delta(&self, place: usize, delta: &str, logprobs: &[Value]) -> (&'static str, Value) {
        let told = json!({"item_id": self.id, "output_index": place, "delta": delta});
        match self.kind {
            Kind::Call { .. } => ("response.function_call_arguments.delta", told),
            Kind::Thought => (
                "response.reasoning_text.delta",
                with(told, "content_index", 0.into()),
            ),
            Kind::Words => {
                let told = with(told, "content_index", 0.into());
                (
                    "response.output_text.delta",
                    with(told, "logprobs", json!(logprobs)),
                )
            }
        }
    }

    /// The events that close it.
    pub(super) fn closing(&self, place: usize, status: &str) -> Vec<(&'static str, Value)> {
        let told = json!({"item_id": self.id, "output_index": place});
        let mut events = Vec::new();
        match &self.kind {
            Kind::Call { name, .. } => {
                let told = with(told, "arguments", self.text.as_str().into());
                let told = with(told, "name", name.as_str().into());
                events.push(("response.function_call_arguments.done", told));
            }
            Kind::Thought => {
                let told = with(told, "content_index", 0.into());
                events.push((
                    "response.reasoning_text.done",
                    with(told, "text", self.text.as_str().into()),
                ));
            }
            Kind::Words => {
                let told = with(told, "content_index", 0.into());
                let told = with(told, "logprobs", json!(self.logprobs));
                events.push((
                    "response.output_text.done",
                    with(told, "text", self.text.as_str().into()),
                ));
            }
        }
        if !self.is_call() {
            events.push(("response.content_part.done", self.about_part(place)));
        }
        let item = self.shown(status);
        events.push((
            "response.output_item.done",
            json!({"output_index": place, "item": item}),
        ));
        events
    }

    fn about_part(&self, place: usize) -> Value {
        json!({"item_id": self.id, "output_index": place, "content_index": 0, "part": self.part()})
    }

    fn is_call(&self) -> bool {
        matches!(self.kind, Kind::Call { .. })
    }
}

fn with(mut told: Value, name: &str, value: Value) -> Value {
    told[name] = value;
    told
}
