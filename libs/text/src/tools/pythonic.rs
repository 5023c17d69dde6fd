//! `[name(key="value", …), …]` as the whole answer, as Python writes calls.

use super::python_call::read_call;
use super::{Events, Names};

#[derive(Clone, Debug)]
pub(super) struct Pythonic {
    names: Names,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing but white space has come.
    Start(String),
    /// A call under way.
    Call(Call),
    /// Behind a call.
    After(String),
    /// Behind the list.
    Over(String),
    /// All of it is content.
    Text,
}

/// A call, kept until it is complete: Python's way of writing values is not the one arguments are told in.
#[derive(Clone, Debug, Default)]
struct Call {
    /// What came before it and belongs to the list.
    prefix: String,
    text: String,
    /// Parentheses, brackets and braces that are open.
    depth: usize,
    quote: Option<char>,
    is_escaped: bool,
}

impl Pythonic {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: State::Start(String::new()),
        }
    }

    pub(super) fn push(&mut self, char: char, events: &mut Events) {
        match &mut self.state {
            State::Start(held) | State::After(held) | State::Over(held) if char.is_whitespace() => {
                held.push(char)
            }
            State::Start(held) if char == '[' => {
                held.push(char);
                self.state = call_after(std::mem::take(held));
            }
            State::After(held) if char == ',' => {
                held.push(char);
                self.state = call_after(std::mem::take(held));
            }
            State::After(_) if char == ']' => self.state = State::Over(String::new()),
            State::Start(held) | State::After(held) | State::Over(held) => {
                let held = std::mem::take(held);
                self.give_up(&held, char, events);
            }
            State::Call(call) => {
                if !call.may_take(char) {
                    let untold = call.untold();
                    return self.give_up(&untold, char, events);
                }
                call.take(char);
                if char == ')' && call.depth == 0 && call.quote.is_none() {
                    self.end_call(events);
                }
            }
            State::Text => events.content_char(char),
        }
    }

    pub(super) fn finish(&mut self, events: &mut Events) {
        match &self.state {
            State::Start(held) => events.content(held),
            State::Call(call) => events.content(&call.untold()),
            State::After(_) | State::Over(_) | State::Text => {}
        }
    }

    fn end_call(&mut self, events: &mut Events) {
        let State::Call(call) = &self.state else { return };
        match read_call(call.text.trim()) {
            Some((name, arguments)) if self.names.contains(&name) => {
                events.begin(&name);
                events.arguments(&arguments);
                self.state = State::After(String::new());
            }
            Some(_) | None => {
                events.content(&call.untold());
                self.state = State::Text;
            }
        }
    }

    fn give_up(&mut self, untold: &str, char: char, events: &mut Events) {
        events.content(untold);
        self.state = State::Text;
        self.push(char, events);
    }
}

fn call_after(prefix: String) -> State {
    State::Call(Call {
        prefix,
        ..Call::default()
    })
}

impl Call {
    fn untold(&self) -> String {
        format!("{}{}", self.prefix, self.text)
    }

    /// Before its parenthesis a call is a name: other texts in brackets are recognised at once.
    fn may_take(&self, char: char) -> bool {
        if self.depth > 0 {
            return true;
        }
        let name = self.text.trim_start();
        match char {
            '(' => !name.is_empty(),
            ' ' | '\n' | '\t' | '\r' => name.is_empty(),
            '0'..='9' | '.' | '-' => !name.is_empty(),
            char => char.is_ascii_alphabetic() || char == '_',
        }
    }

    fn take(&mut self, char: char) {
        self.text.push(char);
        match (self.quote, char) {
            (Some(_), _) if self.is_escaped => self.is_escaped = false,
            (Some(_), '\\') => self.is_escaped = true,
            (Some(quote), _) if quote == char => self.quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => self.quote = Some(char),
            (None, '(' | '[' | '{') => self.depth += 1,
            (None, ')' | ']' | '}') => self.depth = self.depth.saturating_sub(1),
            (None, _) => {}
        }
    }
}
