//! Text to rules.

use std::collections::HashMap;

use super::{Part, Rules};
use crate::GrammarError;
use crate::lark::push_escaped;

/// Rules of a grammar at most.
const MOST_RULES: usize = 2000;
/// Repetitions that are counted at most.
const MOST_REPEATS: u32 = 10_000;

/// Reads all rules. The one named `root` is where texts begin.
pub(super) fn grammar(text: &str) -> Result<Rules, GrammarError> {
    let mut reader = Reader {
        text,
        at: 0,
        indexes: HashMap::new(),
        names: Vec::new(),
        bodies: Vec::new(),
    };
    reader.space(true);
    while !reader.is_done() {
        reader.rule()?;
        reader.space(true);
    }
    let mut bodies = Vec::with_capacity(reader.names.len());
    for (name, body) in reader.names.iter().zip(reader.bodies) {
        let missing =
            || GrammarError::invalid("grammar", format!("the rule `{name}` is used and not defined"));
        bodies.push(body.ok_or_else(missing)?);
    }
    let root = reader.indexes.get("root").copied();
    let root = root.ok_or_else(|| GrammarError::invalid("grammar", "has no rule named `root`"))?;
    Ok(Rules { bodies, root })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    indexes: HashMap<String, usize>,
    names: Vec<String>,
    bodies: Vec<Option<Part>>,
}

