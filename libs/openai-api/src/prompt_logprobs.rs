//! How likely a prompt's own tokens were, as `prompt_logprobs` tells it.

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use vlinders_types::TokenId;

use crate::logprobs::{finite, token_text};

/// One token of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// The token.
    pub id: TokenId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its log-probability and its rank, 1 for the most likely token; none for the first token, which follows nothing.
    pub score: Option<(f32, u32)>,
    /// The most likely tokens there, most likely first: token, bytes, log-probability.
    pub top: Vec<(TokenId, Vec<u8>, f32)>,
}

/// A list with an entry for each token of a prompt: null for the first, and for the others an object from token ids to
/// what is known of them, the prompt's own token first.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLogprobs<'a> {
    /// The prompt.
    pub tokens: &'a [PromptToken],
    /// So many of the most likely tokens are told at each place.
    pub top: u8,
}

impl Serialize for PromptLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.tokens.len()))?;
        for token in self.tokens {
            let place = token.score.map(|score| Place {
                token,
                score,
                top: self.top,
            });
            list.serialize_element(&place)?;
        }
        list.end()
    }
}

struct Place<'a> {
    token: &'a PromptToken,
    score: (f32, u32),
    top: u8,
}

#[derive(Serialize)]
struct Entry {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

impl Serialize for Place<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry = |logprob, rank, bytes: &[u8]| Entry {
            logprob: finite(logprob),
            rank,
            decoded_token: token_text(bytes),
        };
        let mut map = serializer.serialize_map(None)?;
        let (logprob, rank) = self.score;
        map.serialize_entry(
            &self.token.id.to_string(),
            &entry(logprob, rank, &self.token.bytes),
        )?;
        let top = (1..).zip(self.token.top.iter().take(usize::from(self.top)));
        for (rank, (id, bytes, logprob)) in top.filter(|(_, (id, _, _))| *id != self.token.id) {
            map.serialize_entry(&id.to_string(), &entry(*logprob, rank, bytes))?;
        }
        map.end()
    }
}
