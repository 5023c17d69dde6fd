//! Tokens to text, one token at a time.

use std::sync::Arc;

use vlinders_types::{SpecialTokens, TokenId};

use crate::ModelText;
use crate::vocabulary::Strip;

/// Assembles bytes into characters.
#[derive(Clone, Debug, Default)]
struct Utf8Assembler {
    /// The beginning of a character; at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8Assembler {
    /// Appends the characters that `bytes` complete. What can never become a character is replaced by U+FFFD.
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        if self.pending.is_empty() {
            // Nearly always, and then nothing is copied twice.
            self.pending = take_characters(bytes, text).to_vec();
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            self.pending = take_characters(&joined, text).to_vec();
        }
    }

    fn flush(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Appends all characters of `bytes` and returns the beginning of one that is incomplete.
fn take_characters<'a>(mut bytes: &'a [u8], text: &mut String) -> &'a [u8] {
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(valid) => {
                text.push_str(valid);
                return &[];
            }
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(valid).expect("checked up to here"));
        let Some(bad) = error.error_len() else { return rest };
        text.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[bad..];
    }
}

/// Turns a sequence's tokens into text as they come. The pieces joined are the decoded whole, however many tokens come
/// at a time: an incomplete character is held back until it is complete or the end shows that it never will be.
/// Unknown ids have no text, and special tokens only when they shall be shown.
#[derive(Clone)]
pub struct StreamDecoder {
    model: Arc<ModelText>,
    utf8: Utf8Assembler,
    /// No text yet, neither in the prompt nor here.
    is_first: bool,
    /// What may still be removed from the beginning of the text.
    strip: Option<Strip>,
    special: SpecialTokens,
}

impl StreamDecoder {
    /// Begins after `prompt_ids`, which decide whether the next token begins a text or continues one.
    #[must_use]
    pub fn new(model: &Arc<ModelText>, prompt_ids: &[TokenId]) -> Self {
        let vocabulary = model.vocabulary();
        let is_first = !prompt_ids.iter().any(|id| vocabulary.is_text(*id));
        let mut utf8 = Utf8Assembler::default();
        // A character takes at most 4 tokens. One that the prompt begins is delivered with the token that completes it.
        let tail = &prompt_ids[prompt_ids.len().saturating_sub(4)..];
        for id in tail.iter().filter(|id| vocabulary.is_text(**id)) {
            utf8.push(vocabulary.bytes(*id), &mut String::new());
        }
        let strip = if is_first { vocabulary.strip() } else { None };
        Self {
            model: Arc::clone(model),
            utf8,
            is_first,
            strip,
            special: SpecialTokens::Hidden,
        }
    }

    /// The same for a text of its own, which neither ends a character of the prompt nor loses the space it begins with: a
    /// text of a given form is exactly its tokens' bytes.
    #[must_use]
    pub fn apart_from_prompt(self) -> Self {
        Self {
            utf8: Utf8Assembler::default(),
            is_first: false,
            strip: None,
            ..self
        }
    }

    /// The same with some special tokens written out.
    #[must_use]
    pub fn with_special(self, special: SpecialTokens) -> Self {
        Self { special, ..self }
    }

    /// Takes the next token and returns the text that is complete now.
    pub fn push(&mut self, id: TokenId) -> String {
        let mut text = String::new();
        let vocabulary = self.model.vocabulary();
        if !vocabulary.is_text(id) && !self.shows_special(id) {
            return text;
        }
        let first_piece = if std::mem::take(&mut self.is_first) && vocabulary.has_first_pieces() {
            self.model.first_piece(id)
        } else {
            None
        };
        let mut bytes = first_piece.as_deref().unwrap_or_else(|| vocabulary.bytes(id));
        if let Some(strip) = &mut self.strip {
            let mut buffer = [0; 4];
            let content = strip.content.encode_utf8(&mut buffer).as_bytes();
            while strip.count > 0 && bytes.starts_with(content) {
                bytes = &bytes[content.len()..];
                strip.count -= 1;
            }
            if strip.count == 0 || !bytes.is_empty() {
                self.strip = None;
            }
        }
        self.utf8.push(bytes, &mut text);
        text
    }

    fn shows_special(&self, id: TokenId) -> bool {
        match &self.special {
            SpecialTokens::Hidden => false,
            SpecialTokens::Shown(shown) => shown.contains(&id) && self.model.is_special(id),
            SpecialTokens::AllShown => self.model.is_special(id),
        }
    }

    /// The end: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.utf8.flush(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_in_any_cut_give_the_text_of_the_whole(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..4),
                    "[a-zé🦋漢]{0,3}".prop_map(String::into_bytes),
                    prop::sample::select(vec![vec![0xF0_u8], vec![0x9F, 0xA6], vec![0x8B], vec![0xE6, 0xBC]]),
                ],
                0..12,
            ),
        ) {
            let mut utf8 = Utf8Assembler::default();
            let mut text = String::new();
            for piece in &pieces {
                utf8.push(piece, &mut text);
                prop_assert!(utf8.pending.len() <= 3);
            }
            utf8.flush(&mut text);
            prop_assert_eq!(text, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }
}
