//! The chat template's world: what Python's template engine and the reference rendering offer it.

use std::borrow::Cow;

use minijinja::value::{Kwargs, ValueKind as Kind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, json};

use crate::json::{fromjson, tojson};
use crate::messages::ContentShape;
use crate::methods::call_method;
use crate::python::python_str;
use crate::settings::TemplateSources;
use crate::time::strftime;
use crate::{ChatInput, TextError};

/// Steps of the template engine in one rendering. A template takes about a hundred per message; this many take about
/// a second.
const FUEL: u64 = 10_000_000;
const DEFAULT: &str = "chat";
const TOOL_USE: &str = "chat with tools";

/// The compiled template, or templates.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    /// Named by the sources.
    has_default: bool,
    has_tool_use: bool,
    special_tokens: Value,
    shape: ContentShape,
}

/// Raised by the template itself, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// None when there is no source.
    pub(crate) fn compile(
        sources: &TemplateSources,
        special_tokens: &Map<String, serde_json::Value>,
    ) -> Result<Option<Self>, TextError> {
        if sources.default.is_none() && sources.tool_use.is_none() {
            return Ok(None);
        }
        let mut environment = environment();
        for (name, source) in [(DEFAULT, &sources.default), (TOOL_USE, &sources.tool_use)] {
            let Some(source) = source else { continue };
            let added = environment.add_template_owned(name, without_generation_tags(source).into_owned());
            added.map_err(|error| TextError::File {
                file: "chat template",
                // The detail names the line.
                reason: format!("{error:#}"),
            })?;
        }
        let mut template = Self {
            environment,
            has_default: sources.default.is_some(),
            has_tool_use: sources.tool_use.is_some(),
            special_tokens: Value::from_serialize(special_tokens),
            shape: ContentShape::Any,
        };
        template.shape = template.probe();
        Ok(Some(template))
    }

    /// What the template does with a message's content.
    pub(crate) fn shape(&self) -> ContentShape {
        self.shape
    }

    /// Renders messages that were adapted before.
    pub(crate) fn render(
        &self,
        messages: Vec<serde_json::Value>,
        input: &ChatInput,
    ) -> Result<String, TextError> {
        let tools = input.tools.as_ref().filter(|tools| !tools.is_empty());
        let name = match (tools, self.has_default) {
            (Some(_), _) if self.has_tool_use => TOOL_USE,
            (None, false) => TOOL_USE,
            (Some(_) | None, _) => DEFAULT,
        };
        let now_ms = input.now_ms;
        let clock = Value::from_function(move |format: &str| strftime(format, now_ms));
        // What comes later goes before: the caller's own variables cannot hide ours.
        let context = minijinja::context! {
            strftime_now => clock,
            messages => messages,
            tools => tools,
            add_generation_prompt => input.add_generation_prompt,
            ..minijinja::context! {
                ..self.special_tokens.clone(),
                ..minijinja::context! {
                    ..Value::from_serialize(&input.kwargs),
                    ..minijinja::context! { documents => Value::from(()) }
                }
            }
        };
        let template = self
            .environment
            .get_template(name)
            .map_err(|error| explain(&error))?;
        template.render(context).map_err(|error| explain(&error))
    }

    /// Finds out by trying: a text that comes out again was read, and parts that come out as their text were read.
    fn probe(&self) -> ContentShape {
        const PROBE: &str = "zq probe qz";
        let reads = |content: serde_json::Value| {
            let input = ChatInput {
                add_generation_prompt: true,
                ..ChatInput::default()
            };
            let rendered = self.render(vec![json!({"role": "user", "content": content})], &input);
            rendered.is_ok_and(|text| {
                text.contains(PROBE) && !text.contains("'type'") && !text.contains("\"type\"")
            })
        };
        match (
            reads(json!(PROBE)),
            reads(json!([{"type": "text", "text": PROBE}])),
        ) {
            (true, true) => ContentShape::Any,
            (false, true) => ContentShape::Parts,
            (true | false, false) => ContentShape::Text,
        }
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    // Its reports would quote the messages.
    environment.set_debug(false);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(call_method);
    environment.set_formatter(|out, _, value| {
        let written = match value.as_str() {
            Some(text) => out.write_str(text),
            None if value.is_undefined() => Ok(()),
            None => out.write_str(&python_str(value)),
        };
        written.map_err(Error::from)
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("fromjson", fromjson);
    environment.add_filter("string", |value: &Value| {
        if value.is_undefined() {
            String::new()
        } else {
            python_str(value)
        }
    });
    environment.add_test("iterable", |value: &Value| {
        // As in Python, None is not, but what is undefined is.
        value.is_undefined()
            || matches!(
                value.kind(),
                Kind::String | Kind::Seq | Kind::Map | Kind::Iterable
            )
    });
    environment.add_function("fromjson", fromjson);
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let raised = Raised(python_str(&message));
        Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception").with_source(raised))
    });
    environment.add_function("dict", |kwargs: Kwargs| -> Value {
        kwargs
            .args()
            .map(|name| (name.to_owned(), kwargs.peek::<Value>(name).unwrap_or_default()))
            .collect()
    });
    environment
}

/// Tells the template's own refusal from its faults.
fn explain(error: &Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TextError::Template {
                message: message.clone(),
            };
        }
        if current
            .downcast_ref::<Error>()
            .is_some_and(|error| error.kind() == ErrorKind::OutOfFuel)
        {
            return TextError::TemplateFuel;
        }
        cause = current.source();
    }
    // Of these kinds the detail speaks of the template only; of others it may quote a message.
    let speaks_of_template = matches!(
        error.kind(),
        ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod
            | ErrorKind::MissingArgument
            | ErrorKind::TooManyArguments
    );
    let detail = error.detail().filter(|_| speaks_of_template).unwrap_or_default();
    let line = error.line().unwrap_or_default();
    TextError::TemplateFault {
        reason: format!("{} in line {line} {detail}", error.kind())
            .trim_end()
            .to_owned(),
    }
}

/// `{% generation %}` marks, for training, what the model wrote; here it means nothing. It is replaced by a condition
/// that always holds, so that the white space around it is treated as the author meant.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[..end];
        let trimmed = inner.trim_start_matches(['-', '+']);
        let (opening, closing) = (
            &inner[..inner.len() - trimmed.len()],
            trimmed.trim_end_matches(['-', '+']).len(),
        );
        let replacement = match trimmed[..closing].trim() {
            "generation" => " if true ",
            "endgeneration" => " endif ",
            _ => continue,
        };
        out.push_str(opening);
        out.push_str(replacement);
        out.push_str(&trimmed[closing..]);
        rest = &tag[end..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_keep_their_white_space_control() {
        let source =
            "a{%- generation -%} b {%endgeneration%}{% set generation = 1 %}{{ add_generation_prompt }}";
        let expected = "a{%- if true -%} b {% endif %}{% set generation = 1 %}{{ add_generation_prompt }}";
        assert_eq!(without_generation_tags(source), expected);
        assert_eq!(without_generation_tags("{% if generation"), "{% if generation");
    }
}
