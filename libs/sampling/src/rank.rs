//! The most likely tokens of a row without sorting it.

use std::cmp::Ordering;

use vlinders_types::TokenId;

use crate::scan::BLOCK;

/// A token with what it is ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranked {
    /// More is better.
    pub(crate) rank: u64,
    pub(crate) token: TokenId,
}

impl Ranked {
    /// Better first; of equals the lower token first. No two tokens are equal, so "the best n" is one definite set.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        other.rank.cmp(&self.rank).then(self.token.cmp(&other.token))
    }

    /// Whether it is as good as `last` or better.
    pub(crate) fn is_within(&self, last: &Self) -> bool {
        self.order(last) != Ordering::Greater
    }
}

/// Scratch for [`best`].
#[derive(Debug, Default)]
pub(crate) struct RankScratch {
    maxima: Vec<f32>,
    work: Vec<Ranked>,
}

/// Writes the `count` most likely tokens to `found`, in token order, ranked by their logits; fewer when fewer have a
/// logit above -infinity. `maxima` are the row's block maxima. `count` is at least 1.
///
/// The n-th largest block maximum is a bound that at least n logits reach, so only blocks that reach it are read.
pub(crate) fn best(
    logits: &[f32],
    maxima: &[f32],
    count: usize,
    scratch: &mut RankScratch,
    found: &mut Vec<Ranked>,
) {
    let bound = if count < maxima.len() {
        scratch.maxima.clear();
        scratch.maxima.extend_from_slice(maxima);
        *scratch
            .maxima
            .select_nth_unstable_by(count - 1, |left, right| right.total_cmp(left))
            .1
    } else {
        f32::NEG_INFINITY
    };
    found.clear();
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        if maxima[index] < bound {
            continue;
        }
        for (inside, logit) in block.iter().enumerate() {
            if *logit >= bound && *logit > f32::NEG_INFINITY {
                found.push(Ranked {
                    rank: logit_rank(*logit),
                    token: token_at(index * BLOCK + inside),
                });
            }
        }
    }
    if found.len() > count {
        scratch.work.clear();
        scratch.work.extend_from_slice(found);
        let last = *scratch.work.select_nth_unstable_by(count - 1, Ranked::order).1;
        found.retain(|ranked| ranked.is_within(&last));
    }
}

/// The place of the token at `index` among all, 1 for the most likely; of equals the lower token goes first. `maxima` are the
/// row's block maxima: blocks of smaller ones hold nobody who goes before.
pub(crate) fn rank_of(logits: &[f32], maxima: &[f32], index: usize) -> u32 {
    let own = logits[index];
    let mut before = 0_usize;
    for (number, block) in logits.chunks(BLOCK).enumerate() {
        if maxima[number] < own {
            continue;
        }
        let first = number * BLOCK;
        let goes_before =
            |(inside, logit): &(usize, &f32)| **logit > own || (**logit == own && first + inside < index);
        before += block.iter().enumerate().filter(goes_before).count();
    }
    u32::try_from(before).map_or(u32::MAX, |before| before.saturating_add(1))
}

/// A number that orders as the logit does. The two zeros are equal.
pub(crate) fn logit_rank(logit: f32) -> u64 {
    const SIGN: u32 = 1 << 31;
    let bits = (logit + 0.0).to_bits();
    u64::from(if bits & SIGN == 0 { bits | SIGN } else { !bits })
}

/// The token whose logit is at `index`.
#[expect(clippy::cast_possible_truncation, reason = "vocabularies are far below 2^32")]
pub(crate) const fn token_at(index: usize) -> TokenId {
    index as TokenId
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::scan;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_are_those_a_sort_puts_first(
            logits in prop::collection::vec(prop_oneof![4 => -9_i8..9, 1 => Just(i8::MIN)], 1..400),
            count in 1_usize..450,
        ) {
            let value = |logit: i8| if logit == i8::MIN { f32::NEG_INFINITY } else { f32::from(logit) };
            let logits: Vec<f32> = logits.into_iter().map(value).collect();
            let mut maxima = Vec::new();
            prop_assume!(scan(&logits, &mut maxima).is_some());
            let mut found = Vec::new();
            best(&logits, &maxima, count, &mut RankScratch::default(), &mut found);

            let mut sorted: Vec<usize> = (0..logits.len()).filter(|index| logits[*index].is_finite()).collect();
            sorted.sort_by(|left, right| logits[*right].total_cmp(&logits[*left]).then(left.cmp(right)));
            sorted.truncate(count);
            sorted.sort_unstable();
            let found: Vec<usize> = found.iter().map(|ranked| ranked.token as usize).collect();
            prop_assert_eq!(found, sorted);
        }

        #[test]
        fn a_rank_is_the_place_in_a_sorted_row(
            logits in prop::collection::vec(-9_i8..9, 1..400), at in any::<prop::sample::Index>(),
        ) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut maxima = Vec::new();
            scan(&logits, &mut maxima);
            let mut sorted: Vec<usize> = (0..logits.len()).collect();
            sorted.sort_by(|left, right| logits[*right].total_cmp(&logits[*left]).then(left.cmp(right)));
            let index = at.index(logits.len());
            let place = sorted.iter().position(|one| *one == index).map(|place| place + 1);
            prop_assert_eq!(usize::try_from(rank_of(&logits, &maxima, index)).ok(), place);
        }

        #[test]
        fn ranks_order_as_logits_do(left in -1e9_f32..1e9, right in -1e9_f32..1e9) {
            prop_assert_eq!(logit_rank(left).cmp(&logit_rank(right)), left.partial_cmp(&right).unwrap());
        }
    }

    #[test]
    fn the_two_zeros_tie() {
        assert_eq!(logit_rank(0.0), logit_rank(-0.0));
        assert!(logit_rank(f32::NEG_INFINITY) < logit_rank(f32::MIN));
    }
}
