//! The pool against a model that is slow and plain: lists searched from end to end.

use std::collections::HashMap;

use proptest::prelude::*;
use vlinders_kv_blocks::{BlockPool, Lease, PrefixHasher, Quarantine};
use vlinders_types::{BlockHash, BlockId, TokenId};

/// What the model knows of one lease: its table, and the tokens its published blocks will have.
struct Holder {
    lease: Lease,
    chain: Vec<BlockHash>,
}

#[derive(Default)]
struct Model {
    free: Vec<BlockId>,
    /// Oldest first.
    cached: Vec<BlockId>,
    holders: HashMap<BlockId, u32>,
    names: HashMap<BlockHash, BlockId>,
    /// Child to parent, of everything ever hashed.
    parents: HashMap<BlockHash, Option<BlockHash>>,
}

impl Model {
    /// A new block came out of the pool: it must have been free, or the oldest cached one when none was.
    fn took_new(&mut self, block: BlockId) {
        if self.free.is_empty() {
            assert_eq!(self.cached.remove(0), block, "the oldest cached block is evicted");
            self.names.retain(|_, named| *named != block);
        } else {
            let place = self.free.iter().position(|free| *free == block);
            self.free
                .remove(place.expect("free blocks go before cached ones"));
        }
        assert_eq!(self.holders.insert(block, 1), None);
    }

    fn hold(&mut self, block: BlockId) {
        self.cached.retain(|cached| *cached != block);
        *self.holders.entry(block).or_default() += 1;
    }

