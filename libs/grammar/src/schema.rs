//! JSON schemas: which can be enforced. What cannot is refused by its name and place, since the parser passes over what
//! it does not know.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{GrammarError, formats};

/// Schemas inside schemas, and references to references, at most.
const DEEPEST: usize = 64;
/// Bytes of one `pattern` at most.
const LONGEST_PATTERN_BYTES: usize = 4 << 10;
/// Larger whole numbers have no exact floating-point value, and bounds are computed with those.
const LARGEST_NUMBER: f64 = 9_007_199_254_740_992.0;
/// What may stand between two parts of a document: nothing, a space, or the beginning of an indented line. A bound, so
/// that no model can go on with white space for ever.
const WHITE_SPACE: &str = r"[\x20\x09]|\x0D?\x0A[\x20\x09]{0,32}";
/// What may follow a backslash. No character has two spellings, or the name of a property could be hidden from its schema
/// by escaping a letter of it.
const ESCAPES: &str = "nrbtf\\\"";

const DRAFTS: [&str; 3] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
];
const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];
/// The formats that are enforced.
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];

/// Checks a schema without compiling it.
///
/// # Errors
/// Names the keyword and its place, as a JSON pointer.
pub fn check_schema(schema: &Value) -> Result<(), GrammarError> {
    let mut walk = Walk {
        root: schema,
        seen: BTreeSet::new(),
    };
    walk.schema(schema, "#", 0)
}

/// A checked schema with what the parser must be told beside it.
pub(crate) fn prepare(text: &str) -> Result<Value, GrammarError> {
    let mut schema: Value = serde_json::from_str(text)
        .map_err(|error| GrammarError::invalid("#", format!("is not JSON: {error}")))?;
    check_schema(&schema)?;
    formats::as_patterns(&mut schema);
    Ok(match schema {
        Value::Object(map) => with_options(map),
        Value::Bool(true) => with_options(Map::new()),
        Value::Null | Value::Bool(false) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err(GrammarError::invalid("#", "allows no value"));
        }
    })
}

/// The schema of any object.
pub(crate) fn any_object() -> Value {
    with_options(Map::from_iter([("type".to_owned(), json!("object"))]))
}

fn with_options(mut map: Map<String, Value>) -> Value {
    let options = json!({ "whitespace_pattern": WHITE_SPACE, "json_allowed_escapes": ESCAPES });
    map.insert("x-guidance".to_owned(), options);
    Value::Object(map)
}

/// Where the keyword stands that the parser complains about, if it names one without its place.
pub(crate) fn place_of(text: &str, said: &str) -> Option<String> {
    let keyword = ["oneOf", "patternProperty", "min/maxProperties"]
        .into_iter()
        .find(|keyword| said.contains(keyword))?;
    let keywords: &[&str] = match keyword {
        "oneOf" => &["oneOf"],
        "patternProperty" => &["patternProperties"],
        _ => &["minProperties", "maxProperties"],
    };
    let schema: Value = serde_json::from_str(text).ok()?;
    find_keyword(&schema, "#", keywords)
}

