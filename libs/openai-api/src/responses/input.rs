//! Items of a conversation, and the messages they are for the chat endpoint.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::{Value, json};

use crate::LIMITS;
use crate::values::Bounded;

/// One item, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Message {
        /// In the words of the chat endpoint.
        role: &'static str,
        text: String,
    },
    Thought(String),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    Result {
        id: String,
        text: String,
    },
}

/// A string, which a user says, or a list of items.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Input(pub(super) Vec<Item>);

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Input;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string or a list of items")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
                let text = text.to_owned();
                Ok(Input(vec![Item::Message { role: "user", text }]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Input, A::Error> {
                let list = serde::de::value::SeqAccessDeserializer::new(list);
                let items = Bounded::<ReadItem, { LIMITS.messages }>::deserialize(list)?;
                Ok(Input(items.0.into_iter().map(|item| item.0).collect()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Item {
    /// As it is shown to whoever comes back to it.
    pub(super) fn shown(&self, id: &str) -> Value {
        match self {
            Self::Message { role, text } => {
                let kind = if *role == "assistant" {
                    "output_text"
                } else {
                    "input_text"
                };
                let mut part = json!({"type": kind, "text": text});
                if *role == "assistant" {
                    part["annotations"] = json!([]);
                }
                json!({"id": format!("msg_{id}"), "type": "message", "role": role, "status": "completed",
                    "content": [part]})
            }
            Self::Thought(text) => json!({"id": format!("rs_{id}"), "type": "reasoning", "summary": [],
                "content": [{"type": "reasoning_text", "text": text}]}),
            Self::Call {
                id: call,
                name,
                arguments,
            } => json!({"id": format!("fc_{id}"), "type": "function_call", "call_id": call, "name": name,
                "arguments": arguments, "status": "completed"}),
            Self::Result { id: call, text } => {
                json!({"id": format!("fco_{id}"), "type": "function_call_output",
                "call_id": call, "output": text, "status": "completed"})
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawItem")]
struct ReadItem(Item);

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawItem {
    r#type: Option<String>,
    role: Option<String>,
    content: Option<Parts>,
    summary: Option<Parts>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    output: Option<Parts>,
}

impl TryFrom<RawItem> for ReadItem {
    type Error = String;

    fn try_from(raw: RawItem) -> Result<Self, String> {
        let kind = raw.r#type.as_deref().unwrap_or("message");
        let needs = |field: &str| format!("an item of type {kind:?} needs `{field}`");
        let item = match kind {
            "message" => Item::Message {
                role: match raw.role.as_deref() {
                    Some("user") => "user",
                    Some("assistant") => "assistant",
                    Some("system" | "developer") => "system",
                    Some(other) => return Err(format!("{other:?} is not a role")),
                    None => return Err(needs("role")),
                },
                text: raw.content.ok_or_else(|| needs("content"))?.0,
            },
            "reasoning" => {
                let thought = raw.content.or(raw.summary).map(|parts| parts.0);
                Item::Thought(thought.unwrap_or_default())
            }
            "function_call" => Item::Call {
                id: label(raw.call_id.ok_or_else(|| needs("call_id"))?, "call_id")?,
                name: label(raw.name.ok_or_else(|| needs("name"))?, "name")?,
                arguments: raw.arguments.ok_or_else(|| needs("arguments"))?,
            },
            "function_call_output" => Item::Result {
                id: label(raw.call_id.ok_or_else(|| needs("call_id"))?, "call_id")?,
                text: raw.output.ok_or_else(|| needs("output"))?.0,
            },
            other => return Err(format!("items of type {other:?} are not offered by this server")),
        };
        Ok(Self(item))
    }
}

fn label(text: String, name: &str) -> Result<String, String> {
    if text.len() > LIMITS.name_bytes {
        return Err(format!("`{name}` is longer than {} bytes", LIMITS.name_bytes));
    }
    Ok(text)
}

/// A string, or parts of text joined by line breaks.
struct Parts(String);

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Parts;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string or a list of text parts")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Parts, E> {
                Ok(Parts(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Parts, A::Error> {
                let list = serde::de::value::SeqAccessDeserializer::new(list);
                let parts = Bounded::<Part, { LIMITS.content_parts }>::deserialize(list)?;
                let texts: Vec<String> = parts.0.into_iter().map(|part| part.0).collect();
                Ok(Parts(texts.join("\n")))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawPart")]
struct Part(String);

#[derive(Deserialize)]
struct RawPart {
    r#type: String,
    text: Option<String>,
    refusal: Option<String>,
}

impl TryFrom<RawPart> for Part {
    type Error = String;

    fn try_from(raw: RawPart) -> Result<Self, String> {
        let needed = match raw.r#type.as_str() {
            "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => raw.text,
            "refusal" => raw.refusal,
            other => {
                return Err(format!(
                    "parts of type {other:?} are not offered by this server; send text"
                ));
            }
        };
        needed
            .map(Self)
            .ok_or_else(|| "a part of text needs `text`".to_owned())
    }
}

/// The messages of a conversation. Thoughts, words and calls that follow one another are one message of the assistant.
pub(super) fn messages(instructions: Option<String>, input: Input) -> Vec<Value> {
    let mut told = Vec::with_capacity(input.0.len() + 1);
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        told.push(json!({"role": "system", "content": text}));
    }
    let mut assistant = Assistant::default();
    for item in input.0 {
        match item {
            Item::Message {
                role: "assistant",
                text,
            } => {
                if assistant.text.is_some() || !assistant.calls.is_empty() {
                    assistant.finish(&mut told);
                }
                assistant.text = Some(text);
            }
            Item::Thought(thought) => {
                if assistant.text.is_some() || !assistant.calls.is_empty() {
                    assistant.finish(&mut told);
                }
                assistant.thoughts.push(thought);
            }
            Item::Call { id, name, arguments } => {
                let function = json!({"name": name, "arguments": arguments});
                let call = json!({"id": id, "type": "function", "function": function});
                assistant.calls.push(call);
            }
            Item::Message { role, text } => {
                assistant.finish(&mut told);
                match told.last_mut() {
                    // Templates take one message of the system, and want it first.
                    Some(last) if role == "system" && last["role"] == "system" => {
                        let before = last["content"].as_str().unwrap_or_default();
                        last["content"] = format!("{before}\n\n{text}").into();
                    }
                    Some(_) | None => told.push(json!({"role": role, "content": text})),
                }
            }
            Item::Result { id, text } => {
                assistant.finish(&mut told);
                told.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
            }
        }
    }
    assistant.finish(&mut told);
    told
}

/// What the assistant does before somebody else's turn.
#[derive(Default)]
struct Assistant {
    thoughts: Vec<String>,
    text: Option<String>,
    calls: Vec<Value>,
}

impl Assistant {
    fn finish(&mut self, told: &mut Vec<Value>) {
        let Self {
            thoughts,
            text,
            calls,
        } = std::mem::take(self);
        // A thought that led to nothing has no place of its own.
        if text.is_none() && calls.is_empty() {
            return;
        }
        let mut message = json!({"role": "assistant", "content": text});
        if !thoughts.is_empty() {
            message["reasoning_content"] = thoughts.join("\n").into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        told.push(message);
    }
}
