//! The form that an answer must have, in the many ways in which clients ask for one.

use serde_json::{Map, Value};
use vlinders_types::Constraint;

use crate::raw::RawRequest;
use crate::{ApiError, LIMITS, Options};

/// A form, and the parameter that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The parameter, with its path.
    pub param: String,
    /// The form. A grammar is as the client wrote it, in either notation.
    pub constraint: Constraint,
}

/// The one form a body asks for, if it does.
pub(crate) fn read(raw: &mut RawRequest, options: &Options) -> Result<Option<Wanted>, ApiError> {
    let guided = [
        ("guided_json", raw.guided_json.take()),
        ("guided_regex", raw.guided_regex.take()),
        ("guided_choice", raw.guided_choice.take()),
        ("guided_grammar", raw.guided_grammar.take()),
    ];
    let mut wanted = Vec::new();
    if let Some(format) = raw.response_format.take() {
        wanted.extend(response_format(&format)?);
    }
    if let Some(outputs) = raw.structured_outputs.take() {
        wanted.push(structured_outputs(&outputs)?);
    }
    for (param, value) in guided {
        if let Some(value) = value {
            let kind = param.trim_start_matches("guided_");
            wanted.push(of_kind(kind, param.to_owned(), &value)?);
        }
    }
    if let [first, second, ..] = &wanted[..] {
        let text = format!("contradicts {}; give one of them", first.param);
        return Err(ApiError::invalid(&second.param, text));
    }
    let wanted = wanted.pop();
    if let Some(wanted) = &wanted {
        check_beside(&wanted.param, options)?;
    }
    Ok(wanted)
}

/// What would cut a document short, or go on after its end.
fn check_beside(param: &str, options: &Options) -> Result<(), ApiError> {
    if options.ignore_eos {
        let text = format!("cannot be combined with {param}: nothing may follow a complete answer");
        return Err(ApiError::not_offered("ignore_eos", text));
    }
    // Where a form leaves nothing else, one of both would have to give way.
    for (name, is_given) in [
        ("allowed_token_ids", !options.allowed_token_ids.is_empty()),
        ("bad_words", !options.bad_words.is_empty()),
    ] {
        if is_given {
            let text = format!("cannot be combined with {param}: write what may come into the form");
            return Err(ApiError::not_offered(name, text));
        }
    }
    if !options.stop.is_empty() {
        let text = format!("cannot be combined with {param}: it would cut the answer short");
        return Err(ApiError::not_offered("stop", text));
    }
    Ok(())
}

fn response_format(format: &Value) -> Result<Option<Wanted>, ApiError> {
    let map = object("response_format", format)?;
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    let known: &[&str] = match kind {
        "text" | "json_object" => &["type"],
        "json_schema" => &["type", "json_schema"],
        _ => {
            let text = "must be text, json_object or json_schema";
            return Err(ApiError::not_offered("response_format.type", text));
        }
    };
    only(map, known, "response_format")?;
    match kind {
        "json_object" => Ok(Some(Wanted {
            param: "response_format".to_owned(),
            constraint: Constraint::JsonObject,
        })),
        "json_schema" => {
            const PARAM: &str = "response_format.json_schema";
            let inner = map.get("json_schema").unwrap_or(&Value::Null);
            let inner = object(PARAM, inner)?;
            only(inner, &["name", "description", "schema", "strict"], PARAM)?;
            for (name, fits) in [
                ("name", Value::is_string as fn(&Value) -> bool),
                ("description", Value::is_string),
                ("strict", Value::is_boolean),
            ] {
                if inner
                    .get(name)
                    .is_some_and(|value| !value.is_null() && !fits(value))
                {
                    return Err(ApiError::invalid(
                        &format!("{PARAM}.{name}"),
                        "has the wrong type",
                    ));
                }
            }
            let param = format!("{PARAM}.schema");
            let schema = inner.get("schema").filter(|schema| !schema.is_null());
            let schema = schema.ok_or_else(|| ApiError::invalid(&param, "this field is required"))?;
            // Not strict means that the schema may hold anything, not that the answer may.
            Ok(Some(json_schema(param, schema)?))
        }
        _ => Ok(None),
    }
}

