//! Messages as clients send them, made into messages as templates expect them.

use serde_json::{Map, Value};

/// What a template does with a message's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentShape {
    /// A text only: parts are joined for it.
    Text,
    /// A list of parts only: a text is wrapped for it.
    Parts,
    /// Either.
    Any,
}

/// Adapts one message.
pub(crate) fn adapt(message: &mut Value, shape: ContentShape) {
    let Some(message) = message.as_object_mut() else {
        return;
    };
    if let Some(content) = message.get_mut("content") {
        adapt_content(content, shape);
    }
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    calls.into_iter().flatten().for_each(parse_arguments);
    name_reasoning(message);
}

fn adapt_content(content: &mut Value, shape: ContentShape) {
    match (shape, &*content) {
        (ContentShape::Text, Value::Array(parts)) => {
            let texts: Option<Vec<&str>> = parts.iter().map(part_text).collect();
            // A part that is no text has no place in such a template; it will say so itself.
            if let Some(texts) = texts {
                *content = Value::from(texts.join("\n"));
            }
        }
        (ContentShape::Parts, Value::String(text)) => {
            *content = serde_json::json!([{"type": "text", "text": text}]);
        }
        (ContentShape::Text | ContentShape::Parts | ContentShape::Any, _) => {}
    }
}

fn part_text(part: &Value) -> Option<&str> {
    part.as_str().or_else(|| part.get("text").and_then(Value::as_str))
}

/// Clients send a call's arguments as JSON text; templates expect them as an object and write JSON themselves.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else {
        return;
    };
    let Some(text) = arguments.as_str() else { return };
    if text.trim().is_empty() {
        *arguments = Value::Object(Map::new());
    } else if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
        *arguments = object;
    }
}

/// Reasoning is called by several names; templates read `reasoning_content`.
fn name_reasoning(message: &mut Map<String, Value>) {
    if message
        .get("reasoning_content")
        .is_some_and(|reasoning| !reasoning.is_null())
    {
        return;
    }
    let named = ["thinking", "reasoning"]
        .iter()
        .find_map(|name| message.get(*name).filter(|text| text.is_string()));
    if let Some(reasoning) = named.cloned() {
        message.insert("reasoning_content".to_owned(), reasoning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn adapted(mut message: Value, shape: ContentShape) -> Value {
        adapt(&mut message, shape);
        message
    }

    #[test]
    fn content_takes_the_shape_the_template_reads() {
        let parts = json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        assert_eq!(
            adapted(parts.clone(), ContentShape::Text),
            json!({"content": "a\nb"})
        );
        assert_eq!(adapted(parts.clone(), ContentShape::Any), parts);
        let text = json!({"content": "a"});
        assert_eq!(
            adapted(text, ContentShape::Parts),
            json!({"content": [{"type": "text", "text": "a"}]})
        );
    }

    #[test]
    fn arguments_become_objects_when_they_are_objects() {
        for (text, expected) in [
            ("{\"a\": 1}", json!({"a": 1})),
            ("", json!({})),
            ("[1]", json!("[1]")),
            ("{", json!("{")),
        ] {
            let message = json!({"tool_calls": [{"function": {"name": "f", "arguments": text}}]});
            let arguments = adapted(message, ContentShape::Any);
            assert_eq!(
                arguments.pointer("/tool_calls/0/function/arguments"),
                Some(&expected)
            );
        }
    }

    #[test]
    fn reasoning_is_found_under_its_other_names() {
        let message = adapted(json!({"reasoning": "so", "content": null}), ContentShape::Any);
        assert_eq!(message["reasoning_content"], "so");
    }
}
