//! What is told of a sequence's given tokens: which are still to be scored, which hidden states to be added.
//!
//! Both go on where they were after a preemption: what was told once is not computed again, so the tokens before it may
//! then come from the prefix cache.

use std::sync::Arc;

use vlinders_types::{Batch, BatchRow, PoolResult, PoolRow, Pooling, ScoreResult, ScoreRow, Span};

use crate::plan::append;
use crate::sequence::Sequence;
use crate::{Event, PromptWish};

/// How far a sequence's wishes are fulfilled.
pub(crate) struct PromptProgress {
    wish: PromptWish,
    /// Position of the next token to score.
    next_score: u32,
    /// Position of the next token whose hidden state is added.
    next_pooled: u32,
    /// Empty before the first.
    sum: Arc<[f64]>,
}

impl PromptProgress {
    pub(crate) fn new(wish: PromptWish, given_tokens: u32) -> Self {
        Self {
            wish,
            next_score: wish.scores.map_or(0, |scores| scores.first),
            next_pooled: match wish.pooling {
                Some(Pooling::LastToken) => given_tokens - 1,
                Some(Pooling::Mean) | None => 0,
            },
            sum: Arc::new([]),
        }
    }

    pub(crate) fn draws_nothing(&self) -> bool {
        self.wish.draws_nothing
    }

    /// They were told elsewhere.
    pub(crate) fn forget_scores(&mut self) {
        self.wish.scores = None;
    }

    /// Tokens that may come from the prefix cache as far as the wishes go: those before the first that something must be
    /// told of.
    pub(crate) fn cacheable_tokens(&self, prompt_tokens: u32) -> u32 {
        let scored = self.wish.scores.filter(|_| self.next_score < prompt_tokens);
        // A score is read after the token before it.
        let before_scores = scored.map_or(u32::MAX, |_| self.next_score - 1);
        let before_pooled = self.wish.pooling.map_or(u32::MAX, |_| self.next_pooled);
        before_scores.min(before_pooled)
    }
}

/// Which results belong to a planned row.
#[derive(Clone, Copy, Default)]
pub(crate) struct PromptRow {
    pub(crate) scores: bool,
    pub(crate) pools: bool,
}

/// Adds to `batch` what is to be told of the tokens of `row`, its last.
pub(crate) fn plan(sequence: &Sequence, row: BatchRow, batch: &mut Batch) -> PromptRow {
    let progress = &sequence.progress;
    let end = row.first_position + row.tokens.count;
    let index_of = |position: u32| row.tokens.start + (position - row.first_position);
    let mut planned = PromptRow::default();
    if let Some(wish) = progress.wish.scores {
        let first = progress.next_score;
        let last = (end + 1).min(sequence.prompt_tokens);
        if first < last {
            assert!(
                first > row.first_position,
                "the token before a scored one is computed"
            );
            batch.scores.push(ScoreRow {
                sequence: sequence.id,
                token_index: index_of(first - 1),
                position: first,
                targets: append(
                    &mut batch.targets,
                    &sequence.tokens[first as usize..last as usize],
                ),
                top: wish.top,
            });
            planned.scores = true;
        }
    }
    if progress.wish.pooling.is_some() && progress.next_pooled < end {
        let first = progress.next_pooled;
        assert!(first >= row.first_position, "a pooled token is computed");
        batch.pools.push(PoolRow {
            sequence: sequence.id,
            tokens: Span {
                start: index_of(first),
                count: end - first,
            },
            so_far: Arc::clone(&progress.sum),
        });
        planned.pools = true;
    }
    planned
}

/// Takes the scores of a row. None when its logits could not be trusted.
pub(crate) fn take_scores(sequence: &mut Sequence, result: &ScoreResult) -> Option<Event> {
    let scores = result.scores.clone()?;
    let first = sequence.progress.next_score;
    sequence.progress.next_score += u32::try_from(scores.len()).expect("fewer than the tokens of a batch");
    Some(Event::Scored {
        id: sequence.id,
        first,
        scores,
    })
}

/// Takes the sum of a row whose last token is now computed.
pub(crate) fn take_sum(sequence: &mut Sequence, result: &PoolResult) {
    sequence.progress.sum = Arc::clone(&result.sum);
    sequence.progress.next_pooled = sequence.computed_tokens;
}

/// The last news of a sequence that draws nothing.
pub(crate) fn done(sequence: &Sequence) -> Event {
    let progress = &sequence.progress;
    Event::PromptDone {
        id: sequence.id,
        cached_tokens: sequence.cached_tokens.unwrap_or(0),
        pooled: progress.wish.pooling.map(|_| Arc::clone(&progress.sum)),
    }
}
