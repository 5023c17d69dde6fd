//! How many requests a key may send.

mod in_process;
mod redis;

use std::time::Duration;

use async_trait::async_trait;

pub use self::in_process::InProcessLimiter;
pub use self::redis::{DuringOutage, RedisAddress, RedisFault, RedisLimiter, RedisLimits};
use crate::Caller;

/// What a key has left, for the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests allowed at once.
    pub limit_requests: u32,
    /// Of these, left now.
    pub remaining_requests: u32,
    /// Until all are there again.
    pub reset: Duration,
}

/// The limiter's word on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Come in. Without a limit there is nothing to tell.
    Admitted(Option<RateLimit>),
    /// Too many requests.
    Refused {
        /// What the key has left: no requests.
        limit: RateLimit,
        /// When the next one is allowed.
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
    /// Counts this request, or refuses it.
    async fn admit(&self, caller: &Caller) -> Admission;
}
