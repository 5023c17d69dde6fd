//! How Python spells values: `repr` and `str`.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::value::ValueKind;

/// `str(value)`: texts as they are, everything else as `repr`.
pub(crate) fn python_str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let mut out = String::new();
            write_repr(value, &mut out);
            out
        }
    }
}

/// Python's `repr` of a float: the shortest digits that read back as the same number, with an exponent from 1e16 up
/// and below 1e-4.
pub(crate) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("this format has an exponent");
    let exponent: i32 = exponent.parse().expect("this format's exponent is a number");
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn write_repr(value: &Value, out: &mut String) {
    let kind = value.kind();
    if let Some(text) = value.as_str() {
        write_text_repr(text, out);
    } else if kind == ValueKind::Number && !value.is_integer() {
        let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
        out.push_str(&float_repr(number));
    } else if kind == ValueKind::Seq {
        write_list(value, out);
    } else if kind == ValueKind::Map {
        write_dict(value, out);
    } else {
        // Python and the template engine agree on the rest.
        write!(out, "{value}").expect("writing to memory cannot fail");
    }
}

fn write_list(value: &Value, out: &mut String) {
    out.push('[');
    for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_repr(&item, out);
    }
    out.push(']');
}

fn write_dict(value: &Value, out: &mut String) {
    out.push('{');
    let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
    for (index, (key, item)) in pairs.into_iter().flatten().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_repr(&key, out);
        out.push_str(": ");
        write_repr(&item, out);
    }
    out.push('}');
}

fn write_text_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for char in text.chars() {
        let written = match char {
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            char if char == quote => write!(out, "\\{char}"),
            char if char.is_control() || matches!(char, '\u{a0}' | '\u{ad}') => {
                write!(out, "\\x{:02x}", u32::from(char))
            }
            char => write!(out, "{char}"),
        };
        written.expect("writing to memory cannot fail");
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_are_spelt_as_python_spells_them() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456_789.125, "123456789.125"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(float_repr(value), text);
        }
    }

    #[test]
    fn containers_are_spelt_as_python_spells_them() {
        let value = Value::from_serialize(json!({"a": [1, 2.0, true, null, "it's"], "b": {"c": "x\n\"é'"}}));
        assert_eq!(
            python_str(&value),
            r#"{'a': [1, 2.0, True, None, "it's"], 'b': {'c': 'x\n"é\''}}"#
        );
    }
}
