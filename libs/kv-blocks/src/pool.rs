//! The pool: every block's state, the index of published blocks, and what is evicted when free blocks run out.
//!
//! Two facts hold at all times and make lookups and eviction cheap:
//! * A published block's parent is published too. A lease publishes its blocks in order, and where another sequence was
//!   first, it takes that one's block; so whoever holds a block holds its whole published prefix.
//! * Cached blocks are evicted from the leaf end. A lease is given back from its last block to its first, so a parent is
//!   always used more recently than its children, and the oldest cached block has no cached child.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use vlinders_types::{BlockHash, BlockId};

use crate::lru::LruList;
use crate::{Lease, Quarantine};

/// How many blocks are in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCounts {
    /// Nobody's, without content.
    pub free: u32,
    /// Nobody's, with content that can be found; evicted when free blocks run out.
    pub cached: u32,
    /// Held by at least one lease.
    pub leased: u32,
    /// Held by a quarantine, not published.
    pub quarantined: u32,
    /// All of them.
    pub total: u32,
}

impl BlockCounts {
    /// Blocks a new lease can have: free and cached ones.
    #[must_use]
    pub const fn available(&self) -> u32 {
        self.free + self.cached
    }
}

/// How much of a chain of hashes is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PrefixMatch {
    /// Leading blocks that are published.
    pub published: u32,
    /// Leading blocks that are published and held by someone, so that sharing them takes nothing from what is available.
    pub leased: u32,
}

#[derive(Clone, Copy, Default)]
struct BlockState {
    /// Leases and quarantines that hold it. More than one only when it is published.
    holders: u32,
    /// Its name in the index when it is published.
    hash: Option<BlockHash>,
}

/// Owner of all blocks of one KV memory.
pub struct BlockPool {
    states: Vec<BlockState>,
    /// A stack: the block freed last is the warmest.
    free: Vec<BlockId>,
    /// Published blocks without holders.
    cached: LruList,
    index: HashMap<BlockHash, BlockId>,
    leased: u32,
    quarantined: u32,
    evictions: u64,
}

impl std::fmt::Debug for BlockPool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("BlockPool")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl BlockPool {
    /// A pool whose blocks are all free.
    ///
    /// # Panics
    /// When `block_count` is 2^32 - 1, which is no block's index.
    #[must_use]
    pub fn new(block_count: u32) -> Self {
        assert!(block_count < u32::MAX, "a pool has less than 2^32 - 1 blocks");
        Self {
            states: vec![BlockState::default(); block_count as usize],
            free: (0..block_count).rev().map(BlockId).collect(),
            cached: LruList::new(block_count),
            index: HashMap::new(),
            leased: 0,
            quarantined: 0,
            evictions: 0,
        }
    }

    /// Leases `count` new blocks, evicting cached ones when free ones run out. None when there are not as many.
    #[must_use]
    pub fn allocate(&mut self, count: u32) -> Option<Lease> {
        let mut lease = Lease::empty();
        self.extend(&mut lease, count).then_some(lease)
    }

    /// Adds `count` new blocks to the lease; false, and nothing happened, when there are not as many.
    #[must_use]
    pub fn extend(&mut self, lease: &mut Lease, count: u32) -> bool {
        if self.available() < count {
            return false;
        }
        lease.blocks.reserve(count as usize);
        for _ in 0..count {
            let block = self
                .free
                .pop()
                .or_else(|| self.evict())
                .expect("availability was checked above");
            self.states[block.0 as usize].holders = 1;
            lease.blocks.push(block);
        }
        self.leased += count;
        true
    }

    /// Leases the longest published prefix of the chain `hashes`; possibly nothing.
    pub fn match_prefix(&mut self, hashes: &[BlockHash]) -> Lease {
        let mut blocks = Vec::new();
        for hash in hashes {
            let Some(&block) = self.index.get(hash) else { break };
            self.hold(block);
            blocks.push(block);
        }
        Lease {
            published: blocks.len(),
            blocks,
        }
    }

    /// Published blocks that lost their content to new leases so far. As long as it stays, what was published still is.
    #[must_use]
    pub const fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Whether a block is published under `hash`.
    #[must_use]
    pub fn is_published(&self, hash: BlockHash) -> bool {
        self.index.contains_key(&hash)
    }

    /// How much of the chain `hashes` is published, without touching it. Takes logarithmic time, which the facts at the
    /// top of this file allow.
    #[must_use]
    pub fn prefix(&self, hashes: &[BlockHash]) -> PrefixMatch {
        let published = hashes.partition_point(|hash| self.index.contains_key(hash));
        let is_held = |hash: &BlockHash| self.states[self.index[hash].0 as usize].holders > 0;
        let leased = hashes[..published].partition_point(is_held);
        let count = |blocks: usize| u32::try_from(blocks).expect("a pool has less than 2^32 blocks");
        PrefixMatch {
            published: count(published),
            leased: count(leased),
        }
    }

