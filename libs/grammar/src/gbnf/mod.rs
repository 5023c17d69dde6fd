//! Grammars as clients write them: in the notation with `::=`, which is translated, or in the parser's own.
//!
//! - `read.rs`: text to rules
//! - `write.rs`: rules to the parser's notation

mod read;
mod write;

use crate::GrammarError;
use crate::lark::check_depth;

/// The names with which a grammar would leave its own language or change how it is enforced.
const DIRECTIVES: [&str; 4] = ["%llguidance", "%json", "%lark", "%declare"];

/// A client's grammar in the parser's notation. One with `::=` is translated; any other is in that notation already.
///
/// # Errors
/// When the grammar is malformed, nests too deep, or uses a directive that clients may not.
pub fn grammar_to_lark(text: &str) -> Result<String, GrammarError> {
    check_depth(text)?;
    if text.contains("::=") {
        return write::lark(&read::grammar(text)?);
    }
    if let Some(directive) = DIRECTIVES.into_iter().find(|directive| text.contains(directive)) {
        return Err(GrammarError::invalid(
            "grammar",
            format!("the directive {directive} is not supported"),
        ));
    }
    Ok(text.to_owned())
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// Exactly this text.
    Literal(String),
    /// A regular expression for one character.
    Class(String),
    /// What the rule with this index stands for.
    Rule(usize),
    /// One after the other; empty is the empty text.
    Sequence(Vec<Part>),
    /// One of them.
    Choice(Vec<Part>),
    /// At least so often, at most so often.
    Repeat(Box<Part>, u32, Option<u32>),
}

/// Rules in the order in which they were first named.
struct Rules {
    bodies: Vec<Part>,
    root: usize,
}