fn find_keyword(value: &Value, place: &str, keywords: &[&str]) -> Option<String> {
    match value {
        Value::Object(map) => map.iter().find_map(|(key, value)| {
            let inner = format!("{place}/{}", escaped(key));
            if keywords.contains(&key.as_str()) {
                return Some(inner);
            }
            find_keyword(value, &inner, keywords)
        }),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .find_map(|(index, value)| find_keyword(value, &format!("{place}/{index}"), keywords)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A step of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

struct Walk<'a> {
    root: &'a Value,
    /// References that were followed.
    seen: BTreeSet<&'a str>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, place: &str, depth: usize) -> Result<(), GrammarError> {
        if depth > DEEPEST {
            return refuse(place, format!("nests deeper than {DEEPEST} levels"));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(map) => map,
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return refuse(place, "a schema is an object or a boolean");
            }
        };
        for (key, value) in map {
            let inner = format!("{place}/{}", escaped(key));
            self.keyword(key, value, &inner, depth)?;
        }
        check_together(map, place)
    }

    fn keyword(
        &mut self,
        key: &str,
        value: &'a Value,
        place: &str,
        depth: usize,
    ) -> Result<(), GrammarError> {
        match key {
            "title" | "description" | "default" | "example" | "examples" | "deprecated" | "readOnly"
            | "writeOnly" | "$comment" | "contentMediaType" | "contentEncoding" => Ok(()),
            "$schema" | "$id" if depth == 0 => check_root_keyword(key, value, place),
            "$schema" | "$id" => refuse(place, "is only supported at the root of the schema"),
            // Definitions count where they are referred to.
            "$defs" | "definitions" => object(value, place).map(|_| ()),
            "$ref" => self.reference(value, place, depth),
            "properties" | "patternProperties" => {
                for (name, schema) in object(value, place)? {
                    if key == "patternProperties" {
                        check_pattern(name, place)?;
                    }
                    check_text(name, place)?;
                    self.schema(schema, &format!("{place}/{}", escaped(name)), depth + 1)?;
                }
                Ok(())
            }
            "items" if value.is_array() => self.schemas(value, place, depth),
            "additionalProperties" | "additionalItems" | "items" => self.schema(value, place, depth + 1),
            "prefixItems" | "anyOf" | "oneOf" | "allOf" => self.schemas(value, place, depth),
            "required" => {
                strings(value, place)?;
                check_values(value, place)
            }
            "enum" if list(value, place)?.is_empty() => refuse(place, "lists no value"),
            "enum" | "const" => check_values(value, place),
            "type" => check_type(value, place),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                if !value.is_number() {
                    return refuse(place, "must be a number");
                }
                if key == "multipleOf" && value.as_f64().is_none_or(|step| step <= 0.0) {
                    return refuse(place, "must be above 0");
                }
                check_values(value, place)
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                match value.as_u64() {
                    Some(_) => Ok(()),
                    None => refuse(place, "must be a whole number, 0 or more"),
                }
            }
            "pattern" => match value.as_str() {
                Some(pattern) => check_pattern(pattern, place),
                None => refuse(place, "must be a string"),
            },
            "format" => match value.as_str() {
                Some(format) if FORMATS.contains(&format) => Ok(()),
                Some(_) | None => refuse(
                    place,
                    format!("is not supported; supported are {}", FORMATS.join(", ")),
                ),
            },
            _ if key.starts_with("x-") && key != "x-guidance" => Ok(()),
            _ => refuse(place, format!("the keyword `{key}` is not supported")),
        }
    }

    fn schemas(&mut self, value: &'a Value, place: &str, depth: usize) -> Result<(), GrammarError> {
        let schemas = list(value, place)?;
        if schemas.is_empty() {
            return refuse(place, "lists no schema");
        }
        for (index, schema) in schemas.iter().enumerate() {
            self.schema(schema, &format!("{place}/{index}"), depth + 1)?;
        }
        Ok(())
    }

    fn reference(&mut self, value: &'a Value, place: &str, depth: usize) -> Result<(), GrammarError> {
        let Some(reference) = value.as_str() else {
            return refuse(place, "must be a string");
        };
        let Some(pointer) = reference.strip_prefix('#') else {
            return refuse(
                place,
                "only references into this schema are supported: `#/$defs/…`",
            );
        };
        let target = match pointer {
            "" => Some(self.root),
            _ if pointer.contains(['~', '%']) => {
                return refuse(place, "names with `~`, `%` or `/` cannot be referred to");
            }
            _ => self.root.pointer(pointer),
        };
        let Some(target) = target else {
            return refuse(place, "refers to nothing");
        };
        if self.seen.insert(reference) {
            // What it refers to is not the root, even when it is the root: there it was checked as one.
            return match pointer {
                "" => Ok(()),
                _ => self.schema(target, reference, depth + 1),
            };
        }
        Ok(())
    }
}

/// Keywords that work alone and not beside one another.
fn check_together(map: &Map<String, Value>, place: &str) -> Result<(), GrammarError> {
    let has_names = |key: &str| {
        map.get(key)
            .and_then(Value::as_object)
            .is_some_and(|names| !names.is_empty())
    };
    if has_names("properties") && has_names("patternProperties") {
        let place = format!("{place}/patternProperties");
        return refuse(&place, "is not supported beside `properties`");
    }
    // A name may come twice among the free ones, and counts once.
    let required = map.get("required").and_then(Value::as_array).map_or(0, |names| {
        names
            .iter()
            .filter_map(Value::as_str)
            .collect::<BTreeSet<_>>()
            .len() as u64
    });
    let least = map.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    if least > required + 1 {
        let place = format!("{place}/minProperties");
        return refuse(&place, "is only supported up to one more than `required` lists");
    }
    Ok(())
}

fn check_root_keyword(key: &str, value: &Value, place: &str) -> Result<(), GrammarError> {
    let Some(text) = value.as_str() else {
        return refuse(place, "must be a string");
    };
    if key == "$schema" && !DRAFTS.contains(&text.trim_end_matches('#')) {
        return refuse(
            place,
            format!("is not supported; supported are {}", DRAFTS.join(", ")),
        );
    }
    Ok(())
}

fn check_type(value: &Value, place: &str) -> Result<(), GrammarError> {
    let is_known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
    let fits = match value.as_array() {
        Some(names) => !names.is_empty() && names.iter().all(is_known),
        None => is_known(value),
    };
    if fits {
        return Ok(());
    }
    refuse(place, format!("must be one or several of {}", TYPES.join(", ")))
}

fn check_pattern(pattern: &str, place: &str) -> Result<(), GrammarError> {
    if pattern.len() > LONGEST_PATTERN_BYTES {
        return refuse(place, format!("is longer than {LONGEST_PATTERN_BYTES} bytes"));
    }
    crate::lark::check_depth(pattern).map_err(|_| GrammarError::invalid(place, "nests too deep"))
}

