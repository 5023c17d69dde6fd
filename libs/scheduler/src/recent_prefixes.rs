//! Prefixes that were found or left in the pool lately, for others to choose this worker by.
//!
//! Every block of a prompt has a name, but a beacon has room for few. Of each sequence those after 1, 2, 4, 8 … blocks and
//! the last one are kept: a prompt that shares a long beginning with it is recognised at half of that length at least, and
//! one that goes on where it ended, as the next turn of a conversation does, at its full length.

use std::sync::Arc;

use vlinders_kv_blocks::BlockPool;
use vlinders_types::{BlockHash, PrefixMark};

/// Prefixes remembered; beacons carry as many.
const MAX_PREFIXES: usize = 128;

/// The names of prefixes in the order in which they were used last.
#[derive(Default)]
pub(crate) struct RecentPrefixes {
    /// Oldest first.
    names: Vec<BlockHash>,
    marks: Arc<[PrefixMark]>,
    /// Of the pool, when the names were held against it.
    evictions: u64,
}

impl RecentPrefixes {
    /// The blocks named by `chain` are published; now they are the most recent ones.
    pub(crate) fn note(&mut self, chain: &[BlockHash], pool: &BlockPool) {
        if chain.is_empty() {
            return;
        }
        for name in landmarks(chain) {
            self.names.retain(|known| *known != name);
            self.names.push(name);
        }
        // What was evicted is of no use to anybody. A pool with room evicts nothing: then there is nothing to look up.
        if std::mem::replace(&mut self.evictions, pool.evictions()) != pool.evictions() {
            self.names.retain(|name| pool.is_published(*name));
        }
        let excess = self.names.len().saturating_sub(MAX_PREFIXES);
        self.names.drain(..excess);
        self.marks = self.names.iter().rev().copied().map(PrefixMark::from).collect();
    }

    /// Newest first.
    pub(crate) fn marks(&self) -> Arc<[PrefixMark]> {
        Arc::clone(&self.marks)
    }
}

/// Names after 1, 2, 4, 8 … blocks and of the whole chain, shortest first.
fn landmarks(chain: &[BlockHash]) -> impl Iterator<Item = BlockHash> {
    let doubling = std::iter::successors(Some(1usize), |count| count.checked_mul(2));
    let inner = doubling.take_while(|count| *count < chain.len());
    inner.chain([chain.len()]).map(|count| chain[count - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlinders_kv_blocks::PrefixHasher;
    use vlinders_types::BLOCK_TOKENS;

    fn chain(salt: u32, blocks: u32) -> Vec<BlockHash> {
        let tokens: Vec<u32> = (0..blocks * BLOCK_TOKENS).collect();
        PrefixHasher::new("m", &salt.to_le_bytes()).hashes(&tokens)
    }

    fn publish(pool: &mut BlockPool, chain: &[BlockHash]) {
        let mut lease = pool.match_prefix(chain);
        let found = lease.block_count() as usize;
        let missing = u32::try_from(chain.len() - found).unwrap();
        assert!(pool.extend(&mut lease, missing));
        for hash in &chain[found..] {
            pool.publish(&mut lease, *hash);
        }
        pool.release(lease);
    }

    #[test]
    fn landmarks_double_and_the_last_one_is_always_there() {
        let chain = chain(0, 11);
        let at = |counts: &[usize]| counts.iter().map(|count| chain[count - 1]).collect::<Vec<_>>();
        for (length, expected) in [
            (1, vec![1]),
            (2, vec![1, 2]),
            (4, vec![1, 2, 4]),
            (11, vec![1, 2, 4, 8, 11]),
        ] {
            assert_eq!(landmarks(&chain[..length]).collect::<Vec<_>>(), at(&expected));
        }
    }

    #[test]
    fn the_newest_come_first_and_what_is_evicted_is_forgotten() {
        let (mut pool, mut recent) = (BlockPool::new(4), RecentPrefixes::default());
        let (first, second) = (chain(1, 3), chain(2, 1));
        publish(&mut pool, &first);
        recent.note(&first, &pool);
        publish(&mut pool, &second);
        recent.note(&second, &pool);
        let marks = |names: &[BlockHash]| names.iter().copied().map(PrefixMark::from).collect::<Vec<_>>();
        assert_eq!(
            recent.marks()[..],
            marks(&[second[0], first[2], first[1], first[0]])
        );
        recent.note(&first, &pool);
        assert_eq!(
            recent.marks()[..],
            marks(&[first[2], first[1], first[0], second[0]])
        );
        // All four blocks are needed for a third one.
        let third = chain(3, 4);
        publish(&mut pool, &third);
        recent.note(&third, &pool);
        assert_eq!(recent.marks()[..], marks(&[third[3], third[1], third[0]]));
    }

    #[test]
    fn a_beacon_never_carries_more_than_it_may() {
        let (mut pool, mut recent) = (BlockPool::new(1000), RecentPrefixes::default());
        for salt in 0..100 {
            let chain = chain(salt, 4);
            publish(&mut pool, &chain);
            recent.note(&chain, &pool);
        }
        assert_eq!(recent.marks().len(), MAX_PREFIXES);
    }
}
