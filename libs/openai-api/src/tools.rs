//! `tools`, `tool_choice` and `parallel_tool_calls`: which functions a model may call, and whether it must.

use serde_json::{Map, Value, json};

use crate::raw::RawRequest;
use crate::{ApiError, LIMITS};

/// The functions on offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// At least one, no name twice.
    pub offered: Vec<Tool>,
    /// Whether one must be called.
    pub choice: ToolChoice,
    /// Whether one answer may hold several calls.
    pub is_parallel: bool,
    /// Offered as `functions`: a call is told as `function_call`.
    pub are_functions: bool,
}

/// One function.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// A JSON schema of its arguments.
    pub parameters: Value,
    /// Its arguments must fit the schema, whoever decides to call it.
    pub is_strict: bool,
    /// As templates read it.
    pub definition: Value,
}

/// Who decides whether a tool is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model.
    Auto,
    /// The client: at least one.
    Required,
    /// The client: this one.
    Named(String),
}

/// Reads and checks the tools. None when none may be called.
pub(crate) fn read(raw: &mut RawRequest) -> Result<Option<Tools>, ApiError> {
    let functions = raw
        .functions
        .take()
        .map_or_else(Vec::new, |functions| functions.0);
    if !functions.is_empty() || raw.function_call.is_some() {
        return read_functions(raw, functions);
    }
    let definitions = raw.tools.take().map_or_else(Vec::new, |tools| tools.0);
    let offered: Vec<Tool> = definitions
        .into_iter()
        .enumerate()
        .map(|(index, definition)| tool(&format!("tools[{index}]"), definition))
        .collect::<Result<_, _>>()?;
    check_together(&offered, "tools")?;
    let choice = tool_choice(raw.tool_choice.take(), &offered)?;
    let is_parallel = raw.parallel_tool_calls.unwrap_or(true);
    Ok(choice.filter(|_| !offered.is_empty()).map(|choice| Tools {
        offered,
        choice,
        is_parallel,
        are_functions: false,
    }))
}

/// The older way to offer tools. One is called at a time.
fn read_functions(raw: &RawRequest, functions: Vec<Value>) -> Result<Option<Tools>, ApiError> {
    const CALL: &str = "function_call";
    for (name, is_given) in [
        ("tools", raw.tools.is_some()),
        ("tool_choice", raw.tool_choice.is_some()),
        ("parallel_tool_calls", raw.parallel_tool_calls.is_some()),
    ] {
        if is_given {
            let text = "contradicts functions and function_call; give one or the other";
            return Err(ApiError::invalid(name, text));
        }
    }
    let offered: Vec<Tool> = functions
        .into_iter()
        .enumerate()
        .map(|(index, function)| {
            let definition = json!({"type": "function", "function": function.clone()});
            offered_function(&format!("functions[{index}]"), &function, definition)
        })
        .collect::<Result<_, _>>()?;
    check_together(&offered, "functions")?;
    let choice = match &raw.function_call {
        None | Some(Value::Null) => Some(ToolChoice::Auto),
        Some(Value::String(word)) if word == "auto" => Some(ToolChoice::Auto),
        Some(Value::String(word)) if word == "none" => None,
        Some(chosen @ Value::Object(_)) => {
            let fields = object(CALL, chosen, &["name"])?;
            let name = function_name(&format!("{CALL}.name"), fields.get("name"))?;
            if !offered.iter().any(|tool| tool.name == name) {
                return Err(ApiError::invalid(
                    CALL,
                    format!("{name:?} is none of the functions"),
                ));
            }
            Some(ToolChoice::Named(name))
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            let text = "must be \"none\", \"auto\" or the name of a function as an object";
            return Err(ApiError::invalid(CALL, text));
        }
    };
    Ok(choice.filter(|_| !offered.is_empty()).map(|choice| Tools {
        offered,
        choice,
        is_parallel: false,
        are_functions: true,
    }))
}

fn check_together(offered: &[Tool], list: &str) -> Result<(), ApiError> {
    for (index, tool) in offered.iter().enumerate() {
        if offered[..index].iter().any(|other| other.name == tool.name) {
            let text = format!("{:?} is given twice", tool.name);
            let function = if list == "tools" { ".function" } else { "" };
            return Err(ApiError::invalid(
                &format!("{list}[{index}]{function}.name"),
                text,
            ));
        }
    }
    let bytes: usize = offered.iter().map(|tool| tool.definition.to_string().len()).sum();
    if bytes > LIMITS.tools_bytes {
        let text = format!(
            "{bytes} bytes of definitions are more than {}",
            LIMITS.tools_bytes
        );
        return Err(ApiError::invalid(list, text));
    }
    Ok(())
}

