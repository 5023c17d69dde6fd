//! What must be true of every batch.

use std::collections::HashSet;

use vlinders_types::{BLOCK_TOKENS, TokenId, blocks_for_tokens};

use crate::engine::END;
use crate::world::World;

impl World {
    /// Limits, tables and samples of a fresh plan.
    pub(crate) fn check_batch(&self) {
        let (batch, limits) = (&self.batch, self.scheduler.limits());
        let ids: HashSet<_> = batch.rows.iter().map(|row| row.sequence).collect();
        assert_eq!(ids.len(), batch.rows.len(), "no sequence twice");
        assert!(batch.rows.len() <= limits.max_running as usize);
        assert!(batch.tokens.len() <= limits.max_batch_tokens as usize);
        assert_eq!(
            batch.tokens.len(),
            batch.rows.iter().map(|row| row.tokens.count as usize).sum()
        );
        let mut samples = batch.samples.iter();
        for row in &batch.rows {
            let live = &self.live[&row.sequence];
            assert!((1..=limits.prefill_chunk_tokens).contains(&row.tokens.count));
            let (first, end) = (
                row.first_position as usize,
                (row.first_position + row.tokens.count) as usize,
            );
            assert_eq!(batch.tokens[row.tokens.range()], live.tokens[first..end]);
            assert!(row.blocks.count >= blocks_for_tokens(row.first_position + row.tokens.count));
            let table = &batch.blocks[row.blocks.range()];
            assert!(
                self.engine.holds(table, &live.tokens[..first]),
                "the context is in the blocks"
            );
            if end < live.tokens.len() || live.spec.wish.draws_nothing {
                continue;
            }
            let sample = samples.next().expect("a row that reaches the end draws");
            assert_eq!(sample.sequence, row.sequence);
            assert_eq!(
                (sample.position as usize, sample.token_index),
                (end, row.tokens.start + row.tokens.count - 1)
            );
            assert_eq!(sample.prompt_tokens, live.spec.prompt_tokens());
            let seen = &batch.history[sample.history.range()];
            assert_eq!(
                seen,
                if sample.params.needs_history() {
                    &live.tokens[..]
                } else {
                    &[]
                }
            );
            let is_short = end < live.spec.totals().0 as usize;
            let banned: &[TokenId] = if is_short { &[END] } else { &[] };
            assert_eq!(&sample.banned[..], banned);
        }
        assert!(samples.next().is_none(), "only rows that reach the end draw");
    }

    /// What a row writes belongs to nobody else, at the moment of writing.
    pub(crate) fn check_writes(&self) {
        let mut written = HashSet::new();
        for row in &self.batch.rows {
            let first = (row.first_position / BLOCK_TOKENS) as usize;
            for block in &self.batch.blocks[row.blocks.range()][first..] {
                assert!(written.insert(*block), "two rows write {block:?}");
                for other in self.live.keys().filter(|other| **other != row.sequence) {
                    let table = self.scheduler.blocks(*other).expect("it is here");
                    assert!(
                        !table.contains(block),
                        "{block:?} of {other:?} is written by {:?}",
                        row.sequence
                    );
                }
                let in_quarantine = self.quarantined.iter().any(|(_, blocks)| blocks.contains(block));
                assert!(!in_quarantine, "{block:?} is in quarantine");
            }
        }
    }
}
