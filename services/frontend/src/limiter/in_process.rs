//! Counts in this process's memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use vlinders_service_kit::Clock;
use vlinders_types::KeyId;

use super::account::{Account, Standing};
use super::past;
use super::terms::{BudgetTerm, Terms};
use super::{Admission, Cost, Limiter, PastUse, Used, admission};
use crate::Caller;

/// Keys remembered at most; only keys that sent something lately need to be.
const MAX_KEYS: usize = 65_536;

/// One account for each key, in this process.
pub struct InProcessLimiter {
    /// Requests of a key without a limit of its own.
    per_minute: Option<u32>,
    clock: Arc<dyn Clock>,
    past: Option<Arc<PastUse>>,
    accounts: Mutex<HashMap<KeyId, Account>>,
}

impl InProcessLimiter {
    /// Keeps to the limits that keys have, and to no other.
    #[must_use]
    pub fn unlimited(clock: Arc<dyn Clock>) -> Self {
        Self {
            per_minute: None,
            clock,
            past: None,
            accounts: Mutex::default(),
        }
    }

    /// Lets each key without a limit of its own send so many requests in a minute. 0 lets none through.
    #[must_use]
    pub fn per_minute(requests: u32, clock: Arc<dyn Clock>) -> Self {
        Self {
            per_minute: Some(requests),
            ..Self::unlimited(clock)
        }
    }

    /// Asks for what was used of budgets before this process began to count.
    #[must_use]
    pub fn with_past(mut self, past: Option<Arc<PastUse>>) -> Self {
        self.past = past;
        self
    }

    /// Finds out what was used of the key's budgets. False when nobody can tell now.
    async fn recall(&self, caller: &Caller, cost: &Cost) -> bool {
        let Some(past) = &self.past else { return true };
        let terms = Terms::of(&caller.limits, self.per_minute, cost);
        let is_known = |budgets: &[BudgetTerm]| {
            let accounts = self.lock();
            let account = accounts.get(&caller.key);
            budgets
                .iter()
                .all(|budget| account.is_some_and(|account| account.knows(budget)))
        };
        if is_known(&terms.budgets) {
            return true;
        }
        let _turn = past.turn(&caller.key).await;
        // Somebody may have asked while this one waited.
        if is_known(&terms.budgets) {
            return true;
        }
        let Some(used) = past.of(caller, &terms.budgets).await else {
            return false;
        };
        let mut accounts = self.lock();
        let account = accounts.entry(caller.key.clone()).or_default();
        for (budget, used) in terms.budgets.iter().zip(used) {
            account.remember(budget, used);
        }
        true
    }

    fn take(&self, caller: &Caller, cost: &Cost) -> Admission {
        let now_ms = self.clock.now_ms();
        let terms = Terms::of(&caller.limits, self.per_minute, cost);
        let now_us = microseconds(now_ms);
        if let Some(verdict) = terms.shut() {
            return admission(&terms, &Standing::shut(verdict), now_us);
        }
        if terms.requests.is_none() && !terms.are_settled() {
            return Admission::Admitted(super::RateLimit::default());
        }
        let mut accounts = self.lock();
        if accounts.len() >= MAX_KEYS && !accounts.contains_key(&caller.key) {
            accounts.retain(|_, account| !account.is_idle(now_us));
        }
        let account = accounts.entry(caller.key.clone()).or_default();
        admission(&terms, &account.admit(&terms, cost.request, now_us), now_us)
    }

