//! Prompts without a tokenizer: common words, and how many tokens of the server's model one of them is.

use crate::random::Random;

/// Common English words without signs that JSON escapes; a power of two of them.
const WORDS: [&str; 128] = [
    "about",
    "after",
    "again",
    "air",
    "all",
    "along",
    "also",
    "always",
    "and",
    "animal",
    "answer",
    "any",
    "around",
    "ask",
    "back",
    "because",
    "been",
    "before",
    "began",
    "better",
    "between",
    "big",
    "book",
    "both",
    "boy",
    "but",
    "call",
    "came",
    "car",
    "change",
    "city",
    "close",
    "come",
    "could",
    "country",
    "cut",
    "day",
    "did",
    "different",
    "does",
    "down",
    "each",
    "earth",
    "eat",
    "end",
    "enough",
    "even",
    "every",
    "eye",
    "face",
    "family",
    "far",
    "father",
    "feet",
    "few",
    "find",
    "first",
    "food",
    "for",
    "form",
    "found",
    "four",
    "from",
    "girl",
    "give",
    "good",
    "great",
    "group",
    "grow",
    "had",
    "hand",
    "hard",
    "have",
    "head",
    "hear",
    "help",
    "here",
    "high",
    "home",
    "house",
    "into",
    "just",
    "keep",
    "kind",
    "know",
    "land",
    "large",
    "last",
    "later",
    "learn",
    "left",
    "letter",
    "life",
    "light",
    "line",
    "list",
    "little",
    "live",
    "long",
    "look",
    "made",
    "make",
    "man",
    "many",
    "mean",
    "men",
    "might",
    "more",
    "most",
    "mother",
    "mountain",
    "move",
    "much",
    "must",
    "name",
    "near",
    "need",
    "never",
    "new",
    "next",
    "night",
    "now",
    "number",
    "off",
    "often",
    "old",
    "water",
    "world",
];
/// Bits that choose a word.
const WORD_BITS: u32 = WORDS.len().trailing_zeros();

/// How many tokens of a model a text of words is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokensPerWord {
    /// Tokens of a request without any word: its template and marks.
    pub fixed: f64,
    /// Tokens of each word.
    pub each: f64,
}

impl TokensPerWord {
    /// Every word is a token. It is so in large vocabularies, up to the request's template.
    pub const ONE: Self = Self {
        fixed: 0.0,
        each: 1.0,
    };

    /// Words that make about so many tokens, at least one.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes the nearest number in range, and 1 is the least"
    )]
    pub fn words_for(&self, tokens: u32) -> u32 {
        ((f64::from(tokens) - self.fixed) / self.each).round().max(1.0) as u32
    }

    /// The line through two measured points, each words and tokens. None when more words were no more tokens.
    #[must_use]
    pub fn through(fewer: (u32, u64), more: (u32, u64)) -> Option<Self> {
        let words = f64::from(more.0) - f64::from(fewer.0);
        let each = (more.1 as f64 - fewer.1 as f64) / words;
        let fixed = fewer.1 as f64 - each * f64::from(fewer.0);
        (each.is_finite() && each > 0.0).then_some(Self { fixed, each })
    }
}

/// Adds so many words, each after a space unless it is the text's first.
pub(crate) fn push_words(text: &mut Vec<u8>, count: u32, random: &mut Random) {
    let (mut bits, mut left) = (0, 0);
    for _ in 0..count {
        if left < WORD_BITS {
            bits = random.next_u64();
            left = u64::BITS;
        }
        let index = usize::try_from(bits % WORDS.len() as u64).expect("less than the number of words");
        bits >>= WORD_BITS;
        left -= WORD_BITS;
        if !text.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(WORDS[index].as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn texts_have_the_words_they_were_asked_for_and_need_no_escapes() {
        let mut text = Vec::new();
        push_words(&mut text, 1000, &mut Random::new(1, Purpose::UniqueWords));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.split(' ').count(), 1000);
        assert!(text.chars().all(|char| char.is_ascii_lowercase() || char == ' '));
        for word in WORDS {
            assert!(text.contains(word), "{word} is never drawn");
        }
    }

    #[test]
    fn measured_points_give_the_words_for_any_length() {
        let per_word = TokensPerWord::through((1, 11), (65, 107)).unwrap();
        assert_eq!((per_word.fixed, per_word.each), (9.5, 1.5));
        assert_eq!(per_word.words_for(107), 65);
        assert_eq!(per_word.words_for(3), 1, "never none");
        assert_eq!(TokensPerWord::ONE.words_for(128), 128);
    }

    #[test]
    fn points_without_a_slope_are_no_line() {
        assert_eq!(TokensPerWord::through((1, 5), (9, 5)), None);
        assert_eq!(TokensPerWord::through((1, 5), (1, 6)), None);
    }
}
