//! Random regular expressions and choices.

use regex::Regex;
use vlinders_grammar::GrammarError;
use vlinders_types::Constraint;

use crate::dice::{Dice, documents, first_seed};
use crate::sampling::draw;
use crate::vocabularies::ALL;

/// A random regular expression.
fn regex(dice: &mut Dice, depth: usize) -> String {
    let kinds = if depth == 0 { 5 } else { 10 };
    match dice.below(kinds) {
        0 => (*dice.of(&[
            "a", "bc", "é", "漢字", "🦋", "/", "yes", " ", r"\n", r"\.", r"\{", "\"",
        ]))
        .to_owned(),
        1 => (*dice.of(&["[a-z]", "[^a-z\"]", "[0-9é]", r"[\w-]", r"[\]\\]", "[A-Ca-c]"])).to_owned(),
        2 => (*dice.of(&[r"\d", r"\w", r"\s", ".", r"\D", r"\S"])).to_owned(),
        3 => format!("(?i:{})", dice.of(&["abc", "Yes", "x1"])),
        4 => String::new(),
        5 | 6 => format!("{}{}", regex(dice, depth - 1), regex(dice, depth - 1)),
        7 => format!("({}|{})", regex(dice, depth - 1), regex(dice, depth - 1)),
        8 => format!(
            "(?:{}){}",
            regex(dice, depth - 1),
            dice.of(&["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}"])
        ),
        _ => format!("({})", regex(dice, depth - 1)),
    }
}

#[test]
fn random_texts_match_their_regular_expressions_and_may_end_exactly_where_those_match() {
    let (mut complete, mut cut, mut refused) = (0_u32, 0_u32, 0_u32);
    let first = first_seed();
    for seed in first..first + documents(20) {
        let mut dice = Dice::new(seed);
        let mut pattern = regex(&mut dice, 4);
        let oracle = Regex::new(&format!("^(?:{pattern})$")).unwrap();
        if dice.once_in(4) && !pattern.contains('|') {
            pattern = format!("^{pattern}$");
        }
        let vocabulary = dice.of(&ALL);
        let grammar = match vocabulary.compiler.compile(&Constraint::Regex(pattern.clone())) {
            Ok(grammar) => grammar,
            Err(GrammarError::Invalid { .. } | GrammarError::TooComplex { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("seed {seed}: {pattern}: {error}"),
        };
        let mut at_each = |ids: &[u32], may_end: bool| {
            let text = vocabulary.text(ids);
            // Between two bytes of a character nothing can be compared.
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                assert_eq!(
                    oracle.is_match(&text),
                    may_end,
                    "seed {seed}: {pattern:?}: {text:?}"
                );
            }
        };
        let drawn = draw(vocabulary, &grammar, &mut dice, &mut at_each).unwrap();
        if drawn.is_complete {
            assert!(
                oracle.is_match(&drawn.text),
                "seed {seed}: {pattern:?}: {:?}",
                drawn.text
            );
            complete += 1;
        } else {
            cut += 1;
        }
    }
    println!("{complete} complete, {cut} cut, {refused} refused");
    assert!(
        complete > 10 * (cut + refused),
        "{complete} complete, {cut} cut, {refused} refused"
    );
}

#[test]
fn random_choices_are_of_the_list_and_all_of_it_is_reached() {
    let alphabet = [
        "a", "b", "\"", "\\", "/", "\n", "é", "🦋", "(", "*", "{", "}", "x", " ", "\u{7}", "漢字", "yes",
    ];
    let first = first_seed();
    for seed in first..first + documents(12) {
        let mut dice = Dice::new(seed);
        let choices: Vec<String> = (0..=dice.below(6))
            .map(|_| (0..dice.below(5)).map(|_| *dice.of(&alphabet)).collect())
            .collect();
        let vocabulary = dice.of(&ALL);
        let grammar = vocabulary
            .compiler
            .compile(&Constraint::Choice(choices.clone()))
            .unwrap();
        let mut at_each = |ids: &[u32], may_end: bool| {
            let text = vocabulary.text(ids);
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                assert_eq!(
                    choices.contains(&text),
                    may_end,
                    "seed {seed}: {choices:?}: {text:?}"
                );
                assert!(
                    choices.iter().any(|choice| choice.starts_with(&text)),
                    "seed {seed}: {choices:?}: {text:?}"
                );
            }
        };
        let drawn = draw(vocabulary, &grammar, &mut dice, &mut at_each).unwrap();
        assert!(
            drawn.is_complete && choices.contains(&drawn.text),
            "seed {seed}: {choices:?}: {:?}",
            drawn.text
        );
    }
}
