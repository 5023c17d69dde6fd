//! Formats that the parser knows too loosely: days that are in no calendar, leap seconds at any time, names longer than
//! the network takes. They become patterns.

use serde_json::{Map, Value, json};

/// A day of the Gregorian calendar.
const DATE: &str = "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)\
    |02-(?:0[1-9]|1[0-9]|2[0-8]))\
    |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)";
/// A time of day with its zone.
const TIME: &str =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
/// A name of the network: at most 6 labels of 39 characters, which is less than the 253 it may have.
const HOST: &str = "[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,19}(?:\\.[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,19}){0,5}";
/// Before the `@` at most 61 characters; 64 are allowed.
const LOCAL: &str = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,30}(?:\\.[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,30})?";

/// Writes what these formats mean as patterns, everywhere in a schema.
pub(crate) fn as_patterns(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            rewrite(map);
            for (key, value) in map {
                // Values, not schemas.
                if !matches!(
                    key.as_str(),
                    "enum" | "const" | "default" | "example" | "examples"
                ) {
                    as_patterns(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(as_patterns),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn rewrite(map: &mut Map<String, Value>) {
    let pattern = match map.get("format").and_then(Value::as_str) {
        Some("date") => format!("^{DATE}$"),
        Some("time") => format!("^{TIME}$"),
        Some("date-time") => format!("^{DATE}T{TIME}$"),
        Some("hostname") => format!("^{HOST}$"),
        Some("email") => format!("^{LOCAL}@{HOST}$"),
        Some(_) | None => return,
    };
    map.remove("format");
    if !map.contains_key("pattern") {
        map.insert("pattern".to_owned(), json!(pattern));
        return;
    }
    let both = map.entry("allOf").or_insert_with(|| json!([]));
    if let Some(list) = both.as_array_mut() {
        list.push(json!({ "pattern": pattern }));
    }
}
