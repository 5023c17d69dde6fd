//! A grammar of a model's calls, in the words of its format, so that nothing but calls can be generated.

use std::fmt::Write as _;

use serde_json::Value;
use vlinders_types::TokenId;

use super::{ToolFormat, hermes, mistral};

/// Calls of one answer at most. A model that is made to call would otherwise never have to end.
const MOST_CALLS: usize = 32;

/// A function on offer.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferedTool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments, as the grammar's `%json` takes it.
    pub parameters: Value,
}

/// How a marker is written in a grammar: a special token is named by its number, anything else is text.
pub type SpecialMarker<'a> = &'a dyn Fn(&str) -> Option<TokenId>;

impl ToolFormat {
    /// A grammar, in the Lark dialect of the grammar library, of one call of these functions, or of several.
    #[must_use]
    pub fn forced_calls(
        self,
        tools: &[OfferedTool],
        is_parallel: bool,
        special: SpecialMarker<'_>,
    ) -> String {
        let mut lark = String::new();
        let more = MOST_CALLS - 1;
        let repeated = |call: &str, parting: &str| {
            if is_parallel {
                format!("{call} ({parting} {call}){{0,{more}}}")
            } else {
                call.to_owned()
            }
        };
        let marker = |marker: &str| special(marker).map_or_else(|| text(marker), |id| format!("<[{id}]>"));
        let start = match self {
            Self::Hermes => repeated("call", &text("\n")),
            Self::Llama3Json => repeated("body", &text("; ")),
            Self::Mistral if special(mistral::ARGS).is_some() => repeated("call", ""),
            Self::Mistral => format!(
                "{} \"[\" {} \"]\"",
                marker(mistral::OPEN),
                repeated("body", &text(", "))
            ),
            Self::Pythonic => format!("\"[\" {} \"]\"", repeated("body", &text(", "))),
        };
        rule(&mut lark, "start", &start);
        match self {
            Self::Hermes => {
                let (open, close) = (marker(hermes::OPEN), marker(hermes::CLOSE));
                rule(
                    &mut lark,
                    "call",
                    &format!("{open} {} body {} {close}", text("\n"), text("\n")),
                );
            }
            Self::Mistral if special(mistral::ARGS).is_some() => {
                rule(&mut lark, "call", &format!("{} body", marker(mistral::OPEN)));
            }
            Self::Mistral | Self::Llama3Json | Self::Pythonic => {}
        }
        let bodies: Vec<String> = (0..tools.len()).map(|index| format!("body_{index}")).collect();
        rule(&mut lark, "body", &bodies.join(" | "));
        for (index, tool) in tools.iter().enumerate() {
            let name = format!("body_{index}");
            match self {
                Self::Hermes => json_body(&mut lark, &name, tool, "arguments"),
                Self::Llama3Json => json_body(&mut lark, &name, tool, "parameters"),
                Self::Mistral if special(mistral::ARGS).is_some() => {
                    let arguments = format!("{} {} {name}_json", text(&tool.name), marker(mistral::ARGS));
                    rule(&mut lark, &name, &arguments);
                    rule(
                        &mut lark,
                        &format!("{name}_json"),
                        &format!("%json {}", tool.parameters),
                    );
                }
                Self::Mistral => json_body(&mut lark, &name, tool, "arguments"),
                Self::Pythonic => python_body(&mut lark, &name, tool),
            }
        }
        lark
    }
}

/// `{"name": "look", "arguments": {…}}`
fn json_body(lark: &mut String, rule_name: &str, tool: &OfferedTool, key: &str) {
    let before = format!("{{\"name\": {}, \"{key}\": ", Value::from(tool.name.as_str()));
    rule(
        lark,
        rule_name,
        &format!("{} {rule_name}_json {}", text(&before), text("}")),
    );
    rule(
        lark,
        &format!("{rule_name}_json"),
        &format!("%json {}", tool.parameters),
    );
}

