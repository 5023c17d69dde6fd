//! Memory to transfer between, and memory in which a block went wrong.

use std::sync::{Arc, Mutex};

use vlinders_kernel_api::{KvMemory, PoolPlace};
use vlinders_types::BlockId;

/// Blocks on the heap.
pub struct PoolMemory {
    blocks: Vec<Mutex<Box<[u8]>>>,
    block_bytes: usize,
}

impl PoolMemory {
    /// `block_count` blocks of zeros.
    #[must_use]
    pub fn new(block_count: u32, block_bytes: usize) -> Self {
        let block = || Mutex::new(vec![0; block_bytes].into_boxed_slice());
        Self {
            blocks: (0..block_count).map(|_| block()).collect(),
            block_bytes,
        }
    }
}

impl KvMemory for PoolMemory {
    fn block_count(&self) -> u32 {
        u32::try_from(self.blocks.len()).expect("it was made from a u32")
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        see(&self.blocks[block.0 as usize]
            .lock()
            .expect("nothing panics while it is held"));
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.block_bytes, "exactly one block is written");
        self.blocks[block.0 as usize]
            .lock()
            .expect("nothing panics while it is held")
            .copy_from_slice(bytes);
    }

    fn fill_block(&self, block: BlockId, fill: &mut dyn FnMut(&mut [u8])) {
        fill(
            &mut self.blocks[block.0 as usize]
                .lock()
                .expect("nothing panics while it is held"),
        );
    }
}

/// Shows one block with one wrong bit: a copy of it that went wrong, whoever made the copy.
pub struct FaultyMemory {
    inner: Arc<dyn KvMemory>,
    spoiled: BlockId,
}

impl FaultyMemory {
    /// `inner`, but for the bit in `spoiled`.
    #[must_use]
    pub fn new(inner: Arc<dyn KvMemory>, spoiled: BlockId) -> Self {
        Self { inner, spoiled }
    }
}

impl KvMemory for FaultyMemory {
    fn block_count(&self) -> u32 {
        self.inner.block_count()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        self.inner.with_block(block, &mut |bytes| {
            if block != self.spoiled {
                return see(bytes);
            }
            let mut spoiled = bytes.to_vec();
            let middle = spoiled.len() / 2;
            spoiled[middle] ^= 1;
            see(&spoiled);
        });
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        self.inner.write_block(block, bytes);
    }

    fn fill_block(&self, block: BlockId, fill: &mut dyn FnMut(&mut [u8])) {
        self.inner.fill_block(block, fill);
    }

    #[cfg(unix)]
    fn shared_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.inner.shared_fd()
    }

    fn place(&self) -> Option<PoolPlace> {
        self.inner.place()
    }
}
