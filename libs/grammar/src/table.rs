//! What each token of a vocabulary stands for, in the form the parser walks.

use std::sync::Arc;

use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use vlinders_text::ModelText;
use vlinders_types::TokenId;

use crate::GrammarError;

/// Longer tokens are left out: the tree has room for 1024 levels.
const LONGEST_TOKEN_BYTES: usize = 1000;
/// No such token: a model without an end of sequence.
const NO_TOKEN: TokenId = TokenId::MAX;

/// What a token is to a grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// It stands for these bytes.
    Text(Vec<u8>),
    /// It has a name and no text: only a grammar that names it can allow it.
    Special(String),
    /// It is never allowed.
    Unused,
}

/// All tokens of a model, made once and shared by all its grammars.
pub struct TokenTable {
    env: TokEnv,
    ends: Vec<TokenId>,
    vocabulary: usize,
}

impl TokenTable {
    /// The table of a model whose logits have `vocabulary` entries.
    #[must_use]
    pub fn of_model(text: &ModelText, vocabulary: usize) -> Self {
        let ends = text.eos_ids();
        let kind = |id: TokenId| match text.token_bytes(id) {
            bytes if bytes.is_empty() => TokenKind::Unused,
            bytes if text.is_special(id) => TokenKind::Special(String::from_utf8_lossy(&bytes).into_owned()),
            bytes => TokenKind::Text(bytes),
        };
        Self::new(vocabulary, ends, kind)
    }

    /// A table of `vocabulary` tokens. `ends` are those that end a sequence.
    #[must_use]
    pub fn new(vocabulary: usize, ends: &[TokenId], kind: impl Fn(TokenId) -> TokenKind) -> Self {
        let count = TokenId::try_from(vocabulary).unwrap_or(TokenId::MAX);
        let ends: Vec<TokenId> = ends.iter().copied().filter(|end| *end < count).collect();
        let words: Vec<Vec<u8>> = (0..count)
            .map(|id| match kind(id) {
                // An end is drawn when the text may end, whatever else it stands for.
                _ if ends.contains(&id) => Vec::new(),
                TokenKind::Text(bytes) if bytes.len() <= LONGEST_TOKEN_BYTES => bytes,
                TokenKind::Special(name) => {
                    let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    marked.extend_from_slice(name.as_bytes());
                    marked
                }
                TokenKind::Text(_) | TokenKind::Unused => Vec::new(),
            })
            .collect();
        let info = TokRxInfo::new(count, ends.first().copied().unwrap_or(NO_TOKEN));
        let trie = TokTrie::from(&info, &words);
        Self {
            env: Arc::new(Tokens(trie)),
            ends,
            vocabulary,
        }
    }

    /// Tokens that end a sequence.
    #[must_use]
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    /// Tokens in a mask.
    #[must_use]
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The maker of parsers over this table.
    pub(crate) fn factory(&self) -> Result<llguidance::ParserFactory, GrammarError> {
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let capabilities = InferenceCapabilities::default();
        let factory = llguidance::ParserFactory::new(&self.env, capabilities, &slices);
        let mut factory = factory.map_err(|error| GrammarError::invalid("vocabulary", error.to_string()))?;
        factory.quiet();
        Ok(factory)
    }
}

/// The vocabulary as the parser asks for it. Text is never turned into tokens here: which tokens a text is made of is
/// the model's choice.
struct Tokens(TokTrie);

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(text)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
