//! Which tokens stay in the draw: the most likely k, those likely enough beside the best one, and the smallest set
//! that holds enough of the probability. Each filter works on what the one before it left.

use vlinders_types::SamplingParams;

use crate::rank::{RankScratch, Ranked, best, token_at};
use crate::scan::BLOCK;
use crate::weight::{Weigher, at_least_share};

/// Scratch for [`keep`].
#[derive(Debug, Default)]
pub(crate) struct FilterScratch {
    rank: RankScratch,
    work: Vec<Ranked>,
}

/// A scanned row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) logits: &'a [f32],
    /// Each block's largest logit.
    pub(crate) maxima: &'a [f32],
}

/// Whether every token stays.
pub(crate) fn keeps_all(params: &SamplingParams, vocabulary: usize) -> bool {
    let keeps_k = params.top_k == 0 || params.top_k as usize >= vocabulary;
    keeps_k && params.min_p <= 0.0 && params.top_p >= 1.0
}

/// Writes the tokens that stay to `kept`, in token order, ranked by their weights. At least one stays.
pub(crate) fn keep(
    row: Row<'_>,
    params: &SamplingParams,
    weigher: Weigher,
    scratch: &mut FilterScratch,
    kept: &mut Vec<Ranked>,
) {
    let least = at_least_share(params.min_p).max(1);
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < row.logits.len() {
        best(row.logits, row.maxima, top_k, &mut scratch.rank, kept);
        for ranked in kept.iter_mut() {
            ranked.rank = weigher.weight(row.logits[ranked.token as usize]);
        }
        kept.retain(|ranked| ranked.rank >= least);
        let total = kept.iter().map(|ranked| ranked.rank).sum();
        keep_nucleus(params.top_p, total, scratch, kept);
    } else if params.min_p > 0.0 {
        collect(row, weigher, least, kept);
        let total = kept.iter().map(|ranked| ranked.rank).sum();
        keep_nucleus(params.top_p, total, scratch, kept);
    } else {
        let total = weigher.sum(row.logits);
        // All tokens lighter than this together weigh less than what may be left out, so none of them is needed.
        let spare = total - needed_weight(params.top_p, total);
        collect(row, weigher, (spare / row.logits.len() as u64).max(1), kept);
        keep_nucleus(params.top_p, total, scratch, kept);
    }
}

/// Writes the tokens of weight `least` or more, in token order.
fn collect(row: Row<'_>, weigher: Weigher, least: u64, kept: &mut Vec<Ranked>) {
    kept.clear();
    for (index, block) in row.logits.chunks(BLOCK).enumerate() {
        if weigher.weight(row.maxima[index]) < least {
            continue;
        }
        for (inside, logit) in block.iter().enumerate() {
            let weight = weigher.weight(*logit);
            if weight >= least {
                kept.push(Ranked {
                    rank: weight,
                    token: token_at(index * BLOCK + inside),
                });
            }
        }
    }
}

/// Keeps the smallest set of best tokens whose weights reach `top_p` of `total`. `kept` holds at least that much.
fn keep_nucleus(top_p: f32, total: u64, scratch: &mut FilterScratch, kept: &mut Vec<Ranked>) {
    if top_p >= 1.0 {
        return;
    }
    scratch.work.clear();
    scratch.work.extend_from_slice(kept);
    let last = last_of_nucleus(&mut scratch.work, needed_weight(top_p, total));
    kept.retain(|ranked| ranked.is_within(&last));
}

/// The token with which the best ones first weigh `needed`: a selection that follows the weight, not the count.
fn last_of_nucleus(work: &mut [Ranked], needed: u64) -> Ranked {
    let (mut start, mut end) = (0, work.len());
    let mut missing = needed;
    // The wanted token is in start..end; those before start are better and already counted.
    while end - start > 1 {
        let half = (end - start) / 2;
        work[start..end].select_nth_unstable_by(half, Ranked::order);
        let better: u64 = work[start..start + half].iter().map(|ranked| ranked.rank).sum();
        if better >= missing {
            end = start + half;
        } else {
            missing -= better;
            start += half;
        }
    }
    work[start]
}

