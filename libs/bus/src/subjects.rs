//! Subject names: dot-separated tokens, `*` for one token, `>` for the rest.

use std::fmt;
use std::sync::Arc;

/// A subject or a pattern of subjects. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

impl Subject {
    /// A subject from its text. Tokens made of outside input must have been made safe before.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a message can be sent to it: tokens without wildcards, spaces or control characters, none empty.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        let mut token_bytes = 0_usize;
        for byte in self.0.bytes() {
            match byte {
                b'.' if token_bytes == 0 => return false,
                b'.' => token_bytes = 0,
                b'*' | b'>' | 0..=b' ' | 127 => return false,
                _ => token_bytes += 1,
            }
        }
        token_bytes > 0
    }

    /// Whether it can be subscribed to: like a literal, with whole tokens `*` anywhere and `>` at the end.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        let mut tokens = self.0.split('.').peekable();
        while let Some(token) = tokens.next() {
            let last = tokens.peek().is_none();
            let plain = !token.is_empty()
                && token
                    .bytes()
                    .all(|byte| !matches!(byte, b'*' | b'>' | 0..=b' ' | 127));
            if !(plain || token == "*" || token == ">" && last) {
                return false;
            }
        }
        true
    }

    /// Whether the pattern `self` covers the literal `subject`. `>` stands for one token or more.
    #[must_use]
    pub fn matches(&self, subject: &Self) -> bool {
        let mut tokens = subject.0.split('.');
        for pattern in self.0.split('.') {
            match (pattern, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (pattern, Some(token)) if pattern == token => {}
                (_, Some(_) | None) => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether some subject is covered by both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(left), Some(right)) if left == "*" || right == "*" || left == right => {}
                (Some(_) | None, Some(_) | None) => return false,
            }
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same question answered by recursion over lists of tokens.
    fn matches_slowly(pattern: &[&str], subject: &[&str]) -> bool {
        match (pattern, subject) {
            ([], []) => true,
            ([">"], rest) => !rest.is_empty(),
            ([first, pattern @ ..], [token, subject @ ..]) => {
                (*first == "*" || first == token) && matches_slowly(pattern, subject)
            }
            ([], [_, ..]) | ([_, ..], []) => false,
        }
    }

    fn patterns() -> impl Strategy<Value = String> {
        "([ab*]\\.){0,3}[ab*>]"
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_plain_model(pattern in patterns(), subject in "([ab]\\.){0,3}[ab]") {
            let lists = (pattern.split('.').collect::<Vec<_>>(), subject.split('.').collect::<Vec<_>>());
            let expected = matches_slowly(&lists.0, &lists.1);
            prop_assert_eq!(Subject::new(&pattern).matches(&Subject::new(&subject)), expected);
        }

        #[test]
        fn patterns_that_share_a_subject_overlap(left in patterns(), right in patterns()) {
            let (left, right) = (Subject::new(left), Subject::new(right));
            // Two patterns of four tokens at most share a subject of at most five, or none.
            let tokens = ["a", "b", "c"];
            let mut subjects: Vec<String> = tokens.map(str::to_owned).to_vec();
            let mut all = subjects.clone();
            for _ in 0..4 {
                subjects = subjects.iter().flat_map(|head| tokens.map(|token| format!("{head}.{token}"))).collect();
                all.extend(subjects.iter().cloned());
            }
            let shared = all.iter().map(Subject::new).any(|subject| left.matches(&subject) && right.matches(&subject));
            prop_assert_eq!(left.overlaps(&right), shared);
        }
    }

    #[test]
    fn only_whole_tokens_are_wildcards() {
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a*", "a.>.b", "a\n"] {
            assert!(!Subject::new(bad).is_pattern(), "{bad:?}");
            assert!(!Subject::new(bad).is_literal(), "{bad:?}");
        }
        for pattern in ["*", ">", "a.*.b", "a.>"] {
            assert!(
                Subject::new(pattern).is_pattern() && !Subject::new(pattern).is_literal(),
                "{pattern:?}"
            );
        }
        assert!(Subject::new("vl.req.m.q").is_literal() && Subject::new("vl.req.m.q").is_pattern());
    }
}
