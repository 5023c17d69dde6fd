//! `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, and the newer `[TOOL_CALLS]name[ARGS]{…}`, any number of times.

use super::call_object::{Arguments, CallObject, Step};
use super::scanner::{JsonScanner, Place};
use super::watch::Watch;
use super::{Events, Names};

pub(super) const OPEN: &str = "[TOOL_CALLS]";
pub(super) const ARGS: &str = "[ARGS]";
pub(super) const CALL_ID: &str = "[CALL_ID]";

#[derive(Clone, Debug)]
pub(super) struct Mistral {
    names: Names,
    state: State,
    /// Nothing was said since the last call: white space at the end is no content.
    is_after_call: bool,
}

#[derive(Clone, Debug)]
enum State {
    Text(Watch),
    /// The marker has come, and perhaps white space.
    Opened(String),
    /// In the list, before an object.
    Item(String),
    Call(Box<CallObject>),
    /// In the list, after an object.
    AfterItem(String),
    /// The function's name, and behind it a marker, an id, white space: all of it, and the name alone.
    Named {
        held: String,
        name: String,
        is_over: bool,
    },
    Arguments(JsonScanner),
}

impl Mistral {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: text(),
            is_after_call: false,
        }
    }

    pub(super) fn push(&mut self, char: char, events: &mut Events) {
        match &mut self.state {
            State::Text(watch) => {
                let said = events.said();
                if let Some(held) = watch.push_into(char, events) {
                    self.state = State::Opened(held);
                } else if events.said() != said {
                    self.is_after_call = false;
                }
            }
            State::Opened(held) | State::Item(held) | State::AfterItem(held) if char.is_whitespace() => {
                held.push(char)
            }
            State::Opened(held) if char == '[' => {
                held.push(char);
                self.state = State::Item(std::mem::take(held));
            }
            State::Opened(held) if is_of_name(char) => {
                let mut held = std::mem::take(held);
                held.push(char);
                self.state = State::Named {
                    held,
                    name: char.to_string(),
                    is_over: false,
                };
            }
            State::Item(held) if char == '{' => {
                let mut call = CallObject::new(std::mem::take(held), &self.names, Arguments::MayBeLeftOut);
                let _more = call.push(char, events);
                self.state = State::Call(Box::new(call));
            }
            State::AfterItem(held) if char == ',' => {
                held.push(char);
                self.state = State::Item(std::mem::take(held));
            }
            State::AfterItem(_) if char == ']' => self.call_ended(),
            State::Opened(held) | State::Item(held) | State::AfterItem(held) => {
                let held = std::mem::take(held);
                self.give_up(&held, char, events);
            }
            State::Call(call) => match call.push(char, events) {
                Step::More => {}
                Step::Done => self.state = State::AfterItem(String::new()),
                Step::Malformed(untold) => self.give_up(&untold, char, events),
            },
            State::Named { held, name, is_over } => {
                if !*is_over && is_of_name(char) {
                    held.push(char);
                    name.push(char);
                } else if char == '{' {
                    let (held, name) = (std::mem::take(held), std::mem::take(name));
                    self.begin_arguments(&held, &name, events);
                } else if may_follow_name(held, name, char) {
                    held.push(char);
                    *is_over = true;
                } else {
                    let held = std::mem::take(held);
                    self.give_up(&held, char, events);
                }
            }
            State::Arguments(scanner) => {
                if !scanner.push(char) {
                    return self.give_up("", char, events);
                }
                events.argument(char);
                if scanner.place() == Place::Done {
                    self.call_ended();
                }
            }
        }
    }

    /// The newer form, at its opening brace.
    fn begin_arguments(&mut self, held: &str, name: &str, events: &mut Events) {
        let rest = behind_name(held, name).trim();
        let is_whole = rest.is_empty() || rest == ARGS || (rest.starts_with(CALL_ID) && rest.ends_with(ARGS));
        if !is_whole || !self.names.contains(name) {
            return self.give_up(held, '{', events);
        }
        events.begin(name);
        events.argument('{');
        let mut scanner = JsonScanner::new();
        scanner.push('{');
        self.state = State::Arguments(scanner);
    }

    pub(super) fn finish(&mut self, events: &mut Events) {
        match &mut self.state {
            State::Text(watch) => {
                let held = watch.take_held();
                if !(self.is_after_call && held.trim().is_empty()) {
                    events.content(&held);
                }
            }
            State::Opened(held) | State::Named { held, .. } => events.content(held),
            State::Call(call) => events.content(&call.finish()),
            // Between calls there is nothing to say; a list without any is said.
            State::Item(held) if held.contains(OPEN) => events.content(held),
            State::Item(_) | State::AfterItem(_) | State::Arguments(_) => {}
        }
    }

    fn call_ended(&mut self) {
        (self.state, self.is_after_call) = (text(), true);
    }

    fn give_up(&mut self, untold: &str, char: char, events: &mut Events) {
        events.content(untold);
        (self.state, self.is_after_call) = (text(), false);
        self.push(char, events);
    }
}

fn text() -> State {
    State::Text(Watch::new(OPEN))
}

fn is_of_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.')
}

/// What has come since the name.
fn behind_name<'a>(held: &'a str, name: &str) -> &'a str {
    let start = held.find(OPEN).map_or(0, |at| at + OPEN.len());
    held[start..].trim_start().strip_prefix(name).unwrap_or_default()
}

/// Whether what stands behind the name can still become `[ARGS]`, with a call's id before it or without.
fn may_follow_name(held: &str, name: &str, char: char) -> bool {
    let mut rest = behind_name(held, name).trim_start().to_owned();
    rest.push(char);
    let rest = rest.trim_start();
    if ARGS.starts_with(rest) || CALL_ID.starts_with(rest) || rest.is_empty() {
        return true;
    }
    if let Some(blank) = rest.strip_prefix(ARGS) {
        return blank.trim().is_empty();
    }
    let Some(behind) = rest.strip_prefix(CALL_ID) else {
        return false;
    };
    match behind.find('[') {
        None => behind.chars().all(|char| char.is_ascii_alphanumeric()),
        Some(at) => ARGS.starts_with(&behind[at..]) || behind[at..].trim_end() == ARGS,
    }
}
