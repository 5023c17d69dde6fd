//! A pool of blocks in shared memory, for who has no kernels: tests and benchmarks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use vlinders_kernel_api::{KvMemory, PoolPlace};
use vlinders_types::BlockId;

use crate::SharedRegion;

/// Blocks in a [`SharedRegion`], one after the other.
pub struct SharedPool {
    region: SharedRegion,
    block_count: u32,
    block_bytes: usize,
}

impl SharedPool {
    /// `block_count` blocks of zeros.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(block_count: u32, block_bytes: usize) -> io::Result<Self> {
        let bytes = block_bytes.checked_mul(block_count as usize);
        let region = SharedRegion::zeroed(bytes.ok_or(io::ErrorKind::OutOfMemory)?)?;
        Ok(Self {
            region,
            block_count,
            block_bytes,
        })
    }

    fn at(&self, block: BlockId) -> *mut u8 {
        assert!(block.0 < self.block_count, "the block is in the pool");
        self.region
            .as_ptr()
            .wrapping_add(block.0 as usize * self.block_bytes)
    }
}

impl KvMemory for SharedPool {
    fn block_count(&self) -> u32 {
        self.block_count
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        // SAFETY: `at` checked that the block lies in the region; the trait's rule keeps writers away.
        see(unsafe { std::slice::from_raw_parts(self.at(block), self.block_bytes) });
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.block_bytes, "exactly one block is written");
        self.fill_block(block, &mut |place| place.copy_from_slice(bytes));
    }

    fn fill_block(&self, block: BlockId, fill: &mut dyn FnMut(&mut [u8])) {
        // SAFETY: `at` checked that the block lies in the region; the trait's rule makes the caller its only user.
        fill(unsafe { std::slice::from_raw_parts_mut(self.at(block), self.block_bytes) });
    }

    fn shared_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.region.as_fd())
    }

    fn place(&self) -> Option<PoolPlace> {
        let start = NonNull::new(self.region.as_ptr())?;
        // SAFETY: the region is writable memory of this size and lives as long as the pool.
        Some(unsafe { PoolPlace::new(start, self.block_count as usize * self.block_bytes) })
    }
}