/// `look(key=…, …)`: what is required first, and the others in their order, if at all. Values are written as JSON.
fn python_body(lark: &mut String, rule_name: &str, tool: &OfferedTool) {
    let none = serde_json::Map::new();
    let properties = tool.parameters["properties"].as_object().unwrap_or(&none);
    let required = tool.parameters["required"].as_array();
    let is_required = |key: &str| required.is_some_and(|names| names.iter().any(|name| name == key));
    let (first, others): (Vec<_>, Vec<_>) = properties
        .keys()
        .enumerate()
        .partition(|(_, key)| is_required(key));
    let mut body = text(&format!("{}(", tool.name));
    for (place, (index, key)) in first.iter().enumerate() {
        let parting = if place == 0 { "" } else { ", " };
        write!(body, " {} {rule_name}_{index}", text(&format!("{parting}{key}="))).expect("memory takes all");
    }
    // With nothing before it, the first of the others needs no comma: then at most one of them is written.
    let alternatives: Vec<String> = others
        .iter()
        .map(|(index, key)| {
            let parting = if first.is_empty() { "" } else { ", " };
            format!("{} {rule_name}_{index}", text(&format!("{parting}{key}=")))
        })
        .collect();
    if !alternatives.is_empty() {
        let joined = if first.is_empty() {
            format!(" ({})?", alternatives.join(" | "))
        } else {
            alternatives.iter().map(|one| format!(" ({one})?")).collect()
        };
        body.push_str(&joined);
    }
    rule(lark, rule_name, &format!("{body} \")\""));
    for (index, schema) in properties.values().enumerate() {
        rule(
            lark,
            &format!("{rule_name}_{index}"),
            &format!("%json {}", with_definitions(schema, &tool.parameters)),
        );
    }
}

/// A property's schema may refer to the definitions of the whole.
fn with_definitions(schema: &Value, whole: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        for name in ["$defs", "definitions", "x-guidance"] {
            if let Some(value) = whole.get(name) {
                fields.insert(name.to_owned(), value.clone());
            }
        }
    }
    schema
}

fn rule(lark: &mut String, name: &str, body: &str) {
    writeln!(lark, "{name}: {body}").expect("memory takes all that is written");
}

/// A text as it stands in a grammar.
fn text(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools() -> Vec<OfferedTool> {
        let tool = |name: &str, parameters| OfferedTool {
            name: name.to_owned(),
            parameters,
        };
        vec![
            tool(
                "look",
                json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}, "required": ["b"]}),
            ),
            tool("stop", json!({"type": "object"})),
        ]
    }

    #[test]
    fn calls_are_spelt_as_the_format_spells_them() {
        let none = |_: &str| None;
        let hermes = ToolFormat::Hermes.forced_calls(&tools(), false, &none);
        let expected = r#"start: call
call: "<tool_call>" "\n" body "\n" "</tool_call>"
body: body_0 | body_1
body_0: "{\"name\": \"look\", \"arguments\": " body_0_json "}"
"#;
        assert!(hermes.starts_with(expected), "{hermes}");
        let several = ToolFormat::Llama3Json.forced_calls(&tools(), true, &none);
        assert!(
            several.starts_with("start: body (\"; \" body){0,31}\n"),
            "{several}"
        );
        assert!(
            several.contains(r#""{\"name\": \"stop\", \"parameters\": ""#),
            "{several}"
        );
    }

    #[test]
    fn markers_that_are_special_tokens_are_named_by_number() {
        let special = |marker: &str| (marker == "[TOOL_CALLS]").then_some(5);
        let list = ToolFormat::Mistral.forced_calls(&tools(), true, &special);
        assert!(
            list.starts_with("start: <[5]> \"[\" body (\", \" body){0,31} \"]\"\n"),
            "{list}"
        );
        let special = |marker: &str| match marker {
            "[TOOL_CALLS]" => Some(0),
            "[ARGS]" => Some(1),
            _ => None,
        };
        let named = ToolFormat::Mistral.forced_calls(&tools(), false, &special);
        assert!(
            named.contains("call: <[0]> body\n") && named.contains("body_0: \"look\" <[1]> body_0_json\n"),
            "{named}"
        );
    }

    #[test]
    fn python_calls_name_what_is_required_first() {
        let python = ToolFormat::Pythonic.forced_calls(&tools(), false, &|_| None);
        assert!(
            python.contains(r#"body_0: "look(" "b=" body_0_1 (", a=" body_0_0)? ")""#),
            "{python}"
        );
        assert!(python.contains("body_1: \"stop(\" \")\"\n"), "{python}");
    }
}
