//! The KV pool: one zeroed region that transfers and executors share.

use std::ptr::NonNull;

use vlinders_kernel_api::{KernelError, KvLayout, KvMemory, PoolPlace};
use vlinders_types::{BLOCK_TOKENS, BlockId};

use crate::region::Region;
#[cfg(target_os = "linux")]
use {std::os::fd::AsFd, vlinders_kernel_shared_memory::SharedRegion};

/// The name in errors.
const WHAT: &str = "the KV pool";

/// Blocks of one executor. Backed by memory only where a block was ever written.
pub(crate) struct CpuKvMemory {
    store: Store,
    layout: KvLayout,
    block_count: u32,
}

impl CpuKvMemory {
    /// A pool of this process alone, on huge pages where the system has them.
    pub(crate) fn new(layout: KvLayout, block_count: u32) -> Result<Self, KernelError> {
        let bytes = pool_bytes(&layout, block_count)?;
        Ok(Self {
            store: Store::Private(Region::zeroed(bytes, WHAT)?),
            layout,
            block_count,
        })
    }

    /// A pool that other processes of this host may read. Where the system cannot do that it is private.
    pub(crate) fn shared(layout: KvLayout, block_count: u32) -> Result<Self, KernelError> {
        #[cfg(target_os = "linux")]
        {
            let bytes = pool_bytes(&layout, block_count)?;
            let region = SharedRegion::zeroed(bytes).map_err(|_| out_of_memory(bytes as u64))?;
            Ok(Self {
                store: Store::Shared(region),
                layout,
                block_count,
            })
        }
        #[cfg(not(target_os = "linux"))]
        Self::new(layout, block_count)
    }

    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// `count` bytes at `offset` inside `block`.
    fn at(&self, block: BlockId, offset: usize, count: usize) -> *mut u8 {
        assert!(block.0 < self.block_count, "the block is in the pool");
        let block_bytes = self.layout.block_bytes();
        assert!(
            offset <= block_bytes && count <= block_bytes - offset,
            "the bytes are in the block"
        );
        self.store
            .as_ptr()
            .wrapping_add(block.0 as usize * block_bytes + offset)
    }

    /// The K and the V tile of one block, head and layer, `[token][head_dim]` each.
    ///
    /// # Safety
    /// Nobody writes this block while the result lives.
    pub(crate) unsafe fn tiles(&self, block: BlockId, kv_head: u32, layer: u32) -> (&[u8], &[u8]) {
        let bytes = self.layout.tile_bytes();
        let start = self.at(
            block,
            self.layout.tile_offset(BlockId(0), kv_head, layer),
            2 * bytes,
        );
        // SAFETY: `at` checked that both tiles lie in the region, which is initialised; the caller keeps writers away.
        let both = unsafe { std::slice::from_raw_parts(start, 2 * bytes) };
        both.split_at(bytes)
    }

    /// The places of one token's key and value of one head and layer, `[head_dim]` each.
    ///
    /// # Safety
    /// Nobody else uses these places while the result lives.
    #[expect(clippy::mut_from_ref, reason = "the caller is the only user of these bytes")]
    pub(crate) unsafe fn slots(
        &self,
        block: BlockId,
        kv_head: u32,
        layer: u32,
        position: u32,
    ) -> (&mut [u8], &mut [u8]) {
        let tile_bytes = self.layout.tile_bytes();
        let token_bytes = tile_bytes / BLOCK_TOKENS as usize;
        let key = self.layout.tile_offset(BlockId(0), kv_head, layer)
            + (position % BLOCK_TOKENS) as usize * token_bytes;
        let key_start = self.at(block, key, token_bytes);
        let value_start = self.at(block, key + tile_bytes, token_bytes);
        // SAFETY: `at` checked that the bytes lie in the region; the caller is their only user.
        let key = unsafe { std::slice::from_raw_parts_mut(key_start, token_bytes) };
        // SAFETY: as above, and a tile away from the key, so they do not overlap.
        let value = unsafe { std::slice::from_raw_parts_mut(value_start, token_bytes) };
        (key, value)
    }
}

/// Where the bytes are. Valid for reads and writes, and initialised, in either case.
enum Store {
    Private(Region),
    #[cfg(target_os = "linux")]
    Shared(SharedRegion),
}

impl Store {
    fn as_ptr(&self) -> *mut u8 {
        match self {
            Self::Private(region) => region.as_ptr(),
            #[cfg(target_os = "linux")]
            Self::Shared(region) => region.as_ptr(),
        }
    }
}

fn pool_bytes(layout: &KvLayout, block_count: u32) -> Result<usize, KernelError> {
    let bytes = layout.block_bytes().checked_mul(block_count as usize);
    bytes.ok_or_else(|| out_of_memory(u64::MAX))
}

fn out_of_memory(bytes: u64) -> KernelError {
    KernelError::OutOfMemory {
        what: WHAT.to_owned(),
        bytes,
    }
}

impl KvMemory for CpuKvMemory {
    fn block_count(&self) -> u32 {
        self.block_count
    }

