//! Random schemas, held against another implementation of JSON schema.

use serde_json::{Map, Value, json};
use vlinders_grammar::GrammarError;
use vlinders_types::Constraint;

use crate::dice::{Dice, documents, first_seed};
use crate::sampling::draw;
use crate::vocabularies::ALL;

/// A random schema; `depth` more levels may follow.
fn schema(dice: &mut Dice, depth: usize) -> Value {
    let kinds = if depth == 0 { 7 } else { 13 };
    match dice.below(kinds) {
        0 => json!({"type": *dice.of(&["null", "boolean", "integer", "number", "string"])}),
        1 => number(dice),
        2 => string(dice),
        3 => json!({ "enum": values(dice) }),
        4 => json!({ "const": value(dice, 2) }),
        5 => json!({"type": ["string", "null"], "maxLength": 3}),
        6 => dice
            .of(&[
                json!(true),
                json!({}),
                json!({"type": "object", "additionalProperties": false}),
            ])
            .clone(),
        7 | 8 => object(dice, depth),
        9 => array(dice, depth),
        10 => json!({"anyOf": [schema(dice, depth - 1), schema(dice, depth - 1)]}),
        11 => json!({"allOf": [schema(dice, depth - 1), schema(dice, depth - 1)]}),
        _ => json!({"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "x": schema(dice, depth - 1)}, "required": ["kind"]},
            {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
            schema(dice, 0),
        ]}),
    }
}

fn number(dice: &mut Dice) -> Value {
    let mut map = Map::new();
    map.insert("type".to_owned(), json!(*dice.of(&["integer", "number"])));
    let least = i64::try_from(dice.below(2000)).unwrap() - 1000;
    let span = i64::try_from(dice.below(500)).unwrap();
    if dice.once_in(2) {
        map.insert(
            (*dice.of(&["minimum", "exclusiveMinimum"])).to_owned(),
            json!(least),
        );
    }
    if dice.once_in(2) {
        map.insert(
            (*dice.of(&["maximum", "exclusiveMaximum"])).to_owned(),
            json!(least + span),
        );
    }
    if dice.once_in(4) {
        map.insert("multipleOf".to_owned(), json!(*dice.of(&[2, 3, 7, 10])));
    }
    Value::Object(map)
}

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

fn string(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => {
            json!({"type": "string", "pattern": *dice.of(&["^a+b?$", "^[a-z]{2,4}$", "x", "^(yes|no)$", "[0-9]{3}", r"^\w+/\d$"])})
        }
        1 => {
            json!({"type": "string", "format": *dice.of(&FORMATS)})
        }
        2 => json!({"type": "string", "minLength": dice.below(4), "maxLength": 3 + dice.below(6)}),
        _ => json!({"type": "string", "format": "date", "pattern": "^2", "minLength": 2}),
    }
}

fn value(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(dice.once_in(2)),
        2 => json!(i64::try_from(dice.below(2000)).unwrap() - 1000),
        3 => json!(f64::from(u32::try_from(dice.below(4000)).unwrap()) / 8.0 - 250.0),
        4 => json!(*dice.of(&[
            "",
            "a",
            "a\"b",
            "\\",
            "é漢🦋",
            "line\nline",
            "\u{1}",
            "/",
            "<|end|>"
        ])),
        5 => json!({}),
        6 => json!([value(dice, depth - 1), value(dice, depth - 1)]),
        _ => json!({ *dice.of(&["a", "b\"", ""]): value(dice, depth - 1) }),
    }
}

fn values(dice: &mut Dice) -> Vec<Value> {
    (0..=dice.below(4)).map(|_| value(dice, 1)).collect()
}

fn object(dice: &mut Dice, depth: usize) -> Value {
    let names = ["a", "b", "long name", "é", "q\"uote", "a/b~c", ""];
    let mut map = Map::from_iter([("type".to_owned(), json!("object"))]);
    let mut listed: Vec<&str> = (0..dice.below(4)).map(|_| *dice.of(&names)).collect();
    listed.sort_unstable();
    listed.dedup();
    let kind = dice.below(6);
    if kind == 5 {
        map.insert(
            "patternProperties".to_owned(),
            json!({ "^x": schema(dice, depth - 1), "^y[0-9]$": schema(dice, 0) }),
        );
    } else {
        let properties: Map<String, Value> = listed
            .iter()
            .map(|name| ((*name).to_owned(), schema(dice, depth - 1)))
            .collect();
        map.insert("properties".to_owned(), Value::Object(properties));
        let required: Vec<&str> = listed.iter().copied().filter(|_| dice.once_in(2)).collect();
        map.insert("required".to_owned(), json!(required));
    }
    match kind {
        0..=2 => {
            map.insert("additionalProperties".to_owned(), json!(false));
        }
        3 => {
            map.insert("additionalProperties".to_owned(), schema(dice, depth - 1));
        }
        _ => {}
    }
    if dice.once_in(6) {
        map.insert("minProperties".to_owned(), json!(dice.below(3)));
    }
    if dice.once_in(6) {
        map.insert("maxProperties".to_owned(), json!(1 + dice.below(3)));
    }
    Value::Object(map)
}

