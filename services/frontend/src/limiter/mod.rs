//! How much a key may use: requests and tokens in a minute, requests at one time, tokens and money in a day and a month.
//!
//! The most that a request may use is kept for it when it comes in, and settled with what it has used when it is over. So
//! no number of requests at one time can use more than their key may.

mod account;
mod in_process;
mod past;
mod redis;
mod settling;
mod terms;

use std::time::Duration;

use async_trait::async_trait;
use vlinders_types::RequestId;

use self::account::{Standing, Verdict};
pub use self::in_process::InProcessLimiter;
pub use self::past::PastUse;
pub use self::redis::{DuringOutage, RedisAddress, RedisFault, RedisLimiter, RedisLimits};
pub(crate) use self::settling::{Reservation, Settling};
use self::terms::{Rate, Terms};
use crate::Caller;

/// Somebody's request may end at any time.
const STREAM_RETRY: Duration = Duration::from_secs(1);

/// One limit of a minute, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Allowed at once.
    pub limit: u64,
    /// Of these, left now.
    pub remaining: u64,
    /// Until all are there again.
    pub reset: Duration,
}

impl Window {
    fn of(rate: Rate, missing_us: i64) -> Self {
        Self {
            limit: rate.limit,
            remaining: rate.remaining(missing_us),
            reset: microseconds(missing_us),
        }
    }
}

/// What a key has left, for the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Of requests in a minute, where they are limited.
    pub requests: Option<Window>,
    /// Of tokens in a minute, where they are limited.
    pub tokens: Option<Window>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The request.
    pub request: RequestId,
    /// When it came, milliseconds since 1970: its day and its month are those of this time, whenever it ends.
    pub started_ms: u64,
    /// The most tokens it may use, of its prompts and all its answers.
    pub tokens: u64,
    /// The most it may cost, in nanos; 0 where nobody counts money.
    pub nanos: u64,
}

/// What a request has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Tokens of its prompts and answers.
    pub tokens: u64,
    /// What they cost, in nanos.
    pub nanos: u64,
}

impl Used {
    fn of(self, unit: BudgetUnit) -> u64 {
        match unit {
            BudgetUnit::Tokens => self.tokens,
            BudgetUnit::Nanos => self.nanos,
        }
    }
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetUnit {
    /// Tokens of prompts and answers.
    Tokens,
    /// Money, in billionths of the price table's currency.
    Nanos,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Requests that run at one time.
    Streams {
        /// How many may.
        most: u32,
    },
    /// A budget of a day or a month.
    Budget {
        /// What it counts.
        unit: BudgetUnit,
        /// How many of them are left.
        left: u64,
    },
}

/// The limiter's word on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Come in. Without a limit there is nothing to tell.
    Admitted(RateLimit),
    /// Too much.
    Refused {
        /// What the key has left.
        limit: RateLimit,
        /// What it has not.
        why: Exhausted,
        /// When there is room again.
        retry_after: Duration,
    },
    /// Nobody knows how many there were, and without knowing nobody comes in.
    Unavailable {
        /// When to ask again.
        retry_after: Duration,
    },
}

/// Decides whether a key may send one more request.
#[async_trait]
pub trait Limiter: Send + Sync + 'static {
    /// Counts this request and keeps for it what it may use, or refuses it.
    async fn admit(&self, caller: &Caller, cost: &Cost) -> Admission;

    /// Settles a request that was let in: it has used so much and runs no more. False when that could not be noted.
    async fn settle(&self, _caller: &Caller, _cost: &Cost, _used: Used) -> bool {
        true
    }
}

/// Says in words of the API how an account stands.
fn admission(terms: &Terms, standing: &Standing, now_us: i64) -> Admission {
    let limit = RateLimit {
        requests: terms
            .requests
            .map(|rate| Window::of(rate, standing.requests_missing_us)),
        tokens: terms
            .tokens
            .map(|rate| Window::of(rate, standing.tokens_missing_us)),
    };
    let until_room = |rate: Option<Rate>, missing_us: i64| match rate {
        Some(rate) if rate.limit > 0 => microseconds(missing_us + rate.charge_us - rate.whole_us),
        Some(_) | None => Duration::from_secs(60),
    };
    let (why, retry_after) = match standing.verdict {
        Verdict::Admitted => return Admission::Admitted(limit),
        Verdict::Requests => (
            Exhausted::Requests,
            until_room(terms.requests, standing.requests_missing_us),
        ),
        Verdict::Tokens => (
            Exhausted::Tokens,
            until_room(terms.tokens, standing.tokens_missing_us),
        ),
        Verdict::Streams => {
            let most = terms.streams.unwrap_or(0);
            (Exhausted::Streams { most }, STREAM_RETRY)
        }
        Verdict::Budget(index) => {
            let budget = &terms.budgets[index];
            let left = budget.limit.saturating_sub(standing.used[index]);
            let ends_us = i64::try_from(budget.ends_s).unwrap_or(i64::MAX / 1_000_000) * 1_000_000;
            let unit = budget.unit;
            (Exhausted::Budget { unit, left }, microseconds(ends_us - now_us))
        }
    };
    Admission::Refused {
        limit,
        why,
        retry_after,
    }
}

fn microseconds(count: i64) -> Duration {
    Duration::from_micros(u64::try_from(count).unwrap_or(0))
}
