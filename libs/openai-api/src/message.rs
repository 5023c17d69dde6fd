//! Messages of a conversation, as clients send them and as templates read them.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::LIMITS;
use crate::shape::Shape;
use crate::values::Bounded;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene.
    System,
    /// The newer word for `system`; templates know only the older one.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool the model called.
    Tool,
    /// The same, in the words of those who know no tools.
    Function,
}

impl Role {
    /// The word templates know.
    const fn template_name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool | Self::Function => "tool",
        }
    }
}

/// One message, checked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawMessage")]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; none only for an assistant that calls tools.
    pub content: Option<String>,
    /// Name of the speaker or of the tool.
    pub name: Option<String>,
    /// Calls made by the assistant: `{"id","type":"function","function":{"name","arguments":{..}}}`.
    pub tool_calls: Vec<Value>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought, for templates that show it.
    pub reasoning_content: Option<String>,
}

impl Message {
    /// As templates read it.
    #[must_use]
    pub fn template_value(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), self.role.template_name().into());
        fields.insert("content".to_owned(), self.content.clone().into());
        let optional = [
            ("name", &self.name),
            ("tool_call_id", &self.tool_call_id),
            ("reasoning_content", &self.reasoning_content),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                fields.insert(key.to_owned(), value.clone().into());
            }
        }
        if !self.tool_calls.is_empty() {
            fields.insert("tool_calls".to_owned(), self.tool_calls.clone().into());
        }
        Value::Object(fields)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMessage {
    role: Role,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Bounded<ToolCall, { LIMITS.tool_calls }>>,
    tool_call_id: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    // Fields of our and others' answers that clients send back as they came.
    refusal: Option<String>,
    annotations: Option<Shape>,
    audio: Option<Shape>,
    function_call: Option<RawFunction>,
}

/// Names the one call of an older conversation, in letters and digits that every template takes.
const ONLY_CALL: &str = "function0";

impl TryFrom<RawMessage> for Message {
    type Error = String;

    fn try_from(raw: RawMessage) -> Result<Self, String> {
        let mut tool_calls = raw.tool_calls.map_or_else(Vec::new, |calls| calls.0);
        if raw.audio.is_some() {
            return Err("`audio` is not offered by this server yet; leave it out".to_owned());
        }
        if let Some(function) = raw.function_call {
            if raw.role != Role::Assistant || !tool_calls.is_empty() {
                return Err("`function_call` is for an assistant's message without `tool_calls`".to_owned());
            }
            tool_calls.push(ToolCall::try_from(RawToolCall {
                id: ONLY_CALL.to_owned(),
                r#type: None,
                function,
                _index: None,
            })?);
        }
        if raw.role == Role::Function && raw.name.is_none() {
            return Err("a function's message needs `name`".to_owned());
        }
        if !matches!(raw.annotations, None | Some(Shape::List { .. })) {
            return Err("`annotations` must be a list".to_owned());
        }
        if !tool_calls.is_empty() && raw.role != Role::Assistant {
            return Err("only an assistant's message may hold `tool_calls`".to_owned());
        }
        if raw.role == Role::Tool && raw.tool_call_id.is_none() {
            return Err("a tool's message needs `tool_call_id`".to_owned());
        }
        let content = raw.content.map(|content| content.0).or(raw.refusal);
        if content.is_none() && tool_calls.is_empty() {
            return Err("`content` may be null only in an assistant's message with `tool_calls`".to_owned());
        }
        for (name, text) in [("name", &raw.name), ("tool_call_id", &raw.tool_call_id)] {
            if text.as_ref().is_some_and(|text| text.len() > LIMITS.name_bytes) {
                return Err(format!("`{name}` is longer than {} bytes", LIMITS.name_bytes));
            }
        }
        Ok(Self {
            role: raw.role,
            content,
            name: raw.name,
            tool_calls: tool_calls.into_iter().map(|call| call.0).collect(),
            tool_call_id: match raw.role {
                Role::Function => Some(raw.tool_call_id.unwrap_or_else(|| ONLY_CALL.to_owned())),
                Role::System | Role::Developer | Role::User | Role::Assistant | Role::Tool => {
                    raw.tool_call_id
                }
            },
            reasoning_content: raw.reasoning_content.or(raw.reasoning),
        })
    }
}

