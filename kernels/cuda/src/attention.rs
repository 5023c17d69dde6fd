//! Which tokens attend through which kernel, in which pieces: decided once per step and window.
//!
//! A token's result is the same bits through either kernel, so the choice is by speed alone: few new tokens of a long row
//! are spread over the device by cutting their keys into splits, many share what they read.

use crate::shape::count;

/// Keys of one split; what several splits found is folded afterwards.
const SPLIT_TOKENS: u32 = 256;
/// Rows of a tile of queries in the kernel for many tokens.
const TILE_QUERIES: u32 = 128;
/// Query heads that share a key head at most in the kernel for single tokens.
const WIDEST_DECODE_GROUP: u32 = 16;
/// New tokens of a row up to which each attends by itself.
const SINGLE_TOKENS: u32 = 4;

/// One sequence's new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedRow {
    /// Index of the first in the batch.
    pub(crate) first_token: u32,
    pub(crate) tokens: u32,
    pub(crate) first_position: u32,
    /// Where the row's table begins among all tables.
    pub(crate) table: u32,
}

/// What attention depends on beside the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionLimits {
    /// Whether every token goes by itself, without splits: the plain kernel.
    pub(crate) is_plain: bool,
    /// Query heads per key head.
    pub(crate) group: u32,
    /// Tokens seen, 0 for all.
    pub(crate) window: u32,
    /// Results of splits that there is memory for.
    pub(crate) partials: u32,
}

/// Everything the kernels read of a step, in their own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttentionPlan {
    /// Token, position, table, first partial.
    pub(crate) queries: Vec<[u32; 4]>,
    /// Query, split.
    pub(crate) items: Vec<[u32; 2]>,
    /// First token, tokens, first position, table.
    pub(crate) tiles: Vec<[u32; 4]>,
    /// Whether some query has more than one split.
    pub(crate) is_split: bool,
}

/// Results of splits that can be wanted at once when the keys of `rows` sequences of `context` tokens lie in `blocks` blocks,
/// sharing none.
pub(crate) fn most_partials(rows: u32, context: u32, pool_tokens: u64) -> u32 {
    let by_length = u64::from(rows) * u64::from(context.div_ceil(SPLIT_TOKENS));
    let by_pool = pool_tokens / u64::from(SPLIT_TOKENS) + u64::from(rows);
    u32::try_from(by_length.min(by_pool)).unwrap_or(u32::MAX)
}

/// Splits a query at this position reads from, first and last.
fn splits_of(position: u32, window: u32) -> (u32, u32) {
    let first = match window {
        0 => 0,
        window => (position + 1).saturating_sub(window) / SPLIT_TOKENS,
    };
    (first, position / SPLIT_TOKENS)
}

/// Most items that `queries` single tokens can become.
pub(crate) fn most_items(queries: u32, context: u32, partials: u32) -> u32 {
    let by_length = u64::from(queries) * u64::from(context.div_ceil(SPLIT_TOKENS).max(1));
    let by_memory = u64::from(queries) + u64::from(partials);
    u32::try_from(by_length.min(by_memory)).unwrap_or(u32::MAX)
}

impl AttentionPlan {
    pub(crate) fn of(rows: &[PlannedRow], limits: &AttentionLimits) -> Self {
        let mut plan = Self::default();
        let mut free = limits.partials;
        for row in rows {
            let positions = row.first_position..row.first_position + row.tokens;
            let wanted: u64 = positions
                .clone()
                .map(|position| splits_of(position, limits.window))
                .filter(|(first, last)| first < last)
                .map(|(first, last)| u64::from(last - first + 1))
                .sum();
            let single = row.tokens <= SINGLE_TOKENS
                && limits.group <= WIDEST_DECODE_GROUP
                && wanted <= u64::from(free);
            if limits.is_plain {
                let tokens = (row.first_token..).zip(positions);
                plan.queries
                    .extend(tokens.map(|(token, position)| [token, position, row.table, 0]));
            } else if single {
                plan.add_queries(row, limits, &mut free);
            } else {
                plan.add_tiles(row, TILE_QUERIES / limits.group);
            }
        }
        // The longest work first, so that no block works alone at the end.
        plan.tiles.sort_by_key(|tile| std::cmp::Reverse(tile[2]));
        plan
    }

    fn add_queries(&mut self, row: &PlannedRow, limits: &AttentionLimits, free: &mut u32) {
        for index in 0..row.tokens {
            let position = row.first_position + index;
            let (first, last) = splits_of(position, limits.window);
            let query = count(self.queries.len());
            let partial = limits.partials - *free;
            if first < last {
                *free -= last - first + 1;
                self.is_split = true;
            }
            self.queries
                .push([row.first_token + index, position, row.table, partial]);
            self.items.extend((first..=last).map(|split| [query, split]));
        }
    }

