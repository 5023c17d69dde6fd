//! Random grammars, held against a plain recogniser of the same rules.

use std::collections::BTreeSet;
use std::fmt::Write;

use vlinders_grammar::{GrammarError, grammar_to_lark};
use vlinders_types::Constraint;

use crate::dice::{Dice, documents, first_seed};
use crate::sampling::draw;
use crate::vocabularies::ALL;

enum Part {
    Text(&'static str),
    /// As it is written, and the characters in it.
    Class(&'static str, &'static str),
    Rule(usize),
    All(Vec<Part>),
    Any(Vec<Part>),
    Repeat(Box<Part>, &'static str, usize, usize),
}

const LITERALS: &[&str] = &["a", "ab", "(", ")", ",", "\"", "\\", "é", "yes", "\n"];
const CLASSES: &[(&str, &str)] = &[
    ("[a-c]", "abc"),
    ("[0-3x]", "0123x"),
    (r"[\n\]]", "\n]"),
    ("[é漢]", "é漢"),
];
const REPEATS: &[(&str, usize, usize)] = &[
    ("*", 0, 99),
    ("+", 1, 99),
    ("?", 0, 1),
    ("{2}", 2, 2),
    ("{1,3}", 1, 3),
];

fn part(dice: &mut Dice, depth: usize, later_rules: std::ops::Range<usize>) -> Part {
    let kinds = if depth == 0 { 3 } else { 7 };
    match dice.below(kinds) {
        0 => Part::Text(dice.of::<&str>(LITERALS)),
        1 => {
            let (written, chars) = *dice.of(CLASSES);
            Part::Class(written, chars)
        }
        2 if !later_rules.is_empty() => Part::Rule(later_rules.start + dice.below(later_rules.len())),
        2 => Part::Text(dice.of::<&str>(LITERALS)),
        3 | 4 => Part::All(
            (0..1 + dice.below(3))
                .map(|_| part(dice, depth - 1, later_rules.clone()))
                .collect(),
        ),
        5 => Part::Any(
            (0..2 + dice.below(2))
                .map(|_| part(dice, depth - 1, later_rules.clone()))
                .collect(),
        ),
        _ => {
            let (written, least, most) = *dice.of(REPEATS);
            Part::Repeat(Box::new(part(dice, depth - 1, later_rules)), written, least, most)
        }
    }
}

/// Rules refer to later ones; one of them also to itself, inside brackets.
fn rules(dice: &mut Dice) -> Vec<Part> {
    let count = 1 + dice.below(4);
    let mut rules: Vec<Part> = (0..count).map(|index| part(dice, 3, index + 1..count)).collect();
    if dice.once_in(2) {
        let index = dice.below(count);
        let inner = Part::All(vec![Part::Text("<"), Part::Rule(index), Part::Text(">")]);
        let plain = std::mem::replace(&mut rules[index], Part::Text("a"));
        rules[index] = Part::Any(vec![inner, plain]);
    }
    rules
}

fn write(part: &Part, out: &mut String) {
    match part {
        Part::Text(text) => {
            let escaped = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            write!(out, "\"{escaped}\"").unwrap();
        }
        Part::Class(written, _) => out.push_str(written),
        Part::Rule(index) => write!(out, "{}", name(*index)).unwrap(),
        Part::All(parts) => bracketed(parts, " ", out),
        Part::Any(parts) => bracketed(parts, " | ", out),
        Part::Repeat(part, written, ..) => {
            out.push('(');
            write_part(part, out);
            write!(out, "){written}").unwrap();
        }
    }
}

fn write_part(part: &Part, out: &mut String) {
    write(part, out);
}

fn bracketed(parts: &[Part], between: &str, out: &mut String) {
    out.push('(');
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push_str(between);
        }
        write(part, out);
    }
    out.push(')');
}

fn name(index: usize) -> String {
    if index == 0 {
        "root".to_owned()
    } else {
        format!("Rule-{index}")
    }
}

fn text_of(rules: &[Part]) -> String {
    let mut text = String::from("# a grammar\n");
    for (index, rule) in rules.iter().enumerate() {
        write!(text, "{} ::= ", name(index)).unwrap();
        write(rule, &mut text);
        text.push('\n');
    }
    text
}

