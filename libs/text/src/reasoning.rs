//! Reasoning and answer told apart: what stands between `<think>` and `</think>` at the beginning of a model's text, or
//! before `</think>` when the prompt has opened the block.

use crate::tools::{Watch, Watched};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of a model's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReasoningEvent {
    /// What it thinks.
    Reasoning(String),
    /// What it says.
    Content(String),
}

/// How a model marks its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasoningFormat {
    /// Between `<think>` and `</think>`.
    Think,
}

impl ReasoningFormat {
    /// Every format.
    pub const ALL: [Self; 1] = [Self::Think];

    /// Its name in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Think => "think",
        }
    }

    /// The format that a chat template knows, if it knows one.
    #[must_use]
    pub fn of_template(source: &str) -> Option<Self> {
        (source.contains(OPEN) || source.contains(CLOSE)).then_some(Self::Think)
    }

    /// Markers that a vocabulary may hold as special tokens. They must be written out for the reasoning to be found.
    #[must_use]
    pub const fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Think => &[OPEN, CLOSE],
        }
    }

    /// The marker behind the reasoning.
    #[must_use]
    pub const fn close(self) -> &'static str {
        match self {
            Self::Think => CLOSE,
        }
    }

    /// Whether a prompt ends inside a block of reasoning, so that the model goes on with it.
    #[must_use]
    pub fn is_open_in(self, prompt: &str, goes_on_with_message: bool) -> bool {
        match self {
            Self::Think => {
                let Some(open) = prompt.rfind(OPEN) else {
                    return false;
                };
                let rest = &prompt[open + OPEN.len()..];
                // What users say may hold the marker too: only at the very end is it the template's.
                !rest.contains(CLOSE) && (goes_on_with_message || rest.trim().is_empty())
            }
        }
    }
}

/// Tells reasoning and answer apart as the text comes. White space around the block is told as neither.
#[derive(Clone, Debug)]
pub struct ReasoningParser {
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// The block may open, behind white space at most.
    Before(Watch),
    /// The block is open.
    Inside {
        watch: Watch,
        /// Nothing but white space, or the marker once more, has come.
        beginning: Option<String>,
    },
    /// The block is closed; white space is passed over.
    Behind,
    Answer,
}

impl ReasoningParser {
    /// Begins inside a block that the prompt has opened, or before one that may come.
    #[must_use]
    pub fn new(is_open: bool) -> Self {
        let state = if is_open {
            inside()
        } else {
            State::Before(Watch::new(OPEN))
        };
        Self { state }
    }

