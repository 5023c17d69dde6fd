//! Memory on the way to which blocks are damaged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vlinders_kernel_api::KvMemory;
use vlinders_types::BlockId;

/// Memory whose arriving blocks are damaged now and then.
pub(super) struct Damaging {
    inner: Arc<dyn KvMemory>,
    every: u64,
    written: AtomicU64,
}

impl Damaging {
    /// Damages every so many blocks; 0 damages none.
    pub(super) fn new(inner: Arc<dyn KvMemory>, every: u64) -> Self {
        Self {
            inner,
            every,
            written: AtomicU64::new(0),
        }
    }
}

impl KvMemory for Damaging {
    fn block_count(&self) -> u32 {
        self.inner.block_count()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        self.inner.with_block(block, see);
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        let written = self.written.fetch_add(1, Ordering::Relaxed) + 1;
        if self.every == 0 || !written.is_multiple_of(self.every) {
            return self.inner.write_block(block, bytes);
        }
        let mut damaged = bytes.to_vec();
        damaged[0] ^= 1;
        self.inner.write_block(block, &damaged);
    }
}
