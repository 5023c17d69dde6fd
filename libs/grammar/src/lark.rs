//! Constraints as texts of the parser's grammar language.

use std::fmt::Write;

use serde_json::Value;

use crate::{GrammarError, schema};

/// Brackets inside brackets at most: the parser of grammars goes as deep as they do.
const DEEPEST: usize = 128;

/// A grammar of the texts that `regex` matches as a whole.
pub(crate) fn of_regex(regex: &str) -> Result<String, GrammarError> {
    let regex = without_anchors(regex);
    check_depth(regex).map_err(|_| too_deep("regular expression"))?;
    Ok(format!("start: /{}/\n", inside_slashes(regex)))
}

/// A grammar of exactly these texts.
pub(crate) fn of_choice(texts: &[String]) -> Result<String, GrammarError> {
    if texts.is_empty() {
        return Err(GrammarError::invalid("choice", "has no text"));
    }
    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    Ok(format!("start: /({})/\n", texts.join("|")))
}

/// A grammar whose schemas are checked, and told to the parser as those that come alone. Only grammars made by the service
/// itself have any.
pub(crate) fn with_schemas(text: &str) -> Result<String, GrammarError> {
    const DIRECTIVE: &str = "%json";
    check_depth(text)?;
    let (mut prepared, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(DIRECTIVE) {
        let (before, schema) = rest.split_at(at + DIRECTIVE.len());
        let mut values = serde_json::Deserializer::from_str(schema).into_iter::<Value>();
        let Some(Ok(value)) = values.next() else {
            return Err(GrammarError::invalid("grammar", "a schema in it is not JSON"));
        };
        let value = schema::prepare(&value.to_string())?;
        write!(prepared, "{before} {value}").expect("a string takes all that is written");
        rest = &schema[values.byte_offset()..];
    }
    prepared.push_str(rest);
    Ok(prepared)
}

/// A regular expression that matches only `text`, fit to stand between slashes.
pub(crate) fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        push_escaped(&mut escaped, char);
    }
    escaped
}

/// Appends a character that stands for itself, inside a class or outside.
pub(crate) fn push_escaped(regex: &mut String, char: char) {
    if r"\.+*?()|[]{}^$#&-~/".contains(char) {
        regex.push('\\');
        regex.push(char);
    } else if char.is_control() {
        write!(regex, "\\x{{{:x}}}", u32::from(char)).expect("a string takes all that is written");
    } else {
        regex.push(char);
    }
}

/// A match is always of the whole: what says so once more is left out.
fn without_anchors(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0 => rest,
        Some(_) | None => regex,
    }
}

/// A regular expression as it stands between slashes.
fn inside_slashes(regex: &str) -> String {
    let mut text = String::with_capacity(regex.len() + 8);
    let mut is_escaped = false;
    for char in regex.chars() {
        match (is_escaped, char) {
            (false, '/') => text.push_str("\\/"),
            (_, '\n') => text.push_str(if is_escaped { "n" } else { "\\n" }),
            (_, '\r') => text.push_str(if is_escaped { "r" } else { "\\r" }),
            (_, other) => text.push(other),
        }
        is_escaped = !is_escaped && char == '\\';
    }
    text
}

/// Refuses a text whose brackets nest too deep. Those in quotes count too: nobody needs that many.
pub(crate) fn check_depth(text: &str) -> Result<(), GrammarError> {
    let mut depth = 0_usize;
    for char in text.chars() {
        match char {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err(too_deep("grammar"));
        }
    }
    Ok(())
}

fn too_deep(place: &str) -> GrammarError {
    GrammarError::invalid(place, format!("brackets nest deeper than {DEEPEST} levels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_around_the_whole_go_and_escaped_ones_stay() {
        assert_eq!(without_anchors("^a+$"), "a+");
        assert_eq!(without_anchors(r"^a\$"), r"a\$");
        assert_eq!(without_anchors(r"a\\$"), r"a\\");
    }

    #[test]
    fn slashes_and_lines_survive_between_slashes() {
        assert_eq!(inside_slashes("a/b\n"), "a\\/b\\n");
        assert_eq!(inside_slashes(r"a\/b"), r"a\/b");
        assert_eq!(inside_slashes("\\\\/"), "\\\\\\/");
    }

    #[test]
    fn deep_brackets_are_refused() {
        assert!(of_regex(&"(".repeat(129)).is_err());
        assert!(of_regex(&format!("{}a{}", "(".repeat(60), ")".repeat(60))).is_ok());
    }
}
