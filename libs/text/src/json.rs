//! Python's `json.dumps`, byte for byte: what templates put into prompts must be what the model was trained on.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use crate::python::float_repr;

/// The arguments of `json.dumps` that templates use.
#[derive(Clone, Debug)]
pub(crate) struct JsonStyle {
    ensure_ascii: bool,
    /// One level of indentation; none writes everything on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Default for JsonStyle {
    fn default() -> Self {
        Self {
            ensure_ascii: false,
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            sort_keys: false,
        }
    }
}

/// The filter `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(crate) fn tojson(value: &Value, args: Rest<Value>) -> Result<Value, Error> {
    let mut positional = args.0;
    let named = positional.pop_if(|last| last.is_kwargs());
    let kwargs = named.map_or_else(
        || Ok(Kwargs::from_iter([] as [(&str, Value); 0])),
        Kwargs::try_from,
    )?;
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional.get(index) {
            Some(value) => Some(value.clone()),
            None => kwargs.get(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let mut style = JsonStyle {
        ensure_ascii: is_set(argument(0, "ensure_ascii")?),
        sort_keys: is_set(argument(3, "sort_keys")?),
        ..JsonStyle::default()
    };
    if let Some(indent) = argument(1, "indent")? {
        style.indent = Some(indentation(&indent)?);
        style.item_separator = ",".to_owned();
    }
    if let Some(separators) = argument(2, "separators")? {
        let text = |index: i64| {
            separators
                .get_item(&Value::from(index))
                .map(|text| text.to_string())
        };
        (style.item_separator, style.key_separator) = (text(0)?, text(1)?);
    }
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write_value(value, &style, 0, &mut out)?;
    Ok(Value::from(out))
}

/// The filter and function `fromjson`.
pub(crate) fn fromjson(text: &str) -> Result<Value, Error> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, "not JSON").with_source(error))?;
    Ok(Value::from_serialize(value))
}

fn indentation(indent: &Value) -> Result<String, Error> {
    const WIDEST: i64 = 64;
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let width = indent
        .as_i64()
        .or_else(|| bool::try_from(indent.clone()).ok().map(i64::from));
    let width = width
        .filter(|width| *width <= WIDEST)
        .and_then(|width| usize::try_from(width.max(0)).ok());
    let fault = || {
        Error::new(
            ErrorKind::InvalidOperation,
            "indent must be a small number or a text",
        )
    };
    width.map(|width| " ".repeat(width)).ok_or_else(fault)
}

fn write_value(value: &Value, style: &JsonStyle, depth: usize, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(value, out),
        ValueKind::String => write_text(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_all(&items, ['[', ']'], style, depth, out, |item, out| {
                write_value(item, style, depth + 1, out)
            })?;
        }
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
            let mut pairs: Vec<(String, Value)> = pairs
                .into_iter()
                .flatten()
                .map(|(key, item)| Ok((key_text(&key)?, item)))
                .collect::<Result<_, Error>>()?;
            if style.sort_keys {
                pairs.sort_by(|left, right| left.0.cmp(&right.0));
            }
            write_all(&pairs, ['{', '}'], style, depth, out, |(key, item), out| {
                write_text(key, style, out);
                out.push_str(&style.key_separator);
                write_value(item, style, depth + 1, out)
            })?;
        }
        // The engine may gain kinds of values.
        ValueKind::Undefined | ValueKind::Bytes | ValueKind::Plain | ValueKind::Invalid | _ => {
            let message = format!("{} is not JSON serializable", value.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(())
}

/// Writes the items of a list or an object between their brackets.
fn write_all<T>(
    items: &[T],
    brackets: [char; 2],
    style: &JsonStyle,
    depth: usize,
    out: &mut String,
    write_one: impl Fn(&T, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(brackets[0]);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(style, depth + 1, out);
        write_one(item, out)?;
    }
    if !items.is_empty() {
        new_line(style, depth, out);
    }
    out.push(brackets[1]);
    Ok(())
}

fn new_line(style: &JsonStyle, depth: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        (0..depth).for_each(|_| out.push_str(indent));
    }
}

fn write_number(value: &Value, out: &mut String) {
    if value.is_integer() {
        write!(out, "{value}").expect("writing to memory cannot fail");
        return;
    }
    let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    out.push_str(&match number {
        number if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        number => float_repr(number),
    });
}

/// Python turns keys that are no texts into texts.
fn key_text(key: &Value) -> Result<String, Error> {
    if let Some(text) = key.as_str() {
        return Ok(text.to_owned());
    }
    if !matches!(key.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number) {
        let message = format!("a key cannot be of kind {}", key.kind());
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let mut out = String::new();
    write_value(key, &JsonStyle::default(), 0, &mut out)?;
    Ok(out)
}

fn write_text(text: &str, style: &JsonStyle, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            char if char < ' ' || (style.ensure_ascii && !(' '..='~').contains(&char)) => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("writing to memory cannot fail");
                }
            }
            char => out.push(char),
        }
    }
    out.push('"');
}
