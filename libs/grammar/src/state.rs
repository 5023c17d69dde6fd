//! A compiled grammar, and where one text stands in it.

use llguidance::Matcher;
use vlinders_types::{TokenId, TokenMask};

use crate::GrammarError;

/// A compiled constraint. Cheap to share; each text has a [`GrammarState`] of its own.
pub struct Grammar {
    start: Matcher,
    ends: Vec<TokenId>,
    vocabulary: usize,
}

impl Grammar {
    pub(crate) fn new(start: Matcher, ends: &[TokenId], vocabulary: usize) -> Self {
        Self {
            start,
            ends: ends.to_vec(),
            vocabulary,
        }
    }

    /// The beginning of a text. `more_ends` end the sequence beside the model's own ends: they too are allowed exactly
    /// when the text may end.
    #[must_use]
    pub fn state(&self, more_ends: &[TokenId]) -> GrammarState {
        let mut ends = self.ends.clone();
        let known = |end: &&TokenId| (**end as usize) < self.vocabulary;
        ends.extend(more_ends.iter().filter(known));
        GrammarState {
            // What one text's parser learns about the lexer must not change when another's gives up: so nothing is shared.
            matcher: self.start.deep_clone(),
            ends,
            vocabulary: self.vocabulary,
        }
    }
}

/// Where one text stands in its grammar.
pub struct GrammarState {
    matcher: Matcher,
    ends: Vec<TokenId>,
    vocabulary: usize,
}

impl GrammarState {
    /// Goes on by one token. Ends of sequence change nothing.
    ///
    /// # Errors
    /// When the grammar does not allow the token here, or the text has become too complex. The state is then of no more use.
    pub fn advance(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if self.ends.contains(&token) {
            return Ok(());
        }
        self.matcher
            .consume_token(token)
            .map_err(|error| dead_end(&error))
    }

    /// The tokens that may come next: at least one, unless the text is complete and the model has no end of sequence.
    /// Ends of sequence are among them exactly when the text may end here.
    ///
    /// # Errors
    /// When no token may follow and the text is not complete, or the text has become too complex.
    pub fn mask(&mut self) -> Result<TokenMask, GrammarError> {
        if self.is_complete() {
            return Ok(self.ends_only());
        }
        let may_end = self.matcher.is_accepting().map_err(|error| dead_end(&error))?;
        let allowed = match self.matcher.compute_mask() {
            Ok(allowed) => allowed,
            // Nothing more fits, and a model without ends of sequence has no token that says so.
            Err(_) if may_end => return Ok(self.ends_only()),
            Err(error) => return Err(dead_end(&error)),
        };
        let word_count = self.vocabulary.div_ceil(u32::BITS as usize);
        let mut words = allowed.as_slice()[..word_count].to_vec();
        // What lies beyond the vocabulary in the last word belongs to nobody.
        if let (Some(last), rest @ 1..) = (words.last_mut(), self.vocabulary % u32::BITS as usize) {
            *last &= (1 << rest) - 1;
        }
        let mut mask = TokenMask::from_words(words);
        for end in &self.ends {
            if may_end {
                mask.allow(*end);
            } else {
                mask.forbid(*end);
            }
        }
        Ok(mask)
    }

    /// Whether the text is complete and nothing but its end may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok() && !self.matcher.is_error()
    }

    /// Whether the text may end here.
    pub fn may_end(&mut self) -> bool {
        self.is_complete() || self.matcher.is_accepting().unwrap_or(false)
    }

    fn ends_only(&self) -> TokenMask {
        let mut mask = TokenMask::none(self.vocabulary);
        self.ends.iter().for_each(|end| mask.allow(*end));
        mask
    }
}

fn dead_end(error: &impl ToString) -> GrammarError {
    GrammarError::DeadEnd {
        reason: crate::compiler::short(&error.to_string()),
    }
}
