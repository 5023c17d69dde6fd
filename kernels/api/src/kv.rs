//! KV blocks as memory.

use std::ptr::NonNull;

use vlinders_types::{BLOCK_TOKENS, BlockId};

use crate::Dtype;

/// The shape of a KV block: `[kv_head][layer][K|V][token][head_dim]`, one contiguous run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayout {
    /// Layers of the model.
    pub layers: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// Element type of keys and values.
    pub dtype: Dtype,
}

impl KvLayout {
    /// Bytes of one `[token][head_dim]` tile of one head, layer and side (K or V).
    #[must_use]
    pub const fn tile_bytes(&self) -> usize {
        BLOCK_TOKENS as usize * self.head_dim as usize * self.dtype.bytes()
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(&self) -> usize {
        self.kv_heads as usize * self.layers as usize * 2 * self.tile_bytes()
    }

    /// Byte offset, inside a pool, of the K tile of `block`, `kv_head`, `layer`. The V tile follows it.
    /// In 64 bits: pools are larger than 2^32 bytes.
    #[must_use]
    pub const fn tile_offset(&self, block: BlockId, kv_head: u32, layer: u32) -> usize {
        let tile_pair = kv_head as usize * self.layers as usize + layer as usize;
        block.0 as usize * self.block_bytes() + tile_pair * 2 * self.tile_bytes()
    }
}

/// A pool's memory, shared by the engine that fills blocks and the transfer that moves them.
///
/// Callers keep this rule, which the block leases give them: nobody reads a block while somebody writes it.
/// Different blocks may be read and written at the same time.
pub trait KvMemory: Send + Sync {
    /// Blocks in the pool.
    fn block_count(&self) -> u32;

    /// Bytes of one block.
    fn block_bytes(&self) -> usize;

    /// Shows the bytes of `block` to `see`.
    ///
    /// # Panics
    /// When `block` is not in the pool.
    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8]));

    /// Overwrites `block`.
    ///
    /// # Panics
    /// When `block` is not in the pool or `bytes` is not exactly one block.
    fn write_block(&self, block: BlockId, bytes: &[u8]);

    /// Lets `fill` overwrite `block` where it lies, so that bytes from elsewhere are not copied twice. What `fill`
    /// finds in the block is unspecified. The rule above makes the caller the block's only user meanwhile.
    ///
    /// # Panics
    /// When `block` is not in the pool.
    fn fill_block(&self, block: BlockId, fill: &mut dyn FnMut(&mut [u8])) {
        let mut bytes = vec![0; self.block_bytes()];
        fill(&mut bytes);
        self.write_block(block, &bytes);
    }

    /// The memory as a file that other processes of this host may map for reading: block `n` begins `n` times
    /// [`block_bytes`](Self::block_bytes) from its start. `None` when it is private.
    #[cfg(unix)]
    fn shared_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    /// Where the blocks lie, for what reads and writes them past the processor: block `n` begins `n` times
    /// [`block_bytes`](Self::block_bytes) from the start. Always the same. `None` when they do not lie in one place.
    fn place(&self) -> Option<PoolPlace> {
        None
    }
}

/// Where a pool lies in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPlace {
    start: NonNull<u8>,
    bytes: usize,
}

impl PoolPlace {
    /// `bytes` bytes from `start` on.
    ///
    /// # Safety
    /// They are valid for reads and writes, also by others than this process's threads, as long as the pool lives that
    /// gives the place out.
    #[allow(unsafe_code, reason = "a promise that whoever writes there relies on")]
    #[must_use]
    pub const unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        Self { start, bytes }
    }

    /// The first byte.
    #[must_use]
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}