    fn block_bytes(&self) -> usize {
        self.layout.block_bytes()
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        let bytes = self.layout.block_bytes();
        // SAFETY: `at` checked that the block lies in the region; the trait's rule keeps writers away.
        see(unsafe { std::slice::from_raw_parts(self.at(block, 0, bytes), bytes) });
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        assert_eq!(
            bytes.len(),
            self.layout.block_bytes(),
            "exactly one block is written"
        );
        let start = self.at(block, 0, bytes.len());
        // SAFETY: `at` checked that the block lies in the region; the trait's rule makes the caller its only user,
        // so `bytes`, which is borrowed, lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
    }

    fn fill_block(&self, block: BlockId, fill: &mut dyn FnMut(&mut [u8])) {
        let bytes = self.layout.block_bytes();
        let start = self.at(block, 0, bytes);
        // SAFETY: `at` checked that the block lies in the region, which is initialised; the trait's rule makes the
        // caller its only user while `fill` runs.
        fill(unsafe { std::slice::from_raw_parts_mut(start, bytes) });
    }

    #[cfg(target_os = "linux")]
    fn shared_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match &self.store {
            Store::Private(_) => None,
            Store::Shared(region) => Some(region.as_fd()),
        }
    }

    fn place(&self) -> Option<PoolPlace> {
        let start = NonNull::new(self.store.as_ptr())?;
        let bytes = self.block_count as usize * self.layout.block_bytes();
        // SAFETY: the region is writable memory of this size and lives as long as the pool.
        Some(unsafe { PoolPlace::new(start, bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlinders_kernel_api::Dtype;

    #[test]
    fn blocks_beyond_two_to_the_31_elements_keep_what_is_written() {
        // 4 MiB a block; block 1,100 begins beyond 2^31 bf16 elements, and no block in between is ever touched.
        let layout = KvLayout {
            layers: 64,
            kv_heads: 16,
            head_dim: 64,
            dtype: Dtype::Bf16,
        };
        let memory = CpuKvMemory::new(layout, 1_101).unwrap();
        let (near, far) = (BlockId(76), BlockId(1_100));
        assert!(layout.tile_offset(far, 0, 0) / 2 > 1 << 31);
        // 2^32 bytes apart: the same place if offsets were kept in 32 bits.
        assert_eq!(
            (layout.tile_offset(far, 0, 0) - layout.tile_offset(near, 0, 0)) % (1 << 32),
            0
        );
        memory.write_block(near, &vec![1; layout.block_bytes()]);
        memory.write_block(far, &vec![2; layout.block_bytes()]);
        for (block, byte) in [(near, 1), (far, 2)] {
            memory.with_block(block, &mut |bytes| {
                assert!(bytes.iter().all(|found| *found == byte))
            });
        }
    }

    #[test]
    fn slots_and_tiles_name_the_same_bytes() {
        let layout = KvLayout {
            layers: 2,
            kv_heads: 3,
            head_dim: 8,
            dtype: Dtype::F32,
        };
        let memory = CpuKvMemory::new(layout, 4).unwrap();
        // SAFETY: one thread, and the places are given up before anybody reads.
        let (key, value) = unsafe { memory.slots(BlockId(3), 2, 1, 16 + 5) };
        key.fill(1);
        value.fill(2);
        // SAFETY: nobody writes any more.
        let (keys, values) = unsafe { memory.tiles(BlockId(3), 2, 1) };
        assert!(keys[5 * 32..6 * 32].iter().all(|byte| *byte == 1));
        assert!(values[5 * 32..6 * 32].iter().all(|byte| *byte == 2));
        assert_eq!(keys.iter().chain(values).filter(|byte| **byte != 0).count(), 64);
    }

    #[test]
    fn a_block_is_filled_where_it_lies() {
        let layout = KvLayout {
            layers: 1,
            kv_heads: 1,
            head_dim: 8,
            dtype: Dtype::F32,
        };
        let private = CpuKvMemory::new(layout, 3).unwrap();
        let shared = CpuKvMemory::shared(layout, 3).unwrap();
        assert!(private.shared_fd().is_none());
        assert_eq!(shared.shared_fd().is_some(), cfg!(target_os = "linux"));
        for memory in [private, shared] {
            assert_eq!(memory.place().unwrap().bytes(), 3 * layout.block_bytes());
            memory.fill_block(BlockId(1), &mut |bytes| {
                let start = memory.place().unwrap().start().as_ptr();
                assert_eq!(bytes.as_mut_ptr(), start.wrapping_add(layout.block_bytes()));
                assert_eq!(bytes.len(), layout.block_bytes());
                bytes.fill(9);
            });
            for (block, expected) in [(0, 0), (1, 9), (2, 0)] {
                memory.with_block(BlockId(block), &mut |bytes| {
                    assert!(bytes.iter().all(|byte| *byte == expected));
                });
            }
        }
    }

    #[test]
    #[should_panic(expected = "in the pool")]
    fn a_block_outside_the_pool_is_refused() {
        let layout = KvLayout {
            layers: 1,
            kv_heads: 1,
            head_dim: 8,
            dtype: Dtype::F32,
        };
        CpuKvMemory::new(layout, 4)
            .unwrap()
            .with_block(BlockId(4), &mut |_| {});
    }
}
