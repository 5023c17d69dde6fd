//! Subject names: dot-separated tokens, `*` for one token, `>` for the rest.

use std::fmt;

/// A subject or a pattern of subjects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject(String);

impl Subject {
    /// A subject from its text. Tokens made of outside input go through [`Subject::token`] first.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Makes any text fit to be one token: what has a meaning in subjects becomes `_`.
    #[must_use]
    pub fn token(text: &str) -> String {
        text.chars()
            .map(|char| {
                if char.is_ascii_alphanumeric() || char == '-' {
                    char
                } else {
                    '_'
                }
            })
            .collect()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