/// Where a match of `part` that begins at `start` may end.
fn ends(rules: &[Part], part: &Part, text: &str, start: usize) -> BTreeSet<usize> {
    let rest = &text[start..];
    match part {
        Part::Text(literal) if rest.starts_with(literal) => BTreeSet::from([start + literal.len()]),
        Part::Class(_, chars) => match rest.chars().next() {
            Some(char) if chars.contains(char) => BTreeSet::from([start + char.len_utf8()]),
            Some(_) | None => BTreeSet::new(),
        },
        Part::Text(_) => BTreeSet::new(),
        Part::Rule(index) => ends(rules, &rules[*index], text, start),
        Part::All(parts) => parts.iter().fold(BTreeSet::from([start]), |starts, part| {
            starts
                .into_iter()
                .flat_map(|start| ends(rules, part, text, start))
                .collect()
        }),
        Part::Any(parts) => parts
            .iter()
            .flat_map(|part| ends(rules, part, text, start))
            .collect(),
        Part::Repeat(part, _, least, most) => {
            let mut found = BTreeSet::new();
            let mut starts = BTreeSet::from([start]);
            for count in 0..=*most {
                if count >= *least {
                    let before = found.len();
                    found.extend(&starts);
                    if found.len() == before && count > *least {
                        break;
                    }
                }
                starts = starts
                    .into_iter()
                    .flat_map(|start| ends(rules, part, text, start))
                    .collect();
            }
            found
        }
    }
}

#[test]
fn random_texts_are_of_their_grammars() {
    let (mut complete, mut cut, mut refused) = (0_u32, 0_u32, 0_u32);
    let first = first_seed();
    for seed in first..first + documents(12) {
        let mut dice = Dice::new(seed);
        let rules = rules(&mut dice);
        let text = text_of(&rules);
        let vocabulary = dice.of(&ALL);
        let lark = grammar_to_lark(&text).unwrap_or_else(|error| panic!("seed {seed}: {text}: {error}"));
        let grammar = match vocabulary.compiler.compile(&Constraint::Lark(lark.clone())) {
            Ok(grammar) => grammar,
            Err(GrammarError::TooComplex { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("seed {seed}: {text}{lark}: {error}"),
        };
        let drawn = match draw(vocabulary, &grammar, &mut dice, &mut |_, _| {}) {
            Ok(drawn) => drawn,
            Err(error) => panic!("seed {seed}: {text}{lark}: {error}"),
        };
        if !drawn.is_complete {
            cut += 1;
            continue;
        }
        let found = ends(&rules, &rules[0], &drawn.text, 0);
        assert!(
            found.contains(&drawn.text.len()),
            "seed {seed}: {text}{:?}",
            drawn.text
        );
        complete += 1;
    }
    println!("{complete} complete, {cut} cut, {refused} refused");
    assert!(
        complete > 4 * (cut + refused),
        "{complete} complete, {cut} cut, {refused} refused"
    );
}

#[test]
fn faults_of_a_grammar_are_told_with_their_line() {
    for (text, expected) in [
        (
            "root ::= \"a",
            "grammar, line 1: the grammar ends inside a literal",
        ),
        ("a ::= \"x\"", "grammar: has no rule named `root`"),
        (
            "root ::= other",
            "grammar: the rule `other` is used and not defined",
        ),
        (
            "root ::= \"a\"\nroot ::= \"b\"",
            "grammar: the rule `root` is defined twice",
        ),
        (
            "root ::= \"a\"\nx ::= )",
            "grammar, line 2: expected the end of the rule",
        ),
        ("root ::= [b-a]", "grammar, line 1: a range of characters"),
        ("root ::= \"a\"{2,1}", "grammar, line 1: expected repetitions"),
        (
            "root ::= \"a\"{99999}",
            "grammar, line 1: expected a number of repetitions",
        ),
        ("root ::= \"\\q\"", "grammar, line 1: unknown escape"),
        ("start: %json {}", "grammar: the directive %json is not supported"),
        (
            "%llguidance {}\nstart: \"a\"",
            "grammar: the directive %llguidance is not supported",
        ),
    ] {
        let said = grammar_to_lark(text).unwrap_err().to_string();
        assert!(said.starts_with(expected), "{text:?}: {said}");
    }
}

#[test]
fn schemas_inside_a_grammar_are_held_as_those_that_come_alone() {
    let call = |schema: &str| {
        Constraint::Lark(format!(
            "start: \"<call>\" call \"</call>\"\ncall: %json {schema}\n"
        ))
    };
    let vocabulary = &ALL[3];
    let refused = vocabulary
        .compiler
        .compile(&call(r#"{"properties": {"a": {"not": {}}}}"#))
        .map(|_| ());
    assert_eq!(
        refused.unwrap_err().to_string(),
        "#/properties/a/not: the keyword `not` is not supported"
    );
    let schema = r#"{"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"],
        "additionalProperties": false}"#;
    let grammar = vocabulary.compiler.compile(&call(schema)).unwrap();
    for seed in 0..20 {
        let drawn = draw(vocabulary, &grammar, &mut Dice::new(seed), &mut |_, _| {}).unwrap();
        let inner = drawn
            .text
            .strip_prefix("<call>")
            .and_then(|text| text.strip_suffix("</call>"));
        let document: serde_json::Value = serde_json::from_str(inner.expect("a call")).unwrap();
        assert_eq!(document["day"].as_str().map(str::len), Some(10), "{document}");
    }
}