    fn let_go(&mut self, block: BlockId) {
        let holders = self.holders.get_mut(&block).expect("released blocks are held");
        *holders -= 1;
        if *holders == 0 {
            self.holders.remove(&block);
            let is_named = self.names.values().any(|named| *named == block);
            if is_named {
                self.cached.push(block)
            } else {
                self.free.push(block)
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// A sequence with these block contents wants its prefix and this many blocks in all.
    Start {
        contents: Vec<u8>,
        room: u32,
    },
    Extend {
        pick: usize,
        count: u32,
    },
    Publish {
        pick: usize,
    },
    Release {
        pick: usize,
    },
    Quarantine {
        pick: usize,
    },
    EndQuarantine {
        pick: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (prop::collection::vec(0u8..2, 1..6), 0u32..4)
            .prop_map(|(contents, room)| Action::Start { contents, room }),
        2 => (any::<usize>(), 0u32..3).prop_map(|(pick, count)| Action::Extend { pick, count }),
        8 => any::<usize>().prop_map(|pick| Action::Publish { pick }),
        3 => any::<usize>().prop_map(|pick| Action::Release { pick }),
        1 => any::<usize>().prop_map(|pick| Action::Quarantine { pick }),
        1 => any::<usize>().prop_map(|pick| Action::EndQuarantine { pick }),
    ]
}

struct World {
    pool: BlockPool,
    model: Model,
    holders: Vec<Holder>,
    quarantines: Vec<(Quarantine, Vec<BlockId>)>,
}

impl World {
    fn start(&mut self, contents: &[u8], room: u32) {
        let tokens: Vec<TokenId> = contents
            .iter()
            .flat_map(|kind| [TokenId::from(*kind); 16])
            .collect();
        let chain = PrefixHasher::new("m", b"tenant").hashes(&tokens);
        let mut parent = None;
        for hash in &chain {
            self.model.parents.insert(*hash, parent);
            parent = Some(*hash);
        }
        let expected: Vec<BlockId> = chain
            .iter()
            .map_while(|hash| self.model.names.get(hash).copied())
            .collect();
        let held = expected
            .iter()
            .filter(|block| self.model.holders.contains_key(block))
            .count();
        let found = self.pool.prefix(&chain);
        assert_eq!(
            (found.published as usize, found.leased as usize),
            (expected.len(), held)
        );
        let lease = self.pool.match_prefix(&chain);
        assert_eq!(lease.blocks(), expected);
        expected.iter().for_each(|block| self.model.hold(*block));
        self.holders.push(Holder { lease, chain });
        self.extend(self.holders.len() - 1, room);
    }

    fn extend(&mut self, index: usize, count: u32) {
        let lease = &mut self.holders[index].lease;
        let before = lease.blocks().len();
        let fits = self.model.free.len() + self.model.cached.len() >= count as usize;
        assert_eq!(self.pool.extend(lease, count), fits);
        assert_eq!(
            lease.blocks().len(),
            before + if fits { count as usize } else { 0 }
        );
        lease.blocks()[before..]
            .iter()
            .for_each(|block| self.model.took_new(*block));
    }

    fn publish(&mut self, index: usize) {
        let holder = &mut self.holders[index];
        let next = holder.lease.published_count() as usize;
        let (Some(&own), Some(&hash)) = (holder.lease.blocks().get(next), holder.chain.get(next)) else {
            return;
        };
        let now = self.pool.publish(&mut holder.lease, hash);
        assert_eq!(holder.lease.blocks()[next], now);
        match self.model.names.get(&hash).copied() {
            None => {
                assert_eq!(now, own);
                self.model.names.insert(hash, own);
            }
            Some(shared) => {
                assert_eq!(now, shared);
                self.model.hold(shared);
                self.model.let_go(own);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { contents, room } => self.start(&contents, room),
            Action::EndQuarantine { pick } => {
                if !self.quarantines.is_empty() {
                    let (quarantine, blocks) = self.quarantines.swap_remove(pick % self.quarantines.len());
                    self.pool.end_quarantine(quarantine);
                    blocks.iter().rev().for_each(|block| self.model.let_go(*block));
                }
            }
            Action::Extend { pick, .. }
            | Action::Publish { pick }
            | Action::Release { pick }
            | Action::Quarantine { pick }
                if self.holders.is_empty() =>
            {
                let _ = pick;
            }
            Action::Extend { pick, count } => self.extend(pick % self.holders.len(), count),
            Action::Publish { pick } => self.publish(pick % self.holders.len()),
            Action::Release { pick } => {
                let holder = self.holders.swap_remove(pick % self.holders.len());
                holder
                    .lease
                    .blocks()
                    .iter()
                    .rev()
                    .for_each(|block| self.model.let_go(*block));
                self.pool.release(holder.lease);
            }
            Action::Quarantine { pick } => {
                let holder = self.holders.swap_remove(pick % self.holders.len());
                let blocks = holder.lease.blocks().to_vec();
                self.quarantines
                    .push((self.pool.quarantine(holder.lease), blocks));
            }
        }
    }

    fn check(&self) {
        self.pool.assert_consistent();
        let counts = self.pool.counts();
        assert_eq!(counts.free as usize, self.model.free.len());
        assert_eq!(counts.cached as usize, self.model.cached.len());
        assert_eq!(
            (counts.leased + counts.quarantined) as usize,
            self.model.holders.len()
        );
        for hash in self.model.names.keys() {
            if let Some(parent) = self.model.parents[hash] {
                assert!(
                    self.model.names.contains_key(&parent),
                    "a parent was evicted before its child"
                );
            }
        }
        for holder in &self.holders {
            let own = &holder.lease.blocks()[holder.lease.published_count() as usize..];
            assert!(
                own.iter().all(|block| self.model.holders[block] == 1),
                "an unpublished block is shared"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_does_what_the_plain_model_does(
        block_count in 1u32..12,
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut world = World {
            pool: BlockPool::new(block_count),
            model: Model { free: (0..block_count).map(BlockId).collect(), ..Model::default() },
            holders: Vec::new(),
            quarantines: Vec::new(),
        };
        for action in actions {
            world.act(action);
            world.check();
        }
        while !world.holders.is_empty() {
            world.act(Action::Release { pick: 0 });
            world.check();
        }
        while !world.quarantines.is_empty() {
            world.act(Action::EndQuarantine { pick: 0 });
            world.check();
        }
        prop_assert_eq!(world.pool.available(), block_count);
    }
}
