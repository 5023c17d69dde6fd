//! All sequences of a scheduler, in slots: a plan walks slots without hashing.

use std::collections::HashMap;

use vlinders_types::SequenceId;

use crate::sequence::Sequence;

/// Index of a sequence in the table. Reused after the sequence is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

#[derive(Default)]
pub(crate) struct SequenceTable {
    slots: Vec<Option<Sequence>>,
    free: Vec<Slot>,
    by_id: HashMap<SequenceId, Slot>,
}

impl SequenceTable {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.slots.iter().flatten()
    }

    pub(crate) fn slot(&self, id: SequenceId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    /// Whether the slot still holds the sequence it held when `id` was noted.
    pub(crate) fn holds(&self, slot: Slot, id: SequenceId) -> bool {
        self.slots[slot.0]
            .as_ref()
            .is_some_and(|sequence| sequence.id == id)
    }

    pub(crate) fn insert(&mut self, sequence: Sequence) -> Slot {
        let id = sequence.id;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() - 1)
        });
        self.slots[slot.0] = Some(sequence);
        let earlier = self.by_id.insert(id, slot);
        assert!(earlier.is_none(), "sequence {} is used twice", id.0);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Sequence {
        let sequence = self.slots[slot.0].take().expect("slots are removed once");
        self.by_id.remove(&sequence.id);
        self.free.push(slot);
        sequence
    }
}

impl std::ops::Index<Slot> for SequenceTable {
    type Output = Sequence;

    fn index(&self, slot: Slot) -> &Sequence {
        self.slots[slot.0].as_ref().expect("slots in lists are occupied")
    }
}

impl std::ops::IndexMut<Slot> for SequenceTable {
    fn index_mut(&mut self, slot: Slot) -> &mut Sequence {
        self.slots[slot.0].as_mut().expect("slots in lists are occupied")
    }
}