/// Refuses numbers whose bounds cannot be computed exactly, and characters that have only a numbered escape.
fn check_values(value: &Value, place: &str) -> Result<(), GrammarError> {
    let is_exact = |number: &serde_json::Number| {
        number
            .as_f64()
            .is_some_and(|number| number.abs() < LARGEST_NUMBER)
    };
    match value {
        Value::Number(number) if !is_exact(number) => refuse(place, "numbers beyond 2^53 are not supported"),
        Value::Array(values) => values.iter().try_for_each(|value| check_values(value, place)),
        Value::Object(map) => map.iter().try_for_each(|(name, value)| {
            check_text(name, place)?;
            check_values(value, place)
        }),
        Value::String(text) => check_text(text, place),
        Value::Number(_) | Value::Null | Value::Bool(_) => Ok(()),
    }
}

fn check_text(text: &str, place: &str) -> Result<(), GrammarError> {
    let has_no_name = |char: char| char.is_ascii_control() && !"\n\r\t\u{8}\u{c}".contains(char);
    if text.contains(has_no_name) {
        return refuse(place, "control characters are not supported");
    }
    Ok(())
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, GrammarError> {
    value
        .as_object()
        .ok_or_else(|| GrammarError::invalid(place, "must be an object"))
}

fn list<'a>(value: &'a Value, place: &str) -> Result<&'a Vec<Value>, GrammarError> {
    value
        .as_array()
        .ok_or_else(|| GrammarError::invalid(place, "must be a list"))
}

fn strings<'a>(value: &'a Value, place: &str) -> Result<&'a Vec<Value>, GrammarError> {
    let values = list(value, place)?;
    if values.iter().all(Value::is_string) {
        return Ok(values);
    }
    refuse(place, "must be a list of strings")
}

fn refuse<T>(place: &str, reason: impl Into<String>) -> Result<T, GrammarError> {
    Err(GrammarError::invalid(place, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(schema: Value) -> String {
        check_schema(&schema).expect_err("cannot be enforced").to_string()
    }

    #[test]
    fn what_cannot_be_enforced_is_named_with_its_place() {
        let cases = [
            (json!({"not": {}}), "#/not: the keyword `not` is not supported"),
            (
                json!({"properties": {"a/b": {"uniqueItems": true}}}),
                "#/properties/a~1b/uniqueItems: ",
            ),
            (json!({"items": [{"if": {}}]}), "#/items/0/if: "),
            (
                json!({"anyOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"contains": 1}}}),
                "#/$defs/x/contains: ",
            ),
            (json!({"requried": ["a"]}), "#/requried: the keyword `requried`"),
            (json!({"x-guidance": {"lenient": true}}), "#/x-guidance: "),
            (
                json!({"format": "iri"}),
                "#/format: is not supported; supported are date-time",
            ),
            (
                json!({"const": 9_007_199_254_740_993_u64}),
                "#/const: numbers beyond 2^53",
            ),
            (
                json!({"$ref": "https://a/b"}),
                "#/$ref: only references into this schema",
            ),
            (json!({"$ref": "#/$defs/none"}), "#/$ref: refers to nothing"),
            (
                json!({"$schema": "http://json-schema.org/draft-04/schema#"}),
                "#/$schema: is not supported",
            ),
            (
                json!({"items": {"$id": "x"}}),
                "#/items/$id: is only supported at the root",
            ),
            (json!({"type": "int"}), "#/type: must be one or several of null"),
            (json!({"enum": []}), "#/enum: lists no value"),
            (
                json!({"required": ["a"], "minProperties": 3}),
                "#/minProperties: ",
            ),
            (
                json!({"properties": {"a": {}}, "patternProperties": {"a": {}}}),
                "#/patternProperties: ",
            ),
            (json!([1]), "#: a schema is an object or a boolean"),
        ];
        for (schema, expected) in cases {
            let said = refusal(schema.clone());
            assert!(said.starts_with(expected), "{schema}: {said}");
        }
    }

    #[test]
    fn depth_is_bounded_through_references_too() {
        let mut nested = json!({});
        for _ in 0..70 {
            nested = json!({ "items": nested });
        }
        assert!(refusal(nested).contains("nests deeper than 64"));
        let chain: Map<String, Value> = (0..100)
            .map(|index| {
                (
                    format!("d{index}"),
                    json!({"$ref": format!("#/$defs/d{}", index + 1)}),
                )
            })
            .collect();
        assert!(refusal(json!({"$ref": "#/$defs/d0", "$defs": chain})).contains("nests deeper"));
    }

    #[test]
    fn ordinary_schemas_pass() {
        for schema in [
            json!(true),
            json!({}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "x", "title": "t", "x-order": 1}),
            json!({"type": "object", "properties": {"not": {"type": "string"}}, "additionalProperties": false}),
            json!({"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}}),
            json!({"properties": {"self": {"$ref": "#"}}}),
        ] {
            assert_eq!(check_schema(&schema), Ok(()), "{schema}");
        }
    }
}
