//! Looking for a marker in text that comes piece by piece.

use super::Events;

/// Passes text on until a marker. What may be the beginning of the marker is held back, and so is the white space before
/// it, which goes with the marker.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// ASCII; its first character does not occur in it again.
    marker: &'static str,
    spaces: String,
    /// Bytes of the marker that have come.
    matched: usize,
}

/// What became of a character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// This much is certainly no part of the marker; often nothing.
    Passed(String),
    /// It completes the marker: what was held back, the marker included.
    Found(String),
}

impl Watch {
    pub(crate) const fn new(marker: &'static str) -> Self {
        Self {
            marker,
            spaces: String::new(),
            matched: 0,
        }
    }

    /// Takes the next character.
    pub(crate) fn push(&mut self, char: char) -> Watched {
        if self.marker[self.matched..].starts_with(char) {
            self.matched += char.len_utf8();
            if self.matched < self.marker.len() {
                return Watched::Passed(String::new());
            }
            return Watched::Found(self.take_held());
        }
        let mut passed = String::new();
        if self.matched > 0 {
            passed = self.take_held();
            if self.marker.starts_with(char) {
                self.matched = char.len_utf8();
                return Watched::Passed(passed);
            }
        }
        if char.is_whitespace() {
            self.spaces.push(char);
        } else {
            passed.push_str(&std::mem::take(&mut self.spaces));
            passed.push(char);
        }
        Watched::Passed(passed)
    }

    /// What is held back, for good.
    pub(crate) fn take_held(&mut self) -> String {
        let mut held = std::mem::take(&mut self.spaces);
        held.push_str(&self.marker[..std::mem::take(&mut self.matched)]);
        held
    }

    /// Passes on what it can, and returns what is held back once the marker is found.
    pub(super) fn push_into(&mut self, char: char, events: &mut Events) -> Option<String> {
        match self.push(char) {
            Watched::Passed(text) => {
                events.content(&text);
                None
            }
            Watched::Found(held) => Some(held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(text: &str) -> (String, Option<String>, String) {
        let mut watch = Watch::new("<a>");
        let mut passed = String::new();
        for char in text.chars() {
            match watch.push(char) {
                Watched::Passed(text) => passed.push_str(&text),
                Watched::Found(held) => return (passed, Some(held), String::new()),
            }
        }
        let held = watch.take_held();
        (passed, None, held)
    }

    #[test]
    fn only_what_may_belong_to_the_marker_is_held_back() {
        let found = |passed: &str, held: &str| (passed.to_owned(), Some(held.to_owned()), String::new());
        let open = |passed: &str, held: &str| (passed.to_owned(), None, held.to_owned());
        for (text, expected) in [
            ("hi <a>", found("hi", " <a>")),
            ("<<a>", found("<", "<a>")),
            (" <b <a", open(" <b", " <a")),
            ("é \n", open("é", " \n")),
            ("<a<", open("<a", "<")),
            ("", open("", "")),
        ] {
            assert_eq!(watched(text), expected, "{text}");
        }
    }
}
