//! Blocks of content: text, thoughts, calls of tools and their results.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::LIMITS;
use crate::shape::Shape;
use crate::values::Bounded;

/// One thing said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Block {
    Text(String),
    Thinking(String),
    ToolUse {
        id: String,
        name: String,
        input: Map<String, Value>,
    },
    ToolResult {
        id: String,
        text: String,
    },
}

/// A string, or a list of blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Blocks(pub(super) Vec<Block>);

impl Blocks {
    /// The text, when there is nothing but text.
    pub(super) fn text(self) -> Option<String> {
        let texts = self.0.into_iter().map(|block| match block {
            Block::Text(text) => Some(text),
            Block::Thinking(_) | Block::ToolUse { .. } | Block::ToolResult { .. } => None,
        });
        let texts: Option<Vec<_>> = texts.collect();
        texts.map(|texts| texts.join("\n"))
    }
}

impl<'de> Deserialize<'de> for Blocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Blocks;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string or a list of content blocks")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Blocks, E> {
                Ok(Blocks(vec![Block::Text(text.to_owned())]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Blocks, A::Error> {
                let list = serde::de::value::SeqAccessDeserializer::new(list);
                let blocks = Bounded::<ReadBlock, { LIMITS.content_parts }>::deserialize(list)?;
                Ok(Blocks(blocks.0.into_iter().map(|block| block.0).collect()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawBlock")]
struct ReadBlock(Block);

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawBlock {
    r#type: String,
    text: Option<String>,
    citations: Option<Shape>,
    thinking: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Map<String, Value>>,
    tool_use_id: Option<String>,
    content: Option<Box<Blocks>>,
    is_error: Option<bool>,
}

impl TryFrom<RawBlock> for ReadBlock {
    type Error = String;

    fn try_from(raw: RawBlock) -> Result<Self, String> {
        if !matches!(
            raw.citations,
            None | Some(Shape::Null | Shape::List { is_empty: true })
        ) {
            return Err("`citations` are not offered by this server; leave them out".to_owned());
        }
        let needs = |field: &str| format!("a block of type {:?} needs `{field}`", raw.r#type);
        let block = match raw.r#type.as_str() {
            "text" => Block::Text(raw.text.ok_or_else(|| needs("text"))?),
            "thinking" => Block::Thinking(raw.thinking.ok_or_else(|| needs("thinking"))?),
            "tool_use" => Block::ToolUse {
                id: label(raw.id.ok_or_else(|| needs("id"))?, "id")?,
                name: label(raw.name.ok_or_else(|| needs("name"))?, "name")?,
                input: raw.input.ok_or_else(|| needs("input"))?,
            },
            "tool_result" => {
                let id = label(
                    raw.tool_use_id.ok_or_else(|| needs("tool_use_id"))?,
                    "tool_use_id",
                )?;
                let text = raw
                    .content
                    .map_or_else(|| Some(String::new()), |content| content.text());
                let text = text.ok_or("the `content` of a tool_result must be text")?;
                let is_error = raw.is_error.unwrap_or(false);
                // Templates have no place for the flag, and a model understands the word.
                let text = if is_error { format!("Error: {text}") } else { text };
                Block::ToolResult { id, text }
            }
            "" => return Err("a block needs `type`".to_owned()),
            other => {
                return Err(format!(
                    "blocks of type {other:?} are not offered by this server; send text"
                ));
            }
        };
        Ok(Self(block))
    }
}

fn label(text: String, name: &str) -> Result<String, String> {
    if text.len() > LIMITS.name_bytes {
        return Err(format!("`{name}` is longer than {} bytes", LIMITS.name_bytes));
    }
    Ok(text)
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Speaker {
    User,
    Assistant,
}

/// What one of the two says in turn.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Turn {
    pub(super) role: Speaker,
    pub(super) content: Blocks,
}

impl Turn {
    /// Puts the turn behind a conversation in the shape of the chat endpoint.
    ///
    /// # Errors
    /// A block in the mouth of the wrong speaker.
    pub(super) fn tell(self, messages: &mut Vec<Value>) -> Result<(), &'static str> {
        match self.role {
            Speaker::User => tell_user(self.content, messages),
            Speaker::Assistant => tell_assistant(self.content, messages),
        }
    }
}

/// Results of tools are messages of their own; texts beside one another are one message.
fn tell_user(content: Blocks, messages: &mut Vec<Value>) -> Result<(), &'static str> {
    for block in content.0 {
        match block {
            Block::Text(text) => match messages.last_mut() {
                Some(last) if last["role"] == "user" => {
                    let before = last["content"].as_str().unwrap_or_default();
                    last["content"] = format!("{before}\n{text}").into();
                }
                Some(_) | None => messages.push(json!({"role": "user", "content": text})),
            },
            Block::ToolResult { id, text } => {
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
            }
            Block::Thinking(_) | Block::ToolUse { .. } => {
                return Err("only an assistant thinks and uses tools");
            }
        }
    }
    Ok(())
}

fn tell_assistant(content: Blocks, messages: &mut Vec<Value>) -> Result<(), &'static str> {
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for block in content.0 {
        match block {
            Block::Text(text) => texts.push(text),
            Block::Thinking(thought) => thoughts.push(thought),
            Block::ToolUse { id, name, input } => {
                let function = json!({"name": name, "arguments": input});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            Block::ToolResult { .. } => return Err("only a user's turn holds results of tools"),
        }
    }
    let mut message = json!({"role": "assistant"});
    if !texts.is_empty() || calls.is_empty() {
        message["content"] = texts.join("\n").into();
    }
    if !thoughts.is_empty() {
        message["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    messages.push(message);
    Ok(())
}
