//! What each token stands for, in bytes. Computed once from the tokenizer's decoder, so that decoding a token later
//! is a look-up and a stream of tokens is a stream of bytes.

use serde_json::Value;
use tokenizers::Tokenizer;
use vlinders_types::TokenId;

use crate::TextError;

/// More ids than any tokenizer has; a larger one means the file is broken.
const MOST_TOKENS: usize = 1 << 24;

/// One step of the decoder that acts on tokens one by one.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Each character stands for one byte, in GPT-2's alphabet.
    ByteLevel,
    /// `<0x0A>` stands for one byte.
    ByteFallback,
    Replace {
        from: String,
        to: String,
    },
    /// The replacement stands for a space; in the text's first token for nothing when `drops_first`.
    Metaspace {
        replacement: char,
        drops_first: bool,
    },
}

/// What is removed from the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strip {
    pub(crate) content: char,
    pub(crate) count: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visibility {
    Unknown,
    Special,
    Text,
}

/// The bytes of every token.
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    /// Where each token's bytes end; they begin where the one before ends.
    ends: Vec<u32>,
    visibility: Vec<Visibility>,
    steps: Vec<Step>,
    strip: Option<Strip>,
}

impl Vocabulary {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let decoder =
            serde_json::to_value(tokenizer.get_decoder()).map_err(|error| fault(error.to_string()))?;
        let (steps, strip) = read_decoder(&decoder)?;
        let last_id = tokenizer.get_vocab(true).into_values().max();
        let count = last_id.map_or(0, |id| id as usize + 1);
        if count == 0 || count > MOST_TOKENS {
            return Err(fault(format!("{count} token ids; expected 1 to {MOST_TOKENS}")));
        }
        let mut vocabulary = Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            visibility: Vec::new(),
            steps,
            strip,
        };
        let added = tokenizer.get_added_vocabulary();
        for id in 0..=last_id.unwrap_or(0) {
            let token = tokenizer.id_to_token(id);
            if let Some(token) = &token {
                let piece = vocabulary.piece_of(token, false);
                vocabulary.bytes.extend_from_slice(&piece);
            }
            vocabulary.visibility.push(match token {
                None => Visibility::Unknown,
                Some(token) if added.is_special_token(&token) => Visibility::Special,
                Some(_) => Visibility::Text,
            });
            let end = u32::try_from(vocabulary.bytes.len());
            vocabulary
                .ends
                .push(end.map_err(|_| fault("more than 4 GiB of tokens".to_owned()))?);
        }
        Ok(vocabulary)
    }

    /// Ids from 0 to the largest one known.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The token's bytes; empty for an unknown one.
    pub(crate) fn bytes(&self, id: TokenId) -> &[u8] {
        let index = id as usize;
        let Some(end) = self.ends.get(index) else {
            return &[];
        };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..*end as usize]
    }

    /// Whether the token appears in decoded text.
    pub(crate) fn is_text(&self, id: TokenId) -> bool {
        self.visibility.get(id as usize) == Some(&Visibility::Text)
    }

    pub(crate) fn is_special(&self, id: TokenId) -> bool {
        self.visibility.get(id as usize) == Some(&Visibility::Special)
    }

    /// What is removed from the beginning of a text.
    pub(crate) fn strip(&self) -> Option<Strip> {
        self.strip
    }

    /// Whether a token may stand for something else at the beginning of a text.
    pub(crate) fn has_first_pieces(&self) -> bool {
        self.steps.iter().any(|step| {
            matches!(
                step,
                Step::Metaspace {
                    drops_first: true,
                    ..
                }
            )
        })
    }

    /// What a token of the tokenizer's spelling stands for, at the beginning of a text or inside it.
    pub(crate) fn piece_of(&self, token: &str, is_first: bool) -> Vec<u8> {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::ByteLevel => return byte_level(&text).unwrap_or_else(|| text.into_bytes()),
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return vec![byte];
                    }
                }
                Step::Replace { from, to } => text = text.replace(from.as_str(), to),
                Step::Metaspace {
                    replacement,
                    drops_first,
                } => {
                    let space = if *drops_first && is_first { "" } else { " " };
                    text = text.replace(*replacement, space);
                }
            }
        }
        text.into_bytes()
    }
}

/// The one byte of a token such as `<0x0A>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_byte.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The bytes that the characters of GPT-2's alphabet stand for; none when another character is among them.
fn byte_level(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of_char).collect()
}

/// Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, for U+0100 and what follows.
fn byte_of_char(char: char) -> Option<u8> {
    const fn stands_for_itself(byte: u8) -> bool {
        matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
    }
    let code = u32::from(char);
    if let Ok(byte) = u8::try_from(code) {
        return stands_for_itself(byte).then_some(byte);
    }
    let place = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=u8::MAX).filter(|byte| !stands_for_itself(*byte)).nth(place)
}

/// Reads the decoder as steps on single tokens and what is stripped from the whole.
fn read_decoder(decoder: &Value) -> Result<(Vec<Step>, Option<Strip>), TextError> {
    let whole = [decoder.clone()];
    let parts = match decoder["type"].as_str() {
        Some("Sequence") => decoder["decoders"].as_array().map_or(&whole[..], Vec::as_slice),
        Some(_) | None => &whole[..],
    };
    let (mut steps, mut strip, mut is_fused) = (Vec::new(), None, false);
    for part in parts {
        match part["type"].as_str() {
            Some("ByteLevel") => steps.push(Step::ByteLevel),
            Some("ByteFallback") => steps.push(Step::ByteFallback),
            Some("Fuse") => is_fused = true,
            Some("Replace") => steps.push(read_replace(part)?),
            Some("Metaspace") => steps.push(read_metaspace(part)?),
            Some("Strip") if is_fused => strip = read_strip(part)?,
            other => {
                return Err(fault(format!(
                    "decoder {:?} cannot be used token by token; supported are ByteLevel, and sequences of Replace, \
                     ByteFallback, Metaspace and Fuse with a Strip at the end",
                    other.unwrap_or("none")
                )));
            }
        }
    }
    Ok((steps, strip))
}

fn read_replace(part: &Value) -> Result<Step, TextError> {
    let from = part["pattern"]["String"].as_str();
    match (from, part["content"].as_str()) {
        (Some(from), Some(to)) if !from.is_empty() => Ok(Step::Replace {
            from: from.to_owned(),
            to: to.to_owned(),
        }),
        (Some(_) | None, _) => Err(fault("decoder Replace needs a plain text as pattern".to_owned())),
    }
}

fn read_metaspace(part: &Value) -> Result<Step, TextError> {
    let replacement = part["replacement"].as_str().and_then(|text| text.chars().next());
    let replacement = replacement.ok_or_else(|| fault("decoder Metaspace has no replacement".to_owned()))?;
    Ok(Step::Metaspace {
        replacement,
        drops_first: part["prepend_scheme"].as_str() != Some("never"),
    })
}

fn read_strip(part: &Value) -> Result<Option<Strip>, TextError> {
    if part["stop"].as_u64() != Some(0) {
        return Err(fault(
            "decoder Strip at the end of a text cannot be streamed".to_owned(),
        ));
    }
    let content = part["content"].as_str().and_then(|text| text.chars().next());
    let count = part["start"]
        .as_u64()
        .and_then(|start| usize::try_from(start).ok());
    Ok(content
        .zip(count)
        .map(|(content, count)| Strip { content, count }))
}

fn fault(reason: String) -> TextError {
    TextError::File {
        file: "tokenizer.json",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_complete_and_one_to_one() {
        let mut bytes: Vec<u8> = (0..0x200)
            .filter_map(char::from_u32)
            .filter_map(byte_of_char)
            .collect();
        assert_eq!(bytes.len(), 256);
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), 256);
        assert_eq!(byte_level("Ġhi"), Some(b" hi".to_vec()));
        assert_eq!(byte_level("Ċ"), Some(b"\n".to_vec()));
        assert_eq!(byte_level("▁hi"), None);
    }

    #[test]
    fn only_exact_byte_tokens_are_bytes() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        for other in ["<0x0>", "<0x0AB>", "<0x+1>", "0x0A", "<0xZZ>"] {
            assert_eq!(fallback_byte(other), None);
        }
    }

    #[test]
    fn decoders_that_need_the_whole_text_are_refused() {
        let strip_end = serde_json::json!({"type": "Sequence", "decoders": [
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 0, "stop": 1}]});
        for decoder in [Value::Null, serde_json::json!({"type": "WordPiece"}), strip_end] {
            assert!(read_decoder(&decoder).is_err());
        }
    }
}