    /// Publishes the lease's first unpublished block, which is full and final, under `hash`. When a block with the same
    /// content is published already, the lease shares that one from now on and its own is freed: the returned block is
    /// the one in the table. Nobody else may be using the lease's own block at this moment.
    ///
    /// # Panics
    /// When all blocks of the lease are published.
    pub fn publish(&mut self, lease: &mut Lease, hash: BlockHash) -> BlockId {
        assert!(
            lease.published < lease.blocks.len(),
            "the lease has no unpublished block"
        );
        let own = lease.blocks[lease.published];
        let table_entry = match self.index.entry(hash) {
            Entry::Vacant(entry) => {
                entry.insert(own);
                self.states[own.0 as usize].hash = Some(hash);
                own
            }
            Entry::Occupied(entry) => {
                let shared = *entry.get();
                self.hold(shared);
                self.let_go(own);
                shared
            }
        };
        lease.blocks[lease.published] = table_entry;
        lease.published += 1;
        table_entry
    }

    /// Takes the lease back. Blocks that nobody else holds become cached when published, else free.
    pub fn release(&mut self, lease: Lease) {
        // Last block first: a parent must be more recently used than its children.
        for block in lease.blocks.into_iter().rev() {
            self.let_go(block);
        }
    }

    /// Takes the lease back but lets nobody have its blocks before [`Self::end_quarantine`]. Its published blocks count
    /// as leased meanwhile, and can be shared: nobody writes them, but a transfer may still read them.
    pub fn quarantine(&mut self, lease: Lease) -> Quarantine {
        let unpublished = lease.block_count() - lease.published_count();
        self.leased -= unpublished;
        self.quarantined += unpublished;
        Quarantine { lease }
    }

    /// Ends a quarantine: its blocks are released.
    pub fn end_quarantine(&mut self, quarantine: Quarantine) {
        let lease = quarantine.lease;
        let unpublished = lease.block_count() - lease.published_count();
        self.quarantined -= unpublished;
        self.leased += unpublished;
        self.release(lease);
    }

    /// Blocks a new lease can have: free and cached ones.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.free_count() + self.cached.len()
    }

    /// How many blocks are in which state.
    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        let counts = BlockCounts {
            free: self.free_count(),
            cached: self.cached.len(),
            leased: self.leased,
            quarantined: self.quarantined,
            total: u32::try_from(self.states.len()).expect("checked in new"),
        };
        let sum = counts.free + counts.cached + counts.leased + counts.quarantined;
        assert_eq!(sum, counts.total, "a block is in exactly one state: {counts:?}");
        counts
    }

    /// Counts every block again and compares. Takes time linear in the pool: for tests and idle workers.
    ///
    /// # Panics
    /// When the pool contradicts itself, which is a bug here.
    pub fn assert_consistent(&self) {
        let counts = self.counts();
        let held = self.states.iter().filter(|state| state.holders > 0).count();
        assert_eq!(
            held,
            (counts.leased + counts.quarantined) as usize,
            "held blocks are leased or in quarantine"
        );
        for block in &self.free {
            let state = self.states[block.0 as usize];
            assert!(
                state.holders == 0 && state.hash.is_none(),
                "free block {block:?} is used"
            );
        }
        let mut cached_count = 0;
        for block in self.cached.iter() {
            let state = self.states[block.0 as usize];
            assert!(
                state.holders == 0 && state.hash.is_some(),
                "cached block {block:?} is used or nameless"
            );
            cached_count += 1;
        }
        assert_eq!(
            cached_count, counts.cached,
            "the list of cached blocks is as long as it says"
        );
        let named = self.states.iter().filter(|state| state.hash.is_some()).count();
        assert_eq!(named, self.index.len(), "published blocks are those in the index");
        for (hash, block) in &self.index {
            assert_eq!(
                self.states[block.0 as usize].hash,
                Some(*hash),
                "the index names {block:?} rightly"
            );
        }
    }

    fn free_count(&self) -> u32 {
        u32::try_from(self.free.len()).expect("a pool has less than 2^32 blocks")
    }

    /// Makes the least recently used cached block nameless and returns it.
    fn evict(&mut self) -> Option<BlockId> {
        let block = self.cached.pop_oldest()?;
        let hash = self.states[block.0 as usize]
            .hash
            .take()
            .expect("cached blocks are published");
        self.index.remove(&hash);
        self.evictions += 1;
        Some(block)
    }

    /// One more holder for a published block.
    fn hold(&mut self, block: BlockId) {
        let state = &mut self.states[block.0 as usize];
        state.holders += 1;
        if state.holders == 1 {
            self.cached.remove(block);
            self.leased += 1;
        }
    }

    /// One holder less.
    fn let_go(&mut self, block: BlockId) {
        let state = &mut self.states[block.0 as usize];
        assert!(
            state.holders > 0,
            "block {block:?} is released by someone who does not hold it"
        );
        state.holders -= 1;
        if state.holders == 0 {
            self.leased -= 1;
            if state.hash.is_some() {
                self.cached.push_newest(block);
            } else {
                self.free.push(block);
            }
        }
    }
}
