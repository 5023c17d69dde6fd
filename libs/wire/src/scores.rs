//! What a chunk says of the prompt: scores of its tokens, or a vector of the whole.

use vlinders_types::{PromptScores, TokenScore};

use crate::check::Check;
use crate::limits::{MAX_EMBEDDING, MAX_TOKENS, MAX_TOP_LOGPROBS, MIN_LOGPROB};
use crate::tokens::finite;
use crate::{Fault, WireError, generated};

const CHUNK: Check = Check { message: "Chunk" };
const SCORES: Check = Check {
    message: "PromptScores",
};
const SCORE: Check = Check {
    message: "TokenScore",
};

impl From<&PromptScores> for generated::PromptScores {
    fn from(part: &PromptScores) -> Self {
        let score = |score: &TokenScore| generated::TokenScore {
            logprob: finite(score.logprob),
            rank: score.rank,
            top_ids: score.top.iter().map(|(id, _)| *id).collect(),
            top_logprobs: score.top.iter().map(|(_, logprob)| finite(*logprob)).collect(),
        };
        Self {
            first: part.first,
            scores: part.scores.iter().map(score).collect(),
        }
    }
}

impl TryFrom<generated::PromptScores> for PromptScores {
    type Error = WireError;

    fn try_from(wire: generated::PromptScores) -> Result<Self, WireError> {
        SCORES.require("first", wire.first > 0, Fault::OutOfRange)?;
        SCORES.require("scores", !wire.scores.is_empty(), Fault::Missing)?;
        SCORES.length("scores", wire.scores.len(), MAX_TOKENS)?;
        let scores: Result<Vec<TokenScore>, WireError> =
            wire.scores.into_iter().map(TryInto::try_into).collect();
        Ok(Self {
            first: wire.first,
            scores: scores?,
        })
    }
}

impl TryFrom<generated::TokenScore> for TokenScore {
    type Error = WireError;

    fn try_from(wire: generated::TokenScore) -> Result<Self, WireError> {
        let check = SCORE;
        check.float("logprob", wire.logprob, MIN_LOGPROB..=0.0)?;
        check.require("rank", wire.rank > 0, Fault::OutOfRange)?;
        check.length("top_ids", wire.top_ids.len(), MAX_TOP_LOGPROBS)?;
        let pairs = wire.top_ids.len() == wire.top_logprobs.len();
        check.require("top_logprobs", pairs, Fault::Disagrees("top_ids"))?;
        for logprob in &wire.top_logprobs {
            check.float("top_logprobs", *logprob, MIN_LOGPROB..=0.0)?;
        }
        Ok(Self {
            logprob: wire.logprob,
            rank: wire.rank,
            top: wire.top_ids.into_iter().zip(wire.top_logprobs).collect(),
        })
    }
}

/// Whether a chunk's vector is one.
pub(crate) fn check_embedding(embedding: &[f32]) -> Result<(), WireError> {
    CHUNK.length("embedding", embedding.len(), MAX_EMBEDDING)?;
    let is_finite = embedding.iter().all(|element| element.is_finite());
    CHUNK.require("embedding", is_finite, Fault::OutOfRange)
}
