//! Sequences that wait for blocks, best rank first.

use std::collections::BTreeMap;

use crate::sequence::{Rank, Sequence};
use crate::table::Slot;

#[derive(Default)]
pub(crate) struct WaitingQueue {
    order: BTreeMap<Rank, Slot>,
    tokens: u64,
    blocks: u64,
}

impl WaitingQueue {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Tokens of all that wait.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Blocks that all that wait will need to be admitted, if nothing is found in the prefix cache.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn head(&self) -> Option<Slot> {
        self.order.first_key_value().map(|(_, slot)| *slot)
    }

    /// Until it is removed, the sequence's tokens do not change.
    pub(crate) fn insert(&mut self, slot: Slot, sequence: &Sequence) {
        let earlier = self.order.insert(sequence.rank(), slot);
        assert!(earlier.is_none(), "ranks are unique");
        self.tokens += u64::from(sequence.token_count());
        self.blocks += u64::from(sequence.needed_blocks());
    }

    pub(crate) fn remove(&mut self, sequence: &Sequence) {
        let slot = self.order.remove(&sequence.rank());
        assert!(slot.is_some(), "waiting sequences are in the queue");
        self.tokens -= u64::from(sequence.token_count());
        self.blocks -= u64::from(sequence.needed_blocks());
    }
}
