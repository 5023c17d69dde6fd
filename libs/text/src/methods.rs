//! Methods of Python's `str` and `list` that templates call and the compatibility layer lacks or counts in bytes.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Called by the engine for methods it does not know.
pub(crate) fn call_method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match (value.as_str(), value.kind()) {
        (Some(text), _) => text_method(text, name, args)?,
        (None, ValueKind::Seq) if name == "index" => Some(list_index(value, args)?),
        (None, _) => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn text_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "find" => Value::from(find(text, from_args::<(&str,)>(args)?.0, false).unwrap_or(-1)),
        "rfind" => Value::from(find(text, from_args::<(&str,)>(args)?.0, true).unwrap_or(-1)),
        "index" => found(find(text, from_args::<(&str,)>(args)?.0, false))?,
        "rindex" => found(find(text, from_args::<(&str,)>(args)?.0, true))?,
        "count" => {
            let (part,): (&str,) = from_args(args)?;
            let count = if part.is_empty() {
                text.chars().count() + 1
            } else {
                text.matches(part).count()
            };
            Value::from(count)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (head, tail) = text
                .split_once(separator)
                .map_or((text, None), |(head, tail)| (head, Some(tail)));
            texts([head, tail.map_or("", |_| separator), tail.unwrap_or("")])
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (head, tail) = text
                .rsplit_once(separator)
                .map_or((None, text), |(head, tail)| (Some(head), tail));
            texts([head.unwrap_or(""), head.map_or("", |_| separator), tail])
        }
        "rsplit" => {
            let (separator, most): (&str, Option<usize>) = from_args(args)?;
            let mut parts: Vec<&str> = match most {
                Some(most) => text.rsplitn(most + 1, separator).collect(),
                None => text.rsplit(separator).collect(),
            };
            parts.reverse();
            texts(parts)
        }
        _ => return Ok(None),
    }))
}

fn texts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

/// The position in characters.
fn find(text: &str, part: &str, from_the_end: bool) -> Option<i64> {
    let bytes = if from_the_end {
        text.rfind(part)
    } else {
        text.find(part)
    }?;
    i64::try_from(text[..bytes].chars().count()).ok()
}

fn found(position: Option<i64>) -> Result<Value, Error> {
    position
        .map(Value::from)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))
}

fn list_index(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    let position = list.try_iter()?.position(|item| item == *wanted);
    position.map(Value::from).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("{wanted} is not in the list"),
        )
    })
}