    /// Whether what comes next may be reasoning.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.state {
            State::Before(_) | State::Inside { .. } => true,
            State::Behind | State::Answer => false,
        }
    }

    /// Whether the block is open.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Inside { .. })
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<ReasoningEvent> {
        let mut events = Vec::new();
        for char in text.chars() {
            self.take(char, &mut events);
        }
        events
    }

    /// The text has ended: what was held back.
    pub fn finish(&mut self) -> Vec<ReasoningEvent> {
        let mut events = Vec::new();
        match &mut self.state {
            State::Before(watch) => say(&mut events, &watch.take_held()),
            State::Inside { watch, beginning } => {
                let mut rest = beginning.take().unwrap_or_default();
                rest.push_str(&watch.take_held());
                think(&mut events, rest.trim_end());
            }
            State::Behind | State::Answer => {}
        }
        self.state = State::Answer;
        events
    }

    fn take(&mut self, char: char, events: &mut Vec<ReasoningEvent>) {
        match &mut self.state {
            State::Before(watch) => match watch.push(char) {
                Watched::Found(_) => self.state = inside(),
                Watched::Passed(text) if text.is_empty() => {}
                Watched::Passed(text) => {
                    // What is held back after this belongs to the answer as well.
                    let held = watch.take_held();
                    say(events, &text);
                    say(events, &held);
                    self.state = State::Answer;
                }
            },
            State::Inside { watch, beginning } => {
                if let Some(begun) = beginning {
                    if char.is_whitespace() && begun.is_empty() {
                        return;
                    }
                    begun.push(char);
                    if begun == OPEN {
                        // Some models open the block that the prompt has opened already.
                        begun.clear();
                        return;
                    }
                    if OPEN.starts_with(begun.as_str()) {
                        return;
                    }
                    let begun = beginning.take().unwrap_or_default();
                    return begun.chars().for_each(|char| self.take(char, events));
                }
                match watch.push(char) {
                    Watched::Found(_) => self.state = State::Behind,
                    Watched::Passed(text) => think(events, &text),
                }
            }
            State::Behind if char.is_whitespace() => {}
            State::Behind | State::Answer => {
                self.state = State::Answer;
                say(events, char.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

fn inside() -> State {
    State::Inside {
        watch: Watch::new(CLOSE),
        beginning: Some(String::new()),
    }
}

fn say(events: &mut Vec<ReasoningEvent>, text: &str) {
    match events.last_mut() {
        _ if text.is_empty() => {}
        Some(ReasoningEvent::Content(last)) => last.push_str(text),
        Some(ReasoningEvent::Reasoning(_)) | None => events.push(ReasoningEvent::Content(text.to_owned())),
    }
}

fn think(events: &mut Vec<ReasoningEvent>, text: &str) {
    match events.last_mut() {
        _ if text.is_empty() => {}
        Some(ReasoningEvent::Reasoning(last)) => last.push_str(text),
        Some(ReasoningEvent::Content(_)) | None => events.push(ReasoningEvent::Reasoning(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parted(pieces: &[&str], is_open: bool) -> (String, String) {
        let mut parser = ReasoningParser::new(is_open);
        let (mut reasoning, mut content) = (String::new(), String::new());
        let mut events: Vec<ReasoningEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        events.extend(parser.finish());
        for event in events {
            match event {
                ReasoningEvent::Reasoning(text) => reasoning.push_str(&text),
                ReasoningEvent::Content(text) => content.push_str(&text),
            }
        }
        (reasoning, content)
    }

    #[test]
    fn reasoning_stands_before_the_answer_and_nowhere_else() {
        for (text, is_open, reasoning, content) in [
            ("<think>\nSo.\n</think>\n\nYes.", false, "So.", "Yes."),
            ("\n<think>So.</think>Yes.", false, "So.", "Yes."),
            ("So.\n</think>\n\nYes.", true, "So.", "Yes."),
            ("<think>\nSo.</think>Yes.", true, "So.", "Yes."),
            ("Yes.", false, "", "Yes."),
            ("  <th", false, "", "  <th"),
            ("Yes. <think>no</think>", false, "", "Yes. <think>no</think>"),
            ("cut off </thin", true, "cut off </thin", ""),
            ("\n</think>\n\nYes.", true, "", "Yes."),
            ("a < b </think> c </think>", true, "a < b", "c </think>"),
            ("", true, "", ""),
        ] {
            assert_eq!(
                parted(&[text], is_open),
                (reasoning.to_owned(), content.to_owned()),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_cut_of_the_text_parts_it_alike(
            parts in prop::collection::vec(
                prop::sample::select(vec!["<think>", "</think>", "<", "th", "a", "é", "\n", " ", "</", "think>"]), 0..12),
            cuts in prop::collection::vec(0_usize..60, 0..6),
            is_open: bool,
        ) {
            let text = parts.concat();
            let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut)).collect();
            ends.push(text.len());
            ends.sort_unstable();
            let mut start = 0;
            let mut pieces = Vec::new();
            for end in ends {
                pieces.push(&text[start..end]);
                start = end;
            }
            prop_assert_eq!(parted(&pieces, is_open), parted(&[&text], is_open));
        }
    }

    #[test]
    fn a_prompt_that_ends_in_an_open_block_is_recognised() {
        let format = ReasoningFormat::Think;
        for (prompt, goes_on, expected) in [
            ("<|assistant|><think>\n", false, true),
            ("<|assistant|><think>\n\n</think>\n\n", false, false),
            ("say <think> please<|assistant|>", false, false),
            ("<think>half a thought", true, true),
            ("", false, false),
        ] {
            assert_eq!(format.is_open_in(prompt, goes_on), expected, "{prompt}");
        }
    }
}
