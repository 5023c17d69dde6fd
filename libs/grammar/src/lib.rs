//! Texts of a given form: a constraint becomes a grammar, a grammar and the tokens so far become the set of tokens that
//! may come next.
//!
//! Everything is synchronous, and a mask is a function of the tokens alone: whoever replays the same tokens gets the same
//! masks. [`Compiler::compile`] takes up to its budget of time: call it off the async threads.

mod compiler;
mod error;
mod formats;
mod gbnf;
mod lark;
mod schema;
mod state;
mod store;
mod table;

pub use compiler::{Budget, Compiler};
pub use error::GrammarError;
pub use gbnf::grammar_to_lark;
pub use schema::check_schema;
pub use state::{Grammar, GrammarState};
pub use table::{TokenKind, TokenTable};