fn tool(path: &str, definition: Value) -> Result<Tool, ApiError> {
    let fields = object(path, &definition, &["type", "function"])?;
    match fields.get("type").and_then(Value::as_str) {
        Some("function") => {}
        Some(_) => {
            let text = "only tools of type \"function\" are offered";
            return Err(ApiError::not_offered(&format!("{path}.type"), text));
        }
        None => return Err(ApiError::invalid(&format!("{path}.type"), "must be \"function\"")),
    }
    let function = fields.get("function").cloned().unwrap_or(Value::Null);
    offered_function(&format!("{path}.function"), &function, definition)
}

fn offered_function(path: &str, function: &Value, definition: Value) -> Result<Tool, ApiError> {
    let function = object(path, function, &["name", "description", "parameters", "strict"])?;
    let name = function_name(&format!("{path}.name"), function.get("name"))?;
    if !matches!(
        function.get("description"),
        None | Some(Value::Null | Value::String(_))
    ) {
        return Err(ApiError::invalid(
            &format!("{path}.description"),
            "must be a string",
        ));
    }
    let is_strict = match function.get("strict") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_strict)) => *is_strict,
        Some(Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(ApiError::invalid(&format!("{path}.strict"), "must be a boolean"));
        }
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(ApiError::invalid(
                &format!("{path}.parameters"),
                "must be a JSON schema, an object",
            ));
        }
    };
    if depth(&parameters) > LIMITS.schema_depth {
        let text = format!("is nested deeper than {}", LIMITS.schema_depth);
        return Err(ApiError::invalid(&format!("{path}.parameters"), text));
    }
    Ok(Tool {
        name,
        parameters,
        is_strict,
        definition,
    })
}

fn function_name(path: &str, name: Option<&Value>) -> Result<String, ApiError> {
    let Some(name) = name.and_then(Value::as_str) else {
        return Err(ApiError::invalid(path, "must be a string"));
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > LIMITS.tool_name_bytes || !name.bytes().all(is_plain) {
        let text = format!(
            "must be 1 to {} letters, digits, underscores, dashes or dots",
            LIMITS.tool_name_bytes
        );
        return Err(ApiError::invalid(path, text));
    }
    Ok(name.to_owned())
}

/// An object that holds nothing but these fields.
fn object<'a>(path: &str, value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, ApiError> {
    let Some(fields) = value.as_object() else {
        return Err(ApiError::invalid(path, "must be an object"));
    };
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            let text = format!("is not known here; known are {}", known.join(", "));
            Err(ApiError::invalid(&format!("{path}.{key}"), text))
        }
        None => Ok(fields),
    }
}

/// None forbids calls.
fn tool_choice(choice: Option<Value>, offered: &[Tool]) -> Result<Option<ToolChoice>, ApiError> {
    const NAME: &str = "tool_choice";
    let choice = match choice {
        None | Some(Value::Null) => return Ok(Some(ToolChoice::Auto)),
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
            "auto" => return Ok(Some(ToolChoice::Auto)),
            "required" => ToolChoice::Required,
            _ => {
                let text = "must be \"none\", \"auto\", \"required\" or the name of a function as an object";
                return Err(ApiError::invalid(NAME, text));
            }
        },
        Some(object @ Value::Object(_)) => ToolChoice::Named(named(&object)?),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            return Err(ApiError::invalid(NAME, "must be a string or an object"));
        }
    };
    if offered.is_empty() {
        return Err(ApiError::invalid(NAME, "needs tools"));
    }
    if let ToolChoice::Named(name) = &choice
        && !offered.iter().any(|tool| tool.name == *name)
    {
        return Err(ApiError::invalid(NAME, format!("{name:?} is none of the tools")));
    }
    Ok(Some(choice))
}

fn named(choice: &Value) -> Result<String, ApiError> {
    const NAME: &str = "tool_choice";
    let fields = object(NAME, choice, &["type", "function"]).map_err(|error| {
        // Other kinds of choices exist elsewhere.
        match choice.get("type").and_then(Value::as_str) {
            Some("function") | None => error,
            Some(_) => ApiError::not_offered(NAME, "only a function can be chosen"),
        }
    })?;
    if fields.get("type").and_then(Value::as_str) != Some("function") {
        return Err(ApiError::not_offered(NAME, "only a function can be chosen"));
    }
    let none = Value::Null;
    let function = fields.get("function").unwrap_or(&none);
    let path = format!("{NAME}.function");
    let function = object(&path, function, &["name"])?;
    function_name(&format!("{path}.name"), function.get("name"))
}

/// Lists and objects inside one another. The whole body's depth was checked before.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}
