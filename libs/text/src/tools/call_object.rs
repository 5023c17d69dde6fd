//! A call written as a JSON object: `{"name": …, "arguments": {…}}`, the keys in any order. Arguments are passed on as they
//! come, as soon as the name is known.

use super::scanner::{JsonScanner, Place};
use super::{Events, Names};

/// What became of a character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The object goes on.
    More,
    /// It is complete, and so is the call.
    Done,
    /// This is no call, or its rest is none. What was not passed on as a call, without the last character.
    Malformed(String),
}

/// Which object is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    /// A call without arguments may leave them out.
    MayBeLeftOut,
    /// An object without arguments is no call.
    Required,
}

/// Reads one object.
#[derive(Clone, Debug)]
pub(super) struct CallObject {
    scanner: JsonScanner,
    names: Names,
    rule: Arguments,
    /// What came before the object and belongs to the call.
    prefix: String,
    /// The object so far.
    text: String,
    /// Where in `text` the key or value under way begins.
    start: usize,
    key: String,
    name: Option<String>,
    arguments: Passed,
    /// Bytes of `text` before what nobody has been told of.
    told: usize,
}

/// How far the arguments are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Passed {
    Nothing,
    /// They came before the name.
    Held(String),
    /// The call is begun.
    Begun,
}

impl CallObject {
    /// Begins before the opening brace.
    pub(super) fn new(prefix: String, names: &Names, rule: Arguments) -> Self {
        Self {
            scanner: JsonScanner::new(),
            names: names.clone(),
            rule,
            prefix,
            text: String::new(),
            start: 0,
            key: String::new(),
            name: None,
            arguments: Passed::Nothing,
            told: 0,
        }
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, char: char, events: &mut Events) -> Step {
        let (before, depth_before) = (self.scanner.place(), self.scanner.depth());
        if !self.scanner.push(char) {
            return Step::Malformed(self.untold());
        }
        let at = self.text.len();
        self.text.push(char);
        let (after, depth) = (self.scanner.place(), self.scanner.depth());
        let is_fine = match (before, depth_before) {
            (Place::Key | Place::KeyOrEnd, 1) if after != before => {
                self.start = at;
                true
            }
            (Place::Text { is_key: true, .. }, 1) if after == Place::Colon => {
                self.key = self.decoded();
                true
            }
            (Place::Value, 1) if after != before => {
                self.start = at;
                self.value_begins(char, events)
            }
            (Place::Text { is_key: false, .. }, 1) if after == Place::CommaOrEnd => self.text_ends(events),
            _ => {
                if depth_before > 1 && self.is_argument() {
                    self.pass_on(char, events);
                }
                true
            }
        };
        if !is_fine {
            self.text.pop();
            return Step::Malformed(self.untold());
        }
        if depth > 0 {
            return Step::More;
        }
        self.end(events)
    }

    /// The text ended inside the object: what was not passed on as a call. Of a call that has begun, only its arguments
    /// are worth telling, and they are told.
    pub(super) fn finish(&self) -> String {
        match self.arguments {
            Passed::Begun => String::new(),
            Passed::Nothing | Passed::Held(_) => format!("{}{}", self.prefix, self.text),
        }
    }

    fn is_argument(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    fn value_begins(&mut self, char: char, events: &mut Events) -> bool {
        if self.key == "name" {
            return char == '"' && self.name.is_none();
        }
        if !self.is_argument() {
            return true;
        }
        if char != '{' || self.arguments != Passed::Nothing {
            return false;
        }
        self.arguments = Passed::Held(String::new());
        self.begin_if_named(events);
        self.pass_on(char, events);
        true
    }

    fn text_ends(&mut self, events: &mut Events) -> bool {
        if self.key != "name" {
            return true;
        }
        let name = self.decoded();
        if !self.names.contains(&name) {
            return false;
        }
        self.name = Some(name);
        self.begin_if_named(events);
        true
    }

    fn begin_if_named(&mut self, events: &mut Events) {
        if let (Some(name), Passed::Held(held)) = (&self.name, &self.arguments) {
            events.begin(name);
            events.arguments(held);
            self.arguments = Passed::Begun;
            self.told = self.text.len();
        }
    }

    fn pass_on(&mut self, char: char, events: &mut Events) {
        match &mut self.arguments {
            Passed::Nothing => {}
            Passed::Held(held) => held.push(char),
            Passed::Begun => {
                events.argument(char);
                self.told = self.text.len();
            }
        }
    }

    fn end(&mut self, events: &mut Events) -> Step {
        match (&self.arguments, self.rule, &self.name) {
            (Passed::Begun, _, _) => Step::Done,
            (Passed::Nothing, Arguments::MayBeLeftOut, Some(name)) => {
                events.begin(name);
                events.arguments("{}");
                Step::Done
            }
            (Passed::Nothing | Passed::Held(_), _, _) => {
                self.text.pop();
                Step::Malformed(self.untold())
            }
        }
    }

    /// The text under way, opened. What the scanner takes the parser may still refuse, such as half a surrogate pair.
    fn decoded(&self) -> String {
        serde_json::from_str(&self.text[self.start..]).unwrap_or_default()
    }

    fn untold(&self) -> String {
        match self.arguments {
            Passed::Begun => self.text[self.told.min(self.text.len())..].to_owned(),
            Passed::Nothing | Passed::Held(_) => format!("{}{}", self.prefix, self.text),
        }
    }
}
