//! KV blocks as one locked buffer each.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vlinders_kernel_api::KvMemory;
use vlinders_types::BlockId;

/// Blocks of plain bytes.
pub(crate) struct ReferenceMemory {
    block_bytes: usize,
    blocks: Vec<Mutex<Vec<u8>>>,
}

impl ReferenceMemory {
    /// `block_count` blocks of zeros.
    pub(crate) fn new(block_count: u32, block_bytes: usize) -> Self {
        let blocks = (0..block_count)
            .map(|_| Mutex::new(vec![0; block_bytes]))
            .collect();
        Self { block_bytes, blocks }
    }

    /// The bytes of `block`.
    pub(crate) fn lock(&self, block: BlockId) -> MutexGuard<'_, Vec<u8>> {
        // Bytes are valid whatever their last writer was doing when it panicked.
        self.blocks[block.0 as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvMemory for ReferenceMemory {
    fn block_count(&self) -> u32 {
        u32::try_from(self.blocks.len()).expect("made from a u32")
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        see(&self.lock(block));
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        self.lock(block).copy_from_slice(bytes);
    }
}