/// The weight the nucleus must reach: at least 1, so that it is never empty, and no more than there is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "totals are below 2^64 and top_p is 0 to 1; the rounding is the same everywhere"
)]
fn needed_weight(top_p: f32, total: u64) -> u64 {
    let needed = (f64::from(top_p) * total as f64).ceil() as u64;
    needed.clamp(1, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::scan;
    use proptest::prelude::*;

    /// Filters by sorting everything, in f64. Returns the tokens from most to least likely with the running sum of
    /// their probabilities before top-p, and how many of them stay.
    fn oracle(logits: &[f32], params: &SamplingParams) -> (Vec<usize>, Vec<f64>) {
        let mut order: Vec<usize> = (0..logits.len())
            .filter(|index| logits[*index].is_finite())
            .collect();
        order.sort_by(|left, right| logits[*right].total_cmp(&logits[*left]).then(left.cmp(right)));
        if params.top_k > 0 {
            order.truncate(params.top_k as usize);
        }
        let weight = |index: usize| {
            (f64::from(logits[index] - logits[order[0]]) / f64::from(params.temperature)).exp()
        };
        let weights: Vec<f64> = order.iter().map(|index| weight(*index)).collect();
        let stay = weights
            .iter()
            .filter(|weight| **weight >= f64::from(params.min_p))
            .count();
        let total: f64 = weights[..stay].iter().sum();
        let mut sum = 0.0;
        let sums = weights[..stay].iter().map(|weight| {
            sum += weight / total;
            sum
        });
        let sums = sums.collect();
        order.truncate(stay);
        (order, sums)
    }

    fn kept_by(logits: &[f32], params: &SamplingParams) -> Vec<Ranked> {
        let mut maxima = Vec::new();
        let peak = scan(logits, &mut maxima).unwrap();
        let weigher = Weigher {
            max: peak.max,
            temperature: params.temperature,
        };
        let mut kept = Vec::new();
        let row = Row {
            logits,
            maxima: &maxima,
        };
        keep(row, params, weigher, &mut FilterScratch::default(), &mut kept);
        kept
    }

    proptest! {
        #[test]
        fn filters_keep_what_sorting_everything_keeps(
            logits in prop::collection::vec(-60_i16..60, 1..400),
            temperature in 0.2_f32..3.0,
            top_p in prop_oneof![Just(1.0_f32), 0.01_f32..1.0],
            top_k in prop_oneof![Just(0_u32), 1_u32..500],
            // Between two steps of the logits' grid, so that rounding cannot decide.
            min_p in prop_oneof![Just(0.0_f32), 0.001_f32..0.999],
        ) {
            let logits: Vec<f32> = logits.into_iter().map(|logit| f32::from(logit) / 8.0).collect();
            let params = SamplingParams { temperature, top_p, top_k, min_p, ..SamplingParams::default() };
            let (order, sums) = oracle(&logits, &params);
            let kept = kept_by(&logits, &params);
            prop_assert!(!kept.is_empty());
            prop_assert!(kept.is_sorted_by_key(|ranked| ranked.token));
            let mut tokens: Vec<usize> = order[..kept.len().min(order.len())].to_vec();
            tokens.sort_unstable();
            prop_assert_eq!(kept.iter().map(|ranked| ranked.token as usize).collect::<Vec<_>>(), tokens);
            let top_p = f64::from(top_p);
            prop_assert!(sums[kept.len() - 1] >= top_p - 1e-5, "too few kept");
            prop_assert!(kept.len() == 1 || sums[kept.len() - 2] < top_p + 1e-5, "too many kept");
        }
    }

    #[test]
    fn the_best_token_survives_the_strictest_filters() {
        let params = SamplingParams {
            top_p: 0.0,
            min_p: 1.0,
            top_k: 1,
            ..SamplingParams::default()
        };
        assert_eq!(
            kept_by(&[0.0, 2.0, 2.0, 1.0], &params)
                .iter()
                .map(|one| one.token)
                .collect::<Vec<_>>(),
            [1]
        );
    }

    #[test]
    fn a_nucleus_that_is_reached_exactly_takes_no_more() {
        let params = SamplingParams {
            top_p: 0.5,
            ..SamplingParams::default()
        };
        assert_eq!(
            kept_by(&[1.0; 4], &params)
                .iter()
                .map(|one| one.token)
                .collect::<Vec<_>>(),
            [0, 1]
        );
    }

    #[test]
    fn impossible_tokens_never_stay() {
        let logits = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 1.0];
        for top_k in [0, 3] {
            let params = SamplingParams {
                top_k,
                top_p: 0.99,
                ..SamplingParams::default()
            };
            assert_eq!(
                kept_by(&logits, &params)
                    .iter()
                    .map(|one| one.token)
                    .collect::<Vec<_>>(),
                [1, 3]
            );
        }
    }
}
