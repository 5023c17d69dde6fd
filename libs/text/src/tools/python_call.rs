//! A call as Python writes it, with named arguments that are literals.

use serde_json::{Map, Number, Value};

/// Lists and dicts inside one another.
const MAX_DEPTH: usize = 64;

/// Name and arguments, as JSON; none when the text is no such call.
pub(super) fn read_call(text: &str) -> Option<(String, String)> {
    let mut reader = Reader { rest: text, depth: 0 };
    let name = reader.name(|char| matches!(char, '.' | '-'))?;
    let mut arguments = Map::new();
    reader.take('(')?;
    while reader.take(')').is_none() {
        let key = reader.name(|_| false)?;
        reader.take('=')?;
        let value = reader.value()?;
        if arguments.insert(key, value).is_some() {
            return None;
        }
        reader.comma_or(')')?;
    }
    reader
        .rest
        .trim()
        .is_empty()
        .then(|| (name, Value::Object(arguments).to_string()))
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, char: char) -> Option<()> {
        self.skip_space();
        self.rest = self.rest.strip_prefix(char)?;
        Some(())
    }

    /// A comma, or the end is next.
    fn comma_or(&mut self, end: char) -> Option<()> {
        self.skip_space();
        if self.rest.starts_with(end) {
            return Some(());
        }
        self.take(',')
    }

    fn name(&mut self, may_also: impl Fn(char) -> bool) -> Option<String> {
        self.skip_space();
        let is_of_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || may_also(char);
        let end = self
            .rest
            .find(|char| !is_of_name(char))
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let begins_well = name.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
        begins_well.then(|| name.to_owned())
    }

    fn value(&mut self) -> Option<Value> {
        self.skip_space();
        match self.rest.chars().next()? {
            '"' | '\'' => self.text().map(Value::String),
            '[' => self.list('[', ']').map(Value::Array),
            '(' => self.list('(', ')').map(Value::Array),
            '{' => self.dict(),
            '-' | '+' | '.' | '0'..='9' => self.number(),
            _ => self.word(),
        }
    }

    fn list(&mut self, open: char, close: char) -> Option<Vec<Value>> {
        self.deeper()?;
        self.take(open)?;
        let mut items = Vec::new();
        while self.take(close).is_none() {
            items.push(self.value()?);
            self.comma_or(close)?;
        }
        self.depth -= 1;
        Some(items)
    }

    fn dict(&mut self) -> Option<Value> {
        self.deeper()?;
        self.take('{')?;
        let mut entries = Map::new();
        while self.take('}').is_none() {
            self.skip_space();
            let key = self.text()?;
            self.take(':')?;
            let value = self.value()?;
            entries.insert(key, value);
            self.comma_or('}')?;
        }
        self.depth -= 1;
        Some(Value::Object(entries))
    }

    fn deeper(&mut self) -> Option<()> {
        self.depth += 1;
        (self.depth <= MAX_DEPTH).then_some(())
    }

    fn number(&mut self) -> Option<Value> {
        let is_of_number =
            |char: char| char.is_ascii_digit() || matches!(char, '+' | '-' | '.' | 'e' | 'E' | '_');
        let end = self
            .rest
            .find(|char| !is_of_number(char))
            .unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        let number = number.replace('_', "");
        if let Ok(whole) = number.parse::<i64>() {
            return Some(whole.into());
        }
        Number::from_f64(number.parse().ok()?).map(Value::Number)
    }

    fn word(&mut self) -> Option<Value> {
        let word = self.name(|_| false)?;
        match word.as_str() {
            "True" | "true" => Some(true.into()),
            "False" | "false" => Some(false.into()),
            "None" | "null" => Some(Value::Null),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        let mut chars = self.rest.char_indices();
        let (_, quote) = chars.next().filter(|(_, char)| matches!(char, '"' | '\''))?;
        let mut text = String::new();
        loop {
            let (at, char) = chars.next()?;
            if char == quote {
                self.rest = &self.rest[at + quote.len_utf8()..];
                return Some(text);
            }
            if char != '\\' {
                text.push(char);
                continue;
            }
            let (_, escaped) = chars.next()?;
            match escaped {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                '0' => text.push('\0'),
                '\n' => {}
                'x' => text.push(hex(&mut chars, 2)?),
                'u' => text.push(hex(&mut chars, 4)?),
                'U' => text.push(hex(&mut chars, 8)?),
                '\\' | '\'' | '"' => text.push(escaped),
                // Python keeps the backslash before what needs none.
                other => text.extend(['\\', other]),
            }
        }
    }
}

fn hex(chars: &mut std::str::CharIndices<'_>, digits: usize) -> Option<char> {
    let mut code = 0_u32;
    for _ in 0..digits {
        code = code.checked_mul(16)? + chars.next()?.1.to_digit(16)?;
    }
    char::from_u32(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_become_json() {
        let text = r#"look.up(a="it's \"so\"\n", b=[1, -2.5, True], c={'x': None, "y": (1,)}, d='\u00e9\x41\q', e=1e3,)"#;
        let (name, arguments) = read_call(text).unwrap();
        assert_eq!(name, "look.up");
        let arguments: Value = serde_json::from_str(&arguments).unwrap();
        let expected = json!({
            "a": "it's \"so\"\n", "b": [1, -2.5, true], "c": {"x": null, "y": [1]}, "d": "éA\\q", "e": 1000.0,
        });
        assert_eq!(arguments, expected);
        assert_eq!(read_call("now()"), Some(("now".to_owned(), "{}".to_owned())));
    }

    #[test]
    fn what_is_no_call_of_literals_is_none() {
        for text in [
            "f",
            "f(1)",
            "f(a=g())",
            "f(a=1, a=2)",
            "f(a='x)",
            "f(a=1) + 1",
            "1f()",
            "f(a=[1)",
            "f(=1)",
            "",
        ] {
            assert_eq!(read_call(text), None, "{text}");
        }
        let deep = format!("f(a={}{})", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read_call(&deep), None);
    }
}
