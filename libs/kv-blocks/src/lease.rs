//! Rights to blocks. None of them is `Clone`: giving one back consumes it, so a double free does not compile.

use vlinders_types::BlockId;

/// The right to a sequence's blocks, in the order of its tokens: first the published ones, which are shared and may only
/// be read, then blocks that belong to this lease alone and may be written.
#[derive(Debug)]
#[must_use = "give the lease back to its pool, or its blocks are lost"]
pub struct Lease {
    pub(crate) blocks: Vec<BlockId>,
    /// Blocks before this index are published.
    pub(crate) published: usize,
}

impl Lease {
    /// The right to nothing: what a sequence without blocks holds. Needs no release.
    pub const fn empty() -> Self {
        Self {
            blocks: Vec::new(),
            published: 0,
        }
    }

    /// The block table: block `i` holds tokens `16 i ..`.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Number of blocks.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        u32::try_from(self.blocks.len()).expect("a pool has less than 2^32 blocks")
    }

    /// Number of leading blocks that are published: final, possibly shared, never to be written.
    #[must_use]
    pub fn published_count(&self) -> u32 {
        u32::try_from(self.published).expect("a pool has less than 2^32 blocks")
    }

    /// Whether it is the right to nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// A lease whose sequence is gone while a transfer may still touch its blocks. They are nobody's until the transfer is
/// known to be quiet.
#[derive(Debug)]
#[must_use = "end the quarantine at its pool, or its blocks are lost"]
pub struct Quarantine {
    pub(crate) lease: Lease,
}

impl Quarantine {
    /// The blocks, in the order of the lease they came from.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        self.lease.blocks()
    }
}
