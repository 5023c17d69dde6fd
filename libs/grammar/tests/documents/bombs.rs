//! Constraints made to cost much.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vlinders_grammar::{GrammarError, grammar_to_lark};
use vlinders_types::Constraint;

use crate::vocabularies::strict;

/// Many times the budget: the machine may be busy, and an endless computation takes longer than anything.
const PATIENCE: Duration = Duration::from_secs(20);

fn schema_bombs() -> Vec<(&'static str, Constraint)> {
    let schema = |schema: Value| Constraint::JsonSchema(schema.to_string());
    let mut nested = json!({"type": "string"});
    for _ in 0..60 {
        nested = json!({"type": "object", "properties": {"a": nested.clone(), "b": {"anyOf": [{"type": "null"}, {"type": "array"}]}},
            "required": ["a"]});
    }
    let properties: serde_json::Map<String, Value> = (0..800)
        .map(|index| (format!("property{index}"), json!({"type": "integer"})))
        .collect();
    let doubling: serde_json::Map<String, Value> = (0..60)
        .map(|index| {
            let next = json!({"$ref": format!("#/$defs/d{}", (index + 1) % 60)});
            (format!("d{index}"), json!({"allOf": [next, next]}))
        })
        .collect();
    vec![
        (
            "huge enum",
            schema(json!({"enum": (0..6000).map(|index| format!("value{index}")).collect::<Vec<_>>()})),
        ),
        ("deep nesting", schema(nested)),
        (
            "many optional properties",
            schema(json!({"type": "object", "properties": properties, "additionalProperties": false})),
        ),
        (
            "doubling references",
            schema(json!({"$ref": "#/$defs/d0", "$defs": doubling})),
        ),
        (
            "huge bounds",
            schema(
                json!({"type": "array", "minItems": 1_000_000, "maxItems": 2_000_000, "items": {"type": "object"}}),
            ),
        ),
        (
            "huge string",
            schema(json!({"type": "string", "minLength": 500_000, "maxLength": 1_000_000})),
        ),
    ]
}

fn text_bombs() -> Vec<(&'static str, Constraint)> {
    let regex = |regex: &str| Constraint::Regex(regex.to_owned());
    let rules: String = (0..1000)
        .map(|index| {
            format!(
                "r{index} ::= r{} r{} | \"a\"\n",
                (index + 1) % 1000,
                (index + 7) % 1000
            )
        })
        .collect();
    let doubling_rules: String = (0..60)
        .map(|index| format!("r{index} ::= r{} r{}\n", index + 1, index + 1))
        .collect();
    vec![
        ("catastrophic alternation", regex("(a|a)*b{1000}")),
        ("nested repeats", regex("((((a{1,50}){1,50}){1,50}){1,50}){1,50}")),
        ("overlapping", regex("(.*a.*b.*c.*d.*e.*f.*g.*h.*){20}")),
        ("window", regex("(a|b)*a(a|b){400}")),
        ("deep brackets", regex(&"(".repeat(4000))),
        ("unicode classes", regex(&r"[\w\p{L}]{1,200}".repeat(20))),
        (
            "recursive rules",
            Constraint::Lark(grammar_to_lark(&format!("root ::= r0\n{rules}")).unwrap_or_default()),
        ),
        (
            "doubling rules",
            Constraint::Lark(
                grammar_to_lark(&format!("root ::= r0\n{doubling_rules}r60 ::= \"a\"\n")).unwrap_or_default(),
            ),
        ),
        (
            "left recursion",
            Constraint::Lark("start: start start | \"a\" | ".to_owned()),
        ),
        (
            "deep grammar",
            Constraint::Lark(format!("start: {}\"a\"{}", "(".repeat(3000), ")".repeat(3000))),
        ),
    ]
}

/// Each is compiled or refused in the budget, and what was compiled gives masks or a clean end.
#[test]
fn bombs_are_refused_or_harmless() {
    let mut slowest = (Duration::ZERO, "none");
    for (name, constraint) in schema_bombs().into_iter().chain(text_bombs()) {
        let compiler = strict(1);
        let started = Instant::now();
        let compiled = compiler.compile(&constraint);
        let took = started.elapsed();
        slowest = slowest.max((took, name));
        println!(
            "{name}: {took:?}: {}",
            compiled
                .as_ref()
                .err()
                .map_or("compiled".to_owned(), ToString::to_string)
        );
        assert!(took < PATIENCE, "{name}: {took:?}");
        let Ok(grammar) = compiled else { continue };
        let mut state = grammar.state(&[]);
        for _ in 0..30 {
            let started = Instant::now();
            let Ok(mask) = state.mask() else { break };
            let took = started.elapsed();
            assert!(took < PATIENCE, "{name}: a mask in {took:?}");
            slowest = slowest.max((took, name));
            let Some(token) = mask.tokens_from(0).next() else {
                break;
            };
            if state.advance(token).is_err() {
                break;
            }
        }
    }
    println!("slowest: {slowest:?}");
}

#[test]
fn more_than_the_threads_there_are_is_refused_for_now() {
    let compiler = strict(0);
    let refused = compiler.compile(&Constraint::JsonObject).map(|_| ());
    assert_eq!(refused, Err(GrammarError::Busy));
    assert!(GrammarError::Busy.is_retryable());
}
