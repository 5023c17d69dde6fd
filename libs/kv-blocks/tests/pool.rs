//! The pool, case by case.

use vlinders_kv_blocks::{BlockCounts, BlockPool, Lease, PrefixHasher, PrefixMatch};
use vlinders_types::BlockHash;

fn chain(count: u32, kind: u32) -> Vec<BlockHash> {
    let tokens: Vec<u32> = (0..count * 16).map(|position| position * 10 + kind).collect();
    PrefixHasher::new("m", b"").hashes(&tokens)
}

fn computed(pool: &mut BlockPool, hashes: &[BlockHash]) -> Lease {
    let mut lease = pool
        .allocate(u32::try_from(hashes.len()).expect("small"))
        .expect("there is room");
    for hash in hashes {
        pool.publish(&mut lease, *hash);
    }
    lease
}

#[test]
fn a_released_prefix_is_found_again_and_shared() {
    let mut pool = BlockPool::new(4);
    let hashes = chain(2, 0);
    let first = computed(&mut pool, &hashes);
    let table = first.blocks().to_vec();
    pool.release(first);
    assert_eq!(
        pool.counts(),
        BlockCounts {
            free: 2,
            cached: 2,
            leased: 0,
            quarantined: 0,
            total: 4
        }
    );
    let (second, third) = (pool.match_prefix(&hashes), pool.match_prefix(&chain(3, 0)));
    assert_eq!((second.blocks(), third.blocks()), (&table[..], &table[..]));
    pool.release(second);
    assert_eq!(pool.counts().leased, 2, "the third still holds them");
    pool.release(third);
    pool.assert_consistent();
}

#[test]
fn a_leaf_is_evicted_before_its_parent() {
    let mut pool = BlockPool::new(3);
    let hashes = chain(3, 0);
    let lease = computed(&mut pool, &hashes);
    pool.release(lease);
    let other = pool.allocate(1).unwrap();
    assert_eq!(pool.prefix(&hashes).published, 2);
    pool.release(other);
}

#[test]
fn the_least_recently_used_chain_is_evicted_first() {
    let mut pool = BlockPool::new(4);
    let (old, new) = (chain(2, 0), chain(2, 1));
    for hashes in [&old, &new] {
        let lease = computed(&mut pool, hashes);
        pool.release(lease);
    }
    let touched = pool.match_prefix(&old);
    pool.release(touched);
    let other = pool.allocate(2).unwrap();
    assert_eq!((pool.prefix(&old).published, pool.prefix(&new).published), (2, 0));
    pool.release(other);
}

#[test]
fn a_block_published_twice_is_shared_and_the_copy_is_freed() {
    let mut pool = BlockPool::new(4);
    let hashes = chain(2, 0);
    let first = computed(&mut pool, &hashes[..1]);
    let second = computed(&mut pool, &hashes);
    assert_eq!(first.blocks()[0], second.blocks()[0]);
    assert_eq!(pool.counts().leased, 2);
    pool.release(first);
    pool.release(second);
    assert_eq!(
        pool.prefix(&hashes),
        PrefixMatch {
            published: 2,
            leased: 0
        }
    );
}

#[test]
fn asking_for_too_much_changes_nothing() {
    let mut pool = BlockPool::new(2);
    let mut lease = pool.allocate(1).unwrap();
    assert!(!pool.extend(&mut lease, 2) && pool.allocate(2).is_none());
    assert_eq!((pool.available(), lease.block_count()), (1, 1));
    pool.release(lease);
}

#[test]
fn quarantined_blocks_are_nobodys_until_the_end() {
    let mut pool = BlockPool::new(3);
    let hashes = chain(1, 0);
    let mut lease = computed(&mut pool, &hashes);
    assert!(pool.extend(&mut lease, 2));
    let quarantine = pool.quarantine(lease);
    assert_eq!(
        pool.counts(),
        BlockCounts {
            free: 0,
            cached: 0,
            leased: 1,
            quarantined: 2,
            total: 3
        }
    );
    assert!(pool.allocate(1).is_none());
    pool.end_quarantine(quarantine);
    assert_eq!(
        pool.counts(),
        BlockCounts {
            free: 2,
            cached: 1,
            leased: 0,
            quarantined: 0,
            total: 3
        }
    );
}
