//! What one key has used, in this process's memory. The same rules as in Redis, where scripts keep them.

use std::collections::{HashMap, HashSet};

use vlinders_types::RequestId;

use super::Used;
use super::terms::{BudgetTerm, Terms};

/// What an account says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) verdict: Verdict,
    /// Microseconds of filling, after the request if it was let in.
    pub(super) requests_missing_us: i64,
    pub(super) tokens_missing_us: i64,
    /// What is used of each budget.
    pub(super) used: Vec<u64>,
}

impl Standing {
    /// Of an account that no request may open.
    pub(super) fn shut(verdict: Verdict) -> Self {
        Self {
            verdict,
            requests_missing_us: 0,
            tokens_missing_us: 0,
            used: Vec::new(),
        }
    }
}

/// Whether a request comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Admitted,
    Requests,
    Tokens,
    Streams,
    /// This one of the budgets.
    Budget(usize),
}

/// The times at which both buckets are full again, microseconds since 1970, and what was used.
#[derive(Debug, Default)]
pub(super) struct Account {
    requests_full_us: i64,
    tokens_full_us: i64,
    running: HashSet<RequestId>,
    /// By period, with the time at which it ends, in seconds since 1970.
    used: HashMap<String, (u64, u64)>,
}

impl Account {
    /// Whether it is known what was used of this budget.
    pub(super) fn knows(&self, budget: &BudgetTerm) -> bool {
        self.used.contains_key(&budget.period)
    }

    /// So much was used of this budget before. Does nothing where that is known.
    pub(super) fn remember(&mut self, budget: &BudgetTerm, used: u64) {
        self.used
            .entry(budget.period.clone())
            .or_insert((used, budget.ends_s));
    }

    pub(super) fn admit(&mut self, terms: &Terms, request: RequestId, now_us: i64) -> Standing {
        let missing = |full_us: i64, whole_us: i64| (full_us - now_us).clamp(0, 2 * whole_us);
        let mut requests = terms
            .requests
            .map_or(0, |rate| missing(self.requests_full_us, rate.whole_us));
        let mut tokens = terms
            .tokens
            .map_or(0, |rate| missing(self.tokens_full_us, rate.whole_us));
        self.used
            .retain(|_, (_, ends_s)| i128::from(*ends_s) * 1_000_000 > i128::from(now_us));
        let spent = |period: &String| self.used.get(period).map_or(0, |(spent, _)| *spent);
        let mut used: Vec<u64> = terms.budgets.iter().map(|budget| spent(&budget.period)).collect();
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        let verdict = if terms
            .requests
            .is_some_and(|rate| requests + rate.charge_us > rate.whole_us)
        {
            Verdict::Requests
        } else if terms
            .tokens
            .is_some_and(|rate| tokens + rate.charge_us > rate.whole_us)
        {
            Verdict::Tokens
        } else if terms.streams.is_some_and(|most| running >= most) {
            Verdict::Streams
        } else {
            let mut budgets = terms.budgets.iter().zip(&used);
            let spent =
                budgets.position(|(budget, used)| used.saturating_add(budget.reserved) > budget.limit);
            spent.map_or(Verdict::Admitted, Verdict::Budget)
        };
        if verdict == Verdict::Admitted {
            if let Some(rate) = terms.requests {
                requests += rate.charge_us;
                self.requests_full_us = now_us + requests;
            }
            if let Some(rate) = terms.tokens {
                tokens += rate.charge_us;
                self.tokens_full_us = now_us + tokens;
            }
            if terms.are_settled() {
                self.running.insert(request);
            }
            for (budget, used) in terms.budgets.iter().zip(&mut used) {
                *used += budget.reserved;
                self.used.insert(budget.period.clone(), (*used, budget.ends_s));
            }
        }
        Standing {
            verdict,
            requests_missing_us: requests,
            tokens_missing_us: tokens,
            used,
        }
    }

    /// False when this request is not one of those that were let in, or was settled before.
    pub(super) fn settle(&mut self, terms: &Terms, request: RequestId, used: Used, now_us: i64) -> bool {
        if !self.running.remove(&request) {
            return false;
        }
        if let Some(rate) = terms.tokens {
            let missing = (self.tokens_full_us - now_us).max(0) + terms.owed_us(used);
            self.tokens_full_us = now_us + missing.clamp(0, 2 * rate.whole_us);
        }
        for budget in &terms.budgets {
            if let Some((spent, _)) = self.used.get_mut(&budget.period) {
                *spent = spent.saturating_add_signed(budget.owed(used));
            }
        }
        true
    }

    /// Whether it is as one that was never used.
    pub(super) fn is_idle(&self, now_us: i64) -> bool {
        let is_full = self.requests_full_us <= now_us && self.tokens_full_us <= now_us;
        let is_spent = |(_, ends_s): &(u64, u64)| i128::from(*ends_s) * 1_000_000 > i128::from(now_us);
        is_full && self.running.is_empty() && !self.used.values().any(is_spent)
    }
}
