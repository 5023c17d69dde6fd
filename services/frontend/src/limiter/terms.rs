//! What one request asks of the limits of its key, in the units in which they are counted.

use vlinders_ledger::KeyLimits;
use vlinders_service_kit::rfc3339;

use super::account::Verdict;
use super::{BudgetUnit, Cost, Used};

const MINUTE_US: u64 = 60_000_000;
/// Filling is up to 2 % slower than it should be below this, for the sake of whole numbers.
const EXACT: u64 = 1_000_000;
const DAY_S: u64 = 24 * 3600;

/// A bucket holds one minute's worth and fills evenly. It is counted in the microseconds of filling that are missing, so
/// that there are no fractions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// In a minute. 0 lets nothing through, and is refused before anything is counted.
    pub(super) limit: u64,
    pub(super) charge_us: i64,
    pub(super) whole_us: i64,
}

impl Rate {
    fn of(limit: u64, count: u64) -> Self {
        // What is asked for is rounded up, so that no rounding lets more through. Up to this limit one unit takes a whole
        // number of microseconds, and so exactly that many units are a bucket; beyond it a microsecond is nothing.
        let unit_us = MINUTE_US.div_ceil(limit.max(1));
        let time = |count: u64| {
            signed(if limit <= EXACT {
                count.saturating_mul(unit_us)
            } else {
                count.saturating_mul(MINUTE_US).div_ceil(limit)
            })
        };
        Self {
            limit,
            charge_us: time(count),
            whole_us: time(limit),
        }
    }

    /// How many are left when so much is missing.
    pub(super) fn remaining(&self, missing_us: i64) -> u64 {
        let left_us = u128::try_from(self.whole_us - missing_us).unwrap_or(0);
        let left = left_us * u128::from(self.limit) / u128::try_from(self.whole_us.max(1)).unwrap_or(1);
        u64::try_from(left).unwrap_or(u64::MAX).min(self.limit)
    }
}

/// Tokens or money of a day or a month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BudgetTerm {
    /// Such as `day:2026-11-22` for tokens and `nanos-day:2026-11-22` for money.
    pub(super) period: String,
    pub(super) unit: BudgetUnit,
    pub(super) limit: u64,
    /// To keep of it for the request.
    pub(super) reserved: u64,
    /// Seconds since 1970.
    pub(super) starts_s: u64,
    pub(super) ends_s: u64,
}

impl BudgetTerm {
    /// What to take beside what was kept, once it is known what was used; below zero it is given back.
    pub(super) fn owed(&self, used: Used) -> i64 {
        signed(used.of(self.unit)) - signed(self.reserved)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) requests: Option<Rate>,
    pub(super) tokens: Option<Rate>,
    /// How many may run.
    pub(super) streams: Option<u32>,
    pub(super) budgets: Vec<BudgetTerm>,
}

impl Terms {
    /// `per_minute` is what a key gets that has no limit of requests of its own.
    pub(super) fn of(limits: &KeyLimits, per_minute: Option<u32>, cost: &Cost) -> Self {
        let requests = limits.requests_per_minute.or(per_minute);
        let tokens = limits.tokens_per_minute.map(|limit| {
            let rate = Rate::of(limit, cost.tokens);
            Rate {
                // More than a minute holds could never come in. What it uses beyond that is owed.
                charge_us: rate.charge_us.min(rate.whole_us),
                ..rate
            }
        });
        let (daily, monthly) = (limits.daily, limits.monthly);
        let budgets = [
            (Span::Day, BudgetUnit::Tokens, daily.tokens),
            (Span::Month, BudgetUnit::Tokens, monthly.tokens),
            (Span::Day, BudgetUnit::Nanos, daily.nanos),
            (Span::Month, BudgetUnit::Nanos, monthly.nanos),
        ];
        let budgets = budgets
            .into_iter()
            .filter_map(|(span, unit, limit)| Some(budget((span, unit), limit?, cost)));
        Self {
            requests: requests.map(|limit| Rate::of(limit.into(), 1)),
            tokens,
            streams: limits.concurrent_streams,
            budgets: budgets.collect(),
        }
    }

