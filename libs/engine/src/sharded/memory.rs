//! The KV pools of several devices as one, whose blocks have all heads.

use std::ops::Range;
use std::sync::Arc;

use vlinders_kernel_api::{KvLayout, KvMemory};
use vlinders_types::BlockId;

/// One device's pool, and which of the model's key/value heads its blocks hold.
pub(super) struct Part {
    pub(super) memory: Arc<dyn KvMemory>,
    pub(super) heads: Range<u32>,
}

/// Block `n` is made of the blocks `n` of all parts. A head that several devices hold is read from the first of them, and
/// written to all.
pub(super) struct ShardedMemory {
    block_bytes: usize,
    /// Of one head of a block: all its layers, in one run.
    head_bytes: usize,
    block_count: u32,
    parts: Vec<Part>,
}

impl ShardedMemory {
    /// # Panics
    /// When a part's blocks do not have the size of its heads.
    pub(super) fn new(layout: KvLayout, block_count: u32, parts: Vec<Part>) -> Self {
        let head_bytes = layout.block_bytes() / (layout.kv_heads as usize).max(1);
        for part in &parts {
            let expected = part.heads.len() * head_bytes;
            assert_eq!(part.memory.block_bytes(), expected, "a block holds its heads");
        }
        Self {
            block_bytes: layout.block_bytes(),
            head_bytes,
            block_count,
            parts,
        }
    }

    /// Where a part's heads lie in a whole block.
    fn place(&self, part: &Part) -> Range<usize> {
        part.heads.start as usize * self.head_bytes..part.heads.end as usize * self.head_bytes
    }
}

impl KvMemory for ShardedMemory {
    fn block_count(&self) -> u32 {
        self.block_count
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        let mut whole = vec![0; self.block_bytes];
        for part in self.parts.iter().rev() {
            let place = self.place(part);
            part.memory
                .with_block(block, &mut |bytes| whole[place.clone()].copy_from_slice(bytes));
        }
        see(&whole);
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.block_bytes, "exactly one block");
        for part in &self.parts {
            part.memory.write_block(block, &bytes[self.place(part)]);
        }
    }
}
