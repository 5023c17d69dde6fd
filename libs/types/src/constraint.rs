//! What a request's text must look like, and which tokens may be drawn so that it does.

use std::sync::OnceLock;

use crate::TokenId;

/// The form a generated text must have. Enforced while tokens are drawn, never checked afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that satisfies this JSON schema, given as JSON text.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in the Lark dialect of the grammar library.
    Lark(String),
}

/// A set of tokens of a vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TokenMask {
    /// One bit for each token, the lowest bit of a word first.
    words: Vec<u32>,
}

/// Bits in a word.
const WORD: usize = u32::BITS as usize;

impl TokenMask {
    /// No token of a vocabulary of this size.
    #[must_use]
    pub fn none(vocabulary: usize) -> Self {
        Self {
            words: vec![0; vocabulary.div_ceil(WORD)],
        }
    }

    /// The tokens whose bits are set, the lowest bit of a word first.
    #[must_use]
    pub const fn from_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// The bits, the lowest bit of a word first.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Whether the token is in the set. One beyond the vocabulary is not.
    #[must_use]
    pub fn allows(&self, token: TokenId) -> bool {
        let word = self.words.get(token as usize / WORD);
        word.is_some_and(|word| word >> (token as usize % WORD) & 1 == 1)
    }

    /// Adds a token.
    ///
    /// # Panics
    /// When it is beyond the vocabulary.
    pub fn allow(&mut self, token: TokenId) {
        self.words[token as usize / WORD] |= 1 << (token as usize % WORD);
    }

    /// Takes a token out. One beyond the vocabulary is not in anyway.
    pub fn forbid(&mut self, token: TokenId) {
        if let Some(word) = self.words.get_mut(token as usize / WORD) {
            *word &= !(1 << (token as usize % WORD));
        }
    }

    /// Whether no token is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The tokens in the set from this one on, lowest first.
    pub fn tokens_from(&self, first: TokenId) -> impl Iterator<Item = TokenId> {
        let start = first as usize / WORD;
        let below = first as usize % WORD;
        let of_word = move |(index, word): (usize, &u32)| {
            let mut rest = if index == start {
                word >> below << below
            } else {
                *word
            };
            let base = TokenId::try_from(index * WORD).expect("vocabularies are far below 2^32");
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(base + bit)
            })
        };
        self.words.iter().enumerate().skip(start).flat_map(of_word)
    }
}

/// A mask that is computed beside the step that needs it. Whoever makes one sees to it that it is filled, also when
/// computing it fails: the draw waits for it.
#[derive(Debug, Default)]
pub struct AwaitedMask(OnceLock<TokenMask>);

impl AwaitedMask {
    /// One that is not there yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that is there.
    #[must_use]
    pub fn ready(mask: TokenMask) -> Self {
        Self(OnceLock::from(mask))
    }

    /// Fills it; what comes second is dropped.
    pub fn fill(&self, mask: TokenMask) {
        // Only the guard against a lost computation comes second.
        let _ = self.0.set(mask);
    }

    /// The mask, once it is there. Blocks the thread until then.
    #[must_use]
    pub fn wait(&self) -> &TokenMask {
        self.0.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_mask_is_a_set_of_tokens(
            vocabulary in 1_usize..200, changes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..60),
        ) {
            let mut mask = TokenMask::none(vocabulary);
            let mut model = BTreeSet::new();
            for (number, is_in) in changes {
                let token = number % u32::try_from(vocabulary).unwrap();
                if is_in {
                    mask.allow(token);
                    model.insert(token);
                } else {
                    mask.forbid(token);
                    model.remove(&token);
                }
                prop_assert_eq!(mask.is_empty(), model.is_empty());
            }
            prop_assert!((0..400).all(|token| mask.allows(token) == model.contains(&token)));
            prop_assert!((0..220).all(|first| mask.tokens_from(first).eq(model.range(first..).copied())));
        }
    }

    #[test]
    fn tokens_beyond_the_vocabulary_are_never_allowed() {
        let mut mask = TokenMask::from_words(vec![u32::MAX]);
        assert!(mask.allows(31));
        assert!(!mask.allows(32) && !mask.allows(TokenId::MAX));
        mask.forbid(TokenId::MAX);
        assert_eq!(mask.words(), [u32::MAX]);
    }

    #[test]
    fn a_draw_waits_for_its_mask() {
        let mask = AwaitedMask::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| mask.wait().allows(3));
            let mut filled = TokenMask::none(8);
            filled.allow(3);
            mask.fill(filled);
            mask.fill(TokenMask::none(8));
            assert!(waiting.join().unwrap(), "what came first counts");
        });
    }
}
