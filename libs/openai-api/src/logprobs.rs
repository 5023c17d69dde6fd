//! Log-probabilities in the two forms clients know.

use serde::Serialize;
use serde_json::{Map, Value};
use vlinders_types::{TokenId, TokenLogprob};

use crate::PromptToken;

/// JSON has no infinity; clients know this value as "never".
const LOWEST: f32 = -9999.0;

/// How tokens are written in log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TokenNames {
    /// By their texts, which several tokens may share.
    #[default]
    Texts,
    /// As `token_id:7`.
    Ids,
}

impl TokenNames {
    fn name(self, id: TokenId, bytes: &[u8]) -> String {
        match self {
            Self::Texts => token_text(bytes),
            Self::Ids => format!("token_id:{id}"),
        }
    }
}

/// A chat choice's log-probabilities.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<LogprobEntry>,
    refusal: Option<()>,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogprobEntry {
    /// As text; tokens that are no whole characters are written `bytes:\xNN`.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most likely tokens, most likely first.
    pub top_logprobs: Vec<LogprobRival>,
}

/// One of the most likely tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogprobRival {
    /// As text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// The chat form of some tokens.
    #[must_use]
    pub fn new(tokens: &[TokenLogprob], names: TokenNames) -> Self {
        let content = tokens.iter().map(|token| LogprobEntry {
            token: names.name(token.id, &token.bytes),
            logprob: finite(token.logprob),
            bytes: token.bytes.clone(),
            top_logprobs: token
                .top
                .iter()
                .map(|(id, bytes, logprob)| LogprobRival {
                    token: names.name(*id, bytes),
                    logprob: finite(*logprob),
                    bytes: bytes.clone(),
                })
                .collect(),
        });
        Self {
            content: content.collect(),
            refusal: None,
        }
    }
}

/// A completion choice's log-probabilities: four lists of equal length.
#[derive(Clone, Debug, PartialEq, Serialize, Default)]
pub struct CompletionLogprobs {
    /// The tokens as text.
    pub tokens: Vec<String>,
    /// Their log-probabilities; null for the first token of an echoed prompt, which follows nothing.
    pub token_logprobs: Vec<Option<f32>>,
    /// For each the most likely tokens and itself; null when none were asked for, and for the first of an echoed prompt.
    pub top_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    /// In characters, from the beginning of the choice's text.
    pub text_offset: Vec<u32>,
}

impl CompletionLogprobs {
    /// The completion form of some tokens, `rivals` as the client asked.
    #[must_use]
    pub fn new(
        tokens: &[TokenLogprob],
        (rivals, names): (u8, TokenNames),
        offsets: &mut TextOffsets,
    ) -> Self {
        let mut lists = Self {
            top_logprobs: (rivals > 0).then(Vec::new),
            ..Self::default()
        };
        for token in tokens {
            lists.tokens.push(names.name(token.id, &token.bytes));
            lists.token_logprobs.push(Some(finite(token.logprob)));
            lists.text_offset.push(offsets.after(&token.bytes));
            if let Some(top_logprobs) = &mut lists.top_logprobs {
                top_logprobs.push(Some(by_name(
                    &token.top,
                    (token.id, &token.bytes, token.logprob),
                    names,
                )));
            }
        }
        lists
    }

    /// The completion form of an echoed prompt, each token with where its text begins.
    pub fn echoed<'a>(
        tokens: impl Iterator<Item = (&'a PromptToken, u32)>,
        (rivals, names): (u8, TokenNames),
    ) -> Self {
        let mut lists = Self {
            top_logprobs: (rivals > 0).then(Vec::new),
            ..Self::default()
        };
        for (token, begins_at) in tokens {
            lists.tokens.push(names.name(token.id, &token.bytes));
            let logprob = token.score.map(|(logprob, _)| logprob);
            lists.token_logprobs.push(logprob.map(finite));
            lists.text_offset.push(begins_at);
            if let Some(top_logprobs) = &mut lists.top_logprobs {
                let top = &token.top[..token.top.len().min(usize::from(rivals))];
                top_logprobs
                    .push(logprob.map(|logprob| by_name(top, (token.id, &token.bytes, logprob), names)));
            }
        }
        lists
    }

    /// Adds what follows.
    pub fn append(&mut self, mut more: Self) {
        self.tokens.append(&mut more.tokens);
        self.token_logprobs.append(&mut more.token_logprobs);
        self.text_offset.append(&mut more.text_offset);
        if let (Some(own), Some(more)) = (&mut self.top_logprobs, &mut more.top_logprobs) {
            own.append(more);
        }
    }
}

/// The most likely tokens and the one itself, by their names.
fn by_name(
    top: &[(TokenId, Vec<u8>, f32)],
    (own, bytes, logprob): (TokenId, &[u8], f32),
    names: TokenNames,
) -> Map<String, Value> {
    let mut entry = Map::new();
    for (id, bytes, logprob) in top {
        entry.insert(names.name(*id, bytes), json_number(finite(*logprob)));
    }
    entry.insert(names.name(own, bytes), json_number(finite(logprob)));
    entry
}

/// Counts the characters before each token of one choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOffsets {
    chars: u32,
}

impl TextOffsets {
    /// After an echoed prompt of so many characters.
    #[must_use]
    pub const fn after_prompt(chars: u32) -> Self {
        Self { chars }
    }

    /// Where this token's text begins. A token inside a character begins after that character's first byte.
    fn after(&mut self, bytes: &[u8]) -> u32 {
        let begins_at = self.chars;
        // Every byte that continues no character begins one.
        let begun = bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count();
        self.chars = self
            .chars
            .saturating_add(u32::try_from(begun).unwrap_or(u32::MAX));
        begins_at
    }
}

pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob.max(LOWEST)
    } else {
        LOWEST
    }
}

/// Through text, so that the number is printed as the 32-bit number it is.
fn json_number(value: f32) -> Value {
    let number = value
        .to_string()
        .parse::<f64>()
        .ok()
        .and_then(serde_json::Number::from_f64);
    number.map_or(Value::Null, Value::Number)
}

pub(crate) fn token_text(bytes: &[u8]) -> String {
    use std::fmt::Write;
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut text = String::from("bytes:");
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters_also_when_tokens_split_them() {
        let mut offsets = TextOffsets::default();
        let euro = "€".as_bytes();
        let found = [b"a".as_slice(), &euro[..1], &euro[1..], b"b"].map(|bytes| offsets.after(bytes));
        assert_eq!(found, [0, 1, 2, 2]);
    }

    #[test]
    fn half_characters_stay_distinct() {
        assert_eq!(token_text(&[0xE2, 0x82]), r"bytes:\xe2\x82");
        assert_eq!(token_text("€".as_bytes()), "€");
    }

    #[test]
    fn infinities_become_a_number() {
        assert_eq!(
            [finite(f32::NEG_INFINITY), finite(f32::NAN), finite(-1.5)],
            [LOWEST, LOWEST, -1.5]
        );
    }
}
