//! A ledger in memory that fails now and then, before or after the commit.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use vlinders_ledger::{Ledger, LedgerError, Recorded, UsageQuery, UsageTotal};
use vlinders_types::{BillingClass, ModelName, RequestId, TenantId, UsageEvent};

use crate::random::Random;

/// Rows by request, and every event it was ever handed.
pub struct SimLedger {
    state: Mutex<State>,
}

struct State {
    rows: BTreeMap<RequestId, UsageEvent>,
    handed: Vec<UsageEvent>,
    random: Random,
    failing: f64,
}

impl SimLedger {
    /// An empty ledger whose calls fail with probability `failing`, half of them after the commit.
    #[must_use]
    pub fn new(seed: u64, failing: f64) -> Self {
        let state = State {
            rows: BTreeMap::new(),
            handed: Vec::new(),
            random: Random::new(seed),
            failing,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No failures from now on.
    pub(crate) fn heal(&self) {
        self.state().failing = 0.0;
    }

    pub(crate) fn rows(&self) -> BTreeMap<RequestId, UsageEvent> {
        self.state().rows.clone()
    }

    /// Everything it was handed, in order, duplicates included: what a replay of the stream hands it again.
    pub(crate) fn handed(&self) -> Vec<UsageEvent> {
        self.state().handed.clone()
    }
}

fn matches(query: &UsageQuery, event: &UsageEvent) -> bool {
    query.tenant.as_ref().is_none_or(|tenant| *tenant == event.tenant)
        && query.model.as_ref().is_none_or(|model| *model == event.model)
        && query.from_ms.is_none_or(|from| event.finished_ms >= from)
        && query.until_ms.is_none_or(|until| event.finished_ms < until)
        && query.begun_from_ms.is_none_or(|from| event.created_ms >= from)
        && query.begun_until_ms.is_none_or(|until| event.created_ms < until)
}

fn away() -> LedgerError {
    LedgerError::Database {
        what: "recording usage",
        source: "injected fault".into(),
    }
}

#[async_trait]
impl Ledger for SimLedger {
    async fn record(&self, events: &[UsageEvent]) -> Result<Recorded, LedgerError> {
        let mut state = self.state();
        let failing = state.failing;
        if state.random.happens(failing / 2.0) {
            return Err(away());
        }
        let mut recorded = Recorded::default();
        for event in events {
            state.handed.push(event.clone());
            match state.rows.get(&event.request_id) {
                Some(_) => recorded.duplicates += 1,
                None => {
                    recorded.inserted += 1;
                    state.rows.insert(event.request_id, event.clone());
                }
            }
        }
        if state.random.happens(failing / 2.0) {
            return Err(away());
        }
        Ok(recorded)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageEvent>, LedgerError> {
        let mut events: Vec<_> = self.rows().into_values().collect();
        events.retain(|event| matches(query, event));
        events.sort_by_key(|event| std::cmp::Reverse((event.finished_ms, event.request_id)));
        events.truncate(query.limit.map_or(usize::MAX, |limit| limit as usize));
        Ok(events)
    }

    async fn totals(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, LedgerError> {
        let mut totals: BTreeMap<(TenantId, ModelName, BillingClass), UsageTotal> = BTreeMap::new();
        for event in self.rows().into_values().filter(|event| matches(query, event)) {
            let total = totals
                .entry((event.tenant.clone(), event.model.clone(), event.class))
                .or_insert_with(|| UsageTotal {
                    tenant: event.tenant.clone(),
                    model: event.model.clone(),
                    class: event.class,
                    requests: 0,
                    prompt_tokens: 0,
                    cached_tokens: 0,
                    completion_tokens: 0,
                });
            total.requests += 1;
            total.prompt_tokens += u64::from(event.counts.prompt);
            total.cached_tokens += u64::from(event.counts.cached);
            total.completion_tokens += u64::from(event.counts.completion);
        }
        Ok(totals.into_values().collect())
    }
}
