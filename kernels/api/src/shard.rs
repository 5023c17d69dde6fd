//! Slices of a model that several devices hold together: tensor parallelism.
//!
//! Projections out of the residual stream are cut along their outputs (whole heads, neurons, tokens of the vocabulary),
//! those back into it along their inputs. So each rank makes a part of what goes back, and the sum of the parts is the
//! whole: two sums for each layer (Shoeybi et al., Megatron-LM, 2019).

use std::ops::Range;

/// Which of how many slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// From 0 up.
    pub rank: u32,
    /// How many there are, at least 1.
    pub size: u32,
}

/// A model that cannot be cut in so many slices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size} devices cannot share {count} {what}; use a number that divides them")]
pub struct ShardError {
    /// What is to be shared.
    pub what: &'static str,
    /// How many of it there are.
    pub count: u32,
    /// How many devices.
    pub size: u32,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { rank: 0, size: 1 };

    /// This rank's share of things that are dealt out evenly.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn share(self, what: &'static str, count: u32) -> Result<Range<u32>, ShardError> {
        let Self { rank, size } = self;
        if size == 0 || !count.is_multiple_of(size) {
            return Err(ShardError { what, count, size });
        }
        Ok(rank * (count / size)..(rank + 1) * (count / size))
    }

    /// This rank's key/value heads. When there are fewer heads than ranks, neighbours hold the same one.
    ///
    /// # Errors
    /// When neither number divides the other.
    pub fn kv_heads(self, count: u32) -> Result<Range<u32>, ShardError> {
        let Self { rank, size } = self;
        if count > 0 && size.is_multiple_of(count) {
            let head = rank / (size / count);
            return Ok(head..head + 1);
        }
        self.share("key/value heads", count)
    }
}

/// The slice of `count` neighbours that belongs to `rank` of `size`: slices differ by one at most.
#[must_use]
pub fn slice_of(count: usize, rank: usize, size: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_everything_once() {
        for (count, size) in [(0, 3), (1, 4), (7, 2), (128_256, 8), (100, 7)] {
            let slices: Vec<_> = (0..size).map(|rank| slice_of(count, rank, size)).collect();
            let all: Vec<usize> = slices.iter().cloned().flatten().collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            let (least, most) = (count / size, count.div_ceil(size));
            assert!(slices.iter().all(|slice| (least..=most).contains(&slice.len())));
        }
    }

    #[test]
    fn few_key_heads_are_held_by_neighbours_and_many_are_dealt_out() {
        let heads = |count, size| -> Vec<_> {
            let heads = (0..size).map(|rank| Shard { rank, size }.kv_heads(count));
            heads.map(Result::unwrap).collect()
        };
        assert_eq!(heads(8, 2), [0..4, 4..8]);
        assert_eq!(heads(2, 4), [0..1, 0..1, 1..2, 1..2]);
        assert_eq!(heads(1, 2), [0..1, 0..1]);
        for (count, size) in [(3, 2), (4, 6), (0, 1)] {
            let shard = Shard { rank: 0, size };
            let refused = shard.kv_heads(count);
            assert!(refused.is_err() || count == 0, "{count} over {size}: {refused:?}");
        }
        let error = Shard { rank: 0, size: 3 }.share("query heads", 32).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 devices cannot share 32 query heads; use a number that divides them"
        );
    }
}