fn array(dice: &mut Dice, depth: usize) -> Value {
    let mut map = Map::from_iter([("type".to_owned(), json!("array"))]);
    if dice.once_in(3) {
        map.insert(
            "prefixItems".to_owned(),
            json!([schema(dice, depth - 1), schema(dice, 0)]),
        );
    }
    if !dice.once_in(4) {
        map.insert("items".to_owned(), schema(dice, depth - 1));
    }
    let least = dice.below(3);
    map.insert("minItems".to_owned(), json!(least));
    if dice.once_in(2) {
        map.insert("maxItems".to_owned(), json!(least + dice.below(3)));
    }
    Value::Object(map)
}

/// A schema of several definitions, some of which refer to themselves.
fn with_references(dice: &mut Dice) -> Value {
    json!({
        "$defs": {
            "leaf": schema(dice, 1),
            "node": {"type": "object", "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "next": {"anyOf": [
                {"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["next"], "additionalProperties": false},
        },
        "anyOf": [{"$ref": "#/$defs/node"}, {"type": "array", "items": {"$ref": "#/$defs/leaf"}}],
    })
}

/// Numbers that this reader of JSON has no room for: valid documents all the same.
fn is_out_of_range(error: &serde_json::Error) -> bool {
    error.to_string().contains("number out of range")
}

/// Whole numbers that the checker would round.
fn has_inexact_number(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_none_or(|number| number.abs() > 9e15),
        Value::Array(values) => values.iter().any(has_inexact_number),
        Value::Object(map) => map.values().any(has_inexact_number),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

#[test]
fn random_documents_satisfy_their_schemas() {
    let (mut complete, mut cut, mut refused) = (0_u32, 0_u32, 0_u32);
    let first = first_seed();
    for seed in first..first + documents(50) {
        let mut dice = Dice::new(seed);
        let schema = if dice.once_in(8) {
            with_references(&mut dice)
        } else {
            schema(&mut dice, 3)
        };
        let vocabulary = dice.of(&ALL);
        let grammar = match vocabulary
            .compiler
            .compile(&Constraint::JsonSchema(schema.to_string()))
        {
            Ok(grammar) => grammar,
            Err(GrammarError::Invalid { .. } | GrammarError::TooComplex { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        };
        let drawn = match draw(vocabulary, &grammar, &mut dice, &mut |_, _| {}) {
            Ok(drawn) => drawn,
            Err(error) => panic!("seed {seed}, {}: {schema}: {error}", vocabulary.name),
        };
        if !drawn.is_complete {
            cut += 1;
            continue;
        }
        let document: Value = match serde_json::from_str(&drawn.text) {
            Ok(document) => document,
            Err(error) if is_out_of_range(&error) => continue,
            Err(error) => panic!("seed {seed}, {}: {:?}: {error}", vocabulary.name, drawn.text),
        };
        if has_inexact_number(&document) {
            continue;
        }
        let checker = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap();
        let valid = checker.validate(&document);
        assert!(
            valid.is_ok(),
            "seed {seed}: {schema}: {:?}: {valid:?}",
            drawn.text
        );
        complete += 1;
    }
    println!("{complete} complete, {cut} cut, {refused} refused");
    assert!(
        complete > 4 * cut && complete > refused,
        "{complete} complete, {cut} cut, {refused} refused"
    );
}

#[test]
fn any_json_object_is_one() {
    let first = first_seed();
    for seed in first..first + documents(6) {
        let mut dice = Dice::new(seed);
        let vocabulary = dice.of(&ALL);
        let (constraint, is_object) = if dice.once_in(2) {
            (Constraint::JsonObject, true)
        } else {
            // An empty schema allows any value, and still only JSON.
            (Constraint::JsonSchema("{}".to_owned()), false)
        };
        let grammar = vocabulary.compiler.compile(&constraint).unwrap();
        let drawn = draw(vocabulary, &grammar, &mut dice, &mut |_, _| {}).unwrap();
        if drawn.is_complete {
            match serde_json::from_str::<Value>(&drawn.text) {
                Ok(document) => assert!(
                    !is_object || document.is_object(),
                    "seed {seed}: {:?}",
                    drawn.text
                ),
                Err(error) => assert!(is_out_of_range(&error), "seed {seed}: {:?}: {error}", drawn.text),
            }
        }
    }
}

#[test]
fn a_property_cannot_hide_behind_an_escaped_letter() {
    let schema = r#"{"type": "object", "properties": {"a": {"type": "integer"}}}"#;
    let vocabulary = &ALL[3];
    let grammar = vocabulary
        .compiler
        .compile(&Constraint::JsonSchema(schema.to_owned()))
        .unwrap();
    let mut state = grammar.state(&[]);
    for byte in br#"{"\"# {
        state.advance(u32::from(*byte)).unwrap();
    }
    let mask = state.mask().unwrap();
    assert!(mask.allows(u32::from(b'n')) && !mask.allows(u32::from(b'u')));
}
