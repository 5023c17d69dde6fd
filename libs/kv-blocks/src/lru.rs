//! A list of blocks from the least to the most recently used; every operation takes constant time.

use vlinders_types::BlockId;

/// No block: a pool has fewer blocks than this.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Links {
    older: u32,
    newer: u32,
}

/// A doubly linked list over all blocks of a pool, of which any may be in it.
pub(crate) struct LruList {
    links: Vec<Links>,
    oldest: u32,
    newest: u32,
    len: u32,
}

impl LruList {
    pub(crate) fn new(block_count: u32) -> Self {
        let unlinked = Links {
            older: NONE,
            newer: NONE,
        };
        Self {
            links: vec![unlinked; block_count as usize],
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// The caller knows that `block` is not in the list.
    pub(crate) fn push_newest(&mut self, block: BlockId) {
        let BlockId(index) = block;
        self.links[index as usize] = Links {
            older: self.newest,
            newer: NONE,
        };
        match self.newest {
            NONE => self.oldest = index,
            newest => self.links[newest as usize].newer = index,
        }
        self.newest = index;
        self.len += 1;
    }

    /// The caller knows that `block` is in the list.
    pub(crate) fn remove(&mut self, block: BlockId) {
        let BlockId(index) = block;
        let Links { older, newer } = self.links[index as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        self.len -= 1;
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<BlockId> {
        if self.oldest == NONE {
            return None;
        }
        let block = BlockId(self.oldest);
        self.remove(block);
        Some(block)
    }

    /// From the oldest to the newest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = BlockId> + '_ {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            if next == NONE {
                return None;
            }
            let block = BlockId(next);
            next = self.links[next as usize].newer;
            Some(block)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_leave_in_the_order_they_came_whatever_is_removed_between() {
        for removed in 0..4 {
            let mut list = LruList::new(4);
            (0..4).for_each(|block| list.push_newest(BlockId(block)));
            list.remove(BlockId(removed));
            list.push_newest(BlockId(removed));
            let expected: Vec<_> = (0..4)
                .filter(|block| *block != removed)
                .chain([removed])
                .map(BlockId)
                .collect();
            assert_eq!(list.iter().collect::<Vec<_>>(), expected);
            assert_eq!(
                std::iter::from_fn(|| list.pop_oldest()).collect::<Vec<_>>(),
                expected
            );
            assert_eq!(list.len(), 0);
        }
    }
}
