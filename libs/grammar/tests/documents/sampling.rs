//! A model that knows nothing: it draws any token the mask allows.

use vlinders_grammar::{Grammar, GrammarError};
use vlinders_types::TokenId;

use crate::dice::Dice;
use crate::vocabularies::Vocabulary;

/// From here on tokens are preferred that bring a document to its end.
const LONG: usize = 40;
/// A document this long is given up.
const LONGEST: usize = 400;

/// What came of one document.
pub struct Drawn {
    pub ids: Vec<TokenId>,
    pub text: String,
    /// It reached its end.
    pub is_complete: bool,
}

/// Draws one document. `at_each` sees the tokens so far and whether the text may end there.
pub fn draw(
    vocabulary: &Vocabulary,
    grammar: &Grammar,
    dice: &mut Dice,
    at_each: &mut dyn FnMut(&[TokenId], bool),
) -> Result<Drawn, GrammarError> {
    let mut state = grammar.state(&[]);
    let mut ids = Vec::new();
    let mut is_complete = false;
    while ids.len() < LONGEST {
        let mask = state.mask()?;
        let allowed: Vec<TokenId> = mask.tokens_from(0).collect();
        assert!(!allowed.is_empty(), "a mask without a token is an error");
        let may_end = state.may_end();
        let allows_end = vocabulary.ends.iter().any(|end| mask.allows(*end));
        assert_eq!(
            allows_end, may_end,
            "an end is allowed exactly where the text may end"
        );
        at_each(&ids, may_end);
        let rest: Vec<TokenId> = allowed
            .iter()
            .copied()
            .filter(|id| !vocabulary.ends.contains(id))
            .collect();
        let is_long = ids.len() >= LONG;
        if may_end && (rest.is_empty() || is_long || dice.once_in(6)) {
            is_complete = true;
            break;
        }
        let token = choose(vocabulary, &rest, is_long, dice);
        state.advance(token)?;
        ids.push(token);
    }
    let text = vocabulary.text(&ids);
    Ok(Drawn {
        ids,
        text,
        is_complete,
    })
}

fn choose(vocabulary: &Vocabulary, rest: &[TokenId], is_long: bool, dice: &mut Dice) -> TokenId {
    if is_long {
        // What closes strings, lists and objects, then anything that is no white space.
        for good in ["\"}]", ")", ",:\\;abc019"] {
            let closing = |id: &&TokenId| {
                let text = vocabulary.text(&[**id]);
                !text.is_empty() && text.chars().all(|char| good.contains(char))
            };
            let closers: Vec<TokenId> = rest.iter().filter(closing).copied().collect();
            if !closers.is_empty() && !dice.once_in(5) {
                return *dice.of(&closers);
            }
        }
    }
    *dice.of(rest)
}
