//! `{"name": …, "parameters": {…}}` as the whole answer or behind `<|python_tag|>`; several are parted by semicolons.

use super::call_object::{Arguments, CallObject, Step};
use super::watch::Watch;
use super::{Events, Names};

pub(super) const TAG: &str = "<|python_tag|>";

#[derive(Clone, Debug)]
pub(super) struct Llama3 {
    names: Names,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing but white space has come.
    Start(String),
    Text(Watch),
    /// The tag has come, and perhaps white space.
    Tagged(String),
    Call(Box<CallObject>),
    /// Between calls.
    After(String),
}

impl Llama3 {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: State::Start(String::new()),
        }
    }

    pub(super) fn push(&mut self, char: char, events: &mut Events) {
        match &mut self.state {
            State::Start(held) | State::Tagged(held) if char.is_whitespace() => held.push(char),
            State::Start(held) | State::Tagged(held) | State::After(held) if char == '{' => {
                let mut call = CallObject::new(std::mem::take(held), &self.names, Arguments::Required);
                let _more = call.push(char, events);
                self.state = State::Call(Box::new(call));
            }
            State::After(held) if char.is_whitespace() || (char == ';' && !held.contains(';')) => {
                held.push(char)
            }
            State::Start(held) | State::After(held) => {
                let mut held = std::mem::take(held);
                held.push(char);
                self.state = text();
                held.chars().for_each(|char| self.push(char, events));
            }
            State::Tagged(held) => {
                let held = std::mem::take(held);
                self.give_up(&held, char, events);
            }
            State::Text(watch) => {
                if let Some(held) = watch.push_into(char, events) {
                    self.state = State::Tagged(held);
                }
            }
            State::Call(call) => match call.push(char, events) {
                Step::More => {}
                Step::Done => self.state = State::After(String::new()),
                Step::Malformed(untold) => self.give_up(&untold, char, events),
            },
        }
    }

    pub(super) fn finish(&mut self, events: &mut Events) {
        match &mut self.state {
            State::Start(held) | State::Tagged(held) => events.content(held),
            State::Text(watch) => events.content(&watch.take_held()),
            State::Call(call) => events.content(&call.finish()),
            State::After(_) => {}
        }
    }

    fn give_up(&mut self, untold: &str, char: char, events: &mut Events) {
        events.content(untold);
        self.state = text();
        self.push(char, events);
    }
}

fn text() -> State {
    State::Text(Watch::new(TAG))
}
