//! Stop texts: found across any cut of the text into pieces, with no more text held back than could still be part
//! of a match.

/// One stop text with the failure function of Knuth, Morris and Pratt.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// For each prefix, by its length less one: the length of its longest proper suffix that is also a prefix.
    fallback: Vec<usize>,
    /// Bytes of the pattern that the text so far ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut length = 0;
        for index in 1..bytes.len() {
            while length > 0 && bytes[index] != bytes[length] {
                length = fallback[length - 1];
            }
            length += usize::from(bytes[index] == bytes[length]);
            fallback[index] = length;
        }
        Self {
            text: text.to_owned(),
            fallback,
            matched: 0,
        }
    }

    /// Takes one more byte; true when the text now ends with the whole pattern.
    fn advance(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        self.matched == bytes.len()
    }
}

/// Looks for stop texts in a stream. The match that ends first counts; of several that end together, the longest.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that may turn out to be the beginning of a match.
    held: String,
    is_stopped: bool,
}

impl StopMatcher {
    /// Looks for `stops`; empty ones are ignored.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        let patterns = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .map(|stop| Pattern::new(stop))
            .collect();
        Self {
            patterns,
            held: String::new(),
            is_stopped: false,
        }
    }

    /// Takes the next piece of text. Returns the text that can be delivered, and the stop text if one was completed;
    /// after that nothing more is delivered.
    pub fn push(&mut self, piece: &str) -> (String, Option<String>) {
        if self.is_stopped {
            return (String::new(), None);
        }
        if self.patterns.is_empty() {
            return (piece.to_owned(), None);
        }
        let seen = self.held.len();
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        for (index, byte) in text.bytes().enumerate().skip(seen) {
            let mut longest = 0;
            for pattern in &mut self.patterns {
                if pattern.advance(byte) {
                    longest = longest.max(pattern.text.len());
                }
            }
            if longest > 0 {
                self.is_stopped = true;
                let end = index + 1;
                let stop_text = text[end - longest..end].to_owned();
                text.truncate(end - longest);
                return (text, Some(stop_text));
            }
        }
        let possible = self
            .patterns
            .iter()
            .map(|pattern| pattern.matched)
            .max()
            .unwrap_or(0);
        // A pattern begins with a whole character, so this is a boundary.
        self.held = text.split_off(text.len() - possible);
        (text, None)
    }

    /// The text still held back: the stream has ended without a match.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything delivered, and the stop text, for a text cut at `cuts`.
    fn streamed(text: &str, stops: &[String], cuts: &[usize]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(stops);
        let mut delivered = String::new();
        let mut start = 0;
        let ends = cuts.iter().copied().chain([text.len()]);
        for end in ends.filter(|end| text.is_char_boundary(*end)) {
            if end < start {
                continue;
            }
            let (piece, stop) = matcher.push(&text[start..end]);
            delivered.push_str(&piece);
            if stop.is_some() {
                assert_eq!(matcher.push("more"), (String::new(), None));
                return (delivered, stop);
            }
            start = end;
        }
        delivered.push_str(&matcher.finish());
        (delivered, None)
    }

    /// The match that ends first, of those the longest, found by looking everywhere.
    fn one_shot(text: &str, stops: &[String]) -> (String, Option<String>) {
        for end in 0..=text.len() {
            let ends_here = stops
                .iter()
                .filter(|stop| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = ends_here.max_by_key(|stop| stop.len()) {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_cut_of_the_text_finds_what_one_search_finds(
            text in "[abé🦋]{0,40}",
            stops in prop::collection::vec("[abé🦋]{0,5}", 0..4),
            mut cuts in prop::collection::vec(0_usize..80, 0..20),
        ) {
            cuts.retain(|cut| *cut <= text.len());
            cuts.sort_unstable();
            prop_assert_eq!(streamed(&text, &stops, &cuts), one_shot(&text, &stops));
        }

        // Two letters make stops that repeat, contain and end one another.
        #[test]
        fn entangled_stops_are_told_apart(
            text in "[ab]{0,60}",
            stops in prop::collection::vec("[ab]{3,9}", 1..4),
            cut in 0_usize..60,
        ) {
            prop_assert_eq!(streamed(&text, &stops, &[cut.min(text.len())]), one_shot(&text, &stops));
        }

        #[test]
        fn only_what_may_begin_a_match_is_held_back(text in "[ab]{0,30}", stop in "[ab]{1,6}") {
            let mut matcher = StopMatcher::new(std::slice::from_ref(&stop));
            let (delivered, found) = matcher.push(&text);
            prop_assume!(found.is_none());
            let longest = (0..stop.len()).rev().find(|length| text.ends_with(&stop[..*length])).unwrap_or(0);
            prop_assert_eq!(delivered.len(), text.len() - longest);
        }
    }

    #[test]
    fn a_failed_match_goes_on_from_its_longest_usable_end() {
        let stop = "aabaaaa".to_owned();
        assert_eq!(
            streamed("aabaaabaaaa", std::slice::from_ref(&stop), &[]),
            ("aaba".to_owned(), Some(stop))
        );
    }

    #[test]
    fn a_shorter_stop_that_ends_first_wins() {
        let stops = ["abc".to_owned(), "b".to_owned()];
        assert_eq!(
            streamed("xabc", &stops, &[]),
            ("xa".to_owned(), Some("b".to_owned()))
        );
    }

    #[test]
    fn the_longest_of_stops_that_end_together_wins() {
        let stops = ["THE END".to_owned(), "END".to_owned()];
        assert_eq!(
            streamed("so THE END.", &stops, &[4, 8]),
            ("so ".to_owned(), Some("THE END".to_owned()))
        );
    }
}
