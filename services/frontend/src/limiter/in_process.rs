//! Counts in this process's memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use vlinders_service_kit::Clock;
use vlinders_types::KeyId;

use super::{Admission, Limiter, RateLimit};
use crate::Caller;

/// Keys remembered at most; only keys that sent something lately need to be.
const MAX_KEYS: usize = 65_536;
const MINUTE_MS: u64 = 60_000;

/// One token bucket for each key, in this process. A bucket holds one minute's requests and fills evenly.
pub struct InProcessLimiter {
    per_minute: Option<u32>,
    clock: Arc<dyn Clock>,
    buckets: Mutex<HashMap<KeyId, Bucket>>,
}

/// Milliseconds of filling that are missing, at a time. Counting in time avoids fractions of requests.
#[derive(Clone, Copy)]
struct Bucket {
    missing_ms: u64,
    at_ms: u64,
}

impl InProcessLimiter {
    /// Lets everything through.
    #[must_use]
    pub fn unlimited(clock: Arc<dyn Clock>) -> Self {
        Self {
            per_minute: None,
            clock,
            buckets: Mutex::default(),
        }
    }

    /// Lets each key send so many requests in a minute. 0 lets none through.
    #[must_use]
    pub fn per_minute(requests: u32, clock: Arc<dyn Clock>) -> Self {
        Self {
            per_minute: Some(requests),
            clock,
            buckets: Mutex::default(),
        }
    }

    fn take(&self, key: &KeyId, per_minute: u32) -> Admission {
        let now_ms = self.clock.now_ms();
        if per_minute == 0 {
            let limit = RateLimit {
                limit_requests: 0,
                remaining_requests: 0,
                reset: Duration::ZERO,
            };
            return Admission::Refused {
                limit,
                retry_after: Duration::from_millis(MINUTE_MS),
            };
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(key) {
            buckets.retain(|_, bucket| bucket.missing_at(now_ms) > 0);
        }
        let bucket = buckets.entry(key.clone()).or_insert(Bucket {
            missing_ms: 0,
            at_ms: now_ms,
        });
        let request_ms = MINUTE_MS.div_ceil(u64::from(per_minute));
        let missing_ms = bucket.missing_at(now_ms);
        let admitted = missing_ms + request_ms <= request_ms * u64::from(per_minute);
        let missing_ms = if admitted {
            missing_ms + request_ms
        } else {
            missing_ms
        };
        // A refused request does not move the time at which the next one is allowed.
        *bucket = Bucket {
            missing_ms,
            at_ms: now_ms,
        };
        let used = u32::try_from(missing_ms.div_ceil(request_ms)).unwrap_or(per_minute);
        let limit = RateLimit {
            limit_requests: per_minute,
            remaining_requests: per_minute.saturating_sub(used),
            reset: Duration::from_millis(missing_ms),
        };
        if admitted {
            return Admission::Admitted(Some(limit));
        }
        let whole_ms = request_ms * u64::from(per_minute);
        Admission::Refused {
            limit,
            retry_after: Duration::from_millis(missing_ms + request_ms - whole_ms),
        }
    }
}

impl Bucket {
    /// A clock that is set back fills nothing.
    fn missing_at(self, now_ms: u64) -> u64 {
        self.missing_ms.saturating_sub(now_ms.saturating_sub(self.at_ms))
    }
}

#[async_trait]
impl Limiter for InProcessLimiter {
    async fn admit(&self, caller: &Caller) -> Admission {
        match self.per_minute {
            None => Admission::Admitted(None),
            Some(per_minute) => self.take(&caller.key, per_minute),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct SetClock(AtomicU64);
    impl Clock for SetClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_minutes_requests_pass_and_the_next_waits_its_turn() {
        let clock = Arc::new(SetClock::default());
        let limiter = InProcessLimiter::per_minute(3, clock.clone());
        let key = KeyId::new("k");
        for left in [2, 1, 0] {
            let Admission::Admitted(Some(limit)) = limiter.take(&key, 3) else {
                panic!("refused early")
            };
            assert_eq!(limit.remaining_requests, left);
        }
        let Admission::Refused { retry_after, .. } = limiter.take(&key, 3) else {
            panic!("admitted")
        };
        assert_eq!(retry_after, Duration::from_secs(20));
        clock.0.store(20_000, Ordering::Relaxed);
        assert!(matches!(limiter.take(&key, 3), Admission::Admitted(_)));
        assert!(matches!(limiter.take(&key, 3), Admission::Refused { .. }));
        assert!(matches!(
            limiter.take(&KeyId::new("other"), 3),
            Admission::Admitted(_)
        ));
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
                if matches!(limiter.take(&KeyId::new("k"), per_minute), Admission::Admitted(_)) {
                    admitted.push(now);
                }
                let recent = admitted.iter().filter(|at| **at + MINUTE_MS > now).count();
                // What was saved up, and what came in meanwhile.
                prop_assert!(recent <= 2 * per_minute as usize);
            }
        }
    }
}
