//! The prompt's scores on their way: each once, in order, whatever the order and number they come in. An attempt that
//! begins again tells the same numbers again.

use std::collections::BTreeMap;
use std::ops::Range;

use tokio::time::Instant;
use vlinders_types::{PromptScores, TokenScore};

use super::assembly::Pushed;

/// Pieces that may wait for a predecessor.
const MAX_EARLY: usize = 256;

/// How far they have come.
pub(super) struct ScoreProgress {
    /// Positions still to come.
    missing: Range<u32>,
    scores: Vec<TokenScore>,
    early: BTreeMap<u32, PromptScores>,
    early_since: Option<Instant>,
}

impl ScoreProgress {
    pub(super) fn new(scored: Range<u32>) -> Self {
        Self {
            missing: scored,
            scores: Vec::new(),
            early: BTreeMap::new(),
            early_since: None,
        }
    }

    /// Whether none is missing.
    pub(super) fn are_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// All of them, once.
    pub(super) fn take(&mut self) -> Vec<TokenScore> {
        std::mem::take(&mut self.scores)
    }

    /// Since when a missing piece has been waited for.
    pub(super) fn early_since(&self) -> Option<Instant> {
        self.early_since
    }

    /// What came out of turn comes again.
    pub(super) fn forget_early(&mut self) {
        self.early.clear();
        self.early_since = None;
    }

    /// Adds a piece.
    pub(super) fn push(&mut self, part: PromptScores) -> Pushed {
        if self.are_complete() {
            return Pushed::Stale;
        }
        if part.first > self.missing.start {
            if self.early.len() >= MAX_EARLY {
                return Pushed::Gap;
            }
            self.early_since.get_or_insert_with(Instant::now);
            let known = self.early.get(&part.first).map_or(0, |known| known.scores.len());
            if known < part.scores.len() {
                self.early.insert(part.first, part);
            }
            return Pushed::Early;
        }
        let before = self.missing.start;
        self.absorb(part);
        while let Some(entry) = self.early.first_entry()
            && *entry.key() <= self.missing.start
        {
            let part = entry.remove();
            self.absorb(part);
        }
        if self.early.is_empty() {
            self.early_since = None;
        }
        if self.missing.start == before {
            Pushed::Stale
        } else {
            Pushed::Taken
        }
    }

    /// Takes what is new of a piece that begins at the next position or before it.
    fn absorb(&mut self, part: PromptScores) {
        let known = self.missing.start - part.first;
        let new = part.scores.into_iter().skip(known as usize);
        let wanted = self.missing.len();
        let had = self.scores.len();
        self.scores.extend(new.take(wanted));
        let count = self.scores.len() - had;
        self.missing.start += u32::try_from(count).expect("no more than are missing");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vlinders_types::{Chunk, Finish, FinishReason, TokenCounts};

    use super::super::assembly::Assembly;
    use super::*;

    /// The score of a position says which it is.
    fn piece(first: u32, end: u32) -> PromptScores {
        let score = |position| TokenScore {
            logprob: 0.0,
            rank: position,
            top: Vec::new(),
        };
        PromptScores {
            first,
            scores: (first..end).map(score).collect(),
        }
    }

    fn scored(first: u32, end: u32) -> Chunk {
        Chunk {
            prompt_scores: Some(piece(first, end)),
            ..Chunk::default()
        }
    }

    fn token() -> Chunk {
        Chunk {
            ids: vec![7],
            text: "a".to_owned(),
            ..Chunk::default()
        }
    }

    fn ended(reason: FinishReason) -> Chunk {
        let finish = Finish {
            reason,
            stop_text: None,
            counts: TokenCounts::default(),
            fault: None,
        };
        Chunk {
            finish: Some(finish),
            ..Chunk::default()
        }
    }

    #[test]
    fn no_token_is_told_before_the_last_score() {
        let mut stream = Assembly::new(10, 1..6);
        assert_eq!(stream.push(scored(1, 3)).0, Pushed::Taken);
        assert_eq!(stream.push(token()).0, Pushed::Early);
        assert_eq!((stream.take(), stream.ids().len()), (None, 0));
        assert_eq!(stream.push(scored(3, 6)).0, Pushed::Taken);
        let news = stream.take().unwrap();
        assert_eq!((news.text.as_str(), news.scores), ("a", piece(1, 6).scores));
        assert!(stream.missing().is_none() && stream.has_scores());
    }

    #[test]
    fn a_good_end_waits_for_the_scores_and_a_bad_one_does_not() {
        let mut stream = Assembly::new(10, 1..3);
        assert_eq!(stream.push(ended(FinishReason::Length)).0, Pushed::Early);
        assert_eq!(stream.push(scored(1, 3)).0, Pushed::Ended);
        let mut stream = Assembly::new(10, 1..3);
        assert_eq!(stream.push(ended(FinishReason::Cancelled)).0, Pushed::Ended);
    }

    #[test]
    fn another_attempt_tells_again_and_is_taken_where_the_first_one_stopped() {
        let mut stream = Assembly::new(10, 1..9);
        stream.push(scored(1, 5));
        stream.push(scored(7, 9));
        stream.begin_attempt();
        assert_eq!(stream.push(scored(5, 9)).0, Pushed::Stale, "of an older attempt");
        let of_next = |chunk| Chunk { attempt: 1, ..chunk };
        assert_eq!(stream.push(of_next(scored(1, 4))).0, Pushed::Stale);
        assert_eq!(stream.push(of_next(scored(4, 8))).0, Pushed::Taken);
        assert!(!stream.has_scores());
        assert_eq!(stream.push(of_next(scored(8, 9))).0, Pushed::Taken);
        assert_eq!(stream.take().unwrap().scores, piece(1, 9).scores);
    }

    proptest! {
        #[test]
        fn in_whatever_order_pieces_come_each_score_is_taken_once(
            pieces in prop::collection::vec((1_u32..30, 1_u32..9), 0..60),
        ) {
            let mut progress = ScoreProgress::new(1..30);
            for (first, length) in &pieces {
                progress.push(piece(*first, (first + length).min(30)));
            }
            let covers = |position: &u32| pieces.iter().any(|(first, length)| (*first..first + length).contains(position));
            let end = (1..30).find(|position| !covers(position)).unwrap_or(30);
            prop_assert_eq!(progress.are_complete(), end == 30);
            // A piece that holds the next one but begins before it is always whole.
            prop_assert_eq!(progress.take(), piece(1, end).scores);
        }
    }
}
