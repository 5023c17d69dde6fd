//! `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of times, text before and between.

use super::call_object::{Arguments, CallObject, Step};
use super::watch::Watch;
use super::{Events, Names};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

#[derive(Clone, Debug)]
pub(super) struct Hermes {
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
    Call(Box<CallObject>),
    /// The closing marker must come, perhaps after white space.
    Closing(String),
}

impl Hermes {
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
            State::Opened(held) if char.is_whitespace() => held.push(char),
            State::Opened(held) if char == '{' => {
                let mut call = CallObject::new(std::mem::take(held), &self.names, Arguments::MayBeLeftOut);
                let _more = call.push(char, events);
                self.state = State::Call(Box::new(call));
            }
            State::Opened(held) => {
                let held = std::mem::take(held);
                self.give_up(&held, char, events);
            }
            State::Call(call) => match call.push(char, events) {
                Step::More => {}
                Step::Done => self.state = State::Closing(String::new()),
                Step::Malformed(untold) => self.give_up(&untold, char, events),
            },
            State::Closing(held) => {
                held.push(char);
                let begun = held.trim_start();
                if begun == CLOSE {
                    (self.state, self.is_after_call) = (text(), true);
                } else if !CLOSE.starts_with(begun) {
                    let held = std::mem::take(held);
                    (self.state, self.is_after_call) = (text(), true);
                    held.chars().for_each(|char| self.push(char, events));
                }
            }
        }
    }

    pub(super) fn finish(&mut self, events: &mut Events) {
        match &mut self.state {
            State::Text(watch) => {
                let held = watch.take_held();
                if !(self.is_after_call && held.trim().is_empty()) {
                    events.content(&held);
                }
            }
            State::Opened(held) => events.content(held),
            State::Call(call) => events.content(&call.finish()),
            // The call is complete; only its end was not written out.
            State::Closing(_) => {}
        }
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