fn structured_outputs(outputs: &Value) -> Result<Wanted, ApiError> {
    const PARAM: &str = "structured_outputs";
    const KINDS: [&str; 5] = ["json", "regex", "choice", "grammar", "json_object"];
    let map = object(PARAM, outputs)?;
    let mut wanted: Option<Wanted> = None;
    for (name, value) in map {
        let param = format!("{PARAM}.{name}");
        let asks_for_nothing = value.is_null() || *value == Value::Bool(false);
        match name.as_str() {
            _ if value.is_null() => {}
            "json_object" if *value == Value::Bool(false) => {}
            kind if KINDS.contains(&kind) => {
                if let Some(first) = &wanted {
                    return Err(ApiError::invalid(
                        &param,
                        format!("contradicts {}; give one of them", first.param),
                    ));
                }
                wanted = Some(of_kind(kind, param, value)?);
            }
            "structural_tag" => {
                let text = "is not offered by this server; use json, regex, choice or grammar";
                return Err(ApiError::not_offered(&param, text));
            }
            "disable_fallback"
            | "disable_any_whitespace"
            | "disable_additional_properties"
            | "whitespace_pattern" => {
                if !asks_for_nothing && name != "disable_fallback" {
                    return Err(ApiError::not_offered(
                        &param,
                        "is not offered by this server; leave it out",
                    ));
                }
            }
            _ => {
                let text = format!("is not known; known are {}", KINDS.join(", "));
                return Err(ApiError::invalid(&param, text).with_code("unknown_parameter"));
            }
        }
    }
    wanted.ok_or_else(|| ApiError::invalid(PARAM, format!("needs one of {}", KINDS.join(", "))))
}

fn of_kind(kind: &str, param: String, value: &Value) -> Result<Wanted, ApiError> {
    match kind {
        "json" => match value.as_str() {
            // A schema may come as text, too.
            Some(text) if text.len() <= LIMITS.schema_bytes => {
                let schema: Value = serde_json::from_str(text)
                    .map_err(|error| ApiError::invalid(&param, format!("is not JSON: {error}")))?;
                json_schema(param, &schema)
            }
            Some(text) => Err(too_long(&param, text.len(), LIMITS.schema_bytes)),
            None => json_schema(param, value),
        },
        "json_object" if *value == Value::Bool(true) => Ok(Wanted {
            param,
            constraint: Constraint::JsonObject,
        }),
        "json_object" => Err(ApiError::invalid(&param, "must be a boolean")),
        "regex" => {
            let text = short_text(&param, value, LIMITS.regex_bytes)?;
            Ok(Wanted {
                param,
                constraint: Constraint::Regex(text),
            })
        }
        "choice" => choice(param, value),
        _ => {
            let text = short_text(&param, value, LIMITS.grammar_bytes)?;
            Ok(Wanted {
                param,
                constraint: Constraint::Lark(text),
            })
        }
    }
}

fn json_schema(param: String, schema: &Value) -> Result<Wanted, ApiError> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(ApiError::invalid(&param, "must be a JSON schema, an object"));
    }
    let text = schema.to_string();
    if text.len() > LIMITS.schema_bytes {
        return Err(too_long(&param, text.len(), LIMITS.schema_bytes));
    }
    Ok(Wanted {
        param,
        constraint: Constraint::JsonSchema(text),
    })
}

fn choice(param: String, value: &Value) -> Result<Wanted, ApiError> {
    let texts = value.as_array().filter(|texts| !texts.is_empty());
    let texts = texts.ok_or_else(|| ApiError::invalid(&param, "must be a list of at least one string"))?;
    if texts.len() > LIMITS.choice_texts {
        let text = format!("{} entries are more than {}", texts.len(), LIMITS.choice_texts);
        return Err(ApiError::invalid(&param, text));
    }
    let strings: Option<Vec<String>> = texts
        .iter()
        .map(|text| text.as_str().map(str::to_owned))
        .collect();
    let strings = strings.ok_or_else(|| ApiError::invalid(&param, "must be a list of strings"))?;
    let bytes = strings.iter().map(String::len).sum();
    if bytes > LIMITS.schema_bytes {
        return Err(too_long(&param, bytes, LIMITS.schema_bytes));
    }
    Ok(Wanted {
        param,
        constraint: Constraint::Choice(strings),
    })
}

fn short_text(param: &str, value: &Value, limit: usize) -> Result<String, ApiError> {
    match value.as_str() {
        Some("") | None => Err(ApiError::invalid(param, "must be a string that is not empty")),
        Some(text) if text.len() > limit => Err(too_long(param, text.len(), limit)),
        Some(text) => Ok(text.to_owned()),
    }
}

fn too_long(param: &str, bytes: usize, limit: usize) -> ApiError {
    ApiError::invalid(param, format!("{bytes} bytes are more than {limit}"))
}

fn object<'a>(param: &str, value: &'a Value) -> Result<&'a Map<String, Value>, ApiError> {
    value
        .as_object()
        .ok_or_else(|| ApiError::invalid(param, "must be an object"))
}

/// Refuses fields with other names: one that is misspelt would be a constraint that nobody enforces.
fn only(map: &Map<String, Value>, known: &[&str], param: &str) -> Result<(), ApiError> {
    match map.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            let text = format!("is not known here; known are {}", known.join(", "));
            Err(ApiError::invalid(&format!("{param}.{name}"), text).with_code("unknown_parameter"))
        }
        None => Ok(()),
    }
}