/// A string, or parts joined by line breaks.
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> serde::de::Visitor<'de> for Reader {
            type Value = Content;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a string or a list of text parts")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Content, A::Error> {
                let list = serde::de::value::SeqAccessDeserializer::new(list);
                let parts = Bounded::<Part, { LIMITS.content_parts }>::deserialize(list)?;
                let texts: Vec<String> = parts.0.into_iter().map(|part| part.0).collect();
                Ok(Content(texts.join("\n")))
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
        match (raw.r#type.as_str(), raw.text, raw.refusal) {
            ("text", Some(text), _) | ("refusal", _, Some(text)) => Ok(Self(text)),
            ("text", None, _) => Err("a text part needs `text`".to_owned()),
            ("refusal", _, None) => Err("a refusal part needs `refusal`".to_owned()),
            (other, _, _) => Err(format!(
                "parts of type {other:?} are not offered by this server; send text"
            )),
        }
    }
}

/// A call in an assistant's message, its arguments opened for the template.
#[derive(Deserialize)]
#[serde(try_from = "RawToolCall")]
struct ToolCall(Value);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToolCall {
    id: String,
    r#type: Option<String>,
    function: RawFunction,
    // Streamed calls carry their place; clients that join deltas send it back.
    #[serde(rename = "index")]
    _index: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFunction {
    name: String,
    arguments: Option<Value>,
}

impl TryFrom<RawToolCall> for ToolCall {
    type Error = String;

    fn try_from(raw: RawToolCall) -> Result<Self, String> {
        if raw.r#type.as_deref().is_some_and(|kind| kind != "function") {
            return Err("only calls of type \"function\" are offered by this server".to_owned());
        }
        let arguments = match raw.function.arguments {
            None | Some(Value::Null) => json!({}),
            Some(Value::String(text)) if text.trim().is_empty() => json!({}),
            Some(Value::String(text)) => {
                crate::json::check_depth(text.as_bytes()).map_err(|error| error.message)?;
                serde_json::from_str(&text).map_err(|_| "`arguments` must be JSON".to_owned())?
            }
            Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => value,
        };
        if !arguments.is_object() {
            return Err("`arguments` must be a JSON object".to_owned());
        }
        let function = json!({"name": raw.function.name, "arguments": arguments});
        Ok(Self(
            json!({"id": raw.id, "type": "function", "function": function}),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Message, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn text_parts_become_lines() {
        let parts = r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#;
        assert_eq!(read(parts).unwrap().content.as_deref(), Some("a\nb"));
    }

    #[test]
    fn a_picture_is_refused_by_name() {
        let text = r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}"#;
        assert!(read(text).unwrap_err().contains("\"image_url\" are not offered"));
    }

    #[test]
    fn null_content_is_for_assistants_that_call_tools() {
        assert!(read(r#"{"role":"user","content":null}"#).is_err());
        assert!(read(r#"{"role":"assistant"}"#).is_err());
        let call = r#"{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}"#;
        let message = read(&format!(
            r#"{{"role":"assistant","content":null,"tool_calls":[{call}]}}"#
        ))
        .unwrap();
        assert_eq!(message.tool_calls[0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(message.template_value()["content"], Value::Null);
    }

    #[test]
    fn an_answer_of_ours_can_be_sent_back() {
        let text = r#"{"role":"assistant","content":"hi","refusal":null,"annotations":[],"audio":null,
            "function_call":null,"tool_calls":null}"#;
        assert_eq!(
            read(text).unwrap().template_value(),
            json!({"role": "assistant", "content": "hi"})
        );
    }

    #[test]
    fn an_older_conversation_is_one_of_tools() {
        let called = read(
            r#"{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"a\":1}"}}"#,
        );
        let called = called.unwrap().template_value();
        assert_eq!(
            called["tool_calls"][0]["function"],
            json!({"name": "f", "arguments": {"a": 1}})
        );
        let told = read(r#"{"role":"function","name":"f","content":"2"}"#)
            .unwrap()
            .template_value();
        assert_eq!(
            (&told["role"], &told["name"], &told["content"]),
            (&json!("tool"), &json!("f"), &json!("2"))
        );
        assert_eq!(told["tool_call_id"], called["tool_calls"][0]["id"]);
        assert!(read(r#"{"role":"function","content":"2"}"#).is_err());
        assert!(read(r#"{"role":"user","content":"2","function_call":{"name":"f"}}"#).is_err());
    }

    #[test]
    fn developers_speak_as_the_system() {
        let message = read(r#"{"role":"developer","content":"be brief"}"#).unwrap();
        assert_eq!(message.template_value()["role"], "system");
    }
}