    fn add_tiles(&mut self, row: &PlannedRow, most: u32) {
        for start in (0..row.tokens).step_by(most as usize) {
            self.tiles.push([
                row.first_token + start,
                most.min(row.tokens - start),
                row.first_position + start,
                row.table,
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: AttentionLimits = AttentionLimits {
        is_plain: false,
        group: 4,
        window: 0,
        partials: 8,
    };

    fn row(tokens: u32, first_position: u32) -> PlannedRow {
        PlannedRow {
            first_token: 0,
            tokens,
            first_position,
            table: 7,
        }
    }

    #[test]
    fn a_short_row_needs_no_partials_and_a_long_one_has_its_own() {
        let rows = [row(1, 255), row(1, 256), row(1, 1000)];
        let plan = AttentionPlan::of(&rows, &LIMITS);
        assert_eq!(plan.queries, [[0, 255, 7, 0], [0, 256, 7, 0], [0, 1000, 7, 2]]);
        assert_eq!(
            plan.items,
            [[0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [2, 3]]
        );
        assert!(plan.is_split && plan.tiles.is_empty());
    }

    #[test]
    fn a_window_leaves_out_the_splits_before_it() {
        let limits = AttentionLimits {
            window: 300,
            ..LIMITS
        };
        let plan = AttentionPlan::of(&[row(1, 1000)], &limits);
        // It sees 701..=1000, which lie in splits 2 and 3.
        assert_eq!(plan.items, [[0, 2], [0, 3]]);
    }

    #[test]
    fn what_has_no_room_for_partials_goes_by_tiles() {
        let plan = AttentionPlan::of(&[row(1, 1000), row(1, 1000), row(1, 1000), row(1, 9)], &LIMITS);
        assert_eq!((plan.queries.len(), plan.tiles.len()), (3, 1));
        assert_eq!(plan.tiles, [[0, 1, 1000, 7]]);
    }

    #[test]
    fn many_tokens_share_tiles_and_the_last_come_first() {
        let plan = AttentionPlan::of(&[row(70, 10)], &LIMITS);
        assert_eq!(plan.tiles, [[64, 6, 74, 7], [32, 32, 42, 7], [0, 32, 10, 7]]);
        assert!(plan.queries.is_empty() && !plan.is_split);
    }

    #[test]
    fn partials_are_counted_by_length_and_by_pool() {
        assert_eq!(most_partials(4, 1000, 1 << 20), 16);
        assert_eq!(most_partials(256, 131_072, 25_600), 356);
    }

    proptest! {
        #[test]
        fn every_token_attends_once_and_splits_cover_what_it_sees(
            sizes in proptest::collection::vec((1_u32..40, 0_u32..2000), 1..12),
            group in 1_u32..20,
            window in prop_oneof![Just(0_u32), 1_u32..600],
            partials in 0_u32..60,
            is_plain: bool,
        ) {
            let limits = AttentionLimits { is_plain, group, window, partials };
            let mut first_token = 0;
            let mut rows = Vec::new();
            for (tokens, first_position) in sizes {
                rows.push(PlannedRow { first_token, tokens, first_position, table: first_token });
                first_token += tokens;
            }
            let plan = AttentionPlan::of(&rows, &limits);
            let mut seen = vec![0; first_token as usize];
            for [token, position, table, _] in &plan.queries {
                let row = rows.iter().find(|row| row.table == *table).unwrap();
                prop_assert_eq!(*position, row.first_position + token - row.first_token);
                seen[*token as usize] += 1;
            }
            for [first, tokens, position, table] in &plan.tiles {
                prop_assert!(tokens * group <= TILE_QUERIES);
                let row = rows.iter().find(|row| row.table == *table).unwrap();
                prop_assert_eq!(*position, row.first_position + first - row.first_token);
                for token in *first..first + tokens {
                    seen[token as usize] += 1;
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
            let mut used = vec![0; partials as usize];
            for (index, [_, position, _, partial]) in (0..).zip(&plan.queries) {
                let splits: Vec<u32> = plan.items.iter().filter(|item| item[0] == index).map(|item| item[1]).collect();
                if is_plain {
                    prop_assert!(splits.is_empty());
                    continue;
                }
                let first_seen = if window == 0 { 0 } else { (position + 1).saturating_sub(window) };
                prop_assert!(splits[0] * SPLIT_TOKENS <= first_seen && first_seen < (splits[0] + 1) * SPLIT_TOKENS);
                prop_assert_eq!(*splits.last().unwrap(), position / SPLIT_TOKENS);
                prop_assert!(splits.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                if splits.len() > 1 {
                    for slot in *partial..partial + count(splits.len()) {
                        used[slot as usize] += 1;
                    }
                }
            }
            prop_assert!(used.iter().all(|times| *times <= 1));
        }
    }
}
