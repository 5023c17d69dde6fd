//! Rules to the parser's notation.
//!
//! The parser cuts a text into lexemes, the longest that fits, and only then looks at rules. So whatever does not refer
//! to itself becomes one regular expression, where nothing is cut; only rules in a circle stay rules.

use std::fmt::Write;

use super::{Part, Rules};
use crate::GrammarError;
use crate::lark::literal;

/// Bytes of one rule as a regular expression at most: what is larger stays a rule.
const LONGEST_REGEX: usize = 16 << 10;
/// Bytes of the whole at most.
const LONGEST_GRAMMAR: usize = 1 << 20;

pub(super) fn lark(rules: &Rules) -> Result<String, GrammarError> {
    let mut writer = Writer {
        rules,
        regexes: vec![Form::Unknown; rules.bodies.len()],
        text: String::new(),
        lexemes: 0,
    };
    for index in 0..rules.bodies.len() {
        writer.form(index, 0)?;
    }
    writer.begin(rules.root)?;
    for index in 0..rules.bodies.len() {
        if writer.regexes[index] == Form::Rule {
            let body = writer.part(&rules.bodies[index])?;
            writeln!(writer.text, "r{index}: {body}").expect("a string takes all that is written");
        }
        if writer.text.len() > LONGEST_GRAMMAR {
            return Err(GrammarError::TooComplex {
                reason: "its rules are too long together".to_owned(),
            });
        }
    }
    Ok(writer.text)
}

/// How a rule is written.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Unknown,
    /// It is being looked at.
    Open,
    /// As a regular expression, and whether that matches the empty text.
    Regex(String, bool),
    /// It refers to itself, or is too long.
    Rule,
}

struct Writer<'a> {
    rules: &'a Rules,
    regexes: Vec<Form>,
    text: String,
    lexemes: usize,
}

impl Writer<'_> {
    /// Decides how a rule is written.
    fn form(&mut self, index: usize, depth: usize) -> Result<(), GrammarError> {
        const DEEPEST: usize = 500;
        match self.regexes[index] {
            Form::Regex(..) | Form::Rule => return Ok(()),
            // Whoever comes back to a rule that is being looked at goes in a circle.
            Form::Open => {
                self.regexes[index] = Form::Rule;
                return Ok(());
            }
            Form::Unknown => self.regexes[index] = Form::Open,
        }
        if depth > DEEPEST {
            return Err(GrammarError::invalid(
                "grammar",
                format!("rules refer to one another deeper than {DEEPEST}"),
            ));
        }
        let rules = self.rules;
        let mut used = Vec::new();
        used_rules(&rules.bodies[index], &mut used);
        for inner in used {
            self.form(inner, depth + 1)?;
        }
        let regex = self.regex(&rules.bodies[index]);
        if self.regexes[index] == Form::Open {
            self.regexes[index] = match regex {
                Some((regex, is_nullable)) if regex.len() <= LONGEST_REGEX => Form::Regex(regex, is_nullable),
                Some(_) | None => Form::Rule,
            };
        }
        Ok(())
    }

    /// A part as a regular expression, and whether it matches the empty text. None when it refers to a rule that stays one.
    fn regex(&self, part: &Part) -> Option<(String, bool)> {
        Some(match part {
            Part::Literal(text) => (literal(text), text.is_empty()),
            Part::Class(class) => (class.clone(), false),
            Part::Rule(index) => match &self.regexes[*index] {
                Form::Regex(regex, is_nullable) => (format!("({regex})"), *is_nullable),
                Form::Unknown | Form::Open | Form::Rule => return None,
            },
            Part::Sequence(parts) => {
                let parts: Option<Vec<_>> = parts.iter().map(|part| self.regex(part)).collect();
                let parts = parts?;
                let is_nullable = parts.iter().all(|(_, is_nullable)| *is_nullable);
                (
                    parts.iter().map(|(regex, _)| format!("({regex})")).collect(),
                    is_nullable,
                )
            }
            Part::Choice(parts) => {
                let parts: Option<Vec<_>> = parts.iter().map(|part| self.regex(part)).collect();
                let parts = parts?;
                let regexes: Vec<&str> = parts.iter().map(|(regex, _)| regex.as_str()).collect();
                (
                    format!("({})", regexes.join("|")),
                    parts.iter().any(|(_, is_nullable)| *is_nullable),
                )
            }
            Part::Repeat(part, least, most) => {
                let (regex, is_nullable) = self.regex(part)?;
                (
                    format!("({regex}){}", bounds(*least, *most)),
                    is_nullable || *least == 0,
                )
            }
        })
    }

    /// The rule where texts begin.
    fn begin(&mut self, root: usize) -> Result<(), GrammarError> {
        let body = match self.regexes[root].clone() {
            // Where nothing else is, a lexeme may match the empty text.
            Form::Regex(regex, _) => format!("/{regex}/"),
            Form::Unknown | Form::Open | Form::Rule => format!("r{root}"),
        };
        if body == "//" {
            return Err(GrammarError::invalid("grammar", "allows only the empty text"));
        }
        writeln!(self.text, "start: {body}").expect("a string takes all that is written");
        Ok(())
    }

    /// A part inside a rule that stays one.
    fn part(&mut self, part: &Part) -> Result<String, GrammarError> {
        if let Some((regex, is_nullable)) = self.regex(part) {
            return Ok(self.lexeme(&regex, is_nullable));
        }
        Ok(match part {
            Part::Literal(text) => self.lexeme(&literal(text), text.is_empty()),
            Part::Class(class) => self.lexeme(class, false),
            Part::Rule(index) => format!("r{index}"),
            Part::Sequence(parts) => {
                let parts: Result<Vec<_>, _> = parts.iter().map(|part| self.part(part)).collect();
                format!("({})", parts?.join(" "))
            }
            Part::Choice(parts) => {
                let parts: Result<Vec<_>, _> = parts.iter().map(|part| self.part(part)).collect();
                format!("({})", parts?.join(" | "))
            }
            Part::Repeat(part, least, most) => format!("({}){}", self.part(part)?, bounds(*least, *most)),
        })
    }

    /// A name for a regular expression. Lexemes are never empty: what may be is written as one that may be left out.
    fn lexeme(&mut self, regex: &str, is_nullable: bool) -> String {
        if regex.is_empty() || regex.bytes().all(|byte| matches!(byte, b'(' | b')')) {
            return "\"\"".to_owned();
        }
        self.lexemes += 1;
        let name = format!("T{}", self.lexemes);
        let not_empty = if is_nullable { " & /(?s:.+)/" } else { "" };
        writeln!(self.text, "{name}: /{regex}/{not_empty}").expect("a string takes all that is written");
        if is_nullable { format!("({name})?") } else { name }
    }
}

fn bounds(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

fn used_rules(part: &Part, used: &mut Vec<usize>) {
    match part {
        Part::Literal(_) | Part::Class(_) => {}
        Part::Rule(index) => used.push(*index),
        Part::Sequence(parts) | Part::Choice(parts) => parts.iter().for_each(|part| used_rules(part, used)),
        Part::Repeat(part, ..) => used_rules(part, used),
    }
}
