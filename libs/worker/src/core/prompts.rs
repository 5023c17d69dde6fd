//! What a request is told of its prompt: scores in pieces as they come, a vector with the end.

use std::sync::Arc;

use vlinders_scheduler::{PromptWish, ScoreWish};
use vlinders_types::{Chunk, FinishReason, PromptScores, Request, SequenceId, Task, TokenScore};

use super::Core;

/// Tokens that one piece names at most, scored ones and their rivals: less than 150 kB as bytes.
const TOKENS_IN_PIECE: usize = 1 << 14;

impl Core {
    /// Prompt tokens were scored: the client's frontend gets them at once, in pieces that fit a message.
    pub(super) fn on_scored(&mut self, id: SequenceId, first: u32, scores: Vec<TokenScore>) {
        let Some(sequence) = self.sequences.get(&id) else {
            return;
        };
        let request = Arc::clone(&sequence.request);
        let position = sequence.output.generated();
        for piece in pieces(first, scores, request.prompt_logprobs.unwrap_or(0)) {
            let chunk = Chunk {
                handle: request.handle,
                attempt: request.attempt,
                position,
                prompt_scores: Some(piece),
                ..Chunk::default()
            };
            self.outbox.push_chunk(&request.frontend, chunk);
        }
    }

    /// All tokens of a request that draws none are computed: it ends here, whatever the role.
    pub(super) fn on_prompt_done(&mut self, id: SequenceId, cached_tokens: u32, pooled: Option<&[f64]>) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        sequence.cached_tokens = cached_tokens.min(sequence.prompt_tokens());
        let reason = match sequence.request.task {
            Task::Generate => unreachable!("what draws does not end with its prompt"),
            // No token was allowed.
            Task::Score { .. } => FinishReason::Length,
            Task::Embed { dimensions, .. } => {
                let vector = pooled.and_then(|sum| unit_vector(sum, dimensions));
                let Some(vector) = vector else {
                    return self.fail_internally(id);
                };
                sequence.output.carry(vector);
                FinishReason::Stop
            }
        };
        self.end(id, reason, None, None);
    }
}

/// Scores in pieces that follow one another.
fn pieces(mut first: u32, mut scores: Vec<TokenScore>, rivals: u8) -> Vec<PromptScores> {
    let in_piece = TOKENS_IN_PIECE / (1 + usize::from(rivals));
    let mut pieces = Vec::new();
    while !scores.is_empty() {
        let rest = scores.split_off(in_piece.min(scores.len()));
        let piece = std::mem::replace(&mut scores, rest);
        let count = u32::try_from(piece.len()).expect("a piece is small");
        pieces.push(PromptScores { first, scores: piece });
        first += count;
    }
    pieces
}

/// What the scheduler must know of what a request wants to be told.
pub(super) fn prompt_wish(request: &Request) -> PromptWish {
    let (first, pooling) = match request.task {
        Task::Generate => (1, None),
        Task::Score { first } => (first, None),
        Task::Embed { pooling, .. } => (1, Some(pooling)),
    };
    PromptWish {
        scores: request.prompt_logprobs.map(|top| ScoreWish { first, top }),
        pooling,
        draws_nothing: !request.task.draws(),
    }
}

/// The first elements of a sum, of length 1 together. A mean points where its sum does. None when it has no direction.
fn unit_vector(sum: &[f64], dimensions: Option<u32>) -> Option<Vec<f32>> {
    let kept = dimensions.map_or(sum.len(), |dimensions| sum.len().min(dimensions as usize));
    let kept = &sum[..kept];
    let length = kept.iter().map(|element| element * element).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "rounded to what is told")]
    let unit = |element: &f64| (element / length) as f32;
    (length.is_finite() && length > 0.0).then(|| kept.iter().map(unit).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_one_another_and_are_bounded() {
        let score = |rank| TokenScore {
            logprob: 0.0,
            rank,
            top: Vec::new(),
        };
        let scores: Vec<TokenScore> = (7..2007).map(score).collect();
        let pieces = pieces(7, scores, 20);
        assert_eq!(pieces.len(), 3);
        let mut expected = 7;
        for piece in pieces {
            assert_eq!(piece.first, expected);
            assert!(piece.scores.len() * 21 <= TOKENS_IN_PIECE);
            for score in piece.scores {
                assert_eq!(score.rank, expected);
                expected += 1;
            }
        }
        assert_eq!(expected, 2007);
    }

    #[test]
    fn a_vector_has_length_one_also_when_it_is_cut() {
        assert_eq!(unit_vector(&[3.0, -4.0, 12.0], Some(2)), Some(vec![0.6, -0.8]));
        assert_eq!(unit_vector(&[3.0, -4.0], None), Some(vec![0.6, -0.8]));
        assert_eq!(unit_vector(&[3.0, -4.0], Some(9)), Some(vec![0.6, -0.8]));
    }

    #[test]
    fn what_points_nowhere_is_no_vector() {
        for sum in [[0.0, 0.0], [f64::NAN, 1.0], [f64::INFINITY, 1.0]] {
            assert_eq!(unit_vector(&sum, None), None);
        }
    }
}
