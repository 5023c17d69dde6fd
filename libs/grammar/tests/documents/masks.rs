//! What callers rely on beside valid documents.

use vlinders_grammar::GrammarError;
use vlinders_types::{Constraint, TokenId};

use crate::dice::{Dice, documents, first_seed};
use crate::sampling::draw;
use crate::vocabularies::{ALL, letters, strict};

const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "tags": {"type": "array",
    "items": {"enum": ["a", "bb", "ccc"]}}, "n": {"type": "integer"}}, "required": ["name", "tags"], "additionalProperties": false}"#;

#[test]
fn a_state_made_again_from_the_tokens_gives_the_same_masks() {
    let first = first_seed();
    for seed in first..first + documents(5) {
        let mut dice = Dice::new(seed);
        let vocabulary = dice.of(&ALL);
        let grammar = vocabulary
            .compiler
            .compile(&Constraint::JsonSchema(SCHEMA.to_owned()))
            .unwrap();
        let drawn = draw(vocabulary, &grammar, &mut dice, &mut |_, _| {}).unwrap();
        let cut = dice.below(drawn.ids.len() + 1);
        let mut whole = grammar.state(&[]);
        let mut again = grammar.state(&[]);
        for (index, id) in drawn.ids.iter().enumerate() {
            let mask = whole.mask().unwrap();
            assert!(mask.allows(*id));
            // The second one asks for no mask before the cut, as after a hand-off or a retry.
            if index >= cut {
                assert_eq!(again.mask().unwrap(), mask, "seed {seed}");
            }
            whole.advance(*id).unwrap();
            again.advance(*id).unwrap();
        }
        assert_eq!(again.mask(), whole.mask());
    }
}

#[test]
fn further_ends_are_allowed_exactly_where_the_text_may_end() {
    let vocabulary = &ALL[3];
    let choices = Constraint::Choice(vec!["a".to_owned(), "ab".to_owned()]);
    let grammar = vocabulary.compiler.compile(&choices).unwrap();
    let (a, b) = (u32::from(b'a'), u32::from(b'b'));
    let mut state = grammar.state(&[b, 9999]);
    assert!(!state.mask().unwrap().allows(b));
    state.advance(a).unwrap();
    assert!(state.may_end() && !state.is_complete());
    let mask = state.mask().unwrap();
    assert!(mask.allows(b) && vocabulary.ends.iter().all(|end| mask.allows(*end)));
    // As an end it is no text any more.
    state.advance(b).unwrap();
    assert!(state.may_end() && !state.is_complete());
}

#[test]
fn a_token_that_is_not_allowed_is_an_error_and_not_a_document() {
    let vocabulary = &ALL[3];
    let grammar = vocabulary
        .compiler
        .compile(&Constraint::Choice(vec!["abc".to_owned()]))
        .unwrap();
    for token in [u32::from(b'x'), 5000, TokenId::MAX] {
        let mut state = grammar.state(&[]);
        assert!(state.advance(token).is_err());
        assert!(state.mask().is_err() && !state.may_end() && !state.is_complete());
    }
}

#[test]
fn a_complete_text_is_followed_by_its_end_alone() {
    let vocabulary = &ALL[3];
    let grammar = vocabulary
        .compiler
        .compile(&Constraint::Choice(vec!["a".to_owned()]))
        .unwrap();
    let mut state = grammar.state(&[]);
    state.advance(u32::from(b'a')).unwrap();
    assert!(state.is_complete() && state.may_end());
    let allowed: Vec<TokenId> = state.mask().unwrap().tokens_from(0).collect();
    assert_eq!(allowed, vocabulary.ends);
}

#[test]
fn compiled_grammars_are_kept() {
    let compiler = strict(4);
    let constraint = Constraint::Regex("a+".to_owned());
    assert!(compiler.find(&constraint).is_none());
    let grammar = compiler.compile(&constraint).unwrap();
    assert!(std::sync::Arc::ptr_eq(
        &grammar,
        &compiler.find(&constraint).unwrap()
    ));
    for number in 0..200 {
        compiler
            .compile(&Constraint::Regex(format!("a{{{number}}}b")))
            .unwrap();
    }
    assert!(compiler.find(&constraint).is_none(), "the oldest went");
}

#[test]
fn what_a_vocabulary_cannot_spell_is_refused_and_not_waited_for() {
    let vocabulary = letters();
    let refused = vocabulary.compiler.compile(&Constraint::JsonObject).map(|_| ());
    assert!(
        matches!(refused, Err(GrammarError::Invalid { .. })),
        "{refused:?}"
    );
    let grammar = vocabulary
        .compiler
        .compile(&Constraint::Regex("[a-z]7".to_owned()))
        .unwrap();
    let mut state = grammar.state(&[]);
    let letter = state.mask().unwrap().tokens_from(0).next().unwrap();
    state.advance(letter).unwrap();
    assert!(matches!(state.mask(), Err(GrammarError::DeadEnd { .. })));
}