    /// A limit of 0 lets nothing through.
    pub(super) fn shut(&self) -> Option<Verdict> {
        let is_shut = |rate: Option<Rate>| rate.is_some_and(|rate| rate.limit == 0);
        if is_shut(self.requests) {
            return Some(Verdict::Requests);
        }
        is_shut(self.tokens).then_some(Verdict::Tokens)
    }

    /// Whether anything is kept for the request that has to be settled.
    pub(super) fn are_settled(&self) -> bool {
        self.tokens.is_some() || self.streams.is_some() || !self.budgets.is_empty()
    }

    /// What to charge the bucket of tokens beside what was kept, once it is known what was used.
    pub(super) fn owed_us(&self, used: Used) -> i64 {
        self.tokens.map_or(0, |rate| {
            Rate::of(rate.limit, used.tokens).charge_us - rate.charge_us
        })
    }
}

/// How long a budget is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Day,
    Month,
}

impl Span {
    fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// A date is ten characters, and a month the first seven of them.
    fn date(self, day: u64) -> String {
        let length = match self {
            Self::Day => 10,
            Self::Month => 7,
        };
        rfc3339(day * DAY_S * 1000)[..length].to_owned()
    }
}

fn budget((span, unit): (Span, BudgetUnit), limit: u64, cost: &Cost) -> BudgetTerm {
    let today = cost.started_ms / 1000 / DAY_S;
    let name = span.date(today);
    let next = (today + 1..).find(|day| span.date(*day) != name);
    let first = (0..today).rev().find(|day| span.date(*day) != name);
    let kind = match unit {
        BudgetUnit::Tokens => "",
        BudgetUnit::Nanos => "nanos-",
    };
    BudgetTerm {
        period: format!("{kind}{}:{name}", span.name()),
        unit,
        limit,
        reserved: Used {
            tokens: cost.tokens,
            nanos: cost.nanos,
        }
        .of(unit),
        starts_s: first.map_or(0, |day| day + 1) * DAY_S,
        ends_s: next.unwrap_or(today + 1) * DAY_S,
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use vlinders_types::RequestId;

    use super::*;

    /// Its name, first second and the second after its last.
    fn period(span: Span, unit: BudgetUnit, started_ms: u64) -> (String, u64, u64) {
        let cost = Cost {
            request: RequestId(1),
            started_ms,
            tokens: 3,
            nanos: 4,
        };
        let term = budget((span, unit), 1, &cost);
        assert_eq!(term.reserved, if unit == BudgetUnit::Tokens { 3 } else { 4 });
        (term.period, term.starts_s, term.ends_s)
    }

    #[test]
    fn a_day_and_a_month_begin_and_end_where_the_calendar_has_it() {
        // 2024-02-29T12:00:00Z, by `date -d`.
        let now_ms = 1_709_208_000_000;
        assert_eq!(
            period(Span::Day, BudgetUnit::Tokens, now_ms),
            ("day:2024-02-29".to_owned(), 1_709_164_800, 1_709_251_200)
        );
        assert_eq!(
            period(Span::Month, BudgetUnit::Nanos, now_ms),
            ("nanos-month:2024-02".to_owned(), 1_706_745_600, 1_709_251_200)
        );
        // 2026-12-01T00:00:00Z.
        assert_eq!(
            period(Span::Month, BudgetUnit::Tokens, 1_796_083_200_000),
            ("month:2026-12".to_owned(), 1_796_083_200, 1_798_761_600)
        );
    }

    #[test]
    fn rounding_lets_nothing_more_through() {
        for limit in [1, 7, 60, 1_000_003, 500_000_000] {
            let rate = Rate::of(limit, 1);
            assert!(rate.charge_us * signed(limit) >= signed(MINUTE_US), "{limit}");
            assert_eq!(rate.remaining(0), limit);
            assert_eq!(rate.remaining(rate.whole_us), 0);
            let whole = Rate::of(limit, limit);
            assert_eq!(whole.charge_us, rate.whole_us);
            let left = rate.remaining(rate.charge_us);
            assert!(
                left < limit && (left == limit - 1 || limit > EXACT),
                "{limit}: {left}"
            );
        }
    }
}
