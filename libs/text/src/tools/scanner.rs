//! JSON read one character at a time, without keeping it: whether the text so far can still become a value, and where in
//! it the next character stands.

/// Lists and objects inside one another. Deeper ones are no arguments of a tool.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// Where the next character stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A value must begin.
    Value,
    /// A list has just been opened.
    ValueOrEnd,
    /// An object has just been opened.
    KeyOrEnd,
    /// A key must begin.
    Key,
    /// After a key.
    Colon,
    /// After a value inside a list or an object.
    CommaOrEnd,
    /// Inside a text, after what of an escape.
    Text { is_key: bool, escape: Escape },
    /// Inside a number.
    Number(Digits),
    /// Inside `true`, `false` or `null`: what must follow.
    Word(&'static str),
    /// After the whole value.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    None,
    Backslash,
    /// So many digits of a `\u` are missing.
    Hex(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digits {
    Minus,
    /// A single zero: no digit may follow.
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    Power,
}

/// Reads one value.
#[derive(Clone, Debug)]
pub(super) struct JsonScanner {
    open: Vec<Container>,
    place: Place,
}

impl JsonScanner {
    pub(super) const fn new() -> Self {
        Self {
            open: Vec::new(),
            place: Place::Value,
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Lists and objects that are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Takes the next character. False when it cannot stand there; then nothing has changed.
    pub(super) fn push(&mut self, char: char) -> bool {
        let is_space = matches!(char, ' ' | '\t' | '\n' | '\r');
        let next = match self.place {
            Place::Value
            | Place::ValueOrEnd
            | Place::KeyOrEnd
            | Place::Key
            | Place::Colon
            | Place::CommaOrEnd
            | Place::Done
                if is_space =>
            {
                return true;
            }
            Place::ValueOrEnd if char == ']' => return self.close(Container::Array),
            Place::Value | Place::ValueOrEnd => return self.begin(char),
            Place::KeyOrEnd if char == '}' => return self.close(Container::Object),
            Place::KeyOrEnd | Place::Key => (char == '"').then_some(Place::Text {
                is_key: true,
                escape: Escape::None,
            }),
            Place::Colon => (char == ':').then_some(Place::Value),
            Place::CommaOrEnd => match (char, self.open.last()) {
                (',', Some(Container::Object)) => Some(Place::Key),
                (',', Some(Container::Array)) => Some(Place::Value),
                ('}', _) => return self.close(Container::Object),
                (']', _) => return self.close(Container::Array),
                _ => None,
            },
            Place::Text { is_key, escape } => self.text(char, is_key, escape),
            Place::Number(digits) => match number(digits, char) {
                Some(digits) => Some(Place::Number(digits)),
                None if is_whole_number(digits) => {
                    let before = self.place;
                    self.place = self.after_value();
                    let is_taken = self.push(char);
                    if !is_taken {
                        self.place = before;
                    }
                    return is_taken;
                }
                None => None,
            },
            Place::Word(rest) => rest.strip_prefix(char).map(|rest| {
                if rest.is_empty() {
                    self.after_value()
                } else {
                    Place::Word(rest)
                }
            }),
            Place::Done => None,
        };
        match next {
            Some(place) => {
                self.place = place;
                true
            }
            None => false,
        }
    }

    fn begin(&mut self, char: char) -> bool {
        let place = match char {
            '{' | '[' if self.open.len() == MAX_DEPTH => return false,
            '{' => {
                self.open.push(Container::Object);
                Place::KeyOrEnd
            }
            '[' => {
                self.open.push(Container::Array);
                Place::ValueOrEnd
            }
            '"' => Place::Text {
                is_key: false,
                escape: Escape::None,
            },
            '-' => Place::Number(Digits::Minus),
            '0' => Place::Number(Digits::Zero),
            '1'..='9' => Place::Number(Digits::Whole),
            't' => Place::Word("rue"),
            'f' => Place::Word("alse"),
            'n' => Place::Word("ull"),
            _ => return false,
        };
        self.place = place;
        true
    }

    fn close(&mut self, container: Container) -> bool {
        if self.open.last() != Some(&container) {
            return false;
        }
        self.open.pop();
        self.place = self.after_value();
        true
    }

    fn after_value(&self) -> Place {
        if self.open.is_empty() {
            Place::Done
        } else {
            Place::CommaOrEnd
        }
    }

    fn text(&self, char: char, is_key: bool, escape: Escape) -> Option<Place> {
        let escape = match (escape, char) {
            (Escape::None, '"') => {
                return Some(if is_key { Place::Colon } else { self.after_value() });
            }
            (Escape::None, '\\') => Escape::Backslash,
            (Escape::None, char) if char >= ' ' => Escape::None,
            (Escape::Backslash, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Escape::None,
            (Escape::Backslash, 'u') => Escape::Hex(4),
            (Escape::Hex(1), char) if char.is_ascii_hexdigit() => Escape::None,
            (Escape::Hex(left), char) if char.is_ascii_hexdigit() => Escape::Hex(left - 1),
            (Escape::None | Escape::Backslash | Escape::Hex(_), _) => return None,
        };
        Some(Place::Text { is_key, escape })
    }
}

fn number(digits: Digits, char: char) -> Option<Digits> {
    use Digits as D;
    match (digits, char) {
        (D::Minus, '0') => Some(D::Zero),
        (D::Minus, '1'..='9') | (D::Whole, '0'..='9') => Some(D::Whole),
        (D::Zero | D::Whole, '.') => Some(D::Point),
        (D::Point | D::Fraction, '0'..='9') => Some(D::Fraction),
        (D::Zero | D::Whole | D::Fraction, 'e' | 'E') => Some(D::Exponent),
        (D::Exponent, '+' | '-') => Some(D::ExponentSign),
        (D::Exponent | D::ExponentSign | D::Power, '0'..='9') => Some(D::Power),
        _ => None,
    }
}

fn is_whole_number(digits: Digits) -> bool {
    match digits {
        Digits::Zero | Digits::Whole | Digits::Fraction | Digits::Power => true,
        Digits::Minus | Digits::Point | Digits::Exponent | Digits::ExponentSign => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Whether the scanner takes all of it, and it is whole then.
    fn takes(text: &str) -> bool {
        let mut scanner = JsonScanner::new();
        let is_whole = text.chars().all(|char| scanner.push(char));
        // A number alone has no end of its own.
        is_whole && (scanner.push(' ') && scanner.place() == Place::Done)
    }

    proptest! {
        #[test]
        fn it_takes_what_a_json_parser_takes(text in r#"[\[\]{}:,"\\ \nu0-9a1.eE+\-truefalsn]{0,12}"#) {
            // The parser also wants what `\u` stands for to be characters.
            prop_assume!(!text.contains("\\u"));
            prop_assert_eq!(takes(&text), serde_json::from_str::<Value>(&text).is_ok(), "{}", text);
        }
    }

    #[test]
    fn whole_values_are_taken_and_broken_ones_are_not() {
        for text in [
            r#"{"a": [1, -2.5e+3, {"b": null}], "c": "é\n\u00e9\"", "d": {}, "e": []}"#,
            "true",
            "0",
        ] {
            assert!(takes(text), "{text}");
        }
        for text in [
            "01",
            "{,}",
            "[1,]",
            r#"{"a" 1}"#,
            r#""\x""#,
            "\"\n\"",
            "tru ",
            "1.",
            "-",
            "{]",
            r#"{"a":1}}"#,
        ] {
            assert!(!takes(text), "{text}");
        }
        assert!(!takes(&("[".repeat(65) + &"]".repeat(65))));
        assert!(takes(&("[".repeat(64) + &"]".repeat(64))));
    }
}