    /// False when the request was not let in here.
    pub(super) fn settle_here(&self, caller: &Caller, cost: &Cost, used: Used) -> bool {
        let now_ms = self.clock.now_ms();
        let terms = Terms::of(&caller.limits, self.per_minute, cost);
        let mut accounts = self.lock();
        accounts
            .get_mut(&caller.key)
            .is_some_and(|account| account.settle(&terms, cost.request, used, microseconds(now_ms)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn microseconds(now_ms: u64) -> i64 {
    i64::try_from(now_ms.saturating_mul(1000)).unwrap_or(i64::MAX / 4)
}

#[async_trait]
impl Limiter for InProcessLimiter {
    async fn admit(&self, caller: &Caller, cost: &Cost) -> Admission {
        if !self.recall(caller, cost).await {
            return Admission::Unavailable {
                retry_after: past::RETRY,
            };
        }
        self.take(caller, cost)
    }

    async fn settle(&self, caller: &Caller, cost: &Cost, used: Used) -> bool {
        self.settle_here(caller, cost, used);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use proptest::prelude::*;
    use vlinders_ledger::{Budget, KeyLimits};
    use vlinders_types::{RequestId, TenantId};

    use super::*;
    use crate::{BudgetUnit, Exhausted, RateLimit};

    const MINUTE_MS: u64 = 60_000;

    #[derive(Default)]
    struct SetClock(AtomicU64);
    impl Clock for SetClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn caller(key: &str) -> Caller {
        Caller::new(TenantId::new("t"), KeyId::new(key))
    }

    fn cost(number: u128, tokens: u64) -> Cost {
        Cost {
            request: RequestId(number),
            started_ms: 0,
            tokens,
            nanos: 2 * tokens,
        }
    }

    fn using(tokens: u64) -> Used {
        Used {
            tokens,
            nanos: 2 * tokens,
        }
    }

    #[test]
    fn a_minutes_requests_pass_and_the_next_waits_its_turn() {
        let clock = Arc::new(SetClock::default());
        let limiter = InProcessLimiter::per_minute(3, clock.clone());
        for left in [2, 1, 0] {
            let Admission::Admitted(RateLimit {
                requests: Some(window),
                ..
            }) = limiter.take(&caller("k"), &cost(1, 0))
            else {
                panic!("refused early")
            };
            assert_eq!(window.remaining, left);
        }
        let Admission::Refused { retry_after, .. } = limiter.take(&caller("k"), &cost(1, 0)) else {
            panic!("admitted")
        };
        assert_eq!(retry_after, Duration::from_secs(20));
        clock.0.store(20_000, Ordering::Relaxed);
        assert!(matches!(
            limiter.take(&caller("k"), &cost(1, 0)),
            Admission::Admitted(_)
        ));
        assert!(matches!(
            limiter.take(&caller("k"), &cost(1, 0)),
            Admission::Refused { .. }
        ));
        assert!(matches!(
            limiter.take(&caller("other"), &cost(1, 0)),
            Admission::Admitted(_)
        ));
    }

    /// What a plain reader of the rules would write down: every request that was let in, and what became of it.
    #[derive(Default)]
    struct Notebook {
        /// Tokens kept or used in this day, and who runs.
        day: u64,
        spent: u64,
        running: Vec<Cost>,
    }

    proptest! {
        #[test]
        fn no_window_of_a_minute_lets_more_than_two_minutes_worth_through(
            per_minute in 1_u32..20,
            steps in prop::collection::vec(0_u64..5_000, 1..200),
        ) {
            let clock = Arc::new(SetClock::default());
            let limiter = InProcessLimiter::per_minute(per_minute, clock.clone());
            let mut admitted: Vec<u64> = Vec::new();
            for step in steps {
                let now = clock.0.fetch_add(step, Ordering::Relaxed) + step;
                if matches!(limiter.take(&caller("k"), &cost(1, 0)), Admission::Admitted(_)) {
                    admitted.push(now);
                }
                let recent = admitted.iter().filter(|at| **at + MINUTE_MS > now).count();
                // What was saved up, and what came in meanwhile.
                prop_assert!(recent <= 2 * per_minute as usize);
            }
        }

        #[test]
        fn budgets_and_running_requests_are_what_a_notebook_says(
            budget in 0_u64..500,
            most in 0_u32..5,
            is_money in any::<bool>(),
            steps in prop::collection::vec((0_u64..40_000_000, 0_u64..120, 0_u64..120, any::<bool>()), 1..120),
        ) {
            // Everything costs twice as many nanos as it has tokens.
            let (unit, each) = if is_money { (BudgetUnit::Nanos, 2) } else { (BudgetUnit::Tokens, 1) };
            let clock = Arc::new(SetClock::default());
            let limiter = InProcessLimiter::unlimited(clock.clone());
            let limits = KeyLimits {
                concurrent_streams: Some(most),
                daily: Budget {
                    tokens: (!is_money).then_some(budget),
                    nanos: is_money.then_some(2 * budget),
                },
                ..KeyLimits::default()
            };
            let caller = Caller { limits, ..caller("k") };
            let mut notebook = Notebook::default();
            for (number, (pause_ms, tokens, used, ends)) in steps.into_iter().enumerate() {
                let now_ms = clock.0.fetch_add(pause_ms, Ordering::Relaxed) + pause_ms;
                let day = now_ms / 86_400_000;
                if day != notebook.day {
                    // What still runs was kept in a day that is over.
                    for cost in notebook.running.drain(..) {
                        limiter.settle_here(&caller, &cost, using(cost.tokens / 2));
                    }
                    notebook = Notebook { day, ..Notebook::default() };
                }
                if ends && let Some(cost) = notebook.running.pop() {
                    let used = used.min(cost.tokens);
                    prop_assert!(limiter.settle_here(&caller, &cost, using(used)));
                    prop_assert!(!limiter.settle_here(&caller, &cost, using(used)), "once");
                    notebook.spent = notebook.spent - cost.tokens + used;
                }
                let cost = Cost {
                    started_ms: now_ms,
                    ..cost(number as u128, tokens)
                };
                let expected = if notebook.running.len() >= most as usize {
                    Some(Exhausted::Streams { most })
                } else if notebook.spent + tokens > budget {
                    Some(Exhausted::Budget { unit, left: each * (budget - notebook.spent) })
                } else {
                    None
                };
                let found = match limiter.take(&caller, &cost) {
                    Admission::Admitted(_) => None,
                    Admission::Refused { why, .. } => Some(why),
                    Admission::Unavailable { .. } => panic!("nobody is away"),
                };
                prop_assert_eq!(found, expected);
                if expected.is_none() {
                    notebook.spent += tokens;
                    notebook.running.push(cost);
                }
                prop_assert!(notebook.spent <= budget);
            }
        }
    }
}
