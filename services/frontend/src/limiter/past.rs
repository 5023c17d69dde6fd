//! What keys have used of budgets that nobody remembers: after a restart, after the counts in Redis were lost, or when a
//! key is seen for the first time in a day. The ledger has it, so a budget is not given twice.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use vlinders_ledger::{Amount, LedgerError, PriceTable, UsageQuery, UsageReports, UsageTotal};
use vlinders_types::{KeyId, RequestId};

use super::terms::{BudgetTerm, Terms};
use super::{Cost, Used};
use crate::Caller;

/// Keys asked for at one time. More wait for their turn.
const TURNS: usize = 16;
/// How long one request may wait for the ledger.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// When to ask again where the ledger did not answer.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Reads from the ledger what was used before.
///
/// A request counts in the day and the month in which it came. What has ended and is not in the ledger yet is missing:
/// usage on its way there, in an undisturbed cluster less than a second of it.
pub struct PastUse {
    reports: Arc<dyn UsageReports>,
    prices: Option<Arc<PriceTable>>,
    turns: [Mutex<()>; TURNS],
}

impl PastUse {
    /// Usage is priced as requests are.
    #[must_use]
    pub fn new(reports: Arc<dyn UsageReports>, prices: Option<Arc<PriceTable>>) -> Self {
        Self {
            reports,
            prices,
            turns: [(); TURNS].map(|()| Mutex::new(())),
        }
    }

    /// Of those that want to know of one key, one asks and the others find what it was told.
    pub(super) async fn turn(&self, key: &KeyId) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let turn = hasher.finish() % TURNS as u64;
        self.turns[usize::try_from(turn).unwrap_or(0)].lock().await
    }

    /// What the key has used of each budget. None when nobody can tell now.
    pub(super) async fn of(&self, caller: &Caller, budgets: &[BudgetTerm]) -> Option<Vec<u64>> {
        match timeout(ANSWER_LIMIT, self.read(caller, budgets)).await {
            Ok(Ok(used)) => Some(used),
            Ok(Err(error)) => {
                tracing::warn!(%error, key = %caller.key, "what was used of a budget cannot be read");
                None
            }
            Err(_late) => {
                tracing::warn!(key = %caller.key, "what was used of a budget cannot be read within the limit");
                None
            }
        }
    }

    /// What a key with all budgets has used of each up to now: tokens of the day and the month, and nanos of both.
    pub(crate) async fn of_now(&self, caller: &Caller, now_ms: u64) -> Option<Vec<u64>> {
        let cost = Cost {
            request: RequestId(0),
            started_ms: now_ms,
            tokens: 0,
            nanos: 0,
        };
        self.of(caller, &Terms::of(&caller.limits, None, &cost).budgets)
            .await
    }

    async fn read(&self, caller: &Caller, budgets: &[BudgetTerm]) -> Result<Vec<u64>, LedgerError> {
        let mut used = Vec::with_capacity(budgets.len());
        let mut known: Vec<((u64, u64), Used)> = Vec::new();
        for budget in budgets {
            let period = (budget.starts_s, budget.ends_s);
            let found = known.iter().find(|(other, _)| *other == period);
            let of_period = match found {
                Some((_, of_period)) => *of_period,
                None => {
                    let of_period = self.read_period(caller, period).await?;
                    known.push((period, of_period));
                    of_period
                }
            };
            used.push(of_period.of(budget.unit));
        }
        Ok(used)
    }

    async fn read_period(
        &self,
        caller: &Caller,
        (starts_s, ends_s): (u64, u64),
    ) -> Result<Used, LedgerError> {
        let query = UsageQuery {
            tenant: Some(caller.tenant.clone()),
            key: Some(caller.key.clone()),
            begun_from_ms: Some(starts_s * 1000),
            begun_until_ms: Some(ends_s * 1000),
            // Whatever has begun then has ended after it: this is what there is an index for.
            from_ms: Some(starts_s * 1000),
            ..UsageQuery::default()
        };
        let totals = self.reports.totals(&query).await?;
        let tokens = totals
            .iter()
            .map(|total| total.prompt_tokens + total.completion_tokens);
        Ok(Used {
            tokens: tokens.sum(),
            nanos: self.cost(&totals).nanos(),
        })
    }

    /// What has no price costs nothing: a request for it comes in with no budget of money.
    fn cost(&self, totals: &[UsageTotal]) -> Amount {
        let Some(prices) = &self.prices else {
            return Amount::default();
        };
        totals.iter().filter_map(|total| prices.amount(total)).sum()
    }
}

#[cfg(test)]
mod tests {
    use vlinders_ledger::conformance::event;
    use vlinders_ledger::{Budget, Factor, KeyLimits, Ledger, Rates, SqliteLedger};
    use vlinders_types::UsageEvent;

    use super::*;

    #[tokio::test]
    async fn a_request_counts_in_the_day_in_which_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Arc::new(SqliteLedger::open(&folder.path().join("usage.sqlite")).unwrap());
        let day_ms = 86_400_000;
        // 1970-02-10.
        let today_ms = 40 * day_ms;
        let began = |number: u32, created_ms: u64| UsageEvent {
            created_ms,
            finished_ms: created_ms + 1000,
            ..event(2 * number)
        };
        let events = [
            began(1, today_ms - 1),
            began(2, today_ms),
            began(3, today_ms + day_ms - 1),
            began(4, today_ms + day_ms),
            began(5, 31 * day_ms - 1),
            UsageEvent {
                key: KeyId::new("another"),
                ..began(6, today_ms)
            },
        ];
        ledger.record(&events).await.unwrap();
        let rates = Rates {
            prompt: 1_000_000,
            cached_prompt: 0,
            completion: 2_000_000,
            factor: Factor::WHOLE,
        };
        let prices = PriceTable::new("EUR").with_rates(None, rates);
        let past = PastUse::new(ledger, Some(Arc::new(prices)));
        let both = Budget {
            tokens: Some(1),
            nanos: Some(1),
        };
        let caller = Caller {
            limits: KeyLimits {
                daily: both,
                monthly: both,
                ..KeyLimits::default()
            },
            ..Caller::new(events[0].tenant.clone(), events[0].key.clone())
        };
        let cost = Cost {
            request: RequestId(1),
            started_ms: today_ms + 5,
            tokens: 0,
            nanos: 0,
        };
        let terms = Terms::of(&caller.limits, None, &cost);
        // Each has twice its number of prompt tokens, half of them cached, and ten of its answer.
        let (day, month) = ((4 + 10) + (6 + 10), (2 + 10) + (4 + 10) + (6 + 10) + (8 + 10));
        let (day_nanos, month_nanos) = ((2 + 20) + (3 + 20), (1 + 20) + (2 + 20) + (3 + 20) + (4 + 20));
        assert_eq!(
            past.of(&caller, &terms.budgets).await,
            Some(vec![day, month, day_nanos, month_nanos])
        );
    }
}