impl Reader<'_> {
    fn rule(&mut self) -> Result<(), GrammarError> {
        let name = self.name()?;
        self.space(false);
        if !self.takes("::=") {
            return self.fault("expected `::=` after the rule's name");
        }
        self.space(true);
        let body = self.choice(false)?;
        if !self.is_done() && !matches!(self.peek(), Some('\n' | '\r')) {
            return self.fault("expected the end of the rule");
        }
        let index = self.index_of(name)?;
        if self.bodies[index].replace(body).is_some() {
            let name = &self.names[index];
            return Err(GrammarError::invalid(
                "grammar",
                format!("the rule `{name}` is defined twice"),
            ));
        }
        Ok(())
    }

    fn choice(&mut self, is_inside: bool) -> Result<Part, GrammarError> {
        let mut options = vec![self.sequence(is_inside)?];
        loop {
            // A rule may go on in the next line when that begins with a bar.
            let before = self.at;
            self.space(true);
            if !self.takes("|") {
                if !is_inside {
                    self.at = before;
                }
                break;
            }
            self.space(true);
            options.push(self.sequence(is_inside)?);
        }
        Ok(match options.len() {
            1 => options.remove(0),
            _ => Part::Choice(options),
        })
    }

    fn sequence(&mut self, is_inside: bool) -> Result<Part, GrammarError> {
        let mut parts = Vec::new();
        loop {
            self.space(is_inside);
            let part = match self.peek() {
                Some('"') => Part::Literal(self.literal()?),
                Some('[') => Part::Class(self.class()?),
                Some('.') => {
                    self.at += 1;
                    Part::Class("(?s:.)".to_owned())
                }
                Some('(') => {
                    self.at += 1;
                    let inner = self.choice(true)?;
                    if !self.takes(")") {
                        return self.fault("expected `)`");
                    }
                    inner
                }
                Some(char) if char.is_ascii_alphanumeric() || char == '_' => {
                    let name = self.name()?;
                    Part::Rule(self.index_of(name)?)
                }
                _ => break,
            };
            parts.push(self.repeated(part)?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Part::Sequence(parts),
        })
    }

    fn repeated(&mut self, mut part: Part) -> Result<Part, GrammarError> {
        loop {
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.at += 1;
                    let bounds = self.bounds()?;
                    part = Part::Repeat(Box::new(part), bounds.0, bounds.1);
                    continue;
                }
                _ => return Ok(part),
            };
            self.at += 1;
            part = Part::Repeat(Box::new(part), least, most);
        }
    }

    /// `m}`, `m,}` or `m,n}`.
    fn bounds(&mut self) -> Result<(u32, Option<u32>), GrammarError> {
        let least = self.number()?;
        let most = match self.takes(",") {
            true if self.peek() == Some('}') => None,
            true => Some(self.number()?),
            false => Some(least),
        };
        if !self.takes("}") || most.is_some_and(|most| most < least) {
            return self.fault("expected repetitions such as {2}, {2,} or {2,5}");
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Result<u32, GrammarError> {
        let digits: String = self.rest().chars().take_while(char::is_ascii_digit).collect();
        self.at += digits.len();
        match digits.parse() {
            Ok(number) if number <= MOST_REPEATS => Ok(number),
            Ok(_) | Err(_) => self.fault(&format!("expected a number of repetitions up to {MOST_REPEATS}")),
        }
    }

    fn literal(&mut self) -> Result<String, GrammarError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.char()? {
                ('"', false) => return Ok(text),
                (char, _) => text.push(char),
            }
        }
    }

    fn class(&mut self) -> Result<String, GrammarError> {
        self.at += 1;
        let mut class = String::from("[");
        if self.takes("^") {
            class.push('^');
        }
        let mut is_empty = true;
        loop {
            let first = match self.char()? {
                (']', false) => break,
                (char, _) => char,
            };
            is_empty = false;
            push_escaped(&mut class, first);
            if self.peek() == Some('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                let (last, _) = self.char()?;
                if last < first {
                    return self.fault("a range of characters ends before it begins");
                }
                class.push('-');
                push_escaped(&mut class, last);
            }
        }
        if is_empty {
            return self.fault("a class of characters is empty");
        }
        class.push(']');
        Ok(class)
    }

    /// The next character of a literal or a class, and whether it was escaped.
    fn char(&mut self) -> Result<(char, bool), GrammarError> {
        let Some(char) = self.peek() else {
            return self.fault("the grammar ends inside a literal or a class");
        };
        self.at += char.len_utf8();
        if char == '\n' {
            return self.fault("a line ends inside a literal or a class");
        }
        if char != '\\' {
            return Ok((char, false));
        }
        let escape = self.peek().unwrap_or('\n');
        self.at += escape.len_utf8().min(self.rest().len());
        let plain = match escape {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'x' => self.code(2)?,
            'u' => self.code(4)?,
            'U' => self.code(8)?,
            _ if escape.is_ascii_punctuation() => escape,
            _ => return self.fault("unknown escape"),
        };
        Ok((plain, true))
    }

    fn code(&mut self, digits: usize) -> Result<char, GrammarError> {
        let code = self
            .rest()
            .get(..digits)
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let char = code
            .and_then(|code| u32::from_str_radix(code, 16).ok())
            .and_then(char::from_u32);
        let Some(char) = char else {
            return self.fault("expected the hexadecimal number of a character");
        };
        self.at += digits;
        Ok(char)
    }

    fn name(&mut self) -> Result<String, GrammarError> {
        let is_part = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
        let name: String = self.rest().chars().take_while(is_part).collect();
        if name.is_empty() {
            return self.fault("expected the name of a rule");
        }
        self.at += name.len();
        Ok(name)
    }

    fn index_of(&mut self, name: String) -> Result<usize, GrammarError> {
        if let Some(index) = self.indexes.get(&name) {
            return Ok(*index);
        }
        let index = self.names.len();
        if index == MOST_RULES {
            return self.fault(&format!("more than {MOST_RULES} rules"));
        }
        self.names.push(name.clone());
        self.bodies.push(None);
        self.indexes.insert(name, index);
        Ok(index)
    }

    /// Passes over space and comments, and over ends of lines where a rule may go on.
    fn space(&mut self, lines: bool) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => self.at += 1,
                Some('\n' | '\r') if lines => self.at += 1,
                Some('#') => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                _ => return,
            }
        }
    }

    fn takes(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        if found {
            self.at += what.len();
        }
        found
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn is_done(&self) -> bool {
        self.at >= self.text.len()
    }

    fn fault<T>(&self, what: &str) -> Result<T, GrammarError> {
        let line = self.text[..self.at.min(self.text.len())].matches('\n').count() + 1;
        Err(GrammarError::invalid(format!("grammar, line {line}"), what))
    }
}
